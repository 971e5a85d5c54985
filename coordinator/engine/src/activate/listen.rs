//! `listen`: a task that consumes events. What is consumed waits in a queue, first in first out; each event is one
//! iteration of `foreach`, or simply a member of the output.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use millrace_common::{ErrorKind, Problem, RawJson, limits};
use millrace_dsl::Value;
use millrace_dsl::model::Flow;
use millrace_dsl::value::to_raw;

use crate::data::Data;
use crate::effect::{Effect, Ignored};
use crate::frame::{Body, Cursor, Frame, FrameId, ListenState, Parts};
use crate::listen::{self, EventView, ForeachNode, Hit, Interest, ListenNode, Strategy, VARIABLES_BYTES_MAX};
use crate::scope::Scope;
use crate::trace::Event;

use super::{Activation, Move, Run};

impl<'a> Activation<'a> {
    pub(crate) fn begin_listen(
        &mut self,
        run: &Run,
        input: &Data,
        node: &'a ListenNode,
    ) -> Result<Move, Problem> {
        let interest = self.interest(run, input, node)?;
        let state = ListenState {
            interest: Arc::new(interest),
            closed: Vec::new(),
            keys: BTreeMap::new(),
            seen: Vec::new(),
            queue: VecDeque::new(),
            output: Vec::new(),
            bytes: 0,
            done: false,
            item: None,
            failed: None,
            cursor: Cursor::new(input.clone()),
        };
        let id = self.enter(run, input, Body::Listen(Box::new(state)))?;
        self.trace(run, None, Event::detail("task.waiting", "listens for events"));
        self.announce_interest(id, true);
        Ok(Move::Idle)
    }

    /// What filters need of variables and of the input, as it is now.
    fn interest(&self, run: &Run, input: &Data, node: &ListenNode) -> Result<Interest, Problem> {
        let scope = self.scope(run, None, Some(input), None);
        let mut interest = Interest {
            node: run.node,
            ..Interest::default()
        };
        let mut bytes = 0;
        for filter in &node.filters {
            interest.filters.push(filter.expected(&scope, input.value())?);
            for name in filter.variables() {
                let value = || scope.variable(&name).unwrap_or_default();
                if let Entry::Vacant(entry) = interest.variables.entry(name.clone()) {
                    bytes += entry.insert(to_raw(&value())).len();
                }
            }
        }
        if bytes > VARIABLES_BYTES_MAX {
            let text = format!(
                "the variables in the filters of `listen` have {bytes} bytes, at most {VARIABLES_BYTES_MAX} are allowed: \
                 compare with `correlate` and `expect`, which are evaluated once"
            );
            return Err(Problem::new(ErrorKind::Runtime, text));
        }
        Ok(interest)
    }

    /// Tells the correlator what a task wants now; `is_new` when it begins to listen.
    fn announce_interest(&mut self, id: FrameId, is_new: bool) {
        let Some(state) = self.listen_state(id) else {
            return;
        };
        let interest = Box::new(state.interest());
        self.effects.push(Effect::Listen {
            frame: id,
            interest,
            is_new,
        });
    }

    /// An event that concerns a listening task.
    pub(crate) fn event(&mut self, id: FrameId, event: &RawJson) -> Result<Move, Ignored> {
        let state = self.listen_state(id).ok_or(Ignored::StaleEvent)?;
        let node = self.listen_node(id).ok_or(Ignored::StaleEvent)?;
        let fingerprint = listen::fingerprint(event).ok_or(Ignored::StaleEvent)?;
        if state.done || state.seen.contains(&fingerprint) {
            return Err(Ignored::StaleEvent);
        }
        let view = EventView::new(event, self.now_ms).map_err(|_too_deep| Ignored::StaleEvent)?;
        let hit = node.hit(&state.interest(), &view).ok_or(Ignored::StaleEvent)?;
        let item = (hit.filter < node.main).then(|| view.read(event, node.read));
        let iterates = state.item.is_some();
        self.consume(id, node, hit, item, fingerprint);
        match iterates || self.instance.header.suspended {
            true => Ok(Move::Idle),
            false => Ok(Move::Run(id)),
        }
    }

