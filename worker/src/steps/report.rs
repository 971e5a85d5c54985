//! Brings results into the log and acknowledges steps afterwards.
//!
//! A result is sent until the log confirmed it: a worker never loses one while it lives, and its step is acknowledged
//! only then. Sending it twice is harmless, the first one counts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use millrace_common::{RawJson, RecordBody, StepOutcome, StepResult, wire};
use millrace_runtime::backoff::Backoff;
use millrace_runtime::metrics::Metrics;
use millrace_runtime::nats::{Ack, Completion, Completions, Nats, PublishError, Publisher};
use millrace_runtime::telemetry::{Span, SpanKind, SpanStatus, Tracer};

use super::flights::{Flights, Key};
use super::message::answer;
use crate::{Context, Failure};

/// Tag of records whose loss nobody minds.
const UNMINDED: u64 = u64::MAX;
/// First and longest wait before a result is sent again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Sends results; cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter(Arc<Inner>);

struct Inner {
    nats: Nats,
    publisher: Publisher,
    flights: Arc<Flights>,
    metrics: Metrics,
    done: AtomicU64,
    failed: AtomicU64,
    ack_wait_ms: AtomicU64,
}

impl Reporter {
    pub(crate) fn new(nats: Nats, publisher: Publisher, flights: Arc<Flights>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            nats,
            publisher,
            flights,
            metrics,
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            ack_wait_ms: AtomicU64::new(30_000),
        }))
    }

    pub(crate) fn set_ack_wait(&self, ack_wait: Duration) {
        let ms = u64::try_from(ack_wait.as_millis()).unwrap_or(u64::MAX);
        self.0.ack_wait_ms.store(ms, Ordering::Relaxed);
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.0.ack_wait_ms.load(Ordering::Relaxed))
    }

    /// Steps ended with an output, and with anything else.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (
            self.0.done.load(Ordering::Relaxed),
            self.0.failed.load(Ordering::Relaxed),
        )
    }

    /// Sends a result on its way. Waits when too many are on theirs.
    pub(crate) async fn report(
        &self,
        key: Key,
        context: &Context,
        result: Result<RawJson, Failure>,
        time: Duration,
    ) {
        let counter = if result.is_ok() {
            &self.0.done
        } else {
            &self.0.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let outcome = result.map_or_else(Failure::into_outcome, StepOutcome::Output);
        let record = record(context, outcome, time);
        if self.0.flights.report(key, record.clone()) {
            self.0
                .publisher
                .publish_tagged(context.step().report.clone(), None, record, key.0)
                .await;
        }
    }

    /// Writes who runs a step. Nobody minds if it is lost.
    pub(crate) async fn announce(&self, context: &Context) {
        self.0
            .publisher
            .publish_tagged(
                context.step().report.clone(),
                None,
                context.progress(None),
                UNMINDED,
            )
            .await;
    }

    /// Takes confirmations until the publisher is gone.
    pub(crate) async fn confirm(self, mut completions: Completions) {
        let mut again: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
        loop {
            let next = again.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                batch = completions.recv() => match batch {
                    Some(batch) => self.take(batch, &mut again).await,
                    None => return,
                },
                () = until(next) => if let Some(Reverse((_, tag))) = again.pop() {
                    self.send_again(Key(tag)).await;
                },
            }
        }
    }

    async fn take(&self, batch: Vec<Completion>, again: &mut BinaryHeap<Reverse<(Instant, u64)>>) {
        for (tag, outcome) in batch {
            match outcome {
                _ if tag == UNMINDED => {}
                Ok(Ack { .. }) => self.acknowledge(Key(tag)).await,
                Err(error) => {
                    if let Some(delay) = self.unconfirmed(Key(tag), &error).await {
                        again.push(Reverse((Instant::now() + delay, tag)));
                    }
                }
            }
        }
    }

    async fn acknowledge(&self, key: Key) {
        for reply in self.0.flights.close(key, self.ack_wait()) {
            // A lost answer costs a delivery that is answered without a run.
            if self.0.nats.client().publish(reply, answer::ACK).await.is_err() {
                tracing::debug!("a step was not acknowledged: the client is closed");
            }
        }
    }

    /// When to send a result again; `None` when it was replaced by one that can be stored.
    async fn unconfirmed(&self, key: Key, error: &PublishError) -> Option<Duration> {
        let attempts = self.0.flights.unconfirmed(key)?;
        self.0.metrics.worker_report_retries.inc();
        self.0
            .metrics
            .publish_errors
            .with_label_values(&[error.kind()])
            .inc();
        if let (PublishError::Oversize(text), Some(context)) = (error, self.0.flights.context(key)) {
            // The servers' bound is lower than ours: an error fits.
            let failure = Failure::runtime(format!("the output does not fit into the log: {text}"));
            let record = record(&context, failure.into_outcome(), Duration::ZERO);
            if attempts == 0 && self.0.flights.report(key, record.clone()) {
                self.0
                    .publisher
                    .publish_tagged(context.step().report.clone(), None, record, key.0)
                    .await;
                return None;
            }
        }
        if attempts == 0 || attempts % 32 == 0 {
            tracing::warn!(%error, attempts, "a result is not in the log yet, sending it again");
        }
        Some(Backoff::at(RETRY.0, RETRY.1, key.0, attempts))
    }

    async fn send_again(&self, key: Key) {
        if let Some(report) = self.0.flights.report_of(key) {
            self.0
                .publisher
                .publish_tagged(report.subject, None, report.payload, key.0)
                .await;
        }
    }

    /// Sends the span "process" of a step: child of the attempt's span, for whoever looks at the worker.
    pub(crate) fn trace(
        &self,
        tracer: &Tracer,
        context: &Context,
        queue: &str,
        failure: Option<&Failure>,
        time: Duration,
    ) {
        let Some((parent, own)) = context.parent().zip(context.trace()).filter(|(p, _)| p.sampled) else {
            return;
        };
        let end_us = unix_us(SystemTime::now());
        let step = context.step();
        tracer.export(Span {
            trace_id: own.trace_id,
            span_id: own.span_id,
            parent: Some(parent.span_id),
            name: format!("process work.{queue}").into(),
            kind: SpanKind::Consumer,
            start_us: end_us - i64::try_from(time.as_micros()).unwrap_or(0),
            end_us,
            attributes: vec![
                ("messaging.system", "nats".into()),
                ("messaging.operation.name", "process".into()),
                ("messaging.operation.type", "process".into()),
                ("messaging.destination.name", format!("work.{queue}").into()),
                ("millrace.instance.id", step.instance.to_string().into()),
                ("millrace.task", step.task.clone().into()),
                ("millrace.function", step.function.clone().into()),
                ("millrace.attempt", i64::from(step.attempt).into()),
                ("millrace.delivery", i64::from(context.delivery()).into()),
                ("millrace.worker.id", context.worker().to_owned().into()),
            ],
            status: failure.map_or(SpanStatus::Ok, |f| SpanStatus::Error(f.to_string())),
            links: Vec::new(),
        });
    }
}

fn record(context: &Context, outcome: StepOutcome, time: Duration) -> bytes::Bytes {
    let step = context.step();
    let body = RecordBody::Result(Box::new(StepResult {
        step: step.id.clone(),
        frame: step.frame,
        generation: step.generation,
        worker: context.worker().to_owned(),
        delivery: context.delivery(),
        duration_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        outcome,
        token: step.token.clone(),
    }));
    wire::encode_record(Some(&step.instance), &body)
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

fn unix_us(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}
