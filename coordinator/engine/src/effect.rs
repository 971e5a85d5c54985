//! What an activation wants done, as data. Effects leave only after the commit that holds their cause.

use bytes::Bytes;
use millrace_common::{CloudEvent, InstanceKey, Late, RawJson, RecordBody, Reply, TimerId};

use crate::listen::Interest;

/// Result of one `apply`.
#[derive(Clone, Debug, Default)]
pub struct Transition {
    /// What the record did.
    pub outcome: Outcome,
    /// What follows, in order.
    pub effects: Vec<Effect>,
}

/// What a record did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// State changed.
    #[default]
    Applied,
    /// Nothing changed, and why.
    Ignored(Ignored),
}

/// Named no-ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// No such instance: it ended and was removed, or never was.
    NoInstance,
    /// A start of an instance that exists.
    AlreadyStarted,
    /// No such schedule.
    NoSchedule,
    /// A version of a definition that is in force already.
    AlreadySet,
    /// The instance has ended.
    Ended,
    /// A result of a step that is not open: a duplicate, a lost race, or an earlier attempt.
    StaleStep,
    /// A timer that was cancelled, fired before, or belongs to a frame that moved on.
    StaleTimer,
    /// A timer whose record came before it was due: the clock that fired it is ahead of the log's. It stays armed.
    EarlyTimer,
    /// A continuation that was already done.
    StaleContinue,
    /// A child that nobody waits for any more.
    StaleChild,
    /// An event that nothing listens for any more, or that was consumed before.
    StaleEvent,
    /// A control that is already true or makes no sense now.
    NotAllowed,
    /// The token does not belong to the step.
    BadToken,
}

impl Ignored {
    /// Label for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoInstance => "noInstance",
            Self::AlreadyStarted => "alreadyStarted",
            Self::NoSchedule => "noSchedule",
            Self::AlreadySet => "alreadySet",
            Self::Ended => "ended",
            Self::StaleStep => "staleStep",
            Self::StaleTimer => "staleTimer",
            Self::EarlyTimer => "earlyTimer",
            Self::StaleContinue => "staleContinue",
            Self::StaleChild => "staleChild",
            Self::StaleEvent => "staleEvent",
            Self::NotAllowed => "notAllowed",
            Self::BadToken => "badToken",
        }
    }
}

/// One consequence.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Hand a step to the fleet. Kept in the outbox under [`Dispatch::frame`] until [`Effect::Settle`].
    Dispatch(Box<Dispatch>),
    /// Hand over a step whose end nobody waits for. Kept in the outbox, message and all, until the work queue has it.
    Detach(Box<Dispatch>),
    /// The step of this frame is closed: remove it from the outbox.
    Settle {
        /// The frame.
        frame: u32,
    },
    /// Ask the worker that runs this step, if any, to stop. Best effort.
    CancelStep {
        /// Step id.
        step: String,
        /// The worker last heard of for it.
        worker: Option<String>,
    },
    /// Fire a `timer` record when due. Every one is followed by one [`Effect::CancelTimer`] in the end, also when it
    /// fired.
    StartTimer {
        /// Which.
        timer: TimerId,
        /// Unix ms.
        due_ms: i64,
    },
    /// Forget a timer: no longer needed, or its record was just folded.
    CancelTimer {
        /// Which.
        timer: TimerId,
    },
    /// Append a record to the log of the instance's partition: child start and cancel, child ended, own continue.
    /// Kept in the outbox under `id` until the log has acknowledged it; may be appended more than once, in the order
    /// of the effects for one receiver. Whom it concerns follows from `to`: the partition in the parent link of a
    /// child's start is always 0, because nothing reads it.
    Send {
        /// Unique within the sending instance; a later one with the same id replaces an earlier one.
        id: String,
        /// Receiver.
        to: InstanceKey,
        /// What.
        body: Box<RecordBody>,
    },
    /// A task listens, or wants something else than before. Kept under the frame until [`Effect::Unlisten`].
    Listen {
        /// The frame.
        frame: u32,
        /// What it wants.
        interest: Box<Interest>,
        /// It begins to listen now: events from now on count.
        is_new: bool,
    },
    /// A task listens no more.
    Unlisten {
        /// The frame.
        frame: u32,
    },
    /// Publish an event. Kept in the outbox under `id` until the stream of events has acknowledged it; may be published
    /// more than once, and the stream drops the repeats by [`CloudEvent::message_id`].
    Emit {
        /// Unique within the instance; a retry of the same task has the same one.
        id: String,
        /// The event.
        event: Box<CloudEvent>,
    },
    /// Tell whoever asked. A hint, not kept.
    Reply {
        /// Inbox.
        to: String,
        /// What.
        body: Reply,
    },
}

/// A step to be handed out. The shell adds what only it knows: report subject, queue of the function, token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// Slot of the task.
    pub frame: u32,
    /// `<key>.<attempt>`.
    pub step: String,
    /// Idempotency key: that of the path, or the one that the definition computes.
    pub key: String,
    /// Pointer of the task.
    pub task: String,
    /// `name:semver` of a function, or `call:http`.
    pub function: String,
    /// Queue named by the definition; else the function's own, else the default.
    pub queue: Option<String>,
    /// Deliveries before the step fails, when the definition says so.
    pub max_deliveries: Option<u32>,
    /// Longest time between two signs of life of the handler.
    pub heartbeat_ms: Option<u64>,
    /// Unix ms after which no worker may begin.
    pub start_by_ms: Option<i64>,
    /// From 1.
    pub attempt: u32,
    /// From 0.
    pub generation: u32,
    /// Evaluated input.
    pub input: RawJson,
    /// What the worker fills in.
    pub late: Option<Late>,
    /// Unix ms.
    pub deadline_ms: Option<i64>,
    /// Last saved progress.
    pub progress: Option<RawJson>,
    /// `namespace/name@version` of the definition.
    pub definition: String,
    /// W3C trace context of the instance.
    pub traceparent: Option<String>,
}

/// What must be stored of one instance: fields of its state hash and entries of its trace hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Fields to set: name and bytes.
    pub set: Vec<(String, Bytes)>,
    /// Fields to delete.
    pub delete: Vec<String>,
    /// Trace entries to set: number and JSON.
    pub trace: Vec<(u64, Bytes)>,
    /// Trace entries to delete (the oldest, above the bound).
    pub trace_delete: Vec<u64>,
}