    /// Books an event: its filter, its keys, and itself unless it only ends the listening.
    fn consume(&mut self, id: FrameId, node: &ListenNode, hit: Hit, item: Option<Data>, fingerprint: u64) {
        let Some(state) = self.edit_listen(id) else { return };
        let before = (state.closed.len(), state.keys.len());
        state.seen.push(fingerprint);
        for (name, key) in hit.keys {
            state.keys.entry(name).or_insert(key);
        }
        let range = if hit.filter < node.main {
            (0..node.main, Some(node.strategy))
        } else {
            (node.main..node.filters.len(), node.until)
        };
        state.done |= match range {
            (_, Some(Strategy::First)) => true,
            (filters, Some(Strategy::Each)) => {
                state.closed.push(u32::try_from(hit.filter).unwrap_or(u32::MAX));
                filters
                    .clone()
                    .all(|f| state.closed.iter().any(|c| *c as usize == f))
            }
            (_, Some(Strategy::Endless) | None) => false,
        };
        if let Some(item) = item {
            state.bytes += item.raw().len() + 1;
            state.queue.push_back(item);
        }
        let held = state.seen.len();
        if held > limits::LISTEN_EVENTS_MAX {
            let max = limits::LISTEN_EVENTS_MAX;
            state.fail(format!(
                "`listen` consumed {held} events, at most {max} are allowed"
            ));
        }
        state.check_bytes();
        let changed = before != (state.closed.len(), state.keys.len());
        match state.done {
            true => self.effects.push(Effect::Unlisten { frame: id }),
            false if changed => self.announce_interest(id, false),
            false => {}
        }
    }

    /// Goes on with what is in the queue.
    pub(crate) fn next_in_listen(&mut self, id: FrameId) -> Move {
        loop {
            let Some(state) = self.listen_state(id) else {
                return Move::Idle;
            };
            if let Some(problem) = state.failed.clone() {
                return self.fail_frame(id, *problem);
            }
            if state.item.is_some() {
                return self.next_in_list(id);
            }
            let (done, is_empty) = (state.done, state.queue.is_empty());
            if is_empty {
                return if done {
                    self.finish_listen(id, None)
                } else {
                    Move::Idle
                };
            }
            if !self.spend(id) {
                return Move::Idle;
            }
            if let Some(next) = self.take_event(id) {
                return next;
            }
        }
    }

    /// The next event of the queue becomes an iteration; `None` when that is through already.
    fn take_event(&mut self, id: FrameId) -> Option<Move> {
        let body = self
            .listen_node(id)
            .and_then(|node| node.foreach.as_ref())
            .map(|f| f.body);
        let state = self.edit_listen(id)?;
        let item = state.queue.pop_front()?;
        state.bytes = state.bytes.saturating_sub(item.raw().len() + 1);
        match body {
            None => self.keep_output(id, item),
            Some(list) => {
                state.item = Some(item.clone());
                state.cursor = Cursor::new(item.clone());
                match list.len {
                    0 => self.end_iteration(id, item),
                    _ => Some(self.next_in_list(id)),
                }
            }
        }
    }

    /// The list of `foreach` is through; `end` when the whole workflow is to end.
    pub(crate) fn leave_iteration(&mut self, id: FrameId, output: Data, end: bool) -> Move {
        match self.end_iteration(id, output) {
            Some(next) => next,
            None if end => self.finish_listen(id, Some(Flow::End)),
            None => Move::Run(id),
        }
    }

    /// Transforms the output of an iteration, and keeps it. `None`: on to the next event.
    fn end_iteration(&mut self, id: FrameId, output: Data) -> Option<Move> {
        let foreach = self.listen_node(id).and_then(|node| node.foreach.as_ref());
        let transformed = match foreach {
            Some(foreach) => self.transform_iteration(id, foreach, &output),
            None => Ok((output, None)),
        };
        match transformed {
            Ok((output, context)) => {
                if let Some(state) = self.edit_listen(id) {
                    state.item = None;
                    state.cursor = Cursor::new(Data::null());
                }
                if let Some(context) = context {
                    self.set_context(id, context);
                }
                self.keep_output(id, output)
            }
            Err(problem) => Some(self.fail_frame(id, problem)),
        }
    }

