//! `try`: what it catches, and what it does then: retry first, then the handler, then the error goes on.

use millrace_common::{ErrorKind, Problem};
use millrace_dsl::model::{ErrorFilter, Flow};
use millrace_dsl::{Value, value};

use crate::data::Data;
use crate::effect::Effect;
use crate::frame::{Body, Cursor, Failed, Frame, FrameId, Parts, Phase, TryState, UndoThen};
use crate::plan::{Action, TryNode};
use crate::scope::Scope;
use crate::trace::Event;

use super::retry::Verdict;
use super::{Activation, Move, Run};

impl<'a> Activation<'a> {
    pub(crate) fn begin_try(&mut self, run: &Run, input: &Data, _node: &TryNode) -> Result<Move, Problem> {
        let state = TryState {
            phase: Phase::Body,
            cursor: Cursor::new(input.clone()),
            retries: 0,
            since_ms: self.now_ms,
            error: None,
            attempt_ms: self.now_ms,
            attempt_timer: None,
            delay: None,
        };
        self.check_rounds(run)?;
        let id = self.enter(run, input, Body::Try(state))?;
        self.take_up_saga(id);
        match self.arm_attempt(id) {
            Ok(()) => Ok(Move::Run(id)),
            Err(problem) => Ok(self.fail_frame(id, problem)),
        }
    }

    /// The next attempt: the list from its start, with the input of the first one.
    pub(crate) fn begin_attempt(&mut self, id: FrameId) -> Move {
        let now_ms = self.now_ms;
        if let Some(timer) = self.try_state(id).and_then(|t| t.delay)
            && !timer.fired
        {
            self.effects.push(Effect::CancelTimer { timer: timer.id(id) });
        }
        self.change_try(id, |t, input| {
            t.phase = Phase::Body;
            t.cursor = Cursor::new(input);
            (t.error, t.delay) = (None, None);
            t.attempt_ms = now_ms;
        });
        self.raise_attempt(id);
        match self.arm_attempt(id) {
            Ok(()) => Move::Run(id),
            Err(problem) => self.fail_frame(id, problem),
        }
    }

    /// `limit.attempt.duration`.
    fn arm_attempt(&mut self, id: FrameId) -> Result<(), Problem> {
        let Some(policy) = self.try_node(id).and_then(|n| n.retry.as_ref()) else {
            return Ok(());
        };
        let Some(limit) = &policy.attempt_timeout else {
            return Ok(());
        };
        let length = self.retry_duration(id, limit)?;
        let timer = self.arm(id, length);
        self.change_try(id, |t, _| t.attempt_timer = Some(timer));
        Ok(())
    }

    /// The body is through, or the handler.
    pub(crate) fn leave_try(&mut self, id: FrameId, phase: Phase, output: Data, flow: Option<Flow>) -> Move {
        let flow = match phase {
            Phase::Body | Phase::Delay => flow,
            Phase::Handler => flow.or_else(|| self.try_node(id).and_then(|n| n.then)),
        };
        Move::Finish {
            frame: id,
            output,
            flow,
        }
    }

    /// Does this `try` catch the error? An error of its own conditions is its own error.
    pub(crate) fn catches(&self, id: FrameId, problem: &Problem) -> Result<bool, Problem> {
        let Some(node) = self.try_node(id) else {
            return Ok(false);
        };
        if !fits(&node.filter, problem) {
            return Ok(false);
        }
        let error = error_value(problem);
        self.holds(id, &error, node.when.as_ref(), node.except_when.as_ref())
    }

    /// `when` holds and `exceptWhen` does not, with the error as `.` and as variable.
    pub(crate) fn holds(
        &self,
        id: FrameId,
        error: &Value,
        when: Option<&millrace_dsl::expression::Expression>,
        except_when: Option<&millrace_dsl::expression::Expression>,
    ) -> Result<bool, Problem> {
        let (Some(frame), Some(node)) = (self.instance.frame(id), self.try_node(id)) else {
            return Ok(false);
        };
        let Some(run) = Run::of(frame) else {
            return Ok(false);
        };
        let scope = Scope {
            error: Some((&node.variable, error)),
            ..self.scope(&run, None, Some(&frame.input), None)
        };
        if let Some(when) = when
            && !scope.test(when, error)?
        {
            return Ok(false);
        }
        match except_when {
            Some(except) => Ok(!scope.test(except, error)?),
            None => Ok(true),
        }
    }

    /// The error is this `try`'s: take down what is below and decide.
    pub(crate) fn caught(&mut self, id: FrameId, failed: Failed) -> Move {
        self.gather_progress(id);
        self.drop_below(id);
        if let Some(timer) = self.try_state(id).and_then(|t| t.attempt_timer) {
            if !timer.fired {
                self.effects.push(Effect::CancelTimer { timer: timer.id(id) });
            }
            self.change_try(id, |t, _| t.attempt_timer = None);
        }
        let error = error_value(&failed.problem);
        match self.verdict(id, &error, &failed) {
            Ok(Verdict::Retry { delay_ms }) => self.retry(id, &failed.problem, error, delay_ms),
            Ok(Verdict::GiveUp(failed)) => self.handle(id, failed),
            Err(other) => self.fail_frame(id, other),
        }
    }

