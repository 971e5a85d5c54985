//! Spans on their way to a receiver of OTLP over HTTP.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use millrace_runtime::config::TelemetryConfig;
use millrace_runtime::telemetry::{self, Span, SpanKind, SpanStatus, span_id_of, trace_id_of};
use tokio::sync::mpsc;

use crate::servers::{LIMIT, free_port};

fn span() -> Span {
    Span {
        trace_id: trace_id_of(&["t"]),
        span_id: span_id_of(&["s"]),
        parent: None,
        name: "step charge".into(),
        kind: SpanKind::Internal,
        start_us: 1_700_000_000_000_000,
        end_us: 1_700_000_000_000_001,
        attributes: vec![("task.attempt", 1.into())],
        status: SpanStatus::Ok,
        links: vec![],
    }
}

fn config(endpoint: &str) -> TelemetryConfig {
    TelemetryConfig::read(&BTreeMap::from([("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)])).unwrap()
}

// Both kinds of runtime: the exporter's own thread must not care.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_leave_as_protobuf_at_shutdown() {
    let (sender, mut received) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let take = post(async move |body: Bytes| sender.send(body).is_ok().to_string());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", take)).await });
    let guard = telemetry::init(&config(&endpoint), "test-service");
    let tracer = guard.tracer();
    assert!(tracer.enabled());
    tracer.export(span());
    tokio::task::spawn_blocking(move || guard.shutdown())
        .await
        .unwrap();
    let body = tokio::time::timeout(LIMIT, received.recv())
        .await
        .unwrap()
        .unwrap();
    let has = |text: &[u8]| body.windows(text.len()).any(|w| w == text);
    assert!(has(b"step charge") && has(b"test-service"));
    assert!(has(&trace_id_of(&["t"]).0.to_be_bytes()) && has(&span_id_of(&["s"]).0.to_be_bytes()));
    assert_eq!((tracer.sent(), tracer.dropped()), (1, 0));
}

#[tokio::test]
async fn a_receiver_that_is_away_costs_spans_and_nothing_else() {
    let guard = telemetry::init(
        &config(&format!("http://127.0.0.1:{}", free_port())),
        "test-service",
    );
    let tracer = guard.tracer();
    tracer.export(span());
    tokio::task::spawn_blocking(move || guard.shutdown())
        .await
        .unwrap();
    assert_eq!(tracer.sent(), 0);
}
