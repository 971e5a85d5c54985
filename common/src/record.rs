//! Entries of a partition's log: everything that can change the state of an instance.
//!
//! Four writers append (ARCHITECTURE section 3): api, timers, workers, and partitions to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    DefinitionRef, InstanceKey, PartitionId, Problem, RawJson, SCHEDULE_FRAME, ScheduleRecord, StepResult,
};

/// A log entry as it was read: the body and what the log itself says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Sequence in the partition's stream.
    pub sequence: u64,
    /// Unix milliseconds: the log's timestamp, clamped so that it never steps back within a partition. The only
    /// time that `apply` knows.
    pub time_ms: i64,
    /// Which instance, and what happened. `None` for records of the partition itself.
    pub instance: Option<InstanceKey>,
    /// What happened.
    pub body: RecordBody,
}

/// What happened. Externally tagged on the wire (`{"result": {…}}`), so that payloads stay unparsed text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RecordBody {
    /// A coordinator took the partition over. Not about an instance.
    Announce {
        /// Fence counter of the new owner.
        counter: u64,
        /// Its nonce: tells two owners with the same counter apart.
        nonce: String,
        /// Build of its binary.
        build: String,
        /// The coordinator's id.
        owner: String,
    },
    /// Start an instance.
    Start(Box<Start>),
    /// An operator's or parent's wish.
    Control {
        /// Which.
        action: ControlKind,
        /// Shown in the trace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Inbox that wants to know the outcome.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply: Option<String>,
    },
    /// An operator lifts the quarantine of an instance.
    Unquarantine(Box<Unquarantine>),
    /// A worker finished a step.
    Result(Box<StepResult>),
    /// A worker still runs a step, and maybe saved a value.
    Progress(Box<Progress>),
    /// A timer is due.
    Timer {
        /// Which.
        timer: TimerId,
    },
    /// Go on with what the last activation left (limits.rs, `ACTIVATION_TASKS_MAX`).
    Continue {
        /// Number of the continuation; a stale one is a no-op.
        number: u64,
    },
    /// The audit proved that a dispatched step is gone from the queue and has no result.
    Lost {
        /// The engine's slot.
        frame: u32,
        /// The step.
        step: String,
        /// Its generation.
        generation: u32,
    },
    /// A child instance ended, or could not be started.
    ChildEnded {
        /// The parent's slot that waits for it.
        frame: u32,
        /// The child.
        child: InstanceKey,
        /// How.
        outcome: ChildOutcome,
    },
    /// About the schedule of the definition whose `namespace/name` is the key.
    Schedule(Box<ScheduleRecord>),
    /// An event concerns a task that listens. Made by the owner of the partition from the stream of events.
    Event {
        /// The engine's slot.
        frame: u32,
        /// The event.
        event: RawJson,
    },
}

impl RecordBody {
    /// Name of the kind: token of the subject, label of metrics, text in traces.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Announce { .. } => "announce",
            Self::Start(_) => "start",
            Self::Control { .. } => "control",
            Self::Unquarantine(_) => "unquarantine",
            Self::Result(_) => "result",
            Self::Progress(_) => "progress",
            Self::Timer { .. } => "timer",
            Self::Continue { .. } => "continue",
            Self::Lost { .. } => "lost",
            Self::ChildEnded { .. } => "childEnded",
            Self::Schedule(_) => "schedule",
            Self::Event { .. } => "event",
        }
    }

    /// True when the key is that of a schedule, not of an instance.
    pub const fn is_of_schedule(&self) -> bool {
        match self {
            Self::Schedule(_) => true,
            Self::Timer { timer } => timer.frame == SCHEDULE_FRAME,
            Self::ChildEnded { frame, .. } => *frame == SCHEDULE_FRAME,
            Self::Announce { .. }
            | Self::Start(_)
            | Self::Control { .. }
            | Self::Unquarantine(_)
            | Self::Result(_)
            | Self::Progress(_)
            | Self::Continue { .. }
            | Self::Lost { .. }
            | Self::Event { .. } => false,
        }
    }
}

/// What an operator can ask of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ControlKind {
    /// End it as cancelled; running handlers get the cancel token.
    Cancel,
    /// Start no new step until resumed; results of running ones are kept.
    Suspend,
    /// Go on after a suspension.
    Resume,
    /// Start again from the failed task of a faulted instance.
    Retry,
}

/// See [`RecordBody::Unquarantine`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unquarantine {
    /// Under which sequence the record is kept on which the engine panicked; it is kept no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// That record as it was encoded, to be applied now. `None`: it is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RawJson>,
    /// Shown in the trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Inbox that wants to know the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

/// A timer of a frame. The number makes a fired timer stale once the frame moved on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TimerId {
    /// The engine's slot.
    pub frame: u32,
    /// Unique within the instance.
    pub number: u32,
}

/// Start of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// What to run: an exact version.
    pub definition: DefinitionRef,
    /// The raw workflow input.
    pub input: RawJson,
    /// Free labels, searchable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Set when a `run: workflow` task of another instance started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentLink>,
    /// W3C trace context of the start call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Inbox that wants to know the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
}

/// The task that waits for a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentLink {
    /// The parent.
    pub instance: InstanceKey,
    /// Its partition.
    pub partition: PartitionId,
    /// Its slot.
    pub frame: u32,
    /// False for `await: false`: the parent does not want to know.
    pub awaited: bool,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChildOutcome {
    /// Completed with this output.
    Completed(RawJson),
    /// Faulted, or could not be started.
    Faulted(Problem),
    /// Cancelled.
    Cancelled,
}

/// Sign of life of a running step, written for those that run long or are delivered again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// [`crate::Step::id`].
    pub step: String,
    /// [`crate::Step::frame`].
    pub frame: u32,
    /// Who runs it.
    pub worker: String,
    /// Delivery number of the step message, from 1.
    pub delivery: u32,
    /// The value given to `ctx.checkpoint`: handed to the next attempt or delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<RawJson>,
}

/// Answer to whoever asked for a start or a control: sent over plain NATS after the commit, a hint that may be
/// lost; the state in Redis is the truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The instance.
    pub instance: InstanceKey,
    /// What came of it.
    pub body: ReplyBody,
}

/// See [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReplyBody {
    /// A new instance exists.
    Started,
    /// An instance with this id, definition and input exists already.
    Exists,
    /// The id is taken by an instance with another definition or input.
    Conflict,
    /// The control was carried out, or was already true.
    Done,
    /// There is no such instance.
    NotFound,
    /// The instance is in a state in which the action makes no sense; its status.
    NotAllowed(String),
}
