//! Deliberate bugs, compiled into tests only: a checker that has never caught anything proves nothing. Each of them is
//! a hole of the protocol (docs/guarantees.md) or a fault that this code once had; the simulation must catch each within 50 runs.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Commits are not fenced: nothing is watched.
    NoWatch,
    /// An aborted transaction counts as done.
    NilIsSuccess,
    /// A transaction without a reply counts as done.
    UnknownIsSuccess,
    /// Effects leave before the commit that holds them.
    PublishBeforeCommit,
    /// A new owner lets effects out before it has read up to its own announcement.
    NoBarrier,
    /// A new owner does not publish what its predecessor left in the outbox.
    NothingResumed,
    /// A new owner does not arm the timers of its predecessor.
    NoTimersLoaded,
    /// The position is trusted by its number only.
    BareSequence,
    /// A log that is shorter than the position is believed.
    ShortLogBelieved,
    /// Another log under the same name is believed.
    IncarnationIgnored,
    /// A log that was trimmed beyond the position is read from where it starts.
    HoleIgnored,
    /// The position does not move with the state.
    PositionLeftBehind,
    /// A record for another partition counts as taken by its log when it is sent.
    SentIsTaken,
    /// An acknowledgement overwrites what the same batch says of its step.
    MarkOverwrites,
    /// Lost steps are not looked for.
    NoAudit,
    /// A timer that comes early by the log's clock is not armed again.
    EarlyTimerForgotten,
    /// The lease is renewed although nothing comes from NATS.
    LeaseWithoutNats,
    /// Redis may have lost its data, and the partition begins anew.
    EmptyRedisBelieved,
}

#[cfg(not(test))]
pub(crate) const fn has(_: Bug) -> bool {
    false
}

#[cfg(test)]
pub(crate) use tests::{ALL, has, with};

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::Bug;

    /// Every one.
    pub(crate) const ALL: [Bug; 18] = [
        Bug::NoWatch,
        Bug::NilIsSuccess,
        Bug::UnknownIsSuccess,
        Bug::PublishBeforeCommit,
        Bug::NoBarrier,
        Bug::NothingResumed,
        Bug::NoTimersLoaded,
        Bug::BareSequence,
        Bug::ShortLogBelieved,
        Bug::IncarnationIgnored,
        Bug::HoleIgnored,
        Bug::PositionLeftBehind,
        Bug::SentIsTaken,
        Bug::MarkOverwrites,
        Bug::NoAudit,
        Bug::EarlyTimerForgotten,
        Bug::LeaseWithoutNats,
        Bug::EmptyRedisBelieved,
    ];

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub(crate) fn has(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }

    struct Guard(Option<Bug>);

    impl Drop for Guard {
        fn drop(&mut self) {
            BUG.set(self.0);
        }
    }

    /// Runs something on this thread with a bug.
    pub(crate) fn with<T>(bug: Bug, action: impl FnOnce() -> T) -> T {
        let _guard = Guard(BUG.replace(Some(bug)));
        action()
    }
}
