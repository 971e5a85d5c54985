//! What the API reads: instances, their history and lists of them, from Redis alone. Needs no partition to be served by
//! this coordinator, so every coordinator answers for the whole cluster.

mod history;
mod list;
mod partitions;
mod schedules;

use std::collections::HashMap;

use millrace_common::{InstanceKey, PartitionId, names, partition_of};
use millrace_engine::view::SUMMARY_FIELDS;
use millrace_engine::{InstanceView, LoadError};

use crate::registry::{Store, StoreError};

pub use history::{HISTORY_LIMIT_MAX, HistoryPage};
pub use list::{Cursor, Filter, InstancePage, LIST_LIMIT_MAX};
pub use partitions::{Checkpoint, DeadRecord, Quarantined, SetAside};

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Redis did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored instance is not readable by this build.
    #[error("cannot read instance {0}: {1}")]
    Instance(InstanceKey, LoadError),
    /// A stored schedule is not readable by this build.
    #[error("cannot read schedule {0}: {1}")]
    Schedule(InstanceKey, String),
}

/// Counts of all partitions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Instances that can be read.
    pub total: u64,
    /// Those that have not ended.
    pub open: u64,
}

/// Clonable handle.
#[derive(Clone, Debug)]
pub struct Queries {
    store: Store,
    partitions: u16,
}

impl Queries {
    /// For a cluster of `partitions`.
    pub fn new(store: Store, partitions: u16) -> Self {
        Self { store, partitions }
    }

    /// Partitions of the cluster.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partitions).map(PartitionId)
    }

    /// One instance with everything; `None` when there is none of this id, or its retention is over.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn instance(&self, key: &InstanceKey) -> Result<Option<InstanceView>, QueryError> {
        let mut read = redis::cmd("HGETALL");
        read.arg(self.instance_key(key));
        let fields: HashMap<Vec<u8>, Vec<u8>> = self.store.query(&read).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        InstanceView::full(key, fields)
            .map(Some)
            .map_err(|e| QueryError::Instance(key.clone(), e))
    }

    /// Status, times and labels of one instance: what polling needs.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn summary(&self, key: &InstanceKey) -> Result<Option<InstanceView>, QueryError> {
        let mut read = redis::cmd("HMGET");
        read.arg(self.instance_key(key)).arg(&SUMMARY_FIELDS[..]);
        summary(key, &self.store.query::<SummaryFields>(&read).await?)
    }

    /// The namespaces among `candidates` in which the id exists.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn namespaces_of(
        &self,
        id: &str,
        candidates: &[String],
    ) -> Result<Vec<InstanceKey>, QueryError> {
        let keys: Vec<_> = candidates
            .iter()
            .filter_map(|ns| InstanceKey::new(ns, id).ok())
            .collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut reads = redis::pipe();
        for key in &keys {
            reads.exists(self.instance_key(key));
        }
        let found: Vec<bool> = self.store.pipe(&reads).await?;
        Ok(keys
            .into_iter()
            .zip(found)
            .filter_map(|(key, found)| found.then_some(key))
            .collect())
    }

    /// How many instances there are.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn counts(&self) -> Result<Counts, QueryError> {
        let mut reads = redis::pipe();
        for p in self.partitions() {
            reads.zcard(names::index_key(p)).zcard(names::open_key(p));
        }
        let counts: Vec<u64> = self.store.pipe(&reads).await?;
        let sum = |offset: usize| counts.iter().skip(offset).step_by(2).sum();
        Ok(Counts {
            total: sum(0),
            open: sum(1),
        })
    }

    fn instance_key(&self, key: &InstanceKey) -> String {
        names::instance_key(partition_of(key, self.partitions), key)
    }
}

type SummaryFields = [Option<Vec<u8>>; SUMMARY_FIELDS.len()];

fn summary(key: &InstanceKey, fields: &SummaryFields) -> Result<Option<InstanceView>, QueryError> {
    let [Some(identity), Some(header)] = fields else {
        return Ok(None);
    };
    InstanceView::summary(key, identity, header)
        .map(Some)
        .map_err(|e| QueryError::Instance(key.clone(), e))
}
