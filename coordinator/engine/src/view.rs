//! What the API shows of an instance, read from the stored fields alone: no definition needed.

use std::collections::BTreeMap;

use millrace_common::{DefinitionRef, InstanceKey, Problem, RawJson};
use serde::Serialize;

use crate::frame::FrameId;
use crate::state::Instance;
use crate::status::Status;
use crate::store::{self, BodyRow, FrameRow, HeaderRow, IdentityRow, LoadError, PhaseRow};
pub use crate::time::rfc3339;

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
    /// Compensations of sagas, when there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compensations: Option<Compensations>,
    /// Number of all that it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_total: Option<usize>,
    /// Why and since when (RFC 3339) it is quarantined; in the API a part of `waitingFor`.
    #[serde(skip)]
    pub quarantine: Option<(String, String)>,
}

/// What became of compensations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compensations {
    /// Done.
    pub completed: u32,
    /// Failed: what their tasks did is still there, somebody has to look at it.
    pub failed: u32,
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
    /// False when no worker offers the function; filled in by who knows the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered: Option<bool>,
    /// Why, for a quarantine and for a function that no worker offers.
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
    /// Events.
    Event,
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
        let (mut identity, mut header) = (None, None);
        let (mut input, mut output, mut error) = (None, None, None);
        let mut frames: BTreeMap<FrameId, FrameRow> = BTreeMap::new();
        for (name, bytes) in fields {
            let (name, bytes) = (
                String::from_utf8_lossy(name.as_ref()).into_owned(),
                bytes.as_ref(),
            );
            match name.as_str() {
                "i" => identity = Some(store::identity(bytes)?),
                "h" => header = Some(store::header(bytes)?),
                "in" => input = Some(store::decode(&name, bytes)?),
                "out" => output = Some(store::decode(&name, bytes)?),
                "err" => error = Some(store::decode(&name, bytes)?),
                _ => {
                    if let Some(id) = name.strip_prefix('f').and_then(|n| n.parse().ok()) {
                        frames.insert(id, store::decode(&name, bytes)?);
                    }
                }
            }
        }
        let header = header.ok_or(LoadError::Missing("h"))?;
        let waiting = waiting(&header, frames.values());
        let mut view = Self::of(key, identity.ok_or(LoadError::Missing("i"))?, header);
        (view.input, view.output, view.error) = (input, output, error);
        view.waiting_total = (!waiting.is_empty()).then_some(waiting.len());
        view.waiting_for = waiting;
        view.waiting_for.truncate(WAITING_SHOWN_MAX);
        Ok(view)
    }

    /// From the two fields of [`SUMMARY_FIELDS`]: without payloads and `waitingFor`.
    ///
    /// # Errors
    /// As [`Self::full`].
    pub fn summary(key: &InstanceKey, identity: &[u8], header: &[u8]) -> Result<Self, LoadError> {
        Ok(Self::of(key, store::identity(identity)?, store::header(header)?))
    }

    fn of(key: &InstanceKey, identity: IdentityRow, header: HeaderRow) -> Self {
        Self {
            id: key.id().to_owned(),
            namespace: key.namespace().to_owned(),
            definition: identity.definition,
            status: header.status,
            input: None,
            output: None,
            error: None,
            labels: identity.labels,
            created_at: rfc3339(identity.created_ms),
            started_at: Some(rfc3339(header.started_ms)),
            ended_at: header.ended_ms.map(rfc3339),
            compensations: (header.undone + header.undo_failed > 0).then_some(Compensations {
                completed: header.undone,
                failed: header.undo_failed,
            }),
            waiting_for: Vec::new(),
            waiting_total: None,
            quarantine: header.quarantine.map(|(reason, since)| (reason, rfc3339(since))),
        }
    }
}

/// See [`Instance::waiting_for`].
pub(crate) fn waiting_for(instance: &Instance) -> Vec<Waiting> {
    let rows: Vec<FrameRow> = instance.frames.values().map(store::frame_row).collect();
    waiting(&store::header_row(instance), rows.iter())
}

fn waiting<'a>(header: &HeaderRow, frames: impl Iterator<Item = &'a FrameRow>) -> Vec<Waiting> {
    if header.ended_ms.is_some() {
        return Vec::new();
    }
    let mut found: Vec<(u64, Waiting)> = frames.filter_map(|f| Some((f.ordinal, leaf(f)?))).collect();
    found.sort_by_key(|(ordinal, _)| *ordinal);
    let whole = header.quarantine.as_ref().map(|(reason, since)| Waiting {
        reason: Some(reason.clone()),
        ..Waiting::new(WaitingKind::Quarantine, "", *since)
    });
    let rest = (!header.ready.is_empty()).then(|| Waiting::new(WaitingKind::Continue, "", header.started_ms));
    whole
        .into_iter()
        .chain(rest)
        .chain(found.into_iter().map(|(_, w)| w))
        .collect()
}

/// What a frame waits for, if it is one that waits.
fn leaf(frame: &FrameRow) -> Option<Waiting> {
    let new = |kind| Waiting::new(kind, &frame.pointer, frame.started_ms);
    Some(match &frame.body {
        BodyRow::Step(step) => Waiting {
            attempt: Some(frame.attempt),
            worker: step.worker.clone(),
            function: Some(step.function.to_string()),
            due: step.deadline_ms.map(rfc3339),
            ..new(WaitingKind::Step)
        },
        BodyRow::Wait(timer) => Waiting {
            due: Some(rfc3339(timer.due_ms())),
            ..new(WaitingKind::Timer)
        },
        BodyRow::Child { child, .. } => Waiting {
            child: Some(child.to_string()),
            due: frame.timeout.map(|t| rfc3339(t.due_ms())),
            ..new(WaitingKind::Child)
        },
        BodyRow::Try {
            phase: PhaseRow::Delay,
            retries,
            delay,
            ..
        } => Waiting {
            attempt: Some(retries.saturating_add(1)),
            due: delay.map(|d| rfc3339(d.due_ms())),
            ..new(WaitingKind::Retry)
        },
        BodyRow::Listen { done: false, .. } => Waiting {
            due: frame.timeout.map(|t| rfc3339(t.due_ms())),
            ..new(WaitingKind::Event)
        },
        BodyRow::Try { .. }
        | BodyRow::Listen { .. }
        | BodyRow::List(_)
        | BodyRow::For { .. }
        | BodyRow::Fork { .. }
        | BodyRow::Inline { .. }
        | BodyRow::Extended { .. }
        | BodyRow::Each { .. }
        | BodyRow::Item(_)
        | BodyRow::Undo { .. }
        | BodyRow::Done { .. }
        | BodyRow::Failed(_)
        | BodyRow::FailedFinally(_) => return None,
    })
}

impl Waiting {
    fn new(kind: WaitingKind, task: &str, since_ms: i64) -> Self {
        Self {
            kind,
            task: task.to_owned(),
            since: rfc3339(since_ms),
            attempt: None,
            worker: None,
            function: None,
            child: None,
            due: None,
            offered: None,
            reason: None,
        }
    }
}
