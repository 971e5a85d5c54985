//! A task begins: condition, input, and what it does.

use millrace_common::{ErrorKind, Problem, limits};

use crate::data::Data;
use crate::effect::Effect;
use crate::frame::{Body, Cursor, ForkState, Frame, FrameId, Part, Parts, ROOT_FRAME, Timer, TimerKind};
use crate::plan::{Action, NodeId};
use crate::state::Part as InstancePart;
use crate::trace::Event;

use super::{Activation, Move, Run};

impl Activation<'_> {
    /// Begins a task right below `parent`, if the budget allows.
    pub(crate) fn begin(&mut self, parent: FrameId, node: NodeId, branch: Option<u32>) -> Move {
        if !self.spend(parent) {
            return Move::Idle;
        }
        let Some(run) = self.new_run(parent, node, branch) else {
            return Move::Idle;
        };
        match self.prepare(&run) {
            Ok(Some(input)) => self.execute_extended(run, input),
            Ok(None) => self.skip(run),
            Err(problem) => self.fail_task(&run, None, problem),
        }
    }

    fn new_run(&mut self, parent: FrameId, node: NodeId, branch: Option<u32>) -> Option<Run> {
        let frame = self.instance.frame(parent)?;
        let position = branch.map_or_else(|| frame.cursor().map_or(0, |c| c.ordinal), u64::from);
        let header = &mut self.instance.header;
        header.ordinal = header.ordinal.saturating_add(1);
        let ordinal = header.ordinal;
        self.instance.touch(InstancePart::Header);
        let frame = self.instance.frame(parent)?;
        Some(Run {
            node,
            parent,
            branch,
            path: frame.path.task(frame.iteration(), position, node),
            ordinal,
            started_ms: self.now_ms,
            attempt: frame.attempt,
            raw: frame.data().clone(),
        })
    }

    /// The transformed input; `None` when the task is skipped.
    fn prepare(&self, run: &Run) -> Result<Option<Data>, Problem> {
        let node = self.node(run.node);
        let scope = self.scope(run, None, None, None);
        let raw = run.raw.value();
        if let Some(condition) = &node.condition
            && !scope.test(condition, raw)?
        {
            return Ok(None);
        }
        if let Some(schema) = &node.input.schema {
            schema.validate(raw)?;
        }
        let Some(from) = &node.input.from else {
            return Ok(Some(run.raw.clone()));
        };
        let input = Data::new(scope.template(from, raw)?);
        input.check("the task's input")?;
        Ok(Some(input))
    }

    /// A skipped task passes its raw input on; its transformations and its `then` do not count.
    fn skip(&mut self, run: Run) -> Move {
        self.trace(&run, None, Event::new("task.skipped"));
        let output = run.raw.clone();
        self.settle_or_leave(run, None, output, None, millrace_dsl::model::Flow::Continue)
    }

    pub(crate) fn execute(&mut self, run: Run, input: Data) -> Move {
        match self.try_execute(&run, &input) {
            Ok(next) => next,
            Err(problem) => self.fail_task(&run, None, problem),
        }
    }

    fn try_execute(&mut self, run: &Run, input: &Data) -> Result<Move, Problem> {
        match &self.node(run.node).action {
            Action::Do(_) => self
                .enter(run, input, Body::List(Cursor::new(input.clone())))
                .map(Move::Run),
            Action::Set(value) => self.set(run, input, value),
            Action::Switch(cases) => self.switch(run, input, cases),
            Action::For(node) => self.begin_for(run, input, node),
            Action::Fork { branches, .. } if branches.len == 0 => Ok(self.complete(
                run.clone(),
                input.clone(),
                Data::new(std::iter::empty().collect()),
                None,
                None,
            )),
            Action::Fork { .. } => self
                .enter(run, input, Body::Fork(ForkState::default()))
                .map(Move::Run),
            Action::Try(node) => self.begin_try(run, input, node),
            Action::Raise(error) => self.raise(run, input, error),
            Action::Emit(with) => self.emit(run, input, with),
            Action::Wait(duration) => self.begin_wait(run, input, duration),
            Action::Child(node) => self.begin_child(run, input, node),
            Action::Listen(node) => self.begin_listen(run, input, node),
            Action::Http(call) => self.call_http(run, input, call),
            Action::Fleet { function, arguments } => {
                self.call_fleet(run, input, function, arguments.as_ref())
            }
            Action::Inline { arguments, .. } => self.call_inline(run, input, arguments.as_ref()),
            Action::Builtin { function, with } => {
                self.call_fleet(run, input, &(*function).into(), Some(with))
            }
            Action::Detached { function, with } => self.detach(run, input, function, with),
            Action::Unsupported(what) => Err(Problem::new(
                ErrorKind::Configuration,
                format!("{what} is not supported by this build"),
            )),
        }
    }

    /// Refuses another frame when there are too many.
    pub(crate) fn check_frames(&self) -> Result<(), Problem> {
        let frames = self.instance.frames.len();
        if frames >= limits::INSTANCE_FRAMES_MAX {
            let max = limits::INSTANCE_FRAMES_MAX;
            let text = format!("the instance has {frames} active tasks already, at most {max} are allowed");
            return Err(Problem::new(ErrorKind::Runtime, text));
        }
        if self.instance.header.next_frame >= limits::DETACHED_FRAMES {
            let text = "the instance has begun as many tasks as it can number; start another one to go on";
            return Err(Problem::new(ErrorKind::Runtime, text));
        }
        Ok(())
    }

    /// Gives a task a frame, and arms its timeout.
    pub(crate) fn enter(&mut self, run: &Run, input: &Data, body: Body) -> Result<FrameId, Problem> {
        self.check_frames()?;
        let timeout = match &self.node(run.node).timeout {
            Some(t) if self.extended(run).is_none() => Some(
                self.scope(run, None, Some(input), None)
                    .duration(&t.after, input.value())?,
            ),
            Some(_) | None => None,
        };
        let id = self.instance.header.next_frame;
        let timeout = timeout.map(|length| self.arm(id, length));
        Ok(self.instance.insert(new_frame(
            run,
            self.node(run.node).pointer.clone(),
            input,
            timeout,
            body,
        )))
    }

    /// Starts a timer for a frame.
    pub(crate) fn arm(&mut self, frame: FrameId, length_ms: i64) -> Timer {
        let header = &mut self.instance.header;
        header.next_timer = header.next_timer.saturating_add(1);
        let timer = Timer {
            number: header.next_timer,
            due_ms: self.now_ms.saturating_add(length_ms),
            fired: false,
        };
        self.instance.touch(InstancePart::Header);
        self.effects.push(Effect::StartTimer {
            timer: timer.id(frame),
            due_ms: timer.due_ms,
        });
        timer
    }

    /// The nearest end of a timeout around a task: after it, a result no longer counts.
    pub(crate) fn deadline(&self, from: FrameId) -> Option<i64> {
        let mut next = self.instance.frame(from);
        let mut nearest: Option<i64> = None;
        while let Some(frame) = next {
            for (_, timer) in frame.timers().filter(|(kind, _)| *kind != TimerKind::Start) {
                nearest = Some(nearest.map_or(timer.due_ms, |n| n.min(timer.due_ms)));
            }
            next = frame.parent.and_then(|p| self.instance.frame(p));
        }
        nearest
    }
}

