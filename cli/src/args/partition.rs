//! `millrace partition` and `millrace rebuild`.

use clap::{Args, Subcommand};

use super::ReadArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// All partitions: owner, phase, how far the log is applied.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        read: ReadArgs,
    },
    /// One partition: what halts it and what resolves that, quarantined instances, records that could not be applied.
    Inspect {
        /// Its number.
        partition: u16,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// The log as it is now is the truth from now on; the state is kept. For a lost, replaced, trimmed or forked log.
    Adopt(OrderArgs),
    /// The stores were restored: compare them again now, and go on if they agree.
    Restore(OrderArgs),
}

impl PartitionCommand {
    pub(super) const fn read(&self) -> &ReadArgs {
        match self {
            Self::List { read } | Self::Inspect { read, .. } => read,
            Self::Adopt(args) | Self::Restore(args) => &args.read,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct OrderArgs {
    /// Number of the halted partition.
    pub(crate) partition: u16,
    /// Do it. Without this nothing is done, and what it costs is told.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Who orders this; stands in the coordinator's log.
    #[arg(long, env = "USER", hide_env_values = true, default_value = "unknown")]
    pub(crate) by: String,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}
