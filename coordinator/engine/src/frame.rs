//! Active tasks. A frame exists for every task that waits for something or has tasks inside, and for the workflow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use millrace_common::{InstanceKey, Late, Problem, RawJson, TimerId};
use millrace_dsl::model::Flow;

use crate::data::Data;
use crate::entries::Entries;
use crate::ids::Path;
use crate::listen::Interest;
use crate::plan::NodeId;

/// Number of a frame: unique within the instance, never used twice, larger than its parent's.
pub(crate) type FrameId = u32;

/// The workflow's own frame.
pub(crate) const ROOT_FRAME: FrameId = 0;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) node: NodeId,
    /// Pointer of the task.
    pub(crate) pointer: Arc<str>,
    /// None for the workflow.
    pub(crate) parent: Option<FrameId>,
    /// Which branch of the parent, if that is a fork.
    pub(crate) branch: Option<u32>,
    pub(crate) path: Path,
    /// The how-manieth task of the instance it was.
    pub(crate) ordinal: u64,
    pub(crate) started_ms: i64,
    /// Number that steps below it carry: 1, raised by every retry of an enclosing `try` or of an operator.
    pub(crate) attempt: u32,
    /// Highest attempt used below it. Kept by `try` and the workflow.
    pub(crate) peak: u32,
    /// Raw input: the parent's data. Not stored.
    pub(crate) raw: Data,
    /// Transformed input. Stored unless it is the raw one.
    pub(crate) input: Data,
    /// A branch's own `$context`, from its first change on.
    pub(crate) context: Option<Data>,
    /// `timeout` of the task.
    pub(crate) timeout: Option<Timer>,
    /// Progress saved by steps of earlier attempts, for the next one. Kept by `try` and the workflow.
    pub(crate) kept: BTreeMap<u64, RawJson>,
    /// Which undoing of a saga it began anew after, 0 for none: part of the paths below.
    pub(crate) round: u32,
    /// Results of a parallel `for`, or completed tasks of a saga: each stored in a field of its own.
    pub(crate) entries: Entries,
    pub(crate) body: Body,
    /// Frames right below, oldest first. Not stored: every frame names its parent.
    pub(crate) children: Vec<FrameId>,
    /// What must be stored again.
    pub(crate) dirty: Parts,
    /// Bytes of every part that is stored; 0 for one that is not.
    pub(crate) stored: [usize; Part::ALL.len()],
}

/// A timer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timer {
    pub(crate) number: u32,
    pub(crate) due_ms: i64,
    /// Came due while the instance was suspended.
    pub(crate) fired: bool,
}

/// What a frame does.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// The workflow, or `do`.
    List(Cursor),
    For(ForLoop),
    /// A parallel `for`: the collection, and iterations below.
    Each(EachState),
    /// An iteration of a parallel `for`: its number is [`Frame::branch`].
    Item(Cursor),
    Fork(ForkState),
    Try(TryState),
    /// Call of a function of `use.functions`: has the function's task below it.
    Inline(Data),
    /// A task with the extensions that apply to it: has their tasks below it, or the task itself.
    Extended(Extended),
    Step(StepState),
    Wait(Timer),
    Child(ChildState),
    Listen(Box<ListenState>),
    /// A completed task of a saga is being undone.
    Undo(UndoState),
    /// A branch that is done; waits for the others.
    Done(Data),
    /// A branch of a competing fork that failed; the others go on.
    Failed(Box<Failed>),
}

/// An error, and whether the task that failed says that no `try` retries it.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) problem: Problem,
    pub(crate) is_final: bool,
}

/// Where a task with extensions stands. Of `n` extensions, the positions are: below `n` the list `before` of each, in
/// order; `n` the task itself; above `n` the list `after` of each, in reverse.
#[derive(Clone, Debug)]
pub(crate) struct Extended {
    /// Numbers of the extensions.
    pub(crate) matched: Vec<u32>,
    pub(crate) position: u32,
    pub(crate) cursor: Cursor,
    /// The raw output, once the task is through or was skipped.
    pub(crate) output: Option<Data>,
    /// Where the task wants to go from there.
    pub(crate) flow: Option<Flow>,
    /// The task itself ended, and the trace says so.
    pub(crate) told: bool,
}

/// Where a list stands: the task at `index` is next, or runs if there is a frame below.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    pub(crate) index: u32,
    /// Tasks begun in this run of the list.
    pub(crate) ordinal: u64,
    /// Raw input of the task at `index`.
    pub(crate) data: Data,
}

