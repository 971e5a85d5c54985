//! Sagas: completed tasks are remembered by the `try` or workflow around them, and undone in reverse order of their
//! completion when that finally fails.
//!
//! What is remembered is an entry of the saga's frame: `{t, f, p, i, o}`, the task, the function that undoes it, the path,
//! input and output. A compensation is a frame with that function's task below it; when it ends, the entry goes in the
//! same transition, so each is done once in state. A saga that ends otherwise hands its entries to the saga around it.

use millrace_common::{ErrorKind, Problem, limits};
use millrace_dsl::{Value, value};

use crate::data::Data;
use crate::effect::Effect;
use crate::frame::{Body, Cursor, Frame, FrameId, Parts, Phase, Timer, UndoState, UndoThen};
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
        let path = format!("{:016x}", run.path.0);
        if run.attempt > 1 {
            self.forget(saga, &path);
        }
        let entry = value::object([
            ("t", value::number_i64(run.node.into())),
            ("f", value::number_i64(function.into())),
            ("p", value::string(path)),
            ("i", input.value().clone()),
            ("o", output.value().clone()),
        ]);
        self.remember(saga, entry)
    }

    /// A retried task replaces what its earlier execution left.
    fn forget(&mut self, saga: FrameId, path: &str) {
        let same = |v: &Value| member(v, "p").and_then(value::as_str) == Some(path);
        let found = self
            .instance
            .frame(saga)
            .and_then(|f| f.entries.iter().find(|(_, v)| same(v)).map(|(n, _)| n));
        if let Some(n) = found {
            self.instance.take_entry(saga, n);
        }
    }

    fn remember(&mut self, saga: FrameId, entry: Value) -> Result<(), Problem> {
        let bytes = value::to_raw(&entry).len();
        let Some(frame) = self.instance.frame(saga) else {
            return Ok(());
        };
        let (count, total) = (frame.entries.len() + 1, frame.entries.bytes() + bytes);
        if count > limits::SAGA_TASKS_MAX || total > limits::SAGA_BYTES_MAX {
            let text = format!(
                "the saga cannot remember more: {count} completed tasks with {total} bytes of inputs and outputs, at \
                 most {} with {} bytes are allowed",
                limits::SAGA_TASKS_MAX,
                limits::SAGA_BYTES_MAX
            );
            return Err(Problem::new(ErrorKind::Runtime, text));
        }
        self.instance.header.recorded = self.instance.header.recorded.saturating_add(1);
        self.instance.touch(Part::Header);
        let number = self.instance.header.recorded;
        self.instance.add_entry(saga, number, entry, bytes);
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

    /// A saga's frame goes without having failed: the saga around it remembers its tasks. Where there is none, they are
    /// done for good.
    pub(crate) fn hand_over(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        if frame.entries.is_empty() || matches!(frame.body, Body::Each(_)) {
            return;
        }
        let Some(saga) = self.saga_around(frame.parent) else {
            return;
        };
        let entries: Vec<(u32, Value)> = frame.entries.iter().map(|(n, v)| (n, v.clone())).collect();
        for (n, entry) in entries {
            let bytes = value::to_raw(&entry).len();
            self.instance.add_entry(saga, n, entry, bytes);
        }
    }

    /// True when a frame is a saga that has something to undo, also in sagas below it.
    pub(crate) fn must_undo(&self, id: FrameId) -> bool {
        let Some(frame) = self.instance.frame(id) else {
            return false;
        };
        let remembers = |f: &Frame| !f.entries.is_empty() && !matches!(f.body, Body::Each(_));
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
    pub(crate) fn undo(&mut self, id: FrameId, problem: Problem, then: UndoThen) -> Move {
        self.drop_below(id);
        self.switch_off(id);
        if self.try_state(id).is_some() {
            // It may have been waiting for its next attempt.
            self.change_try(id, |t, _| (t.phase, t.delay) = (Phase::Body, None));
        }
        let count = self.instance.frame(id).map_or(0, |f| f.entries.len());
        let text = format!("undoes {count} completed tasks");
        self.tell(id, "compensating", &text, Some(&problem));
        self.undo_next(id, problem, then)
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
    fn undo_next(&mut self, id: FrameId, problem: Problem, then: UndoThen) -> Move {
        let newest = self
            .instance
            .frame(id)
            .and_then(|f| f.entries.iter().next_back().map(|(n, v)| (n, v.clone())));
        let Some((entry, found)) = newest else {
            return self.undone(id, problem, then);
        };
        let copy = |key| member(&found, key).cloned().unwrap_or_default();
        let arguments = value::object([("input", copy("i")), ("output", copy("o"))]);
        let state = UndoState {
            entry,
            task: number(&found, "t"),
            function: number(&found, "f"),
            arguments: Data::new(arguments),
            problem: Box::new(problem),
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
        self.undo_next(saga, *state.problem, state.then)
    }

    /// All is undone: the saga fails as it would have failed without. Should an operator retry it, it begins anew, under
    /// other keys.
    fn undone(&mut self, id: FrameId, problem: Problem, then: UndoThen) -> Move {
        self.tell(id, "compensated", "all completed tasks are undone", None);
        match then {
            UndoThen::Handle => return self.handle(id, problem),
            UndoThen::Fail => return self.fail_frame(id, problem),
            UndoThen::PassOn => {}
        }
        if let Some(frame) = self.instance.edit(id, Parts::CURSOR) {
            frame.round = frame.round.saturating_add(1);
            let input = frame.input.clone();
            if let Some(cursor) = frame.cursor_mut() {
                *cursor = Cursor::new(input);
            }
        }
        match self.instance.frame(id).and_then(|f| f.parent) {
            Some(_) => self.pass_on(id, problem),
            None => self.fault(problem),
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
