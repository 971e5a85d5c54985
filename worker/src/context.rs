//! What a handler gets beside its input.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_common::{InstanceKey, Progress, RawJson, RecordBody, Step, limits, wire};
use millrace_runtime::nats::{PublishError, Publisher};
use millrace_runtime::telemetry::{TraceContext, Tracer, span_id_of};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::Failure;
use crate::builtin::authenticate::Tokens;
use crate::builtin::openapi::Documents;
use crate::egress::{Egress, Http};
use crate::process::Bounds;
use crate::secrets::{Mask, Secrets};

/// One delivery of one step. Cheap to clone.
///
/// The worker keeps the step's lease alive by itself for as long as the handler runs; there is nothing to call.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    step: Step,
    delivery: u32,
    cancel: CancellationToken,
    /// When the handler last gave a sign of life.
    beat: Mutex<Instant>,
    /// Last value saved by anyone.
    saved: Mutex<Option<RawJson>>,
    /// The span of the attempt, made by the coordinator.
    parent: Option<TraceContext>,
    /// Identity of the span that stands for this run.
    trace: Option<TraceContext>,
    /// What this run knows and nobody else may.
    mask: Mask,
    home: Arc<Home>,
}

/// What contexts of one worker share.
pub(crate) struct Home {
    pub(crate) worker: String,
    pub(crate) egress: Egress,
    /// `None` in detached contexts.
    pub(crate) publisher: Option<Publisher>,
    pub(crate) tracer: Tracer,
    pub(crate) secrets: Secrets,
    /// Tokens of oauth2 and oidc.
    pub(crate) tokens: Tokens,
    /// Descriptions of services.
    pub(crate) documents: Documents,
    /// Directory whose files definitions may name.
    pub(crate) files: Option<PathBuf>,
    /// Bounds of the processes that calls may start; `None` when they may not.
    pub(crate) processes: Option<Arc<Bounds>>,
}

impl Home {
    /// Of contexts that no worker made.
    fn detached(egress: Egress, secrets: Secrets) -> Arc<Self> {
        Arc::new(Self {
            worker: "detached".into(),
            egress,
            publisher: None,
            tracer: Tracer::disabled(),
            secrets,
            tokens: Tokens::default(),
            documents: Documents::default(),
            files: None,
            processes: None,
        })
    }
}

