//! What the API shows of an instance, read from the stored fields alone: no definition needed.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_common::{DefinitionRef, InstanceKey, Problem, RawJson};
use serde::Serialize;

use crate::state::LoadError;
use crate::status::Status;

/// An instance for `GET /instances/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceView {
    /// The id within the namespace.
    pub id: String,
    /// The namespace.
    pub namespace: String,
    /// The definition it runs.
    pub definition: DefinitionRef,
    /// Where it stands.
    pub status: Status,
    /// The raw input; absent in a summary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<RawJson>,
    /// The output, once completed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<RawJson>,
    /// The error, when faulted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// What it waits for, at most [`WAITING_SHOWN_MAX`] entries, in the order in which they were started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<Waiting>,
    /// Number of all that it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_total: Option<usize>,
}

/// Entries of [`InstanceView::waiting_for`].
pub const WAITING_SHOWN_MAX: usize = 100;

/// Fields that suffice for [`InstanceView::summary`]: a list needs no more than these.
pub const SUMMARY_FIELDS: [&str; 2] = ["i", "h"];

/// One thing that an instance waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// What kind of thing.
    pub kind: WaitingKind,
    /// JSON Pointer of the task; empty for the instance itself.
    pub task: String,
    /// RFC 3339.
    pub since: String,
    /// Attempt of a step, or number of the coming retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Who runs the step, if it was heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// What the step runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The child, `namespace/id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child: Option<String>,
    /// When it is due at the latest: RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// Why, for a quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// See [`Waiting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WaitingKind {
    /// A step of the fleet.
    Step,
    /// A `wait` task.
    Timer,
    /// The delay before a retry.
    Retry,
    /// A child instance.
    Child,
    /// The rest of a long activation.
    Continue,
    /// An operator: the instance is quarantined.
    Quarantine,
}

impl InstanceView {
    /// Everything.
    ///
    /// # Errors
    /// [`LoadError`] when the fields are not those of an instance.
    pub fn full<K, V>(key: &InstanceKey, fields: impl IntoIterator<Item = (K, V)>) -> Result<Self, LoadError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let _ = (key, fields.into_iter().count());
        Err(LoadError::Missing("h"))
    }

    /// From the two fields of [`SUMMARY_FIELDS`]: without payloads and `waitingFor`.
    ///
    /// # Errors
    /// As [`Self::full`].
    pub fn summary(key: &InstanceKey, identity: &[u8], header: &[u8]) -> Result<Self, LoadError> {
        let _ = (key, identity, header, Bytes::new());
        Err(LoadError::Missing("h"))
    }
}
