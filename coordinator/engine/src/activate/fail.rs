//! Errors travel upwards until a `try` catches them, a competing fork absorbs them, or the instance faults.

use millrace_common::Problem;

use crate::frame::{Body, Failed, Frame, FrameId, Parts, Phase, UndoThen};
use crate::trace::Event;

use super::{Activation, Failure, Move, Run};

/// Bytes of each text of an error that are kept: a worker may put a whole response body into it.
const TEXT_BYTES_MAX: usize = 8 * 1024;

impl Activation<'_> {
    /// A task failed, with a frame of its own or before it had one. What is left of it is taken down.
    pub(crate) fn fail_task(&mut self, run: &Run, own: Option<FrameId>, problem: Problem) -> Move {
        let problem = shorten(problem.at(&self.node(run.node).pointer));
        if let Some(id) = own.filter(|id| self.must_undo(*id)) {
            let failed = Failed {
                problem,
                is_final: false,
            };
            return self.undo(id, failed, UndoThen::Fail);
        }
        let is_final = self.is_non_retryable(run, &problem);
        self.trace(run, own, Event::error("task.faulted", &problem));
        if let Some(id) = own {
            self.keep_progress(id);
            self.drop_failed(id);
        }
        Move::Fail(Failure {
            below: None,
            parent: run.parent,
            branch: run.branch,
            failed: Failed { problem, is_final },
        })
    }

    /// The task of a frame failed.
    pub(crate) fn fail_frame(&mut self, id: FrameId, problem: Problem) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        match Run::of(frame) {
            Some(run) => self.fail_task(&run, Some(id), problem),
            None => self.fault(problem),
        }
    }

    /// See [`Move::Fail`].
    pub(crate) fn propagate(&mut self, failure: Failure) -> Move {
        let Failure {
            below,
            parent,
            branch,
            failed,
        } = failure;
        let Some(frame) = self.instance.frame(parent) else {
            return Move::Idle;
        };
        match &frame.body {
            Body::Try(t) if t.phase == Phase::Body => match self.catches(parent, &failed.problem) {
                Ok(true) => self.caught(parent, failed),
                Ok(false) => self.pass_on(parent, failed),
                Err(other) => self.fail_frame(parent, other),
            },
            Body::Fork(_) if self.branches(frame).1 => self.lose(parent, below, branch, failed),
            Body::List(_)
            | Body::For(_)
            | Body::Fork(_)
            | Body::Try(_)
            | Body::Inline(_)
            | Body::Listen(_)
            | Body::Extended(_)
            | Body::Each(_)
            | Body::Item(_) => self.pass_on(parent, failed),
            Body::Undo(_) => self.leave_undo(parent, Some(&failed.problem)),
            Body::Step(_) | Body::Wait(_) | Body::Child(_) | Body::Done(_) | Body::Failed(_) => Move::Idle,
        }
    }

    /// The task of a frame fails with what failed below it. Nothing is taken down yet: whoever catches it does that, and
    /// if nobody does, a retry needs the frames on the way.
    pub(crate) fn pass_on(&mut self, id: FrameId, failed: Failed) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let is_task = !matches!(frame.body, Body::Item(_));
        if self.must_undo(id) {
            return self.undo(id, failed, UndoThen::PassOn);
        }
        let Some(run) = Run::of(frame) else {
            return self.fault(failed.problem);
        };
        if is_task && !self.runs_task(id) {
            self.trace(&run, Some(id), Event::error("task.faulted", &failed.problem));
        }
        Move::Fail(Failure {
            below: Some(id),
            parent: run.parent,
            branch: run.branch,
            failed,
        })
    }

    /// A branch of a competing fork failed: the others go on. When none is left, the fork fails with the error of its
    /// first branch.
    fn lose(&mut self, fork: FrameId, below: Option<FrameId>, branch: Option<u32>, failed: Failed) -> Move {
        let body = Body::Failed(Box::new(failed));
        match below {
            Some(id) => {
                self.drop_below(id);
                self.stop_listening(id);
                if let Some(run) = self.instance.frame(id).and_then(Run::of) {
                    self.settle_branch(run, Some(id), body, None);
                }
            }
            None => self.settle_inline_branch(fork, branch, body),
        }
        let Some(frame) = self.instance.edit(fork, Parts::STATE) else {
            return Move::Idle;
        };
        if let Body::Fork(state) = &mut frame.body {
            state.failed += 1;
        }
        let Some(frame) = self.instance.frame(fork) else {
            return Move::Idle;
        };
        match &frame.body {
            Body::Fork(state) if state.failed < self.branches(frame).0.len => Move::Idle,
            _ => match self.first_failure(frame) {
                Some(failed) => self.pass_on(fork, failed),
                None => Move::Idle,
            },
        }
    }

    fn settle_inline_branch(&mut self, fork: FrameId, branch: Option<u32>, body: Body) {
        let Some((frame, branch)) = self.instance.frame(fork).zip(branch) else {
            return;
        };
        let node = self.branches(frame).0.first + branch;
        let run = Run {
            node,
            parent: fork,
            branch: Some(branch),
            path: frame.path.task(0, branch.into(), node),
            ordinal: self.instance.header.ordinal,
            started_ms: self.now_ms,
            attempt: frame.attempt,
            raw: frame.data().clone(),
        };
        self.settle_branch(run, None, body, None);
    }

    fn first_failure(&self, fork: &Frame) -> Option<Failed> {
        let branches = fork.children.iter().filter_map(|c| self.instance.frame(*c));
        let failed = branches.filter_map(|f| {
            let Body::Failed(failed) = &f.body else {
                return None;
            };
            Some((f.branch, failed))
        });
        failed
            .min_by_key(|(branch, _)| *branch)
            .map(|(_, failed)| (**failed).clone())
    }
}

/// Cuts the texts of a problem to their bound.
pub(crate) fn shorten(mut problem: Problem) -> Problem {
    let Problem {
        kind,
        status: _,
        title,
        detail,
        instance,
    } = &mut problem;
    cut(kind);
    [title, detail, instance].into_iter().flatten().for_each(cut);
    problem
}

fn cut(text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
}
