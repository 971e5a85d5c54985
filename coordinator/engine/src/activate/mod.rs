//! Runs what a record made runnable, until everything waits or the budget is used up.
//!
//! No recursion over data or definition: every construct answers with the next [`Move`], the loop in
//! [`Activation::drive`] makes it. What can go on besides (branches of a fork) stands in the agenda, last in first out:
//! a branch runs until it waits before the next one begins. When the budget is used up, what is left becomes
//! `Header::ready` and goes on with a `continue` record.

mod begin;
mod call;
mod child;
mod complete;
mod detach;
mod drop;
mod each;
mod emit;
mod extension;
mod fail;
mod for_;
mod fork;
mod http;
mod list;
mod listen;
mod operate;
mod progress;
mod raise;
mod retry;
mod saga;
mod set;
mod step;
mod switch;
mod timer;
mod try_;
mod wait;
pub(crate) mod workflow;

pub(crate) use detach::ended as detached_ended;
pub(crate) use fail::shorten;

use std::cell::Cell;

use millrace_common::{InstanceKey, RecordBody, limits};
use millrace_dsl::model::Flow;

use crate::data::Data;
use crate::effect::{Effect, Ignored};
use crate::frame::{Body, Failed, Frame, FrameId, Phase};
use crate::ids::Path;
use crate::plan::{Definitions, Node, NodeId, Plan};
use crate::scope::{Scope, TaskScope};
use crate::state::{Instance, Part};
use crate::trace;

/// One record at work on one instance.
pub(crate) struct Activation<'a> {
    pub(crate) instance: &'a mut Instance,
    pub(crate) plan: &'a Plan,
    pub(crate) definitions: &'a dyn Definitions,
    pub(crate) now_ms: i64,
    pub(crate) effects: Vec<Effect>,
    /// Tasks that may still begin.
    budget: u32,
    /// What expressions took of the budget besides.
    effort: Cell<u32>,
    /// Frames to go on with, the next one last.
    agenda: Vec<FrameId>,
    /// Frames that the budget stopped, in this order.
    interrupted: Vec<FrameId>,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Move {
    /// This strand waits.
    Idle,
    /// Go on with a frame as its state says.
    Run(FrameId),
    /// The task of a frame has its raw output; `flow` goes before the task's own `then`.
    Finish {
        frame: FrameId,
        output: Data,
        flow: Option<Flow>,
    },
    /// A task right below `parent` is done and gone; a branch stands as settled frame.
    Leave {
        parent: FrameId,
        branch: Option<u32>,
        output: Data,
        flow: Flow,
    },
    /// A task right below `parent` failed.
    Fail(Failure),
}

/// An error on its way up.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The frame through which the error came, if the failed task is farther below: still there.
    pub(crate) below: Option<FrameId>,
    /// Where the error arrives.
    pub(crate) parent: FrameId,
    /// Which branch failed, if the parent is a fork.
    pub(crate) branch: Option<u32>,
    pub(crate) failed: Failed,
}

/// One task execution: what is known of it before and after it has a frame.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) node: NodeId,
    pub(crate) parent: FrameId,
    pub(crate) branch: Option<u32>,
    pub(crate) path: Path,
    pub(crate) ordinal: u64,
    pub(crate) started_ms: i64,
    pub(crate) attempt: u32,
    pub(crate) raw: Data,
}

impl Run {
    /// The execution that a frame stands for; `None` for the workflow's own.
    pub(crate) fn of(frame: &Frame) -> Option<Self> {
        Some(Self {
            node: frame.node,
            parent: frame.parent?,
            branch: frame.branch,
            path: frame.path,
            ordinal: frame.ordinal,
            started_ms: frame.started_ms,
            attempt: frame.attempt,
            raw: frame.raw.clone(),
        })
    }
}

impl<'a> Activation<'a> {
    pub(crate) fn new(
        instance: &'a mut Instance,
        plan: &'a Plan,
        definitions: &'a dyn Definitions,
        now_ms: i64,
    ) -> Self {
        Self {
            instance,
            plan,
            definitions,
            now_ms,
            effects: Vec::new(),
            budget: limits::ACTIVATION_TASKS_MAX,
            effort: Cell::new(0),
            agenda: Vec::new(),
            interrupted: Vec::new(),
        }
    }

    /// Makes moves until nothing is left to make.
    pub(crate) fn drive(&mut self, first: Move) {
        self.make(first);
        while let Some(frame) = self.agenda.pop() {
            self.make(Move::Run(frame));
        }
        self.continue_later();
    }

    /// Makes the moves of one strand until it waits.
    pub(crate) fn make(&mut self, first: Move) {
        let mut next = first;
        loop {
            next = match next {
                Move::Idle => break,
                Move::Run(frame) => self.run(frame),
                Move::Finish { frame, output, flow } => self.finish(frame, output, flow),
                Move::Leave {
                    parent,
                    branch,
                    output,
                    flow,
                } => self.leave(parent, branch, output, flow),
                Move::Fail(failure) => self.propagate(failure),
            };
        }
    }

