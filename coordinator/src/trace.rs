//! Spans of runs and steps, made from what was committed (never open over a restart), with ids that derive from
//! instance and step: a span that is sent twice after a crash is the same span.
//!
//! Shape: `run.start` owns the run's span id and is sent at once, so that everything below has a parent from the first
//! moment on; under it one `step` span an attempt, from dispatch to result; under that the worker's own span; and
//! `run.end` with the outcome.

use async_nats::HeaderMap;
use millrace_common::{InstanceKey, StepOutcome, StepResult};
use millrace_engine::{Dispatch, Instance};
use millrace_runtime::telemetry::{
    Span, SpanId, SpanKind, SpanStatus, TraceContext, TraceId, Tracer, span_id_of, trace_id_of,
};

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trace {
    tracer: Tracer,
    /// Runs that no caller decided about are traced when the first half of their trace id is below this.
    sampled_below: u64,
}

/// An attempt that is out: what its span will say.
#[derive(Clone, Debug)]
pub struct Attempt {
    run: TraceContext,
    task: String,
    function: String,
    number: u32,
    dispatched_us: i64,
}

impl Trace {
    /// Does nothing while the tracer is off. `share` of the runs is traced, from 0 to 1; decided by the run's id, so that
    /// every process and every owner decides alike. Where the caller has decided, that counts.
    pub fn new(tracer: Tracer, share: f64) -> Self {
        Self {
            tracer,
            sampled_below: threshold(share),
        }
    }

    /// Remembers an attempt, if its run is traced.
    pub fn attempt(&self, key: &InstanceKey, d: &Dispatch) -> Option<Box<Attempt>> {
        let run = self.run(key, d.traceparent.as_deref())?;
        Some(Box::new(Attempt {
            run,
            task: d.task.clone(),
            function: d.function.clone(),
            number: d.attempt,
            dispatched_us: now_us(),
        }))
    }

    /// Headers of a step's message: the worker's span becomes a child of the attempt's span.
    pub fn step_headers(&self, key: &InstanceKey, d: &Dispatch) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert(TraceContext::HEADER, self.step_context(key, d)?.as_str());
        Some(headers)
    }

    /// The trace context of a step's message as a text.
    pub fn step_context(&self, key: &InstanceKey, d: &Dispatch) -> Option<String> {
        let run = self.run(key, d.traceparent.as_deref())?;
        let context = TraceContext {
            span_id: step_span(&d.step),
            ..run
        };
        Some(context.to_string())
    }

    /// An attempt ended.
    pub fn step_ended(&self, key: &InstanceKey, attempt: &Attempt, result: &StepResult) {
        let handler_us = i64::try_from(result.duration_ms)
            .unwrap_or(0)
            .saturating_mul(1_000);
        let end_us = now_us();
        let name = attempt.task.rsplit('/').next().unwrap_or_default();
        self.tracer.export(Span {
            trace_id: attempt.run.trace_id,
            span_id: step_span(&result.step),
            parent: Some(attempt.run.span_id),
            name: format!("step {name}").into(),
            kind: SpanKind::Internal,
            start_us: attempt.dispatched_us.min(end_us - handler_us),
            end_us,
            attributes: vec![
                ("millrace.instance.id", key.to_string().into()),
                ("millrace.task", attempt.task.clone().into()),
                ("millrace.function", attempt.function.clone().into()),
                ("millrace.attempt", i64::from(attempt.number).into()),
                ("millrace.delivery", i64::from(result.delivery).into()),
                ("millrace.worker.id", result.worker.clone().into()),
            ],
            status: match &result.outcome {
                StepOutcome::Output(_) => SpanStatus::Ok,
                StepOutcome::Error(problem) => SpanStatus::Error(problem.to_string()),
                StepOutcome::Cancelled => SpanStatus::Error("cancelled".into()),
            },
            links: Vec::new(),
        });
    }

    /// An instance exists now. Its span is sent at once: it owns the id that all others hang under.
    pub fn run_started(&self, instance: &Instance) {
        let Some(run) = self.run(instance.key(), instance.traceparent()) else {
            return;
        };
        let caller = instance
            .traceparent()
            .and_then(|t| t.parse::<TraceContext>().ok());
        let at = instance.created_at_ms().saturating_mul(1_000);
        self.tracer.export(Span {
            trace_id: run.trace_id,
            span_id: run.span_id,
            parent: caller.map(|c| c.span_id),
            name: format!("run.start {}", instance.definition().name).into(),
            kind: SpanKind::Internal,
            start_us: at,
            end_us: at,
            attributes: attributes(instance),
            status: SpanStatus::Unset,
            links: Vec::new(),
        });
    }

    /// An instance ended.
    pub fn run_ended(&self, instance: &Instance) {
        let Some(run) = self.run(instance.key(), instance.traceparent()) else {
            return;
        };
        let status = instance.status();
        let mut attributes = attributes(instance);
        attributes.push(("millrace.status", status.name().into()));
        self.tracer.export(Span {
            trace_id: run.trace_id,
            span_id: span_id_of(&["run.end", instance.key().as_str()]),
            parent: Some(run.span_id),
            name: format!("run.end {}", instance.definition().name).into(),
            kind: SpanKind::Internal,
            start_us: instance.created_at_ms().saturating_mul(1_000),
            end_us: instance.ended_at_ms().unwrap_or_default().saturating_mul(1_000),
            attributes,
            status: match status {
                millrace_engine::Status::Completed => SpanStatus::Ok,
                other => SpanStatus::Error(other.name().into()),
            },
            links: Vec::new(),
        });
    }

    /// The trace of an instance, the caller's or one of its own; `None` when it is not recorded.
    fn run(&self, key: &InstanceKey, traceparent: Option<&str>) -> Option<TraceContext> {
        if !self.tracer.enabled() {
            return None;
        }
        let span_id = span_id_of(&["run", key.as_str()]);
        let run = match traceparent.and_then(|t| t.parse::<TraceContext>().ok()) {
            Some(caller) => TraceContext { span_id, ..caller },
            None => {
                let trace_id = trace_id_of(&[key.as_str()]);
                TraceContext {
                    trace_id,
                    span_id,
                    sampled: number_of(trace_id) <= self.sampled_below && self.sampled_below > 0,
                }
            }
        };
        run.sampled.then_some(run)
    }
}

fn attributes(instance: &Instance) -> Vec<(&'static str, millrace_runtime::telemetry::AttributeValue)> {
    let definition = instance.definition();
    vec![
        ("millrace.instance.id", instance.key().to_string().into()),
        ("millrace.workflow.name", definition.name.clone().into()),
        ("millrace.workflow.version", definition.version.clone().into()),
    ]
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a float casts to the nearest number there is, and a share needs no more"
)]
fn threshold(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * u64::MAX as f64) as u64
}

/// First half of a trace id, which is a hash.
const fn number_of(id: TraceId) -> u64 {
    (id.0 >> 64) as u64
}

fn step_span(step: &str) -> SpanId {
    span_id_of(&["step", step])
}

fn now_us() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_asked_share_of_runs_is_sampled() {
        for (share, low, high) in [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1_000, 1_000)] {
            let below = threshold(share);
            let sampled = (0..1_000)
                .filter(|n| {
                    let number = number_of(trace_id_of(&[&format!("default/{n}")]));
                    number <= below && below > 0
                })
                .count();
            assert!((low..=high).contains(&sampled), "{share}: {sampled} of 1000");
        }
    }
}
