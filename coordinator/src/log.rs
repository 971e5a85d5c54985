//! The way into a partition's log, for everything that is not read from one: api, timers, scheduler. What is
//! acknowledged here is durable to the degree that the stream is; only the owner of the partition reads it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use millrace_common::{InstanceKey, PartitionId, RecordBody, limits, names, partition_of, wire};
use millrace_runtime::nats::{PublishError, Publisher};

/// What a log holds at most in one record, below NATS' default `max_payload` of 1 MiB.
pub const RECORD_BYTES_MAX: usize = limits::PAYLOAD_BYTES_MAX + 128 * 1024;

/// Where an append went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub partition: PartitionId,
    /// Sequence in its stream.
    pub sequence: u64,
}

/// Why nothing was appended, or why that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The stream is at its bound. Nothing was stored; later it may fit.
    #[error("the log is full")]
    Full,
    /// The broker refused or is not connected. Nothing was stored.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The answer was lost: it may be stored or not. The same append again is safe where receivers drop repeats.
    #[error("the outcome of the append is unknown: {0}")]
    Unknown(String),
    /// The record is larger than a message may be, by our own bound or by the server's. Nothing was stored, and nothing
    /// will be: the same append again gives the same answer.
    #[error("the record has {bytes} bytes, more than {max}")]
    Oversize {
        /// Size of the encoded record.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

/// Stores one message durably and says at which sequence: the runtime's publisher, or a test's stub.
pub trait Append: Send + Sync {
    /// Resolves when the stream has acknowledged, refused, or the time for it is over.
    fn append(&self, subject: String, payload: Bytes) -> BoxFuture<'static, Result<u64, AppendError>>;
}

/// Clonable handle to all logs.
#[derive(Clone)]
pub struct Log {
    partitions: u16,
    append: Arc<dyn Append>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// For a cluster of `partitions`, over a publisher.
    pub fn new(partitions: u16, append: Arc<dyn Append>) -> Self {
        Self { partitions, append }
    }

    /// The partition that owns an instance.
    pub fn partition_of(&self, instance: &InstanceKey) -> PartitionId {
        partition_of(instance, self.partitions)
    }

    /// Appends a record for an instance to the log of its partition.
    ///
    /// # Errors
    /// [`AppendError`]; only after [`AppendError::Unknown`] the record may be stored nevertheless.
    pub async fn append(&self, to: &InstanceKey, body: &RecordBody) -> Result<Appended, AppendError> {
        let partition = self.partition_of(to);
        let payload = wire::encode_record(Some(to), body);
        if payload.len() > RECORD_BYTES_MAX {
            return Err(AppendError::Oversize {
                bytes: payload.len(),
                max: RECORD_BYTES_MAX,
            });
        }
        let sequence = self
            .append
            .append(names::log_subject(partition, body.kind()), payload)
            .await?;
        Ok(Appended { partition, sequence })
    }
}

impl Append for Publisher {
    fn append(&self, subject: String, payload: Bytes) -> BoxFuture<'static, Result<u64, AppendError>> {
        let publisher = self.clone();
        Box::pin(async move {
            let bytes = payload.len();
            let stored = publisher.publish(subject, None, payload).await;
            stored
                .map(|ack| ack.sequence)
                .map_err(|e| not_stored(e, bytes, publisher.payload_bytes_max()))
        })
    }
}

/// `max` is what the server takes.
fn not_stored(e: PublishError, bytes: usize, max: usize) -> AppendError {
    match e {
        PublishError::Full(_) => AppendError::Full,
        PublishError::Unknown | PublishError::Closed => AppendError::Unknown(e.to_string()),
        // A stream may take less than its server, which does not say how much: less than this record, at least.
        PublishError::Oversize(_) => AppendError::Oversize {
            bytes,
            max: max.min(bytes.saturating_sub(1)),
        },
        PublishError::Unavailable(_) | PublishError::WrongLastSequence(_) | PublishError::Other { .. } => {
            AppendError::Unavailable(e.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Remembers(Mutex<Vec<String>>);

    impl Append for Remembers {
        fn append(&self, subject: String, _payload: Bytes) -> BoxFuture<'static, Result<u64, AppendError>> {
            self.0.lock().unwrap().push(subject);
            Box::pin(std::future::ready(Ok(7)))
        }
    }

    #[tokio::test]
    async fn records_go_to_the_partition_of_their_instance() {
        let append = Arc::new(Remembers::default());
        let log = Log::new(16, append.clone());
        let key: InstanceKey = "default/order-1".parse().unwrap();
        let body = RecordBody::Continue { number: 1 };
        let appended = log.append(&key, &body).await.unwrap();
        assert_eq!(
            appended,
            Appended {
                partition: partition_of(&key, 16),
                sequence: 7
            }
        );
        assert_eq!(
            *append.0.lock().unwrap(),
            [format!("mr.log.{}.continue", appended.partition)]
        );
    }

    #[test]
    fn what_the_server_finds_too_large_is_not_worth_a_repeat() {
        let refused = not_stored(PublishError::Oversize("maximum payload".into()), 70_000, 65_536);
        assert_eq!(
            refused,
            AppendError::Oversize {
                bytes: 70_000,
                max: 65_536
            }
        );
        let unavailable = not_stored(PublishError::Unavailable("no leader".into()), 1, 65_536);
        assert!(matches!(unavailable, AppendError::Unavailable(_)));
    }

    #[tokio::test]
    async fn oversize_records_are_not_sent() {
        let append = Arc::new(Remembers::default());
        let body = RecordBody::Control {
            action: millrace_common::ControlKind::Cancel,
            reason: Some("x".repeat(RECORD_BYTES_MAX)),
            reply: None,
        };
        let error = Log::new(1, append.clone())
            .append(&"default/a".parse().unwrap(), &body)
            .await
            .unwrap_err();
        assert!(matches!(error, AppendError::Oversize { .. }));
        assert!(append.0.lock().unwrap().is_empty());
    }
}
