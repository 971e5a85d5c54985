//! The way into a partition's log, for everything that is not read from one: api, timers, scheduler. What is
//! acknowledged here is durable to the degree that the stream is; only the owner of the partition reads it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use millrace_common::{InstanceKey, PartitionId, RecordBody, limits, names, partition_of, wire};

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
    /// The record is larger than a message may be. Nothing was sent.
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
        f.debug_struct("Log").field("partitions", &self.partitions).finish_non_exhaustive()
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
            return Err(AppendError::Oversize { bytes: payload.len(), max: RECORD_BYTES_MAX });
        }
        let sequence = self.append.append(names::log_subject(partition, body.kind()), payload).await?;
        Ok(Appended { partition, sequence })
    }
}