    /// Puts frames on the agenda: the first one is the next to go on.
    pub(crate) fn schedule(&mut self, frames: impl DoubleEndedIterator<Item = FrameId>) {
        self.agenda.extend(frames.rev());
    }

    /// A `continue` record: goes on with what earlier activations left.
    pub(crate) fn go_on(&mut self, number: u64) -> Result<Move, Ignored> {
        let header = &self.instance.header;
        if header.suspended || !header.continuing || header.continuation != number {
            return Err(Ignored::StaleContinue);
        }
        self.schedule_ready();
        Ok(Move::Idle)
    }

    /// Takes what earlier activations left.
    pub(crate) fn schedule_ready(&mut self) {
        let ready = std::mem::take(&mut self.instance.header.ready);
        self.instance.header.continuing = false;
        self.instance.touch(Part::Header);
        self.schedule(ready.into_iter());
    }

    /// Asks for another record if the budget left something. What used it up goes last, so that all get their turn.
    fn continue_later(&mut self) {
        let interrupted = std::mem::take(&mut self.interrupted);
        let header = &mut self.instance.header;
        if header.ended.is_some() {
            return;
        }
        if let Some((first, rest)) = interrupted.split_first() {
            header.ready.extend(rest);
            header.ready.push_back(*first);
        }
        if header.ready.is_empty() || header.continuing || header.suspended {
            return;
        }
        header.continuation = header.continuation.saturating_add(1);
        header.continuing = true;
        let body = RecordBody::Continue {
            number: header.continuation,
        };
        self.instance.touch(Part::Header);
        self.send("continue".to_owned(), self.instance.key.clone(), body);
    }

    /// Nothing of this instance goes on any more.
    pub(crate) fn stop(&mut self) {
        self.agenda.clear();
        self.interrupted.clear();
        self.instance.header.ready.clear();
        self.instance.header.continuing = false;
        self.instance.touch(Part::Header);
    }

    fn run(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        if self.is_undoing(frame) {
            return Move::Idle;
        }
        match &frame.body {
            Body::List(_) | Body::Item(_) => self.next_in_list(id),
            Body::For(_) => self.next_in_for(id),
            Body::Each(_) => self.next_item(id),
            Body::Undo(_) => self.run_undo(id),
            Body::Fork(_) => self.next_branch(id),
            Body::Try(t) => match t.phase {
                Phase::Body | Phase::Handler => self.next_in_list(id),
                Phase::Delay => self.begin_attempt(id),
            },
            Body::Inline(_) => self.run_function(id),
            Body::Extended(_) => self.run_extended(id),
            Body::Step(_) => self.take_held_step(id),
            Body::Wait(_) => self.finish_wait(id),
            Body::Child(_) => self.take_held_child(id),
            Body::Listen(_) => self.next_in_listen(id),
            Body::Done(_) | Body::Failed(_) => Move::Idle,
        }
    }

    /// True when another task may begin; long expressions count as many tasks.
    pub(crate) fn has_budget(&mut self) -> bool {
        self.budget = self.budget.saturating_sub(self.effort.take());
        self.budget > 0
    }

    /// Uses up one task of the budget; when there is none left, the frame goes on later.
    fn spend(&mut self, frame: FrameId) -> bool {
        if !self.has_budget() {
            self.interrupted.push(frame);
            return false;
        }
        self.budget -= 1;
        true
    }

    pub(crate) fn send(&mut self, id: String, to: InstanceKey, body: RecordBody) {
        self.effects.push(Effect::Send {
            id,
            to,
            body: Box::new(body),
        });
    }

    /// The node of a task. A number without node cannot come from this plan's instances: the workflow stands in.
    pub(crate) fn node(&self, id: NodeId) -> &'a Node {
        let plan: &'a Plan = self.plan;
        plan.node(id).unwrap_or_else(|| plan.root())
    }

    /// What expressions of a task see; `output` once it has one.
    pub(crate) fn scope<'s>(
        &'s self,
        run: &'s Run,
        own: Option<FrameId>,
        input: Option<&'s Data>,
        output: Option<&'s Data>,
    ) -> Scope<'s> {
        Scope {
            instance: self.instance,
            plan: self.plan,
            now_ms: self.now_ms,
            effort: &self.effort,
            frame: Some(self.scope_frame(run, own)),
            task: Some(TaskScope {
                node: self.node(run.node),
                raw: self.extended(run).map_or(&run.raw, |wrapper| &wrapper.raw),
                output,
                started_ms: run.started_ms,
                short: false,
            }),
            input,
            output,
            error: None,
        }
    }

    /// Context and variables of a task are those around it; a branch has its own context.
    fn scope_frame(&self, run: &Run, own: Option<FrameId>) -> FrameId {
        own.filter(|_| run.branch.is_some()).unwrap_or(run.parent)
    }

    /// An entry of the trace about a task.
    pub(crate) fn trace(&mut self, run: &Run, own: Option<FrameId>, event: trace::Event<'_>) {
        let plan: &'a Plan = self.plan;
        trace::task(self.instance, plan, run, own, event, self.now_ms);
    }
}
