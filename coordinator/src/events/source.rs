//! Reads the stream of events in order, from a mark on. Nothing is acknowledged: the mark is part of the partition's
//! position and moves in the commit that holds what the events did.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use millrace_common::hash::StableHash;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::clock::Clock;
use crate::servers::{Begin, Messages, Silent, Stored, Stream};

/// NATS answers in this time, or reading starts again later.
const ANSWER: Duration = Duration::from_secs(5);
/// Events asked for at a time.
const BATCH: usize = 512;

/// Up to where events are dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Last sequence; 0: none yet.
    pub sequence: u64,
    /// Fingerprint of that event.
    pub fingerprint: u64,
    /// When it was stored, Unix ns. Without a sequence: where to begin.
    pub time_nanos: i64,
}

impl Mark {
    /// Before every event stored at this time or later.
    pub const fn at(time_nanos: i64) -> Self {
        Self {
            sequence: 0,
            fingerprint: 0,
            time_nanos,
        }
    }
}

/// A message of the stream.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored, Unix ns.
    pub time_nanos: i64,
    /// What it holds.
    pub payload: Bytes,
}

impl Message {
    fn of(stored: Stored) -> Self {
        Self {
            sequence: stored.sequence,
            time_nanos: i64::try_from(stored.time_nanos).unwrap_or(i64::MAX),
            payload: stored.payload,
        }
    }

    /// The mark behind it.
    pub fn mark(&self) -> Mark {
        Mark {
            sequence: self.sequence,
            fingerprint: fingerprint(self.time_nanos, &self.payload),
            time_nanos: self.time_nanos,
        }
    }
}

fn fingerprint(time_nanos: i64, payload: &[u8]) -> u64 {
    let time = time_nanos.to_le_bytes();
    StableHash::new().bytes(&time).bytes(payload).finish()
}

/// Why reading stopped: the broker does not answer. Start again from the mark.
#[derive(Debug, thiserror::Error)]
#[error("cannot read events: {0}")]
pub struct Error(String);

/// See the module.
pub struct Source {
    messages: Messages,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Source {
    /// Starts behind a mark. When the event at the mark is another one, or is gone while the stream is shorter, the
    /// stream lost its tail or was made anew: then it starts at the mark's time, so that nothing that came since is
    /// passed over.
    ///
    /// # Errors
    /// When NATS does not answer in time.
    pub async fn start(stream: &dyn Stream, clock: &Clock, mark: Mark) -> Result<Self, Error> {
        let started = clock.limit(ANSWER, Self::open(stream, mark)).await;
        started.unwrap_or_else(|_| Err(unanswered()))
    }

    async fn open(stream: &dyn Stream, mark: Mark) -> Result<Self, Error> {
        let from = match mark.sequence > 0 && is_true(stream, mark).await? {
            true => Begin::Sequence(mark.sequence + 1),
            false => Begin::Time(mark.time_nanos),
        };
        let messages = stream.follow(from, BATCH).await?;
        Ok(Self { messages })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`Error`]: start again.
    pub async fn next(&mut self) -> Result<Message, Error> {
        match self.messages.next().await {
            Some(read) => Ok(Message::of(read?)),
            None => Err(Error("the stream of messages ended".into())),
        }
    }

    /// The next message if it is already here.
    pub fn ready(&mut self) -> Option<Result<Message, Error>> {
        tokio::task::unconstrained(self.next()).now_or_never()
    }
}

/// The last sequence of the stream.
///
/// # Errors
/// When NATS does not answer in time.
pub async fn end(stream: &dyn Stream, clock: &Clock) -> Result<u64, Error> {
    match clock.limit(ANSWER, stream.extent()).await {
        Ok(extent) => Ok(extent?.ok_or_else(gone)?.last),
        Err(_) => Err(unanswered()),
    }
}

async fn is_true(stream: &dyn Stream, mark: Mark) -> Result<bool, Error> {
    if let Some(stored) = stream.get(mark.sequence).await? {
        return Ok(Message::of(stored).mark().fingerprint == mark.fingerprint);
    }
    let extent = stream.extent().await?.ok_or_else(gone)?;
    if extent.first > mark.sequence + 1 && extent.last >= mark.sequence {
        warn!(
            error.code = "MR-EVENTS-TRIMMED",
            events = extent.first - mark.sequence - 1,
            "events were dropped by age or size before they were looked at"
        );
    }
    Ok(extent.last >= mark.sequence)
}

impl From<Silent> for Error {
    fn from(e: Silent) -> Self {
        Self(e.0)
    }
}

fn unanswered() -> Error {
    Error("nats does not answer".into())
}

fn gone() -> Error {
    Error("the stream of events is gone".into())
}
