//! Sagas: completed tasks are remembered by the `try` or workflow around them, and undone in reverse order of their
//! completion when that finally fails.
//!
//! What is remembered is an entry of the saga's frame: `{t, f, p, i, o, s}`, the task, the function that undoes it, the
//! path, input and output, and the sagas that handed it on. A compensation is a frame with that function's task below it;
//! when it ends, the entry goes in the same transition, so each is done once in state.
//!
//! A saga that ends otherwise hands its entries to the saga around it, or to a `try` that may repeat it: when it begins
//! again in another attempt it takes them back, so that it undoes what its earlier runs did, once. A saga that was undone
//! is noted in the instance by its path: when it begins again, what it does has other paths, and so other keys. Those who
//! know the old keys would answer from memory, though the effects are gone.

use millrace_common::{ErrorKind, Problem, limits};
use millrace_dsl::{Value, value};
use std::sync::Arc;

use crate::data::Data;
use crate::effect::Effect;
use crate::frame::{Body, Cursor, Failed, Frame, FrameId, Parts, Phase, Timer, UndoState, UndoThen};
use crate::plan::NodeId;
use crate::state::Part;
use crate::trace::{self, Event};

use super::begin::new_frame;
use super::{Activation, Move, Run};

impl Activation<'_> {
    /// A task completed: if something undoes it, the saga around it remembers that.
    pub(crate) fn record(&mut self, run: &Run, input: &Data, output: &Data) -> Result<(), Problem> {
        let Some(function) = self.node(run.node).compensate else {
            return Ok(());
        };
        let Some(saga) = self.saga_around(Some(run.parent)) else {
            return Ok(());
        };
        // A retried task replaces what its earlier execution left.
        if let Some(n) = self
            .instance
            .frame(saga)
            .and_then(|f| f.entries.of_path(run.path.0))
        {
            self.instance.take_entry(saga, n);
        }
        let entry = value::object([
            ("t", value::number_i64(run.node.into())),
            ("f", value::number_i64(function.into())),
            ("p", value::string(hex(run.path.0))),
            ("i", input.value().clone()),
            ("o", output.value().clone()),
        ]);
        self.remember(saga, entry)
    }

    fn remember(&mut self, saga: FrameId, entry: Value) -> Result<(), Problem> {
        let (tasks, bytes) = self.instance.remembered;
        let (count, total) = (tasks + 1, bytes + value::to_raw(&entry).len());
        if count > limits::SAGA_TASKS_MAX || total > limits::SAGA_BYTES_MAX {
            let text = format!(
                "the sagas of the instance cannot remember more: {count} completed tasks with {total} bytes of inputs \
                 and outputs, at most {} with {} bytes are allowed",
                limits::SAGA_TASKS_MAX,
                limits::SAGA_BYTES_MAX
            );
            return Err(Problem::new(ErrorKind::Runtime, text));
        }
        self.instance.header.recorded = self.instance.header.recorded.saturating_add(1);
        self.instance.touch(Part::Header);
        let number = self.instance.header.recorded;
        self.instance.add_entry(saga, number, entry);
        Ok(())
    }

    /// The innermost saga at work around a frame; none within a compensation.
    fn saga_around(&self, from: Option<FrameId>) -> Option<FrameId> {
        let mut next = from;
        while let Some(id) = next {
            let frame = self.instance.frame(id)?;
            if matches!(frame.body, Body::Undo(_)) {
                return None;
            }
            if self.is_saga(frame) {
                return Some(id);
            }
            next = frame.parent;
        }
        None
    }

    fn is_saga(&self, frame: &Frame) -> bool {
        match &frame.body {
            Body::Try(t) => t.phase != Phase::Handler && self.node(frame.node).settings.saga,
            Body::List(_) => frame.parent.is_none() && self.plan.document.settings.saga,
            _ => false,
        }
    }

    /// The innermost frame that keeps what a saga below it did: a saga, or a `try` that may repeat it.
    fn keeper_around(&self, from: Option<FrameId>) -> Option<FrameId> {
        let mut next = from;
        while let Some(id) = next {
            let frame = self.instance.frame(id)?;
            if matches!(frame.body, Body::Undo(_)) {
                return None;
            }
            let may_repeat = matches!(&frame.body, Body::Try(t) if t.phase != Phase::Handler)
                && self.try_node(id).is_some_and(|n| n.retry.is_some());
            if may_repeat || self.is_saga(frame) {
                return Some(id);
            }
            next = frame.parent;
        }
        None
    }

    /// A frame goes that remembers tasks: they go to whoever keeps them around it. Where there is none, they are done for
    /// good.
    pub(crate) fn hand_over(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        if frame.entries.is_empty() || !frame.remembers_tasks() {
            return;
        }
        let Some(keeper) = self.keeper_around(frame.parent) else {
            return;
        };
        let saga = self.node(frame.node).settings.saga.then_some(frame.path.0);
        let numbers: Vec<u32> = frame.entries.iter().map(|(n, _)| n).collect();
        for n in numbers {
            if let Some(entry) = self.instance.take_entry(id, n) {
                let entry = match saga {
                    Some(path) => handed_on(entry, path),
                    None => entry,
                };
                self.instance.add_entry(keeper, n, entry);
            }
        }
    }

    /// A saga begins: what earlier runs of it handed on is its own again, and what it does gets other keys when one of
    /// them was undone.
    pub(crate) fn take_up_saga(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id).filter(|f| self.is_saga(f)) else {
            return;
        };
        let (path, mut next) = (frame.path.0, frame.parent);
        let is_first = frame.attempt == 1;
        if let Some(round) = self.instance.rounds.get(&path).copied()
            && let Some(frame) = self.instance.edit(id, Parts::STATE)
        {
            frame.round = round;
        }
        while let Some(at) = next.filter(|_| !is_first) {
            let Some(frame) = self.instance.frame(at) else {
                return;
            };
            if matches!(frame.body, Body::Undo(_)) {
                return;
            }
            next = frame.parent;
            for n in frame.entries.of_saga(path) {
                if let Some(entry) = self.instance.take_entry(at, n) {
                    self.instance.add_entry(id, n, entry);
                }
            }
        }
    }

    /// Refuses another saga when too many were undone to remember them all.
    pub(crate) fn check_rounds(&self, run: &Run) -> Result<(), Problem> {
        let (rounds, max) = (self.instance.rounds.len(), limits::SAGAS_UNDONE_MAX);
        if rounds < max || !self.node(run.node).settings.saga {
            return Ok(());
        }
        let text = format!(
            "{rounds} sagas of the instance were undone, at most {max} are allowed; start another one to go on"
        );
        Err(Problem::new(ErrorKind::Runtime, text))
    }

    /// The last undoing that what runs there comes after, 0 for none: no two of them have the same number.
    pub(crate) fn round_around(&self, from: FrameId) -> u32 {
        let mut found = 0;
        let mut next = Some(from);
        while let Some(frame) = next.and_then(|id| self.instance.frame(id)) {
            let undone = match &frame.body {
                Body::Try(t) if t.phase == Phase::Handler => 0,
                _ => frame.round,
            };
            found = found.max(undone);
            next = frame.parent;
        }
        found
    }

    /// A compensation is taken down before it ended, with its saga. What is not undone yet is left to the saga around
    /// it; where there is none, it stays done, and counts as not undone.
    pub(crate) fn leave_undone(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        let (Some(saga), Body::Undo(state)) = (frame.parent, &frame.body) else {
            return;
        };
        let run = Run::of(frame).map(|run| Run {
            node: state.task,
            ..run
        });
        let Some(frame) = self.instance.frame(saga) else {
            return;
        };
        let (around, count) = (self.saga_around(frame.parent), frame.entries.len());
        let numbers: Vec<u32> = frame.entries.iter().map(|(n, _)| n).collect();
        for n in numbers {
            if let Some(entry) = self.instance.take_entry(saga, n)
                && let Some(around) = around
            {
                self.instance.add_entry(around, n, without_sagas(entry));
            }
        }
        let text = match around {
            Some(_) => format!("called off; {count} completed tasks are left to the saga around it"),
            None => format!("called off; {count} completed tasks are not undone"),
        };
        if around.is_none() {
            let failed = u32::try_from(count).unwrap_or(u32::MAX);
            let header = &mut self.instance.header;
            header.undo_failed = header.undo_failed.saturating_add(failed);
            self.instance.touch(Part::Header);
        }
        if let Some(run) = run {
            self.trace(&run, None, Event::detail("task.compensationCancelled", &text));
        }
    }

    /// True when a frame is a saga that has something to undo, also in sagas below it.
    pub(crate) fn must_undo(&self, id: FrameId) -> bool {
        let Some(frame) = self.instance.frame(id) else {
            return false;
        };
        let remembers = |f: &Frame| !f.entries.is_empty() && f.remembers_tasks();
        self.is_saga(frame)
            && !self.is_undoing(frame)
            && (remembers(frame)
                || self
                    .below(id)
                    .into_iter()
                    .filter_map(|f| self.instance.frame(f))
                    .any(remembers))
    }

    /// True while a compensation of this frame's saga runs.
    pub(crate) fn is_undoing(&self, frame: &Frame) -> bool {
        let last = frame.children.last().and_then(|c| self.instance.frame(*c));
        last.is_some_and(|f| matches!(f.body, Body::Undo(_)))
    }

    /// A saga failed for good: takes down what is below, and undoes what it remembers. Its timeout counts no longer.
    pub(crate) fn undo(&mut self, id: FrameId, failed: Failed, then: UndoThen) -> Move {
        self.drop_below(id);
        self.switch_off(id);
        self.note_round(id);
        if self.try_state(id).is_some() {
            // It may have been waiting for its next attempt.
            self.change_try(id, |t, _| (t.phase, t.delay) = (Phase::Body, None));
        }
        let count = self.instance.frame(id).map_or(0, |f| f.entries.len());
        let text = format!("undoes {count} completed tasks");
        self.tell(id, "compensating", &text, Some(&failed.problem));
        self.undo_next(id, failed, then)
    }

    /// From the first compensation on, whoever begins this saga again must not use its keys: also when something around it
    /// calls the rest off.
    fn note_round(&mut self, id: FrameId) {
        let header = &mut self.instance.header;
        header.rounds = header.rounds.saturating_add(1);
        let number = header.rounds;
        self.instance.touch(Part::Header);
        if let Some(frame) = self.instance.frame(id).filter(|f| f.parent.is_some()) {
            let path = frame.path.0;
            self.instance.rounds.insert(path, number);
            self.instance.touch(Part::Rounds);
        }
    }

    /// Calls the timers of a saga off; the length of its timeout is kept for an operator's retry.
    fn switch_off(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        let armed: Vec<Timer> = frame.timers().map(|(_, t)| t).filter(|t| !t.fired).collect();
        for timer in armed {
            self.effects.push(Effect::CancelTimer { timer: timer.id(id) });
        }
        if let Some(frame) = self.instance.edit(id, Parts::STATE) {
            if let Some(timer) = &mut frame.timeout {
                timer.number = Timer::OFF;
            }
            if let Body::Try(t) = &mut frame.body {
                t.attempt_timer = None;
            }
        }
    }

    /// The newest entry, or the end.
    fn undo_next(&mut self, id: FrameId, failed: Failed, then: UndoThen) -> Move {
        let newest = self
            .instance
            .frame(id)
            .and_then(|f| f.entries.iter().next_back().map(|(n, v)| (n, v.clone())));
        let Some((entry, found)) = newest else {
            return self.undone(id, failed, then);
        };
        let copy = |key| member(&found, key).cloned().unwrap_or_default();
        let arguments = value::object([("input", copy("i")), ("output", copy("o"))]);
        let state = UndoState {
            entry,
            task: number(&found, "t"),
            function: number(&found, "f"),
            arguments: Data::new(arguments),
            failed: Box::new(failed),
            then,
        };
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let raw = frame.data().clone();
        let run = Run {
            node: frame.node,
            parent: id,
            branch: None,
            path: frame.path.task(frame.round, entry.into(), frame.node),
            ordinal: self.instance.header.ordinal,
            started_ms: self.now_ms,
            attempt: frame.attempt,
            raw: raw.clone(),
        };
        let new = new_frame(&run, frame.pointer.clone(), &raw, None, Body::Undo(state));
        let undo = self.instance.insert(new);
        Move::Run(undo)
    }

    /// Begins the task that undoes.
    pub(crate) fn run_undo(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id).filter(|f| f.children.is_empty()) else {
            return Move::Idle;
        };
        let Body::Undo(state) = &frame.body else {
            return Move::Idle;
        };
        let function = state.function;
        match state.arguments.check("input and output of the task to be undone") {
            Ok(()) => self.begin(id, function, None),
            Err(problem) => self.leave_undo(id, Some(&problem)),
        }
    }

    /// A compensation ended. One that failed does not stop the others.
    pub(crate) fn leave_undo(&mut self, id: FrameId, failure: Option<&Problem>) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let (Some(saga), Body::Undo(state)) = (frame.parent, &frame.body) else {
            return Move::Idle;
        };
        let state = state.clone();
        let run = Run::of(frame).map(|run| Run {
            node: state.task,
            ..run
        });
        if let Some(run) = run {
            let event = match failure {
                None => Event::new("task.compensated"),
                Some(problem) => Event::error("task.compensationFailed", problem),
            };
            self.trace(&run, None, event);
        }
        let header = &mut self.instance.header;
        match failure {
            None => header.undone = header.undone.saturating_add(1),
            Some(_) => header.undo_failed = header.undo_failed.saturating_add(1),
        }
        self.instance.touch(Part::Header);
        self.instance.take_entry(saga, state.entry);
        self.drop_failed(id);
        self.undo_next(saga, *state.failed, state.then)
    }

    /// All is undone: the saga fails as it would have failed without. Should an operator retry it, it begins anew, under
    /// other keys.
    fn undone(&mut self, id: FrameId, failed: Failed, then: UndoThen) -> Move {
        self.tell(id, "compensated", "all completed tasks are undone", None);
        match then {
            UndoThen::Handle => return self.handle(id, failed),
            UndoThen::Fail => return self.fail_frame(id, failed.problem),
            UndoThen::PassOn => {}
        }
        let last = self.instance.header.rounds;
        let rounds = &self.instance.rounds;
        let number = |f: &Frame| rounds.get(&f.path.0).copied().filter(|_| f.parent.is_some());
        let number = self.instance.frame(id).and_then(number).unwrap_or(last);
        if let Some(frame) = self.instance.edit(id, Parts::CURSOR) {
            frame.round = number;
            let input = frame.input.clone();
            if let Some(cursor) = frame.cursor_mut() {
                *cursor = Cursor::new(input);
            }
        }
        match self.instance.frame(id).and_then(|f| f.parent) {
            Some(_) => self.pass_on(id, failed),
            None => self.fault(failed.problem),
        }
    }

    /// An entry of the trace about a saga.
    fn tell(&mut self, id: FrameId, what: &str, text: &str, error: Option<&Problem>) {
        let (of_task, of_instance) = match what {
            "compensating" => ("task.compensating", "instance.compensating"),
            _ => ("task.undone", "instance.undone"),
        };
        match self.instance.frame(id).and_then(Run::of) {
            Some(run) => {
                let event = Event {
                    kind: of_task,
                    detail: Some(text),
                    error,
                };
                self.trace(&run, Some(id), event);
            }
            None => trace::status(self.instance, of_instance, Some(text), self.now_ms),
        }
    }
}