impl Cursor {
    pub(crate) fn new(data: Data) -> Self {
        Self {
            index: 0,
            ordinal: 0,
            data,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ForLoop {
    pub(crate) cursor: Cursor,
    /// The collection: an array. Stored once.
    pub(crate) items: Data,
    pub(crate) index: u32,
    /// `while` of this iteration held.
    pub(crate) entered: bool,
}

/// A parallel `for`. Iterations that are done are entries of the frame, the ones that run are frames below.
#[derive(Clone, Debug)]
pub(crate) struct EachState {
    /// The collection: an array. Stored once.
    pub(crate) items: Data,
    /// Iterations below this number are begun.
    pub(crate) next: u32,
}

/// One compensation.
#[derive(Clone, Debug)]
pub(crate) struct UndoState {
    /// Which entry of the saga's frame.
    pub(crate) entry: u32,
    /// The task that completed.
    pub(crate) task: NodeId,
    /// The task that undoes it.
    pub(crate) function: NodeId,
    /// `{input, output}` of the completed task.
    pub(crate) arguments: Data,
    /// Why.
    pub(crate) failed: Box<Failed>,
    pub(crate) then: UndoThen,
}

/// What becomes of a saga when all is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum UndoThen {
    /// The error goes on, or faults the instance.
    #[serde(rename = "p")]
    PassOn,
    /// The `try` itself fails.
    #[serde(rename = "f")]
    Fail,
    /// The `try` handles the error.
    #[serde(rename = "h")]
    Handle,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ForkState {
    /// Branches below this number are begun.
    pub(crate) next: u32,
    /// Begun ones that an operator's retry begins again, the next one last.
    pub(crate) again: Vec<u32>,
    pub(crate) done: u32,
    pub(crate) failed: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct TryState {
    pub(crate) phase: Phase,
    pub(crate) cursor: Cursor,
    /// Retries so far.
    pub(crate) retries: u32,
    /// First start: `limit.duration` counts from here.
    pub(crate) since_ms: i64,
    /// The error caught, as data: in the delay and in the handler.
    pub(crate) error: Option<Data>,
    /// Start of this attempt: `limit.attempt.duration` counts from here.
    pub(crate) attempt_ms: i64,
    /// `limit.attempt.duration`.
    pub(crate) attempt_timer: Option<Timer>,
    /// The delay before the next attempt.
    pub(crate) delay: Option<Timer>,
}

/// What a `try` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Runs its list.
    Body,
    /// Waits for the next attempt.
    Delay,
    /// Runs `catch.do`.
    Handler,
}

#[derive(Clone, Debug)]
pub(crate) struct StepState {
    /// `name:semver`, `call:http`, …
    pub(crate) function: Arc<str>,
    /// Evaluated input.
    pub(crate) arguments: Data,
    /// What a worker fills in.
    pub(crate) late: Option<Arc<Late>>,
    pub(crate) generation: u32,
    pub(crate) deadline_ms: Option<i64>,
    /// Idempotency key that the definition gives; else the path's.
    pub(crate) key: Option<String>,
    /// Until a worker is heard of: when one must have been, the time to say so included.
    pub(crate) start: Option<Timer>,
    /// Who was last heard of running it, and in which delivery.
    pub(crate) worker: Option<String>,
    pub(crate) delivery: u32,
    /// Run time that the worker reported.
    pub(crate) duration_ms: Option<u64>,
    /// Last saved progress.
    pub(crate) progress: Option<RawJson>,
    /// What came while the instance was suspended.
    pub(crate) held: Option<HeldStep>,
}

#[derive(Clone, Debug)]
pub(crate) enum HeldStep {
    Output(Data),
    Error(Box<Problem>),
    /// To be dispatched again.
    Lost,
}

#[derive(Clone, Debug)]
pub(crate) struct ChildState {
    pub(crate) child: InstanceKey,
    /// Resolved when the child was started.
    pub(crate) version: String,
    /// Its input, to be able to start it again.
    pub(crate) arguments: Data,
    /// What came while the instance was suspended.
    pub(crate) held: Option<Result<Data, Box<Problem>>>,
}

/// Consumes events.
#[derive(Clone, Debug)]
pub(crate) struct ListenState {
    /// What it wanted when it began. Stored once.
    pub(crate) interest: Arc<Interest>,
    /// Filters that have had their event, if each gets one only.
    pub(crate) closed: Vec<u32>,
    /// Keys of correlations: what the first event gave.
    pub(crate) keys: BTreeMap<String, RawJson>,
    /// Fingerprints of all events consumed: repeats are dropped.
    pub(crate) seen: Vec<u64>,
    /// Consumed, and not yet in the output. First in, first out.
    pub(crate) queue: VecDeque<Data>,
    /// What the task gives, in the order of consumption.
    pub(crate) output: Vec<Data>,
    /// Bytes of queue and output.
    pub(crate) bytes: usize,
    /// Takes no more events; the correlator does not know it any more.
    pub(crate) done: bool,
    /// The event that `foreach` works on.
    pub(crate) item: Option<Data>,
    /// A bound was passed: fails as soon as it may.
    pub(crate) failed: Option<Box<Problem>>,
    /// Where the list of `foreach` stands.
    pub(crate) cursor: Cursor,
}

/// What a leaf counts as for the status of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    Step,
    Wait,
    Nothing,
}

/// Which timer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerKind {
    Timeout,
    Wait,
    /// A worker must have begun with the step.
    Start,
    Attempt,
    Delay,
}

/// A part of a frame that is stored apart, so that a transition writes only what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything small.
    State,
    /// What is written once, when large.
    Fixed,
    /// Current data, when large.
    Data,
    /// A branch's own context.
    Context,
    /// What a `listen` has consumed.
    Consumed,
}

