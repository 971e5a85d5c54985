//! What coordinator and workers exchange: [`Step`] out through the work queue, [`StepResult`] back through
//! the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{InstanceKey, Problem, limits};

/// A JSON text carried as it is: the coordinator's shell and the wire never parse payloads; the engine and the
/// handlers do. Cheap to clone.
#[derive(Clone)]
pub struct RawJson(Arc<RawValue>);

impl RawJson {
    /// Checks that the text is one JSON value and keeps it.
    ///
    /// # Errors
    /// serde_json's error with line and column.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<Box<RawValue>>(text).map(|v| Self(v.into()))
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// When the value cannot be written as JSON (a map with non-string keys).
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(|v| Self(v.into()))
    }

    /// `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Decodes the text.
    ///
    /// # Errors
    /// serde_json's error when the text has another shape than `T`.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.text())
    }

    /// Length of the text in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a JSON text is never empty")]
    pub fn len(&self) -> usize {
        self.text().len()
    }
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for RawJson {}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(d).map(|v| Self(v.into()))
    }
}

/// One task execution handed to the fleet. Delivered at least once; [`Step::key`] is the same for every
/// delivery, attempt and re-dispatch, so a side effect made idempotent by it happens once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// `<key>.<attempt>`: identifies the attempt.
    pub id: String,
    /// The idempotency key: instance, task pointer and iteration, hashed; stable over attempts.
    pub key: String,
    /// The instance.
    pub instance: InstanceKey,
    /// The definition, `namespace/name@version`.
    pub definition: String,
    /// JSON Pointer of the task in its definition.
    pub task: String,
    /// What to run: a registered function `name:semver`, or a built-in call type such as `call:http`.
    pub function: String,
    /// Retry number of the language, from 1.
    pub attempt: u32,
    /// Dispatch generation: raised when a lost step is dispatched again. Not a retry.
    pub generation: u32,
    /// The engine's slot for this task; returned in the result so that it is found in O(1).
    pub frame: u32,
    /// The evaluated input.
    pub input: RawJson,
    /// Unix milliseconds after which the result no longer counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<i64>,
    /// Unix milliseconds after which no worker may begin with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by_ms: Option<i64>,
    /// Longest time between two signs of life of the handler, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
    /// Deliveries before it is reported as failed instead of being run, when that is less than the common bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_deliveries: Option<u32>,
    /// The last value saved with `ctx.checkpoint` by an earlier attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<RawJson>,
    /// Subject to which the result and progress are reported (the log of the instance's partition).
    pub report: String,
    /// Must be returned in the result; proves that the sender was given this step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// Parts of the input that the worker fills in, and the secrets it may use for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
}

/// Expressions that only the worker evaluates: they use secrets, and no secret is stored or sent. They stand beside
/// the input, which holds `null` at their places: nothing inside the input is ever taken for an expression.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Late {
    /// `.` of all of them; absent when none looks at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<RawJson>,
    /// The variables that they use, by name without `$`; without secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, RawJson>,
    /// `now` of all of them, in Unix milliseconds.
    pub now_ms: i64,
    /// The places.
    pub holes: Vec<Hole>,
    /// The secrets that authentication policies in the input may name with `use`: those that the definition names there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
}

/// A place in a step's input whose value the worker computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hole {
    /// JSON Pointer into the input.
    pub at: String,
    /// Source of the expression.
    pub expression: String,
    /// The secrets that it may use: `$secrets` holds these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

impl Late {
    /// Bytes of the values in it.
    pub fn len(&self) -> usize {
        let input = self.input.as_ref().map_or(0, RawJson::len);
        let variables: usize = self.variables.values().map(RawJson::len).sum();
        let holes = self
            .holes
            .iter()
            .map(|h| h.at.len() + h.expression.len())
            .sum::<usize>();
        let policies = self.policies.iter().map(String::len).sum::<usize>();
        input + variables + holes + policies
    }

    /// True when the worker has nothing to add.
    pub fn is_empty(&self) -> bool {
        self.holes.is_empty() && self.policies.is_empty()
    }
}

impl Step {
    /// Whether nobody waits for its end: the queue alone keeps it, and whether it is still open cannot be asked.
    pub const fn is_detached(&self) -> bool {
        self.frame >= limits::DETACHED_FRAMES
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepOutcome {
    /// The handler's output.
    Output(RawJson),
    /// The handler's error; the definition's `try` decides what happens next.
    Error(Problem),
    /// The handler stopped because it was asked to (cancel token).
    Cancelled,
}

/// A worker's report. The first result for (step id) counts, all others are named no-ops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepResult {
    /// [`Step::id`].
    pub step: String,
    /// [`Step::frame`].
    pub frame: u32,
    /// [`Step::generation`].
    pub generation: u32,
    /// Who ran it.
    pub worker: String,
    /// Delivery number of the step message, from 1: above 1 means that an earlier worker did not finish.
    pub delivery: u32,
    /// Run time of the handler in milliseconds.
    pub duration_ms: u64,
    /// What came out.
    pub outcome: StepOutcome,
    /// [`Step::token`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
}

impl StepResult {
    /// The node of the definition whose detached step ended; `None` for a step that somebody waits for.
    pub const fn detached_node(&self) -> Option<u32> {
        self.frame.checked_sub(limits::DETACHED_FRAMES)
    }
}
