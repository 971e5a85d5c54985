//! A parallel `for`: a window of iterations that run side by side.
//!
//! An iteration is a frame as long as it runs, and an entry of the loop's frame afterwards: `[output]`, or
//! `[output, context]` when it changed the context. So a step's result writes the same few fields however many
//! iterations there are. Every iteration gets the loop's input; contexts are apart, and merged as those of a fork.

use millrace_common::{ErrorKind, Problem, limits};
use millrace_dsl::Value;
use millrace_dsl::model::Flow;

use crate::data::Data;
use crate::frame::{Body, Cursor, EachState, Frame, FrameId, Parts};
use crate::plan::Action;
use crate::scope::Scope;

use super::begin::new_frame;
use super::for_::length;
use super::fork::merge;
use super::{Activation, Move, Run};

impl Activation<'_> {
    pub(crate) fn begin_each(
        &mut self,
        run: &Run,
        input: &Data,
        items: Option<Data>,
    ) -> Result<Move, Problem> {
        let Some(items) = items else {
            let none = Data::new(std::iter::empty().collect());
            return Ok(self.complete(run.clone(), input.clone(), none, None, None));
        };
        let state = EachState { items, next: 0 };
        self.enter(run, input, Body::Each(state)).map(Move::Run)
    }

    /// True when another iteration may begin.
    pub(crate) fn has_room(&self, frame: &Frame) -> bool {
        let Body::Each(state) = &frame.body else {
            return false;
        };
        let Action::For(node) = &self.node(frame.node).action else {
            return false;
        };
        let window = node.parallel.unwrap_or(1) as usize;
        (state.next as usize) < length(&state.items) && frame.children.len() < window
    }

    /// Begins the next iteration; the ones after it follow when this one waits. Joins them when all are through.
    pub(crate) fn next_item(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let Body::Each(state) = &frame.body else {
            return Move::Idle;
        };
        if frame.entries.len() >= length(&state.items) {
            return self.join_items(id);
        }
        if !self.has_room(frame) || !self.spend(id) {
            return Move::Idle;
        }
        if let Err(problem) = self.check_frames() {
            return self.fail_frame(id, problem);
        }
        let Some(item) = self.new_item(id) else {
            return Move::Idle;
        };
        if self.instance.frame(id).is_some_and(|f| self.has_room(f)) && !self.agenda.contains(&id) {
            self.agenda.push(id);
        }
        Move::Run(item)
    }

    fn new_item(&mut self, id: FrameId) -> Option<FrameId> {
        let frame = self.instance.edit(id, Parts::STATE)?;
        let Body::Each(state) = &mut frame.body else {
            return None;
        };
        let index = state.next;
        state.next += 1;
        let frame = self.instance.frame(id)?;
        let input = frame.data().clone();
        let run = Run {
            node: frame.node,
            parent: id,
            branch: Some(index),
            path: frame.path.task(index, 0, frame.node),
            ordinal: self.instance.header.ordinal,
            started_ms: self.now_ms,
            attempt: frame.attempt,
            raw: input.clone(),
        };
        let body = Body::Item(Cursor::new(input.clone()));
        let item = new_frame(&run, frame.pointer.clone(), &input, None, body);
        Some(self.instance.insert(item))
    }

    /// An iteration is through. `end`: the workflow is to end, with what this iteration gave.
    pub(crate) fn leave_item(&mut self, item: FrameId, output: Data, end: bool) -> Move {
        let Some(frame) = self.instance.frame(item) else {
            return Move::Idle;
        };
        let (Some(id), Some(index), context) = (frame.parent, frame.branch, frame.context.clone()) else {
            return Move::Idle;
        };
        if end {
            self.drop_below(id);
            if let Some(context) = context {
                self.set_context(id, context);
            }
            return Move::Finish {
                frame: id,
                output,
                flow: Some(Flow::End),
            };
        }
        self.close(item);
        let parts = std::iter::once(&output).chain(&context);
        let entry: Value = parts.map(|d| d.value().clone()).collect();
        self.instance.add_entry(id, index, entry);
        match self.check_results(id) {
            Ok(()) => Move::Run(id),
            Err(problem) => self.fail_frame(id, problem),
        }
    }

    fn check_results(&self, id: FrameId) -> Result<(), Problem> {
        let Some(frame) = self.instance.frame(id) else {
            return Ok(());
        };
        let (bytes, max) = (frame.entries.bytes(), limits::FOR_RESULTS_BYTES_MAX);
        if bytes <= max {
            return Ok(());
        }
        let text = format!(
            "the results of {} iterations of `for` are too large: {bytes} bytes of JSON, at most {max} are allowed",
            frame.entries.len()
        );
        Err(Problem::new(ErrorKind::Runtime, text))
    }

    /// All iterations are through: outputs and contexts in the order of their numbers.
    fn join_items(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let part = |v: &Value, n: usize| match v {
            Value::Arr(parts) => parts.get(n).cloned(),
            _ => None,
        };
        let entries = || frame.entries.iter().map(|(_, v)| v);
        let output: Value = entries().map(|v| part(v, 0).unwrap_or_default()).collect();
        let contexts: Vec<Value> = entries().filter_map(|v| part(v, 1)).collect();
        let output = Data::new(output);
        if !contexts.is_empty() {
            let scope = Scope {
                frame: Some(id),
                ..self.workflow_scope()
            };
            let changed: Vec<&Value> = contexts.iter().collect();
            let merged = Data::new(merge(scope.context().value(), &changed));
            if let Err(problem) = merged.check("the context after the parallel `for`") {
                return self.fail_frame(id, problem);
            }
            self.set_context(id, merged);
        }
        Move::Finish {
            frame: id,
            output,
            flow: None,
        }
    }
}
