//! What a process knows of itself and nobody sets in passing: its link to NATS, spans that were dropped.

use std::time::Duration;

use millrace_runtime::Shutdown;
use millrace_runtime::metrics::Metrics;
use millrace_runtime::nats::Nats;
use millrace_runtime::telemetry::Tracer;

const EVERY: Duration = Duration::from_secs(5);

/// Keeps the gauges up to date until shutdown.
pub async fn run(nats: Nats, tracer: Tracer, metrics: Metrics, shutdown: Shutdown) {
    let mut dropped = 0;
    loop {
        let connects = nats.link().borrow().connects;
        metrics
            .nats_connects
            .set(i64::try_from(connects).unwrap_or(i64::MAX));
        metrics.spans_dropped.inc_by(tracer.dropped() - dropped);
        dropped = tracer.dropped();
        if shutdown.unless(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}
