//! The phases of an instance.

use serde::{Deserialize, Serialize};

/// Where an instance stands. The spelling in JSON is the lower-case name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted, not begun. Never seen in storage: a start begins at once.
    Pending,
    /// Steps are open, or inline work is left.
    Running,
    /// Only timers and children are waited for.
    Waiting,
    /// No new work until resumed: by an operator, or in quarantine.
    Suspended,
    /// Ended by an operator or a parent.
    Cancelled,
    /// Ended by an error that nothing caught. Can be retried.
    Faulted,
    /// Ended with an output.
    Completed,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Running,
        Self::Waiting,
        Self::Suspended,
        Self::Cancelled,
        Self::Faulted,
        Self::Completed,
    ];

    /// The name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Suspended => "suspended",
            Self::Cancelled => "cancelled",
            Self::Faulted => "faulted",
            Self::Completed => "completed",
        }
    }

    /// True for the three terminal phases.
    pub const fn is_ended(self) -> bool {
        match self {
            Self::Cancelled | Self::Faulted | Self::Completed => true,
            Self::Pending | Self::Running | Self::Waiting | Self::Suspended => false,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
