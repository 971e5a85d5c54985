//! Every bound in one place: unit in the name, reason and behaviour at the bound in the comment.
//! A bound that operators may change is a default here and a setting in `millrace-runtime`'s registry.

/// Instance id length. Longer ids are refused with 400.
pub const INSTANCE_ID_BYTES_MAX: usize = 128;

/// A workflow input, a step's input or a step's output as JSON. Below NATS' default `max_payload` (1 MiB)
/// with room for the envelope. An API input above it gets 413; a step input or output above it fails the
/// task with a `runtime` error that names both sizes.
pub const PAYLOAD_BYTES_MAX: usize = 768 * 1024;

/// A definition's source. Larger ones get 413.
pub const DEFINITION_BYTES_MAX: usize = 768 * 1024;

/// Documents elsewhere (functions, schemas) that one definition refers to. More is a deploy error.
pub const DEFINITION_RESOURCES_MAX: usize = 100;

/// One such document. A larger one is a deploy error; so is a definition that is larger than `DEFINITION_BYTES_MAX`
/// together with all it refers to.
pub const DEFINITION_RESOURCE_BYTES_MAX: usize = 256 * 1024;

/// Time to fetch one such document, in milliseconds. Longer is a deploy error.
pub const DEFINITION_RESOURCE_FETCH_MS_MAX: u64 = 10_000;

/// Tasks in one definition, all levels. More is a deploy error.
pub const DEFINITION_TASKS_MAX: usize = 20_000;

/// Nesting of task lists in a definition. Deeper is a deploy error; bounds recursion everywhere.
pub const DEFINITION_DEPTH_MAX: usize = 64;

/// Nesting of any JSON or YAML value that enters or is computed. Below serde_json's own limit of 128, so that
/// what is written can always be read. Deeper input gets 400; a deeper computed value faults its task.
pub const VALUE_DEPTH_MAX: usize = 100;

/// One expression's source. Longer is a deploy error.
pub const EXPRESSION_BYTES_MAX: usize = 16 * 1024;

/// Evaluation steps of one expression. About 0.1 to 0.5 s of one core; at the bound the task faults with an
/// `expression` error.
pub const EXPRESSION_FUEL_MAX: u64 = 1_000_000;

/// Values (nodes) in one expression's result, and in what it may build on the way.
pub const EXPRESSION_NODES_MAX: usize = 1_000_000;

/// Bytes of one string that an expression may build.
pub const EXPRESSION_STRING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Inline task executions in one `apply`. At the bound the rest goes on by a `continue` record through the
/// log, so a busy instance shares its partition with the others.
pub const ACTIVATION_TASKS_MAX: u32 = 1_000;

/// Items of one `for`. More faults the task.
pub const FOR_ITEMS_MAX: usize = 1_000_000;

/// Iterations of a parallel `for` at a time, when it does not say how many.
pub const FOR_CONCURRENCY_DEFAULT: u32 = 16;

/// Iterations of a parallel `for` at a time. More is a deploy error.
pub const FOR_CONCURRENCY_MAX: u32 = 1_000;

/// Outputs (and changed contexts) that a parallel `for` collects, as JSON. More faults the task at the iteration that
/// passes it. What its `output.as` makes of them must be a payload.
pub const FOR_RESULTS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Completed tasks that the sagas of one instance remember to undo. One more faults the task that completed.
pub const SAGA_TASKS_MAX: usize = 10_000;

/// Bytes of inputs and outputs that the sagas of one instance remember, as JSON. More faults the task that completed.
pub const SAGA_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Sagas of one instance that were undone, in different places and iterations: each is remembered to give its next run
/// other keys. At the bound another saga faults as it begins.
pub const SAGAS_UNDONE_MAX: usize = 10_000;

/// Detached steps of one instance whose end is awaited for its history. At the bound the oldest is forgotten: its end is
/// not told.
pub const DETACHED_STEPS_MAX: usize = 1_000;

/// Bytes of an idempotency key that a definition computes; it travels in a header. A longer one faults the task.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Time that a worker has to say that it began with a step, after the last moment at which it may begin. Then the step
/// counts as not begun.
pub const START_REPORT_MS: i64 = 3_000;

/// Tasks active in one instance at a time (frames). More faults the task that would exceed it.
pub const INSTANCE_FRAMES_MAX: usize = 50_000;

/// Trace entries kept per instance; the oldest are dropped above it (the count of dropped ones is shown).
pub const TRACE_ENTRIES_MAX: u64 = 30_000;

/// Retries when a policy states no limit: a safety cap, named in the error when it is reached.
pub const RETRY_ATTEMPTS_MAX: u32 = 10_000;

/// Records folded into one commit.
pub const COMMIT_RECORDS_MAX: usize = 512;

/// Bytes of one commit, approximately: the batch is closed when it is passed.
pub const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Deliveries of one step message before the worker reports it as poisonous instead of running it again.
pub const STEP_DELIVERIES_MAX: i64 = 20;

/// One secret: a variable's or file's text. A larger one cannot be used; the step gets an `authorization` error.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Keys (files) of a secret that is a directory. More: as above.
pub const SECRET_KEYS_MAX: usize = 256;

