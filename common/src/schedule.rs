//! Vocabulary of schedules: how they are set, and what the log says to one.
//!
//! A schedule is addressed by the `namespace/name` of its definition, as if that were an instance, so it lives in the
//! partition of that key. Timers and ended runs of a schedule carry [`SCHEDULE_FRAME`], which no instance has.

use serde::{Deserialize, Serialize};

use crate::{DefinitionRef, RawJson};

/// The slot that stands for the schedule in a timer and in the parent link of a run: far above
/// [`crate::limits::INSTANCE_FRAMES_MAX`], so that it is nobody's frame.
pub const SCHEDULE_FRAME: u32 = u32::MAX;

/// What happens at a due time while an earlier run of the schedule has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Overlap {
    /// The new run starts beside it.
    #[default]
    Allow,
    /// The due time is skipped.
    Skip,
    /// One run waits for the end of the earlier ones; further due times are skipped.
    Queue,
    /// The earlier runs are cancelled, and the new one starts when they have ended.
    CancelRunning,
}

impl Overlap {
    /// As written in a definition, in the order of [`Self::ALL`].
    pub const NAMES: [&'static str; 4] = ["allow", "skip", "queue", "cancelRunning"];
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Allow, Self::Skip, Self::Queue, Self::CancelRunning];
}

/// Which due times that passed unseen, because no coordinator served the partition, are made up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CatchUp {
    /// None; only the newest one, when it is no later than [`crate::limits::SCHEDULE_LATE_MS_MAX`].
    #[default]
    None,
    /// The newest one, however late.
    One,
    /// All of them, the newest so many at most.
    All,
}

impl CatchUp {
    /// As written in a definition, in the order of [`Self::ALL_OF_THEM`].
    pub const NAMES: [&'static str; 3] = ["none", "one", "all"];
    /// All of them.
    pub const ALL_OF_THEM: [Self; 3] = [Self::None, Self::One, Self::All];
}

/// Why a schedule started a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// `schedule.every`.
    Every,
    /// `schedule.cron`.
    Cron,
    /// `schedule.after`.
    After,
    /// Somebody asked for it.
    Manual,
}

impl Cause {
    /// Part of the run's id, and label `millrace.schedule` of the run.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::Cron => "cron",
            Self::After => "after",
            Self::Manual => "manual",
        }
    }
}

/// What happened to a schedule, besides its timer and the ends of its runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ScheduleRecord {
    /// This version of the definition is in force from now on; it may have no schedule.
    Set {
        /// The version.
        definition: DefinitionRef,
    },
    /// Start nothing by itself until resumed.
    Pause {
        /// Shown with the schedule.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Inbox that wants to know the outcome.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply: Option<String>,
    },
    /// Go on with the due times from now on.
    Resume {
        /// See [`Self::Pause`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply: Option<String>,
    },
    /// Start a run now, whatever runs already, and also while paused.
    Trigger {
        /// Id of the run; the same id again is the same run.
        id: String,
        /// Input instead of the schedule's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<RawJson>,
        /// See [`Self::Pause`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply: Option<String>,
    },
    /// Start the runs of all due times from `from_ms` up to, not including, `to_ms`.
    Backfill {
        /// Unix ms.
        from_ms: i64,
        /// Unix ms.
        to_ms: i64,
        /// See [`Self::Pause`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply: Option<String>,
    },
}
