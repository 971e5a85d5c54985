//! What workers and coordinators say to each other beside steps and results, over core NATS as JSON: a worker
//! announces itself, shows that it is alive, asks about a step it was given twice, and is told to drain.
//! None of it decides about state: a lost message costs time, never correctness.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{InstanceKey, RawJson};

/// Asked on [`crate::names::FLEET_ASK`] by a worker that holds a step delivered more than once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskRequest {
    /// The instance: says which partition, so only its owner answers.
    pub instance: InstanceKey,
    /// [`crate::Step::id`].
    pub step: String,
    /// [`crate::Step::frame`].
    pub frame: u32,
}

/// Answer to [`AskRequest`], by the owner of the instance's partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskReply {
    /// False when the step has a result, was cancelled, or is unknown: then it need not run.
    pub open: bool,
    /// The value last saved with `ctx.checkpoint` in any attempt of this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<RawJson>,
}

/// Sent as a request on [`crate::names::FLEET_REGISTER`] when a worker starts and after every reconnect, until a
/// coordinator answers with [`Registered`]. Repeating it is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    /// The worker's id: one subject token, unique in the fleet.
    pub worker: String,
    /// Build of its binary.
    pub build: String,
    /// The machine it runs on.
    pub host: String,
    /// Queues it pulls from; their consumers are created by whoever answers.
    pub queues: Vec<String>,
    /// Steps it runs at a time.
    pub slots: u32,
    /// What it can run.
    pub functions: Vec<FunctionInfo>,
    /// Built-in call types and other abilities, such as `call:http`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One function of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionInfo {
    /// Name without version.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// Queue through which its steps travel.
    pub queue: String,
    /// JSON Schema of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<RawJson>,
    /// JSON Schema of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<RawJson>,
}

/// Answer to [`Register`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// The coordinator that took it.
    pub coordinator: String,
    /// Set when the worker was refused, with the reason (two owners of one function on different queues).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A worker's sign of life on [`crate::names::FLEET_BEAT`], every [`BEAT_MS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beat {
    /// Its id.
    pub worker: String,
    /// The longest running steps, at most [`BEAT_RUNNING_MAX`].
    pub running: Vec<RunningStep>,
    /// Slots in use.
    pub slots_used: u32,
    /// Slots in all.
    pub slots: u32,
    /// It finishes what it has and takes nothing new.
    pub draining: bool,
    /// Steps ended with an output since it started.
    pub done_total: u64,
    /// Steps ended with an error since it started.
    pub failed_total: u64,
}

/// A step in [`Beat`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningStep {
    /// [`crate::Step::id`].
    pub step: String,
    /// The function.
    pub function: String,
    /// Start of this delivery in Unix milliseconds.
    pub since: i64,
}

/// Sent to [`crate::names::worker_subject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkerCommand {
    /// Take nothing new, finish or hand back what runs, then exit with 0: what SIGTERM does.
    Drain,
}

/// Time between two [`Beat`]s.
pub const BEAT_MS: u64 = 2_000;

/// Steps named in one [`Beat`]: keeps it far below a message's limit; the oldest are the ones that matter.
pub const BEAT_RUNNING_MAX: usize = 256;

/// Stands for every worker in [`crate::names::cancel_subject`], when it is not known who runs a step. No worker may have
/// this id.
pub const EVERY_WORKER: &str = "all";