pub(crate) fn new_frame(
    run: &Run,
    pointer: std::sync::Arc<str>,
    input: &Data,
    timeout: Option<Timer>,
    body: Body,
) -> Frame {
    Frame {
        node: run.node,
        pointer,
        parent: Some(run.parent),
        branch: run.branch,
        path: run.path,
        ordinal: run.ordinal,
        started_ms: run.started_ms,
        attempt: run.attempt,
        peak: run.attempt,
        raw: run.raw.clone(),
        input: input.clone(),
        context: None,
        timeout,
        kept: std::collections::BTreeMap::new(),
        round: 0,
        entries: crate::entries::Entries::default(),
        body,
        children: Vec::new(),
        dirty: Parts::default(),
        stored: [0; Part::ALL.len()],
    }
}

/// The frame of the workflow itself.
pub(crate) fn root_frame(raw: Data, input: Data, now_ms: i64, timeout: Option<Timer>) -> Frame {
    let run = Run {
        node: crate::plan::ROOT,
        parent: ROOT_FRAME,
        branch: None,
        path: crate::ids::Path::default(),
        ordinal: 0,
        started_ms: now_ms,
        attempt: 1,
        raw,
    };
    let body = Body::List(Cursor::new(input.clone()));
    Frame {
        parent: None,
        ..new_frame(&run, "/".into(), &input, timeout, body)
    }
}