impl Part {
    pub(crate) const ALL: [Self; 5] = [
        Self::State,
        Self::Fixed,
        Self::Data,
        Self::Context,
        Self::Consumed,
    ];

    /// First letter of its field.
    pub(crate) const fn letter(self) -> char {
        match self {
            Self::State => 'f',
            Self::Fixed => 'd',
            Self::Data => 'v',
            Self::Context => 'x',
            Self::Consumed => 'q',
        }
    }
}

/// Some parts of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts(u8);

impl Parts {
    pub(crate) const STATE: Self = Self(1 << Part::State as u8);
    pub(crate) const ALL: Self = Self(31);
    /// A list went on.
    pub(crate) const CURSOR: Self = Self(Self::STATE.0 | 1 << Part::Data as u8);
    /// A `listen` consumed an event, or is through with one.
    pub(crate) const CONSUMED: Self = Self(Self::CURSOR.0 | 1 << Part::Consumed as u8);
    /// A branch has a context of its own.
    pub(crate) const CONTEXT: Self = Self(Self::STATE.0 | 1 << Part::Context as u8);

    pub(crate) const fn has(self, part: Part) -> bool {
        self.0 & (1 << part as u8) != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl StepState {
    /// Bytes of what goes to the worker as input.
    pub(crate) fn input_bytes(&self) -> usize {
        self.arguments.raw().len() + self.late.as_ref().map_or(0, |late| late.len())
    }
}

impl Frame {
    /// What tasks right below get as raw input.
    pub(crate) fn data(&self) -> &Data {
        match &self.body {
            Body::Inline(arguments) => arguments,
            Body::Done(output) => output,
            Body::Undo(state) => &state.arguments,
            Body::Fork(_)
            | Body::Each(_)
            | Body::Step(_)
            | Body::Wait(_)
            | Body::Child(_)
            | Body::Failed(_) => &self.input,
            Body::Item(_)
            | Body::List(_)
            | Body::For(_)
            | Body::Try(_)
            | Body::Listen(_)
            | Body::Extended(_) => self.cursor().map_or(&self.input, |c| &c.data),
        }
    }

    pub(crate) fn cursor(&self) -> Option<&Cursor> {
        match &self.body {
            Body::List(cursor) | Body::Item(cursor) => Some(cursor),
            Body::For(f) => Some(&f.cursor),
            Body::Try(t) => Some(&t.cursor),
            Body::Extended(e) => Some(&e.cursor),
            Body::Listen(l) => Some(&l.cursor),
            Body::Fork(_)
            | Body::Each(_)
            | Body::Undo(_)
            | Body::Inline(_)
            | Body::Step(_)
            | Body::Wait(_)
            | Body::Child(_)
            | Body::Done(_)
            | Body::Failed(_) => None,
        }
    }

    pub(crate) fn cursor_mut(&mut self) -> Option<&mut Cursor> {
        match &mut self.body {
            Body::List(cursor) | Body::Item(cursor) => Some(cursor),
            Body::For(f) => Some(&mut f.cursor),
            Body::Try(t) => Some(&mut t.cursor),
            Body::Extended(e) => Some(&mut e.cursor),
            Body::Listen(l) => Some(&mut l.cursor),
            Body::Fork(_)
            | Body::Each(_)
            | Body::Undo(_)
            | Body::Inline(_)
            | Body::Step(_)
            | Body::Wait(_)
            | Body::Child(_)
            | Body::Done(_)
            | Body::Failed(_) => None,
        }
    }

    /// Number of the current iteration, part of the path of what runs below.
    pub(crate) fn iteration(&self) -> u32 {
        match &self.body {
            Body::For(state) => state.index,
            Body::Listen(state) => u32::try_from(state.output.len()).unwrap_or(u32::MAX),
            // What a handler did is not undone with the rest.
            Body::Try(state) if state.phase == Phase::Handler => 0,
            Body::List(_)
            | Body::Each(_)
            | Body::Item(_)
            | Body::Fork(_)
            | Body::Try(_)
            | Body::Inline(_)
            | Body::Extended(_)
            | Body::Step(_)
            | Body::Wait(_)
            | Body::Child(_)
            | Body::Undo(_)
            | Body::Done(_)
            | Body::Failed(_) => self.round,
        }
    }

    /// True when its entries are completed tasks of sagas.
    pub(crate) const fn remembers_tasks(&self) -> bool {
        !matches!(self.body, Body::Each(_))
    }

    pub(crate) fn open(&self) -> Open {
        match &self.body {
            Body::Step(_) => Open::Step,
            Body::Wait(_) | Body::Child(_) | Body::Listen(_) => Open::Wait,
            Body::Try(TryState {
                phase: Phase::Delay, ..
            }) => Open::Wait,
            Body::List(_)
            | Body::For(_)
            | Body::Fork(_)
            | Body::Try(_)
            | Body::Inline(_)
            | Body::Extended(_)
            | Body::Each(_)
            | Body::Item(_)
            | Body::Undo(_)
            | Body::Done(_)
            | Body::Failed(_) => Open::Nothing,
        }
    }

    /// Its armed timers.
    pub(crate) fn timers(&self) -> impl Iterator<Item = (TimerKind, Timer)> {
        let (a, b) = match &self.body {
            Body::Wait(timer) => (Some((TimerKind::Wait, *timer)), None),
            Body::Step(step) => (step.start.map(|t| (TimerKind::Start, t)), None),
            Body::Try(t) => (
                t.attempt_timer.map(|t| (TimerKind::Attempt, t)),
                t.delay.map(|t| (TimerKind::Delay, t)),
            ),
            Body::List(_)
            | Body::For(_)
            | Body::Fork(_)
            | Body::Inline(_)
            | Body::Extended(_)
            | Body::Each(_)
            | Body::Item(_)
            | Body::Undo(_)
            | Body::Child(_)
            | Body::Listen(_)
            | Body::Done(_)
            | Body::Failed(_) => (None, None),
        };
        self.timeout
            .map(|t| (TimerKind::Timeout, t))
            .into_iter()
            .chain(a)
            .chain(b)
            .filter(|(_, t)| t.number != Timer::OFF)
    }

    pub(crate) fn timer_mut(&mut self, kind: TimerKind) -> Option<&mut Timer> {
        match (kind, &mut self.body) {
            (TimerKind::Timeout, _) => self.timeout.as_mut(),
            (TimerKind::Wait, Body::Wait(timer)) => Some(timer),
            (TimerKind::Start, Body::Step(step)) => step.start.as_mut(),
            (TimerKind::Attempt, Body::Try(t)) => t.attempt_timer.as_mut(),
            (TimerKind::Delay, Body::Try(t)) => t.delay.as_mut(),
            (TimerKind::Wait | TimerKind::Start | TimerKind::Attempt | TimerKind::Delay, _) => None,
        }
    }
}

impl Timer {
    /// Number of one that is off: only its length counts, for when the frame begins anew.
    pub(crate) const OFF: u32 = 0;

    pub(crate) const fn id(self, frame: FrameId) -> TimerId {
        TimerId {
            frame,
            number: self.number,
        }
    }
}
