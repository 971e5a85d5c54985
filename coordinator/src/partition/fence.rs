//! Who owns a partition, and how far it has read: the two values that every commit is fenced by.
//!
//! Protocol: `docs/guarantees.md`; the reasons are in ADR 0002. The fence has no TTL: it is held by moving its beat.

use millrace_common::hash::StableHash;
use serde::{Deserialize, Serialize};

use crate::events::source::Mark;

/// Value of `{mr:p}:fence`. A contender takes over when the beat has not moved for the lease time on the
/// contender's own monotonic clock, so no two clocks are ever compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fence {
    /// Raised by every take-over; never below the highest announcement in the log.
    pub(crate) counter: u64,
    /// Tells two owners with the same counter apart (a failover of Redis can roll the counter back).
    pub(crate) nonce: String,
    /// Raised by every commit.
    pub(crate) beat: u64,
    /// Id of the owning coordinator, for people.
    pub(crate) owner: String,
    /// The owner left on purpose: no need to wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) released: bool,
}

impl Fence {
    /// The fence that the next commit of the same owner writes.
    pub(crate) fn next(&self) -> Self {
        Self {
            beat: self.beat + 1,
            ..self.clone()
        }
    }
}

/// Value of `{mr:p}:pos`: never a bare sequence (H1, H2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Identity of the stream, written into its metadata when it was created.
    pub(crate) incarnation: String,
    /// Last sequence whose record is folded into the state.
    pub(crate) sequence: u64,
    /// Fingerprint of that message; 0 at sequence 0.
    pub(crate) fingerprint: u64,
    /// Raised when the log lost a tail that Redis had applied (H1).
    pub(crate) generation: u32,
    /// Highest record time seen, Unix ms: record time never steps back.
    pub(crate) clock_ms: i64,
    /// Highest fence counter announced in the log.
    pub(crate) announce: u64,
    /// Up to where events are dealt with; `None` while nothing listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<Mark>,
    /// State is being made anew from the log (`repair.rs`): until it is there, this position is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) rebuilding: bool,
}

impl Position {
    /// Before the first record of a stream.
    pub(crate) fn start(incarnation: &str) -> Self {
        Self {
            incarnation: incarnation.into(),
            sequence: 0,
            fingerprint: 0,
            generation: 0,
            clock_ms: 0,
            announce: 0,
            events: None,
            rebuilding: false,
        }
    }
}

/// Tells a message from another one with the same sequence: subject, time and payload.
pub(crate) fn fingerprint(subject: &str, time_nanos: i128, payload: &[u8]) -> u64 {
    let low = time_nanos.rem_euclid(1 << 62);
    StableHash::new()
        .part(subject)
        .number(u64::try_from(low).unwrap_or(0))
        .bytes(payload)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_differ_by_every_part() {
        let base = fingerprint("a", 1, b"x");
        assert_eq!(base, fingerprint("a", 1, b"x"));
        for other in [
            fingerprint("b", 1, b"x"),
            fingerprint("a", 2, b"x"),
            fingerprint("a", 1, b"y"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_commit_moves_only_the_beat() {
        let f = Fence {
            counter: 3,
            nonce: "n".into(),
            beat: 7,
            owner: "c".into(),
            released: false,
        };
        assert_eq!(f.next(), Fence { beat: 8, ..f });
    }
}