fn member<'v>(entry: &'v Value, key: &str) -> Option<&'v Value> {
    match entry {
        Value::Obj(members) => members.get(&value::string(key)),
        _ => None,
    }
}

fn number(entry: &Value, key: &str) -> NodeId {
    match member(entry, key) {
        Some(Value::Num(n)) => n
            .as_isize()
            .and_then(|n| NodeId::try_from(n).ok())
            .unwrap_or_default(),
        _ => NodeId::default(),
    }
}

fn hex(path: u64) -> String {
    format!("{path:016x}")
}

/// The entry with one more saga that handed it on.
fn handed_on(entry: Value, saga: u64) -> Value {
    let Value::Obj(members) = entry else {
        return entry;
    };
    let mut members = Arc::unwrap_or_clone(members);
    let mut sagas: Vec<Value> = match members.get(&value::string("s")) {
        Some(Value::Arr(sagas)) => sagas.iter().cloned().collect(),
        _ => Vec::new(),
    };
    let saga = value::string(hex(saga));
    if !sagas.contains(&saga) {
        sagas.push(saga);
    }
    members.insert(value::string("s"), sagas.into_iter().collect());
    Value::obj(members)
}

/// The entry as one that no saga takes back.
fn without_sagas(entry: Value) -> Value {
    let Value::Obj(members) = entry else {
        return entry;
    };
    let mut members = Arc::unwrap_or_clone(members);
    members.shift_remove(&value::string("s"));
    Value::obj(members)
}
