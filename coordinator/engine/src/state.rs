//! One instance in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_common::{DefinitionRef, InstanceKey};

use crate::effect::{Dispatch, Writes};
use crate::plan::Plan;
use crate::status::Status;
use crate::view::Waiting;

/// Why stored fields are not an instance.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A field that every instance has is not there.
    #[error("stored instance has no field `{0}`")]
    Missing(&'static str),
    /// A field cannot be decoded.
    #[error("cannot decode field `{field}` of a stored instance: {reason}")]
    Field {
        /// Its name.
        field: String,
        /// serde_json's reason, or what does not fit.
        reason: String,
    },
    /// Written by a newer build.
    #[error(
        "field `{field}` of a stored instance has version {found}, newer than {known}; upgrade this process"
    )]
    Version {
        /// Its name.
        field: String,
        /// Version found.
        found: u32,
        /// Newest version known.
        known: u32,
    },
}

/// One run of a definition: what [`crate::apply`] changes.
#[derive(Clone, Debug)]
pub struct Instance {
    key: InstanceKey,
    definition: DefinitionRef,
    labels: BTreeMap<String, String>,
}

impl Instance {
    /// Reads an instance from the fields of its state hash.
    ///
    /// # Errors
    /// [`LoadError`]; the same fields fail again.
    pub fn load<K, V>(key: InstanceKey, fields: impl IntoIterator<Item = (K, V)>) -> Result<Self, LoadError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let _ = (key, fields.into_iter().count(), Bytes::new());
        Err(LoadError::Missing("h"))
    }

    /// What changed since the last call, to be stored in one transaction. An instance that ended since keeps only
    /// header, input, output and error; a faulted one also what a retry needs.
    pub fn take_writes(&mut self) -> Writes {
        Writes::default()
    }

    /// `namespace/id`.
    pub fn key(&self) -> &InstanceKey {
        &self.key
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        Status::Pending
    }

    /// True when completed, faulted or cancelled.
    pub fn is_ended(&self) -> bool {
        self.status().is_ended()
    }

    /// What it runs.
    pub fn definition(&self) -> &DefinitionRef {
        &self.definition
    }

    /// Labels given at the start.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Unix ms of the start record.
    pub fn created_at_ms(&self) -> i64 {
        0
    }

    /// Unix ms of the end, if it ended.
    pub fn ended_at_ms(&self) -> Option<i64> {
        None
    }

    /// Rebuilds the message of an open step: the same bytes as the [`crate::Effect::Dispatch`] that announced it, but
    /// with the newest saved progress.
    pub fn step(&self, plan: &Plan, frame: u32) -> Option<Dispatch> {
        let _ = (plan, frame);
        None
    }

    /// Frames of all open steps, in order.
    pub fn open_steps(&self) -> Vec<u32> {
        Vec::new()
    }

    /// What it waits for, all of it, in the order in which it was started.
    pub fn waiting_for(&self) -> Vec<Waiting> {
        Vec::new()
    }

    /// Memory in use, roughly: for the bound of the owner's cache.
    pub fn approx_bytes(&self) -> usize {
        0
    }

    /// Sets the instance aside after a panic: it shows as suspended with the reason, and [`crate::apply`] ignores every
    /// record but cancel and resume. Load it afresh before; a state in which `apply` panicked must not be stored.
    pub fn quarantine(&mut self, reason: &str, now_ms: i64) {
        let _ = (reason, now_ms);
    }

    /// Why it is quarantined, if it is.
    pub fn quarantined(&self) -> Option<&str> {
        None
    }
}
