//! One trace tells a whole run: the caller's span, the run, each attempt, the worker's part, the HTTP call below it.

use anyhow::{Context, ensure};
use millrace_tests::traces::Span;
use millrace_tests::{Stack, eventually};
use serde_json::json;

use crate::definition;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn one_trace_holds_the_run_its_attempts_and_their_calls() -> anyhow::Result<()> {
    let world = crate::world().await?;
    let client = world.stack.client();
    let tasks = "- t:\n    try:\n    - a: {call: http, with: {method: get, endpoint: 'http://stub.test/own/flaky/traced/1'}}\n    \
                 catch: {retry: {delay: {milliseconds: 10}, limit: {attempt: {count: 2}}}}\n\
                 - b: {call: http, with: {method: get, endpoint: 'http://stub.test/own/echo'}}";
    let traced = client.apply(&definition("traced", tasks)).await?;
    let body = json!({"definition": traced, "id": "traced-1"}).to_string();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let request = http.post(format!("{}/api/v1/instances", world.stack.url(0)));
    let request = request
        .header("content-type", "application/json")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    ensure!(
        request.body(body).send().await?.status() == 201,
        "the start was refused"
    );
    let done = client.wait("traced-1").await?;
    ensure!(done["status"] == "completed", "{done}");
    let called_with = done["output"]["headers"]["traceparent"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    // Three attempts: each is a span of the coordinator, one of the worker below it, and one of the call below that.
    let spans = eventually("all spans have arrived", async || {
        let spans: Vec<Span> = world
            .stub
            .spans()
            .into_iter()
            .filter(|s| s.trace == TRACE)
            .collect();
        (spans.len() >= 10).then_some(spans)
    })
    .await;
    let spans = spans.with_context(|| format!("got {:#?}", world.stub.spans()))?;
    let of = |service: &'static str| spans.iter().filter(move |s| s.service == service);
    let run = of("millrace-coordinator")
        .find(|s| s.parent == CALLER)
        .context("a span of the run")?;
    let attempts: Vec<_> = of("millrace-coordinator")
        .filter(|s| s.parent == run.id && s.attribute("millrace.attempt").is_some())
        .collect();
    ensure!(
        attempts.len() == 3,
        "expected 3 attempts, got {attempts:#?} of {spans:#?}"
    );
    for attempt in attempts {
        let ran = of("millrace-worker").find(|s| s.parent == attempt.id);
        let ran = ran.with_context(|| format!("no worker span below {attempt:?} in {spans:#?}"))?;
        let called = of("millrace-worker").find(|s| s.parent == ran.id);
        called.with_context(|| format!("no call below {ran:?} in {spans:#?}"))?;
    }
    ensure!(
        called_with.contains(TRACE),
        "the called service got traceparent `{called_with}`"
    );
    Ok(())
}

/// What one run with a retry, a wait and a step must have moved.
const MOVED: [&str; 19] = [
    "millrace_instances_started_total",
    "millrace_instances_ended_total",
    "millrace_instance_duration_seconds_count",
    "millrace_instances_active",
    "millrace_steps_dispatched_total",
    "millrace_steps_ended_total",
    "millrace_steps_retried_total",
    "millrace_commit_duration_seconds_count",
    "millrace_commit_records_count",
    "millrace_commits_total",
    "millrace_records_total",
    "millrace_timer_lag_seconds_count",
    "millrace_timers_pending",
    "millrace_partitions_owned",
    "millrace_handover_duration_seconds_count",
    "millrace_takeovers_total",
    "millrace_nats_connects",
    "millrace_workers_connected",
    "millrace_http_request_duration_seconds_count",
];

#[tokio::test]
async fn metrics_move_when_work_is_done() -> anyhow::Result<()> {
    // Of its own: on a shared one others move them.
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let tasks = "- t:\n    try:\n    - a: {call: 'flaky:1.0.0@default', with: {failures: 1}}\n    \
                 catch: {retry: {delay: {milliseconds: 10}, limit: {attempt: {count: 2}}}}\n\
                 - w: {wait: PT1H}";
    let measured = client.apply(&definition("measured", tasks)).await?;
    let id = client.start(&measured, json!({})).await?;
    client
        .run(&definition("soon", "- w: {wait: {milliseconds: 10}}"), json!({}))
        .await?;
    let still = eventually("every metric has moved", async || {
        for name in MOVED {
            client.metric(name).await.ok().filter(|value| *value > 0.0)?;
        }
        // There, and at zero while nothing waits for a worker.
        client.metric("millrace_queue_oldest_age_seconds").await.ok()?;
        Some(())
    });
    if let Err(e) = still.await {
        let mut at_rest = Vec::new();
        for name in MOVED {
            if client.metric(name).await.ok().is_none_or(|value| value <= 0.0) {
                at_rest.push(name);
            }
        }
        anyhow::bail!("{e}: not {at_rest:?}");
    }
    client.control(&id, "cancel").await?.expect(200)?;
    Ok(())
}
