//! Logs and traces.
//!
//! Logs are fields plus a fixed message, on stderr: stdout belongs to data. The names of shared fields are in
//! [`field`]. Traces leave through [`Tracer`], with ids computed from what they describe, so that a span sent again after
//! a crash is the same span.

pub mod field;
mod logs;
pub mod mask;
mod otel;
mod trace_context;
mod tracer;

use std::time::Duration;

use crate::config::TelemetryConfig;

pub use otel::OtelContext;
pub use trace_context::{SpanId, TraceContext, TraceId, span_id_of, trace_id_of};
pub use tracer::{AttributeValue, Span, SpanKind, SpanStatus, Tracer};

/// Time for the last spans to leave.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps telemetry running. Dropping it, or [`Guard::shutdown`], sends what is left: make it the last thing in `main`.
#[derive(Debug)]
pub struct Guard {
    tracer: Tracer,
}

/// Sets up logs for the whole process, and traces when an endpoint is configured. Never fails: a process without
/// telemetry is better than none, so problems are logged.
pub fn init(config: &TelemetryConfig, service_name: &str) -> Guard {
    logs::init(config);
    crate::tls::install_provider();
    let name = config.service_name.as_deref().unwrap_or(service_name);
    let tracer = match &config.traces_endpoint {
        None => Tracer::disabled(),
        Some(endpoint) => Tracer::otlp(endpoint, name, config.span_queue_max),
    };
    Guard { tracer }
}

impl Guard {
    /// The handle that sends spans.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends what is left, in at most 3 s. Blocks the thread, as the exporter does; nothing may be left to do.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.tracer.shutdown(SHUTDOWN_TIMEOUT);
    }
}