/// Why a value was not saved.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It cannot be written as JSON.
    #[error("cannot encode the checkpoint: {0}")]
    Encode(#[from] serde_json::Error),
    /// It is too large.
    #[error("the checkpoint has {size} bytes, allowed are {max}")]
    TooLarge {
        /// Its size as JSON.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// The step used secrets, and the value cannot be looked through for them.
    #[error("the checkpoint was not stored: {0}")]
    Unread(String),
    /// The log does not take it.
    #[error("cannot store the checkpoint: {0}")]
    Refused(#[from] PublishError),
    /// The step was cancelled meanwhile.
    #[error("the step was cancelled before the checkpoint was stored")]
    Cancelled,
}

impl Context {
    /// A delivery of a step; `parent` is the span of its attempt.
    pub(crate) fn new(step: Step, delivery: u32, parent: Option<TraceContext>, home: Arc<Home>) -> Self {
        let saved = Mutex::new(step.progress.clone());
        // Computed, so that a span sent twice is the same span.
        let span_id = |step: &str| span_id_of(&[step, "process", &delivery.to_string()]);
        let trace = parent.map(|p| TraceContext {
            span_id: span_id(&step.id),
            ..p
        });
        Self(Arc::new(Inner {
            step,
            delivery,
            beat: Mutex::new(Instant::now()),
            cancel: CancellationToken::new(),
            saved,
            parent,
            trace,
            mask: Mask::default(),
            home,
        }))
    }

    /// A context without a worker, for unit tests of handlers: first attempt, first delivery, checkpoints are kept in
    /// memory.
    ///
    /// # Panics
    /// Never: the names in it are valid.
    pub fn detached(function: &str, input: RawJson) -> Self {
        let step = Step {
            id: "detached.1".into(),
            key: "detached".into(),
            instance: InstanceKey::new("default", "detached").expect("both are valid names"),
            definition: "default/detached@0.0.0".into(),
            task: "/do/0/detached".into(),
            function: function.into(),
            attempt: 1,
            generation: 0,
            frame: 0,
            input,
            deadline_ms: None,
            start_by_ms: None,
            heartbeat_ms: None,
            max_deliveries: None,
            progress: None,
            report: String::new(),
            token: String::new(),
            late: None,
        };
        Self::for_step(step)
    }

    pub(crate) fn for_step(step: Step) -> Self {
        Self::detached_step(step, Secrets::from_env(None))
    }

    pub(crate) fn detached_step(step: Step, secrets: Secrets) -> Self {
        Self::new(step, 1, None, Home::detached(Egress::default(), secrets))
    }

    /// The same for every delivery, attempt and re-dispatch of this task in this iteration: make side effects
    /// idempotent by it.
    pub fn idempotency_key(&self) -> &str {
        &self.0.step.key
    }

    #[cfg(test)]
    pub(crate) fn detached_with(egress: Egress) -> Self {
        let step = Self::detached("f:1.0.0", RawJson::null()).step().clone();
        Self::new(step, 1, None, Home::detached(egress, Secrets::from_env(None)))
    }

    #[cfg(test)]
    pub(crate) fn detached_where(step: Step, files: Option<PathBuf>, processes: Option<Arc<Bounds>>) -> Self {
        let home = Arc::into_inner(Home::detached(Egress::default(), Secrets::from_env(None)));
        let home = Home {
            files,
            processes,
            ..home.expect("nobody else has it")
        };
        Self::new(step, 1, None, Arc::new(home))
    }

    /// Retry number of the definition, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.step.attempt
    }

    /// Delivery number of this attempt, from 1: above 1 an earlier worker did not finish.
    pub fn delivery(&self) -> u32 {
        self.0.delivery
    }

    /// The instance.
    pub fn instance(&self) -> &InstanceKey {
        &self.0.step.instance
    }

    /// JSON Pointer of the task in its definition.
    pub fn task(&self) -> &str {
        &self.0.step.task
    }

    /// The definition, `namespace/name@version`.
    pub fn definition(&self) -> &str {
        &self.0.step.definition
    }

    /// Id of this worker.
    pub fn worker(&self) -> &str {
        &self.0.home.worker
    }

    /// The input as it came: without what is filled in from secrets, which only the handler's argument holds.
    pub fn input(&self) -> &RawJson {
        &self.0.step.input
    }

    /// When the result no longer counts.
    pub fn deadline(&self) -> Option<SystemTime> {
        let ms = self.0.step.deadline_ms?;
        Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }

    /// Time until [`Self::deadline`], zero when it passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|d| d.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO))
    }

    /// Completes when the step should stop: its instance was cancelled, its deadline passed, or another branch
    /// won. Clean up, then return [`Failure::cancelled`]. A handler that ignores it runs on for nothing.
    pub async fn cancelled(&self) {
        self.0.cancel.cancelled().await;
    }

    /// Whether the step should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancel.is_cancelled()
    }

    /// The same as a token, for code that takes one.
    pub fn cancel_token(&self) -> CancellationToken {
        self.0.cancel.clone()
    }

    /// A sign of life, for tasks with a `heartbeatTimeout`: without one for that long, the step fails as timed out. Saving
    /// a checkpoint is one too. Costs nothing; nothing is sent.
    pub fn beat(&self) {
        *self.0.beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn last_beat(&self) -> Instant {
        *self.0.beat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves a value durably: when this returns, the next delivery or attempt of the task gets it from
    /// [`Self::saved`], on any worker.
    ///
    /// # Errors
    /// [`CheckpointError`]. While the log is unreachable or full this waits and tries again.
    pub async fn checkpoint<T: Serialize + ?Sized + Sync>(&self, value: &T) -> Result<(), CheckpointError> {
        self.beat();
        let value = RawJson::encode(value)?;
        let value = match self.0.mask.is_empty() {
            true => value,
            false => self
                .0
                .mask
                .data(value)
                .map_err(|f| CheckpointError::Unread(f.to_string()))?,
        };
        if value.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(CheckpointError::TooLarge {
                size: value.len(),
                max: limits::PAYLOAD_BYTES_MAX,
            });
        }
        if let Some(publisher) = &self.0.home.publisher {
            let stored = self.store(publisher, &value);
            self.0
                .cancel
                .run_until_cancelled(stored)
                .await
                .ok_or(CheckpointError::Cancelled)??;
        }
        self.keep(Some(value));
        Ok(())
    }

    /// The value last saved by this or an earlier delivery or attempt of the task.
    ///
    /// # Errors
    /// A `validation` failure when the saved value has another shape than `T`: a newer version of the handler must
    /// read what older ones saved.
    pub fn saved<T: DeserializeOwned>(&self) -> Result<Option<T>, Failure> {
        let saved = self
            .0
            .saved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let decode = |raw: RawJson| {
            raw.decode().map_err(|e| {
                let detail = format!("the saved checkpoint does not fit: {e}");
                Failure::new(millrace_common::ErrorKind::Validation, detail)
            })
        };
        saved.map(decode).transpose()
    }

    /// An HTTP client whose requests carry this step's trace context and obey the worker's egress table.
    pub fn http(&self) -> Http<'_> {
        self.0.home.egress.with(self.0.trace)
    }

    /// As [`Self::http`], with another span of the same trace as the caller.
    pub(crate) fn http_under(&self, trace: Option<TraceContext>) -> Http<'_> {
        self.0.home.egress.with(trace.or(self.0.trace))
    }

    /// A secret of this worker. From now on its texts are replaced by `***` in all that this step reports.
    ///
    /// # Errors
    /// An `authorization` failure (403) that says where it was looked for.
    pub fn secret(&self, name: &str) -> Result<serde_json::Value, Failure> {
        let secret = self.0.home.secrets.read(name)?;
        self.0.mask.hide_all(&secret);
        Ok(secret)
    }

    /// Whether the definition names this secret in an authentication of the task.
    pub(crate) fn policy_may_name(&self, secret: &str) -> bool {
        let late = self.0.step.late.as_ref();
        late.is_some_and(|late| late.policies.iter().any(|name| name == secret))
    }

    /// From now on, replaces this text by `***` in all that this step reports, and in log lines.
    pub fn conceal(&self, text: &str) {
        self.0.mask.hide(text);
    }

    /// As [`Self::conceal`] for a credential of a call: in messages only, unless it comes from a secret.
    pub(crate) fn conceal_credential(&self, text: &str, is_secret: bool) {
        match is_secret {
            true => self.0.mask.hide(text),
            false => self.0.mask.hide_in_messages(text),
        }
    }

    /// True when something in the text was concealed before.
    pub(crate) fn knows_as_secret(&self, text: &str) -> bool {
        self.0.mask.is_in(text)
    }

    pub(crate) fn mask(&self) -> &Mask {
        &self.0.mask
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.0.home.tokens
    }

    pub(crate) fn documents(&self) -> &Documents {
        &self.0.home.documents
    }
    pub(crate) fn tracer(&self) -> &Tracer {
        &self.0.home.tracer
    }

    /// Directory whose files definitions may name.
    pub(crate) fn files(&self) -> Option<&Path> {
        self.0.home.files.as_deref()
    }

    /// Bounds of the processes that calls may start; `None` when they may not.
    pub(crate) fn processes(&self) -> Option<&Bounds> {
        self.0.home.processes.as_deref()
    }

    /// Identity of the span that stands for this run; `None` when the instance is not traced.
    pub fn trace(&self) -> Option<TraceContext> {
        self.0.trace
    }

    pub(crate) fn step(&self) -> &Step {
        &self.0.step
    }

    /// The span of the attempt.
    pub(crate) fn parent(&self) -> Option<TraceContext> {
        self.0.parent
    }

    pub(crate) fn cancel(&self) {
        self.0.cancel.cancel();
    }

    /// Replaces the saved value by a newer one, if there is one.
    pub(crate) fn keep(&self, value: Option<RawJson>) {
        if value.is_some() {
            *self.0.saved.lock().unwrap_or_else(PoisonError::into_inner) = value;
        }
    }

    /// The record that says who runs the step, with or without a value.
    pub(crate) fn progress(&self, value: Option<RawJson>) -> bytes::Bytes {
        let step = &self.0.step;
        let body = RecordBody::Progress(Box::new(Progress {
            step: step.id.clone(),
            frame: step.frame,
            worker: self.0.home.worker.clone(),
            delivery: self.0.delivery,
            value,
        }));
        wire::encode_record(Some(&step.instance), &body)
    }

    async fn store(&self, publisher: &Publisher, value: &RawJson) -> Result<(), PublishError> {
        let record = self.progress(Some(value.clone()));
        let mut backoff = millrace_runtime::backoff::Backoff::for_servers();
        loop {
            match publisher
                .publish(self.0.step.report.clone(), None, record.clone())
                .await
            {
                Err(error) if error.is_transient() => {
                    tracing::debug!(instance.id = %self.instance(), %error, "checkpoint not stored, trying again");
                    backoff.sleep().await;
                }
                other => return other.map(drop),
            }
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("step", &self.0.step.id)
            .field("instance", &self.0.step.instance)
            .field("delivery", &self.0.delivery)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn checkpoints_are_read_back_and_bounded() {
        let ctx = Context::detached("f:1.0.0", RawJson::null());
        assert_eq!(ctx.saved::<u32>().unwrap(), None);
        ctx.checkpoint(&7).await.unwrap();
        assert_eq!(ctx.saved::<u32>().unwrap(), Some(7));
        assert!(ctx.saved::<String>().is_err());
        let large = "x".repeat(limits::PAYLOAD_BYTES_MAX);
        assert!(matches!(
            ctx.checkpoint(&large).await,
            Err(CheckpointError::TooLarge { .. })
        ));
        assert_eq!(ctx.saved::<u32>().unwrap(), Some(7));
    }

    #[tokio::test]
    async fn cancelling_reaches_every_clone() {
        let ctx = Context::detached("f:1.0.0", RawJson::null());
        let other = ctx.clone();
        ctx.cancel();
        other.cancelled().await;
        assert!(other.is_cancelled());
    }
}