    fn retry(&mut self, id: FrameId, problem: &Problem, error: Value, delay_ms: i64) -> Move {
        let delay = (delay_ms > 0).then(|| self.arm(id, delay_ms));
        let error = Data::new(error);
        let retries = self.change_try(id, |t, input| {
            t.phase = Phase::Delay;
            t.retries = t.retries.saturating_add(1);
            t.cursor = Cursor::new(input);
            t.error = Some(error);
            t.delay = delay;
            t.retries
        });
        if let Some(run) = self.instance.frame(id).and_then(Run::of) {
            let text = format!("retry {} in {delay_ms} ms", retries.unwrap_or_default());
            let event = Event {
                kind: "task.retried",
                detail: Some(&text),
                error: Some(problem),
            };
            self.trace(&run, Some(id), event);
        }
        match delay {
            Some(_) => Move::Idle,
            None => Move::Run(id),
        }
    }

    /// `catch.do`; without it a retried error goes on, any other is done with and the output is the input.
    pub(crate) fn handle(&mut self, id: FrameId, failed: Failed) -> Move {
        if self.must_undo(id) {
            return self.undo(id, failed, UndoThen::Handle);
        }
        let Some(node) = self.try_node(id) else {
            return Move::Idle;
        };
        let Some(input) = self.instance.frame(id).map(|f| f.input.clone()) else {
            return Move::Idle;
        };
        if node.handler.is_some() {
            let error = Data::new(error_value(&failed.problem));
            self.change_try(id, |t, input| {
                t.phase = Phase::Handler;
                t.cursor = Cursor::new(input);
                t.error = Some(error);
            });
            return Move::Run(id);
        }
        if node.retry.is_some() {
            return self.pass_on(id, failed);
        }
        Move::Finish {
            frame: id,
            output: input,
            flow: node.then,
        }
    }

    pub(crate) fn try_node(&self, id: FrameId) -> Option<&'a TryNode> {
        let frame = self.instance.frame(id)?;
        let Action::Try(node) = &self.node(frame.node).action else {
            return None;
        };
        Some(node)
    }

    pub(crate) fn try_state(&self, id: FrameId) -> Option<&TryState> {
        let Body::Try(state) = &self.instance.frame(id)?.body else {
            return None;
        };
        Some(state)
    }

    /// Changes the state of a `try`; the closure also gets its input.
    pub(crate) fn change_try<T>(
        &mut self,
        id: FrameId,
        change: impl FnOnce(&mut TryState, Data) -> T,
    ) -> Option<T> {
        let before = self.instance.frame(id).map(Frame::open);
        let frame = self.instance.edit(id, Parts::CURSOR)?;
        let input = frame.input.clone();
        let Body::Try(state) = &mut frame.body else {
            return None;
        };
        let result = change(state, input);
        self.recount(id, before);
        Some(result)
    }

    fn recount(&mut self, id: FrameId, before: Option<crate::frame::Open>) {
        let after = self.instance.frame(id).map(Frame::open);
        if before != after {
            before
                .into_iter()
                .for_each(|open| self.instance.count(open, false));
            after.into_iter().for_each(|open| self.instance.count(open, true));
        }
    }

    /// A new number for the steps below: higher than any used there before, so that their ids are new.
    pub(crate) fn raise_attempt(&mut self, id: FrameId) {
        let Some(frame) = self.instance.edit(id, Parts::STATE) else {
            return;
        };
        let number = frame.peak.saturating_add(1);
        (frame.attempt, frame.peak) = (number, number);
        let mut next = frame.parent;
        while let Some(parent) = next {
            let Some(frame) = self.instance.frame(parent) else {
                return;
            };
            next = frame.parent;
            let keeps = matches!(frame.body, Body::Try(_)) || next.is_none();
            if keeps
                && frame.peak < number
                && let Some(frame) = self.instance.edit(parent, Parts::STATE)
            {
                frame.peak = number;
            }
        }
    }
}

/// All given members are equal; standard kinds compare by their short name.
fn fits(filter: &ErrorFilter, problem: &Problem) -> bool {
    let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
    filter.kind.as_ref().is_none_or(|kind| same_kind(kind, problem))
        && filter.status.is_none_or(|s| s == problem.status)
        && same(&filter.instance, &problem.instance)
        && same(&filter.title, &problem.title)
        && same(&filter.detail, &problem.detail)
}

/// True for an error of that type, whatever the spelling of a standard one.
pub(crate) fn same_kind(kind: &str, problem: &Problem) -> bool {
    match (ErrorKind::from_uri(kind), problem.standard()) {
        (Some(a), Some(b)) => a == b,
        (Some(_) | None, None) | (None, Some(_)) => *kind == problem.kind,
    }
}

/// The error as data.
pub(crate) fn error_value(problem: &Problem) -> Value {
    let mut members = vec![
        ("type", value::string(problem.kind.as_str())),
        ("status", value::number_i64(problem.status.into())),
    ];
    let texts = [
        ("title", &problem.title),
        ("detail", &problem.detail),
        ("instance", &problem.instance),
    ];
    members.extend(
        texts
            .into_iter()
            .filter_map(|(k, v)| Some((k, value::string(v.as_deref()?)))),
    );
    Value::obj(members.into_iter().map(|(k, v)| (value::string(k), v)).collect())
}
