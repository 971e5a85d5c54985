//! `millrace schedule`.

use clap::{Args, Subcommand};

use super::ReadArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// All schedules in force.
    #[command(visible_alias = "ls")]
    List {
        /// Only in this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// One schedule: when it is due, what runs, what it skipped and missed.
    Get(ScheduleArgs),
    /// Start nothing by itself until resumed; what is due meanwhile is not made up for.
    Pause {
        #[command(flatten)]
        schedule: ScheduleArgs,
        /// Shown with the schedule.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Go on with the due times from now on.
    Resume(ScheduleArgs),
    /// Start a run now, whatever runs already, also while paused; prints its id.
    Trigger {
        #[command(flatten)]
        schedule: ScheduleArgs,
        /// Id of the run; the same id again is the same run.
        #[arg(long)]
        id: Option<String>,
        /// Input instead of the schedule's: JSON, @FILE, or - for standard input.
        #[arg(long, value_name = "JSON|@FILE|-")]
        input: Option<String>,
    },
    /// Start the runs of all due times between two moments, at most 1000.
    Backfill {
        #[command(flatten)]
        schedule: ScheduleArgs,
        /// The first moment, such as 2026-01-31T00:00:00Z.
        #[arg(long, value_name = "TIME")]
        from: String,
        /// The moment at which it ends; itself not included.
        #[arg(long, value_name = "TIME")]
        to: String,
    },
}

impl ScheduleCommand {
    pub(super) const fn read(&self) -> &ReadArgs {
        match self {
            Self::List { read, .. } => read,
            Self::Get(schedule)
            | Self::Resume(schedule)
            | Self::Pause { schedule, .. }
            | Self::Trigger { schedule, .. }
            | Self::Backfill { schedule, .. } => &schedule.read,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// Name of the definition.
    pub(crate) name: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}