    /// `foreach.output`, then `foreach.export`.
    fn transform_iteration(
        &self,
        id: FrameId,
        foreach: &ForeachNode,
        output: &Data,
    ) -> Result<(Data, Option<Data>), Problem> {
        let Some((frame, run)) = self.instance.frame(id).and_then(|f| Some((f, Run::of(f)?))) else {
            return Ok((output.clone(), None));
        };
        let mut scope = Scope {
            frame: Some(id),
            ..self.scope(&run, None, Some(&frame.input), Some(output))
        };
        let result = match &foreach.output.transform {
            Some(template) => Data::new(scope.template(template, output.value())?),
            None => output.clone(),
        };
        if let Some(schema) = &foreach.output.schema {
            schema.validate(result.value())?;
        }
        result.check("the output of the iteration")?;
        let Some(template) = &foreach.export.transform else {
            return Ok((result, None));
        };
        scope.output = Some(&result);
        let context = Data::new(scope.template(template, result.value())?);
        if let Some(schema) = &foreach.export.schema {
            schema.validate(context.value())?;
        }
        context.check("the context")?;
        Ok((result, Some(context)))
    }

    /// Adds to the output, and ends the listening if `until` says so. `None`: on to the next event.
    fn keep_output(&mut self, id: FrameId, output: Data) -> Option<Move> {
        let state = self.edit_listen(id)?;
        state.bytes += output.raw().len() + 1;
        state.output.push(output);
        state.check_bytes();
        match self.is_enough(id) {
            Ok(false) => None,
            Ok(true) => {
                let state = self.edit_listen(id)?;
                // What came meanwhile was not asked for any more.
                state.queue.clear();
                if !std::mem::replace(&mut state.done, true) {
                    self.effects.push(Effect::Unlisten { frame: id });
                }
                None
            }
            Err(problem) => Some(self.fail_frame(id, problem)),
        }
    }

    /// `until` as an expression: `.` is the output so far.
    fn is_enough(&self, id: FrameId) -> Result<bool, Problem> {
        let condition = self.listen_node(id).and_then(|node| node.condition.as_ref());
        let (Some(condition), Some(frame)) = (condition, self.instance.frame(id)) else {
            return Ok(false);
        };
        let (Some(run), Some(state)) = (Run::of(frame), self.listen_state(id)) else {
            return Ok(false);
        };
        self.scope(&run, None, Some(&frame.input), None)
            .test(condition, &state.outputs())
    }

    fn finish_listen(&mut self, id: FrameId, flow: Option<Flow>) -> Move {
        self.stop_listening(id);
        let Some(state) = self.listen_state(id) else {
            return Move::Idle;
        };
        Move::Finish {
            frame: id,
            output: Data::new(state.outputs()),
            flow,
        }
    }

    /// The correlator need not know the task any more.
    pub(crate) fn stop_listening(&mut self, id: FrameId) {
        let listens = |state: &ListenState| !state.done;
        if self.listen_state(id).is_some_and(listens) {
            self.effects.push(Effect::Unlisten { frame: id });
        }
    }

    /// A faulted instance is retried: what still listens is told to the correlator again. Events in between are lost.
    pub(crate) fn listen_again(&mut self, id: FrameId) {
        let Some(state) = self.edit_listen(id) else { return };
        state.failed = None;
        if !state.done {
            self.announce_interest(id, true);
        }
    }

    fn listen_state(&self, id: FrameId) -> Option<&ListenState> {
        match &self.instance.frame(id)?.body {
            Body::Listen(state) => Some(state),
            _ => None,
        }
    }

    fn edit_listen(&mut self, id: FrameId) -> Option<&mut ListenState> {
        match &mut self.instance.edit(id, Parts::CONSUMED)?.body {
            Body::Listen(state) => Some(state),
            _ => None,
        }
    }

    fn listen_node(&self, id: FrameId) -> Option<&'a ListenNode> {
        let frame: &Frame = self.instance.frame(id)?;
        let plan: &'a crate::plan::Plan = self.plan;
        plan.listen(frame.node)
    }
}

impl ListenState {
    /// What the task wants now.
    pub(crate) fn interest(&self) -> Interest {
        Interest {
            keys: self.keys.clone(),
            closed: self.closed.clone(),
            ..(*self.interest).clone()
        }
    }

    /// The output so far.
    pub(crate) fn outputs(&self) -> Value {
        self.output.iter().map(|d| d.value().clone()).collect()
    }

    fn check_bytes(&mut self) {
        if self.bytes > limits::LISTEN_BYTES_MAX {
            let (bytes, max) = (self.bytes, limits::LISTEN_BYTES_MAX);
            self.fail(format!(
                "`listen` holds {bytes} bytes of events, at most {max} are allowed"
            ));
        }
    }

    fn fail(&mut self, text: String) {
        self.failed
            .get_or_insert_with(|| Box::new(Problem::new(ErrorKind::Runtime, text)));
    }
}
