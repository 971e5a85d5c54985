//! Spans of runs and steps, made from what was committed (never open over a restart), with ids that derive from
//! instance and step: a span that is sent twice after a crash is the same span.

use async_nats::HeaderMap;
use millrace_common::InstanceKey;
use millrace_engine::Dispatch;
use millrace_runtime::telemetry::{SpanId, TraceContext, Tracer, span_id_of, trace_id_of};

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trace {
    tracer: Tracer,
}

impl Trace {
    /// Does nothing while the tracer is off.
    pub const fn new(tracer: Tracer) -> Self {
        Self { tracer }
    }

    /// Headers of a step's message: the worker's span becomes a child of the attempt's span.
    pub fn step_headers(&self, key: &InstanceKey, d: &Dispatch) -> Option<HeaderMap> {
        if !self.tracer.enabled() {
            return None;
        }
        let run = run_context(key, d.traceparent.as_deref());
        let context = TraceContext { span_id: step_span(&d.step), ..run };
        run.sampled.then(|| {
            let mut headers = HeaderMap::new();
            headers.insert(TraceContext::HEADER, context.to_string().as_str());
            headers
        })
    }
}

/// The trace of an instance: the caller's, or one of its own.
fn run_context(key: &InstanceKey, traceparent: Option<&str>) -> TraceContext {
    match traceparent.and_then(|t| t.parse::<TraceContext>().ok()) {
        Some(caller) => TraceContext { span_id: run_span(key), ..caller },
        None => TraceContext { trace_id: trace_id_of(&[key.as_str()]), span_id: run_span(key), sampled: true },
    }
}

fn run_span(key: &InstanceKey) -> SpanId {
    span_id_of(&["run", key.as_str()])
}

fn step_span(step: &str) -> SpanId {
    span_id_of(&["step", step])
}
