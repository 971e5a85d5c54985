//! The end of a worker: what runs is finished, what does not end is handed back, nothing new is taken.

use std::sync::Arc;
use std::time::Duration;

use millrace_common::{EVERY_WORKER, StepOutcome, names};
use millrace_worker::{Context, Failure, Worker};
use serde_json::Value;

use crate::stage::{Scene, Stage, eventually, output, step};

#[tokio::test]
async fn a_drain_finishes_what_runs_and_leaves_the_rest() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let handler_gate = gate.clone();
    let wait = move |_ctx: Context, _input: Value| {
        let gate = handler_gate.clone();
        async move { gate.acquire().await.map(|permit| permit.forget()) }
    };
    for n in 0..4 {
        stage.send(&step(&format!("s{n}"), "wait:1.0.0", "null")).await;
    }
    let worker = stage.start("w1", &[("MILLRACE_SLOTS", "2")], |w| {
        w.function("wait:1.0.0", wait)
    });
    eventually("two to run", async || (stage.held().await == 2).then_some(())).await;
    worker.shutdown.trigger();
    eventually("a beat that says so", async || {
        stage.beats().iter().any(|b| b.draining).then_some(())
    })
    .await;
    gate.add_permits(4);
    worker.ended().await;
    assert_eq!(stage.results(2).await.len(), 2);
    assert_eq!((stage.queued().await, stage.held().await), (2, 0));
}

#[tokio::test]
async fn what_does_not_end_in_time_is_handed_back_at_once() {
    // With a lease of 30 s, only an answer can bring the step to the second worker in time.
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let hang = async |ctx: Context, _input: Value| -> Result<u32, Failure> {
        if ctx.delivery() > 1 {
            Ok(ctx.delivery())
        } else {
            std::future::pending().await
        }
    };
    let first = stage.start("w1", &[("MILLRACE_DRAIN", "200ms")], |w| {
        w.function("hang:1.0.0", hang)
    });
    stage.send(&step("a", "hang:1.0.0", "null")).await;
    stage.progress("a.1").await;
    stage.answer("a.1", true, None);
    first.stop().await;
    let second = stage.start("w2", &[], |w| w.function("hang:1.0.0", hang));
    let result = stage.result("a.1").await;
    assert_eq!((output(&result), result.worker.as_str()), (Value::from(2), "w2"));
    second.stop().await;
}

#[tokio::test]
async fn an_idle_worker_ends_at_once() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start("w1", &[("MILLRACE_DRAIN", "1h")], Worker::builtins);
    eventually("the registration", async || {
        (!stage.registers().is_empty()).then_some(())
    })
    .await;
    worker.stop().await;
    assert_eq!(stage.queued().await, 0);
}

#[tokio::test]
async fn a_step_that_is_cancelled_says_so() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start("w1", &[], Worker::builtins);
    stage
        .send(&step("a", "sleep:1.0.0", r#"{"duration": "PT1H"}"#))
        .await;
    stage.progress("a.1").await;
    stage
        .client
        .publish(names::cancel_subject("w1"), "other.1\na.1\n".into())
        .await
        .unwrap();
    assert_eq!(stage.result("a.1").await.outcome, StepOutcome::Cancelled);
    stage
        .send(&step("b", "sleep:1.0.0", r#"{"duration": "PT1H"}"#))
        .await;
    stage.progress("b.1").await;
    stage
        .client
        .publish(names::cancel_subject(EVERY_WORKER), "b.1".into())
        .await
        .unwrap();
    assert_eq!(stage.result("b.1").await.outcome, StepOutcome::Cancelled);
    stage.all_acknowledged().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_step_is_asked_to_stop_at_its_deadline() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start("w1", &[], Worker::builtins);
    let mut late = step("a", "sleep:1.0.0", r#"{"duration": "PT1H"}"#);
    let due = std::time::SystemTime::now() + Duration::from_millis(300);
    late.deadline_ms = Some(
        due.duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis()
            .try_into()
            .unwrap(),
    );
    stage.send(&late).await;
    assert_eq!(stage.result("a.1").await.outcome, StepOutcome::Cancelled);
    worker.stop().await;
}
