//! Reads the log of one partition, in order and without holes.
//!
//! It starts from the position in Redis. Sequences must be contiguous; a hole, an error or silence drops the reader, and
//! its owner checks the position again before it makes a new one.

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

use crate::tail;

/// Entries asked for at a time.
const BATCH: usize = 1024;

/// A message of the log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Sequence in the stream.
    pub(crate) sequence: u64,
    /// The log's own time.
    pub(crate) time_nanos: i128,
    /// Subject.
    pub(crate) subject: async_nats::Subject,
    /// Encoded record.
    pub(crate) payload: Bytes,
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The broker is not answering or has lost the consumer. Check the position, then read again.
    #[error("log reader lost: {0}")]
    Lost(String),
    /// The stream does not go on where the state stands (H3). Halt.
    #[error("log has a hole: expected sequence {expected}, found {found}")]
    Hole {
        /// Next sequence by the position.
        expected: u64,
        /// What came.
        found: u64,
    },
}

/// See the module.
pub(crate) struct Reader {
    messages: pull::Stream,
    next: u64,
}

impl Reader {
    /// Starts after `position`.
    pub(crate) async fn start(stream: &Stream<()>, position: u64) -> Result<Self, Error> {
        let from = DeliverPolicy::ByStartSequence {
            start_sequence: position + 1,
        };
        Ok(Self {
            messages: tail::start(stream, from, BATCH).await.map_err(Error::Lost)?,
            next: position + 1,
        })
    }

    /// Waits for the next entry.
    pub(crate) async fn next(&mut self) -> Result<Entry, Error> {
        match self.messages.next().await {
            Some(Ok(message)) => self.accept(&message),
            Some(Err(e)) => Err(lost(e)),
            None => Err(Error::Lost("the stream of messages ended".into())),
        }
    }

    /// The next entry if it is already here.
    pub(crate) fn ready(&mut self) -> Option<Result<Entry, Error>> {
        // Without tokio's cooperative budget, which would end a batch at 128 entries.
        tokio::task::unconstrained(self.next()).now_or_never()
    }

    fn accept(&mut self, message: &async_nats::jetstream::Message) -> Result<Entry, Error> {
        let info = message.info().map_err(lost)?;
        if info.stream_sequence != self.next {
            return Err(Error::Hole {
                expected: self.next,
                found: info.stream_sequence,
            });
        }
        self.next += 1;
        Ok(Entry {
            sequence: info.stream_sequence,
            time_nanos: info.published.unix_timestamp_nanos(),
            subject: message.subject.clone(),
            payload: message.payload.clone(),
        })
    }
}

fn lost(e: impl std::fmt::Display) -> Error {
    Error::Lost(e.to_string())
}
