//! Leases: kept while a step runs, lost with the worker, and what the next worker gets.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use futures_util::StreamExt;
use millrace_common::{RawJson, limits};
use millrace_worker::{Context, Failure};
use serde_json::{Value, json};

use crate::stage::{Scene, Stage, error, eventually, output, step};

const SHORT: Scene = Scene {
    ack_wait: Duration::from_secs(1),
    log_messages_max: -1,
};

/// Saves a value, then hangs; the second delivery returns what was saved.
async fn save_and_hang(ctx: Context, _input: Value) -> Result<Value, Failure> {
    match ctx.saved::<Value>()? {
        Some(saved) => Ok(json!({"saved": saved, "delivery": ctx.delivery()})),
        None => {
            ctx.checkpoint(&json!({"page": 3})).await?;
            std::future::pending().await
        }
    }
}

#[tokio::test]
async fn a_long_step_keeps_its_lease_and_is_shown() {
    let Some(stage) = Stage::open(SHORT).await else {
        return;
    };
    let worker = stage.start("w1", &[], millrace_worker::Worker::builtins);
    stage
        .send(&step("a", "sleep:1.0.0", r#"{"duration": 3000}"#))
        .await;
    let shown = stage.progress("a.1").await;
    assert_eq!(
        (shown.worker.as_str(), shown.delivery, shown.value),
        ("w1", 1, None)
    );
    assert_eq!(
        output(&stage.result("a.1").await),
        json!({"worker": "w1", "delivery": 1})
    );
    stage.all_acknowledged().await;
    assert!(stage.asked().is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_dead_workers_step_goes_on_elsewhere_with_its_progress() {
    let Some(stage) = Stage::open(SHORT).await else {
        return;
    };
    let first = stage.start_mortal("w1", |w| w.function("save:1.0.0", save_and_hang));
    stage.send(&step("a", "save:1.0.0", "null")).await;
    let saved = eventually("the checkpoint", async || stage.progress("a.1").await.value).await;
    assert_eq!(saved, RawJson::encode(&json!({"page": 3})).unwrap());
    stage.answer("a.1", true, Some(saved));
    first.die();
    let second = stage.start("w2", &[], |w| w.function("save:1.0.0", save_and_hang));
    let result = stage.result("a.1").await;
    assert_eq!(output(&result), json!({"saved": {"page": 3}, "delivery": 2}));
    assert_eq!((result.worker.as_str(), result.delivery), ("w2", 2));
    assert_eq!(stage.asked().len(), 1);
    stage.all_acknowledged().await;
    second.stop().await;
}

/// Gives a step out and takes it back, as workers that crash would, without their time.
async fn deliver_in_vain(stage: &Stage, times: i64) {
    let consumer = stage.consumer().await;
    for _ in 0..times {
        let mut batch = consumer
            .fetch()
            .max_messages(1)
            .expires(Duration::from_secs(5))
            .messages()
            .await
            .unwrap();
        batch
            .next()
            .await
            .unwrap()
            .unwrap()
            .ack_with(AckKind::Nak(None))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_step_that_is_done_already_is_acknowledged_without_a_run() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    stage.send(&step("a", "noop:1.0.0", "1")).await;
    stage.send(&step("b", "noop:1.0.0", "2")).await;
    deliver_in_vain(&stage, 2).await;
    stage.answer("a.1", false, None);
    stage.answer("b.1", true, None);
    let worker = stage.start("w1", &[], millrace_worker::Worker::builtins);
    assert_eq!(output(&stage.result("b.1").await), 2);
    stage.all_acknowledged().await;
    assert_eq!(stage.results(1).await.len(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn silence_about_a_step_means_to_run_it() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    stage.send(&step("a", "noop:1.0.0", "1")).await;
    deliver_in_vain(&stage, 1).await;
    let worker = stage.start("w1", &[], millrace_worker::Worker::builtins);
    let result = stage.result("a.1").await;
    assert_eq!((output(&result), result.delivery), (json!(1), 2));
    assert_eq!(stage.asked().len(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_step_that_nobody_finishes_is_given_up() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    stage.send(&step("a", "noop:1.0.0", "1")).await;
    deliver_in_vain(&stage, limits::STEP_DELIVERIES_MAX).await;
    let worker = stage.start("w1", &[], millrace_worker::Worker::builtins);
    let problem = error(&stage.result("a.1").await);
    assert!(problem.detail.unwrap().starts_with("poisoned step"));
    stage.all_acknowledged().await;
    worker.stop().await;
}

#[tokio::test]
async fn steps_that_cannot_be_decoded_are_handed_back_and_hold_nobody_up() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start(
        "w1",
        &[("MILLRACE_SLOTS", "1")],
        millrace_worker::Worker::builtins,
    );
    let subject = millrace_common::names::step_subject("default", "default", 5);
    stage
        .client
        .publish(subject, r#"{"v":99,"step":{}}"#.into())
        .await
        .unwrap();
    stage.send(&step("a", "noop:1.0.0", "1")).await;
    assert_eq!(output(&stage.result("a.1").await), 1);
    eventually("only the unreadable one to be left", async || {
        (stage.queued().await == 1).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_server_costs_no_step() {
    let Some(mut stage) = Stage::open(SHORT).await else {
        return;
    };
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let handler_gate = gate.clone();
    let wait = move |_ctx: Context, _input: Value| {
        let gate = handler_gate.clone();
        async move { gate.acquire().await.map(|permit| permit.forget()) }
    };
    let worker = stage.start("w1", &[], |w| w.function("wait:1.0.0", wait));
    stage.send(&step("a", "wait:1.0.0", "null")).await;
    stage.progress("a.1").await;
    let registered = stage.registers().len();
    stage.server.restart();
    gate.add_permits(100);
    eventually("a new registration", async || {
        (stage.registers().len() > registered).then_some(())
    })
    .await;
    stage.result("a.1").await;
    stage.send(&step("b", "wait:1.0.0", "null")).await;
    stage.result("b.1").await;
    stage.all_acknowledged().await;
    worker.stop().await;
}
