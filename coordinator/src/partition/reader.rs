//! Reads the log of one partition, in order and without holes.
//!
//! The consumer is ephemeral and starts from the position in Redis: no durable consumer's memory is trusted (section
//! 1.4 of the protocol study lists why). Sequences must be contiguous; a hole, an error or silence drops the reader,
//! and its owner checks the position again before it makes a new one.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};

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
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: position + 1,
            },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: Duration::from_secs(60),
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(lost)?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(1024)
            .expires(Duration::from_secs(5))
            .heartbeat(Duration::from_secs(1))
            .messages()
            .await
            .map_err(lost)?;
        Ok(Self {
            messages,
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
