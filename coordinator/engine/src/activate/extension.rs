//! Extensions: tasks before and after a task, in a frame around it.
//!
//! The frame of the extended task has its timeout, its context as a branch, and the transformations of its output. Below
//! it stands what runs: a task of an extension, or the task itself, under the same node and path.

use millrace_common::Problem;
use millrace_dsl::model::Flow;

use crate::data::Data;
use crate::frame::{Body, Cursor, Extended, Frame, FrameId, Parts};
use crate::plan::List;
use crate::scope::{Scope, TaskScope};
use crate::trace::Event;

use super::{Activation, Move, Run};

impl Activation<'_> {
    /// Executes a task, with the extensions around it that apply.
    pub(crate) fn execute_extended(&mut self, run: Run, input: Data) -> Move {
        let matched = match self.applying(&run, &input) {
            Ok(matched) => matched,
            Err(problem) => return self.fail_task(&run, None, problem),
        };
        if matched.is_empty() {
            return self.execute(run, input);
        }
        let state = Extended {
            matched,
            position: 0,
            cursor: Cursor::new(input.clone()),
            output: None,
            flow: None,
            told: false,
        };
        match self.enter(&run, &input, Body::Extended(state)) {
            Ok(id) => Move::Run(id),
            Err(problem) => self.fail_task(&run, None, problem),
        }
    }

    /// The extensions of its kind whose `when` holds for it.
    fn applying(&self, run: &Run, input: &Data) -> Result<Vec<u32>, Problem> {
        let candidates = &self.node(run.node).extensions;
        if candidates.is_empty() || self.is_in_extension(run.parent) {
            return Ok(Vec::new());
        }
        let scope = self.scope(run, None, Some(input), None);
        let task = scope.task.map(|t| TaskScope { short: true, ..t });
        let scope = Scope { task, ..scope };
        let mut matched = Vec::new();
        for number in candidates {
            let when = self.plan.extension(*number).and_then(|e| e.when.as_ref());
            if when.map_or(Ok(true), |when| scope.test(when, input.value()))? {
                matched.push(*number);
            }
        }
        Ok(matched)
    }

    /// True below the list of an extension: no extension applies there.
    fn is_in_extension(&self, from: FrameId) -> bool {
        let mut next = self.instance.frame(from);
        while let Some(frame) = next {
            if matches!(&frame.body, Body::Extended(e) if !e.is_at_task()) {
                return true;
            }
            next = frame.parent.and_then(|p| self.instance.frame(p));
        }
        false
    }

    /// The frame around a task that runs inside of its extensions.
    pub(crate) fn extended(&self, run: &Run) -> Option<&Frame> {
        let wrapper = self.instance.frame(run.parent)?;
        (matches!(wrapper.body, Body::Extended(_)) && wrapper.node == run.node).then_some(wrapper)
    }

    /// True for the frame of a task that runs itself now, not an extension of it.
    pub(crate) fn runs_task(&self, id: FrameId) -> bool {
        let body = self.instance.frame(id).map(|f| &f.body);
        matches!(body, Some(Body::Extended(e)) if e.is_at_task())
    }

    /// True when the trace has the end of this task already.
    pub(crate) fn is_told(&self, own: Option<FrameId>) -> bool {
        let body = own.and_then(|id| self.instance.frame(id)).map(|f| &f.body);
        matches!(body, Some(Body::Extended(e)) if e.told)
    }

    /// True for a task that an extension answered for: it did nothing itself.
    pub(crate) fn was_skipped(&self, own: Option<FrameId>) -> bool {
        let body = own.and_then(|id| self.instance.frame(id)).map(|f| &f.body);
        matches!(body, Some(Body::Extended(e)) if !e.told)
    }

    /// The list that runs now; empty when it is the task's turn.
    pub(crate) fn extension_list(&self, state: &Extended) -> List {
        let count = state.count();
        let at = |n: u32| {
            let number = state.matched.get(n as usize)?;
            self.plan.extension(*number)
        };
        let list = match state.position.cmp(&count) {
            std::cmp::Ordering::Less => at(state.position).map(|e| e.before),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => at((2 * count).saturating_sub(state.position)).map(|e| e.after),
        };
        list.unwrap_or_default()
    }

    /// Goes on within a list, or begins the task itself.
    pub(crate) fn run_extended(&mut self, id: FrameId) -> Move {
        if !self.runs_task(id) {
            return self.next_in_list(id);
        }
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        if !frame.children.is_empty() {
            return Move::Idle;
        }
        let run = Run {
            node: frame.node,
            parent: id,
            branch: None,
            path: frame.path,
            ordinal: frame.ordinal,
            started_ms: frame.started_ms,
            attempt: frame.attempt,
            raw: frame.data().clone(),
        };
        let input = frame.input.clone();
        self.execute(run, input)
    }

    /// The task itself has its raw output.
    pub(crate) fn leave_extended(
        &mut self,
        run: &Run,
        own: Option<FrameId>,
        output: Data,
        flow: Option<Flow>,
    ) -> Move {
        self.trace(run, own, Event::new("task.completed"));
        if let Some(id) = own {
            self.close(id);
        }
        self.change_extended(run.parent, |e| {
            e.told = true;
            e.flow = flow;
        });
        self.go_after(run.parent, output)
    }

    /// `exit`: out of `before` it skips the task and gives its output; out of `after` it ends that list.
    pub(crate) fn exit_extension(&mut self, id: FrameId) -> Move {
        let Some(Body::Extended(state)) = self.instance.frame(id).map(|f| &f.body) else {
            return Move::Idle;
        };
        if state.output.is_some() {
            return self.leave_extension(id, false);
        }
        let output = state.cursor.data.clone();
        self.go_after(id, output)
    }

    /// A list of an extension is through; what it gave is dropped. `end`: the whole workflow is to end.
    pub(crate) fn leave_extension(&mut self, id: FrameId, end: bool) -> Move {
        let Some(Body::Extended(state)) = self.instance.frame(id).map(|f| &f.body) else {
            return Move::Idle;
        };
        if end {
            let output = state.output.as_ref().unwrap_or(&state.cursor.data);
            return Move::Finish {
                frame: id,
                output: output.clone(),
                flow: Some(Flow::End),
            };
        }
        let next = state.position + 1;
        self.go_to(id, next)
    }

    fn go_after(&mut self, id: FrameId, output: Data) -> Move {
        let first = self.change_extended(id, |e| {
            e.output = Some(output);
            e.count() + 1
        });
        first.map_or(Move::Idle, |first| self.go_to(id, first))
    }

    fn go_to(&mut self, id: FrameId, position: u32) -> Move {
        let Some(frame) = self.instance.edit(id, Parts::ALL) else {
            return Move::Idle;
        };
        let input = frame.input.clone();
        let Body::Extended(state) = &mut frame.body else {
            return Move::Idle;
        };
        state.position = position;
        state.cursor = Cursor::new(state.output.clone().unwrap_or(input));
        match &state.output {
            Some(output) if position > 2 * state.count() => Move::Finish {
                frame: id,
                output: output.clone(),
                flow: state.flow,
            },
            Some(_) | None => Move::Run(id),
        }
    }

    fn change_extended<T>(&mut self, id: FrameId, change: impl FnOnce(&mut Extended) -> T) -> Option<T> {
        let Body::Extended(state) = &mut self.instance.edit(id, Parts::ALL)?.body else {
            return None;
        };
        Some(change(state))
    }
}

impl Extended {
    #[expect(clippy::cast_possible_truncation, reason = "numbers of extensions are u32")]
    fn count(&self) -> u32 {
        self.matched.len() as u32
    }

    /// True while the task itself runs.
    fn is_at_task(&self) -> bool {
        self.position == self.count()
    }
}
