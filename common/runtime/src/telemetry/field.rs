//! Names of fields that logs of all parts share. `tracing`'s macros take field names as text, so these constants are
//! for readers of logs (tests, the command line); a new name is added here first.

/// `namespace/id` of the instance.
pub const INSTANCE_ID: &str = "instance.id";
/// `namespace/name@version` of the definition.
pub const WORKFLOW_NAME: &str = "workflow.name";
/// JSON Pointer of the task.
pub const TASK_ID: &str = "task.id";
/// Attempt of the task, from 1.
pub const TASK_ATTEMPT: &str = "task.attempt";
/// The partition.
pub const PARTITION_ID: &str = "partition.id";
/// Sequence of a record.
pub const LOG_SEQUENCE: &str = "log.sequence";
/// Fence counter of the owner.
pub const EPOCH: &str = "epoch";
/// The worker.
pub const WORKER_ID: &str = "worker.id";
/// Stable code of an error.
pub const ERROR_CODE: &str = "error.code";
