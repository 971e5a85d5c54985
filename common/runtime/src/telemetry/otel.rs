//! The current context of OpenTelemetry's API, for code that was instrumented by others.

use opentelemetry::trace::{FutureExt, TraceContextExt};

use super::{TraceContext, tracer};

/// A span of ours as OpenTelemetry's API sees it: the parent of spans that libraries make while it is current.
#[derive(Clone, Debug)]
pub struct OtelContext(opentelemetry::Context);

impl OtelContext {
    /// Makes it current until the guard is dropped, on this thread.
    #[must_use = "it is current only while the guard lives"]
    pub fn attach(self) -> opentelemetry::ContextGuard {
        self.0.attach()
    }

    /// Runs a future with it as the current context at every poll.
    pub async fn run<F: Future>(self, future: F) -> F::Output {
        future.with_context(self.0).await
    }
}

impl From<TraceContext> for OtelContext {
    fn from(context: TraceContext) -> Self {
        let remote = tracer::span_context(context, true);
        Self(opentelemetry::Context::new().with_remote_span_context(remote))
    }
}
