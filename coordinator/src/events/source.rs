//! Reads the stream of events in order, from a mark on. Nothing is acknowledged: the mark is part of the partition's
//! position and moves in the commit that holds what the events did.

use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use millrace_common::hash::StableHash;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::tail;

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
    messages: pull::Stream,
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
    pub async fn start(stream: &Stream<()>, mark: Mark) -> Result<Self, Error> {
        let started = tokio::time::timeout(Duration::from_secs(5), Self::open(stream, mark));
        started
            .await
            .unwrap_or_else(|_elapsed| Err(Error("nats does not answer".into())))
    }

    async fn open(stream: &Stream<()>, mark: Mark) -> Result<Self, Error> {
        let from = match mark.sequence > 0 && is_true(stream, mark).await? {
            true => DeliverPolicy::ByStartSequence {
                start_sequence: mark.sequence + 1,
            },
            false => DeliverPolicy::ByStartTime {
                start_time: time::OffsetDateTime::from_unix_timestamp_nanos(mark.time_nanos.into())
                    .map_err(lost)?,
            },
        };
        let messages = tail::start(stream, from, BATCH).await.map_err(Error)?;
        Ok(Self { messages })
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`Error`]: start again.
    pub async fn next(&mut self) -> Result<Message, Error> {
        let message = match self.messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(e)) => return Err(lost(e)),
            None => return Err(Error("the stream of messages ended".into())),
        };
        let info = message.info().map_err(lost)?;
        Ok(Message {
            sequence: info.stream_sequence,
            time_nanos: i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(i64::MAX),
            payload: message.payload.clone(),
        })
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
pub async fn end(stream: &Stream<()>) -> Result<u64, Error> {
    let info = tokio::time::timeout(Duration::from_secs(5), stream.get_info());
    match info.await {
        Ok(Ok(info)) => Ok(info.state.last_sequence),
        Ok(Err(e)) => Err(lost(e)),
        Err(_) => Err(Error("nats does not answer".into())),
    }
}

async fn is_true(stream: &Stream<()>, mark: Mark) -> Result<bool, Error> {
    match stream.get_raw_message(mark.sequence).await {
        Ok(m) => {
            let time = i64::try_from(m.time.unix_timestamp_nanos()).unwrap_or(i64::MAX);
            Ok(fingerprint(time, &m.payload) == mark.fingerprint)
        }
        Err(e) if matches!(e.kind(), LastRawMessageErrorKind::NoMessageFound) => {
            let state = stream.get_info().await.map_err(lost)?.state;
            if state.first_sequence > mark.sequence + 1 && state.last_sequence >= mark.sequence {
                let gone = state.first_sequence - mark.sequence - 1;
                warn!(
                    error.code = "MR-EVENTS-TRIMMED",
                    events = gone,
                    "events were dropped by age or size before they were looked at"
                );
            }
            Ok(state.last_sequence >= mark.sequence)
        }
        Err(e) => Err(lost(e)),
    }
}

fn lost(e: impl std::fmt::Display) -> Error {
    Error(e.to_string())
}