/// Shortest secret text that is replaced by `***` in errors, spans and log lines; shorter ones would be found in
/// every word.
pub const MASK_BYTES_MIN: usize = 4;

/// Shortest secret text that is replaced in the output of a step. An output is data: a short text is part of much
/// that is no secret.
pub const MASK_OUTPUT_BYTES_MIN: usize = 8;

/// Tokens of oauth2 and oidc that a worker keeps. At the bound the one that was used longest ago is dropped.
pub const TOKENS_MAX: usize = 1_024;

/// A document that a call refers to: an OpenAPI description, an OpenID configuration. A larger one fails the call.
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Documents that a worker keeps parsed. At the bound the one that was used longest ago is dropped.
pub const DOCUMENTS_MAX: usize = 64;

/// Bytes of their texts, all together. At the bound: as above.
pub const DOCUMENTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Labels of an instance, and bytes of each key and value. More gets 400.
pub const LABELS_MAX: usize = 32;
/// See [`LABELS_MAX`].
pub const LABEL_BYTES_MAX: usize = 128;

/// Batch boundaries remembered per partition, to find the fork point when a log lost its tail (H1). Older losses
/// halt the partition.
pub const POSITION_MARKS: u64 = 64;

/// Shortest `schedule.every` and `schedule.after`; cron has seconds at best. Shorter is a deploy error.
pub const SCHEDULE_PERIOD_MS_MIN: u64 = 1_000;

/// How late a due time may be seen and still count as seen in time: a take-over lasts seconds. What is later was
/// missed, and is made up for only where the definition says so (`catchUp`).
pub const SCHEDULE_LATE_MS_MAX: i64 = 60_000;

/// Missed due times that one `catchUp: all` makes up for, the newest ones: default, and highest `catchUpMax`.
pub const SCHEDULE_CATCH_UP_DEFAULT: u32 = 100;
/// See [`SCHEDULE_CATCH_UP_DEFAULT`].
pub const SCHEDULE_CATCH_UP_MAX: u32 = 1_000;

/// Due times that are counted one by one after an outage. Above it `missed` is a lower bound.
pub const SCHEDULE_MISSED_COUNTED_MAX: usize = 10_000;

/// Runs of one schedule that have not ended. At the bound due times are skipped and counted, and a run asked for by
/// hand is refused.
pub const SCHEDULE_RUNS_MAX: usize = 1_000;

/// Due times of one backfill. A wider one is refused with the bound.
pub const SCHEDULE_BACKFILL_MAX: usize = 1_000;

/// Runs of a backfill that go on at a time where runs may overlap; elsewhere it is one.
pub const SCHEDULE_BACKFILL_WINDOW: usize = 10;

/// Input that a definition gives to its scheduled runs, as JSON. Longer is a deploy error.
pub const SCHEDULE_INPUT_BYTES_MAX: usize = 64 * 1024;

/// An external resource that a call needs first: an AsyncAPI document, a `.proto` file with its imports, an agent's
/// card. Larger ones fail the call.
pub const RESOURCE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One event in JSON. Every instance that it concerns gets a copy. Larger ones get 413; an `emit` of a larger one
/// faults its task; in the stream they are skipped and counted.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// One attribute of an event, `data` not counted. Longer ones get 400.
pub const EVENT_ATTRIBUTE_BYTES_MAX: usize = 4 * 1024;

/// Events in one batch over HTTP. More get 400.
pub const EVENT_BATCH_MAX: usize = 1_000;

/// Bytes of one request with events. More get 413.
pub const EVENT_REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Events that one `listen` holds: consumed ones, and those that wait for `foreach`. One more faults the task.
pub const LISTEN_EVENTS_MAX: usize = 1_000;

/// Bytes of what one `listen` holds. More fault the task, as its output could not be stored.
pub const LISTEN_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;

/// Bytes of each stream of a process that are returned. Below [`PAYLOAD_BYTES_MAX`], because JSON needs more room than
/// the bytes. A process that writes more to a stream that is returned is killed and fails with a `runtime` error; of a
/// stream that is not returned only the end is kept.
pub const PROCESS_OUTPUT_BYTES_MAX: usize = 512 * 1024;

/// Bytes of one answer of a container engine or of Kubernetes. A larger one fails the step.
pub const CONTAINER_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages in one answer of a service: of a channel over HTTP, or of JSON-RPC. More fail the call. No task's output
/// could hold so many.
pub const ANSWER_MESSAGES_MAX: usize = 10_000;

/// Bytes of an error's detail that a worker reports, and of its title and type each. What is longer is cut.
pub const ERROR_DETAIL_BYTES_MAX: usize = 64 * 1024;

/// End of a process' standard error that stands in the detail of its error.
pub const PROCESS_DETAIL_BYTES_MAX: usize = 2 * 1024;

/// Frames from this number on stand for detached steps: the rest is the number of the task's node. No instance begins
/// so many tasks, and no definition has so many.
pub const DETACHED_FRAMES: u32 = u32::MAX - 65_535;
