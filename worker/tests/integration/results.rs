//! Steps are run and their results arrive, whatever they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use millrace_common::{ErrorKind, limits};
use millrace_worker::{Context, Failure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::stage::{Scene, Stage, error, eventually, output, step};

#[derive(Deserialize)]
struct Charge {
    amount: u64,
}

async fn charge(ctx: Context, input: Charge) -> Result<Value, Failure> {
    match input.amount {
        0 => return Err(Failure::communication(402, "nothing to charge")),
        13 => panic!("unlucky"),
        // Beyond the first poll, so that both ways to run are seen.
        14 => tokio::task::yield_now().await,
        _ => {}
    }
    Ok(json!({"charged": input.amount, "key": ctx.idempotency_key(), "attempt": ctx.attempt()}))
}

#[tokio::test]
async fn results_arrive_with_what_names_them() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start("w1", &[], |w| w.function("charge:1.0.0", charge));
    stage.send(&step("a", "charge:1.0.0", r#"{"amount": 5}"#)).await;
    let result = stage.result("a.1").await;
    assert_eq!(output(&result), json!({"charged": 5, "key": "a", "attempt": 1}));
    assert_eq!((result.frame, result.generation, result.delivery), (7, 0, 1));
    assert_eq!((result.worker.as_str(), result.token.as_str()), ("w1", "token"));
    stage.send(&step("b", "charge:1.0.0", r#"{"amount": 14}"#)).await;
    assert_eq!(output(&stage.result("b.1").await)["charged"], 14);
    stage.all_acknowledged().await;
    worker.stop().await;
}

#[tokio::test]
async fn failures_panics_and_unfit_input_are_results_too() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start("w1", &[], |w| w.function("charge:1.0.0", charge));
    for (key, input) in [
        ("a", r#"{"amount":0}"#),
        ("b", r#"{"amount":13}"#),
        ("c", r#"{"amount":"x"}"#),
    ] {
        stage.send(&step(key, "charge:1.0.0", input)).await;
    }
    let refused = error(&stage.result("a.1").await);
    assert_eq!(
        (refused.standard(), refused.status),
        (Some(ErrorKind::Communication), 402)
    );
    let panicked = error(&stage.result("b.1").await);
    assert!(panicked.detail.unwrap().contains("unlucky"));
    let unfit = error(&stage.result("c.1").await);
    assert_eq!(unfit.standard(), Some(ErrorKind::Validation));
    assert!(unfit.detail.unwrap().contains("amount"));
    stage.all_acknowledged().await;
    worker.stop().await;
}

#[tokio::test]
async fn outputs_above_the_bound_become_errors_that_name_sizes() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let huge = async |_ctx: Context, size: usize| -> Result<String, Failure> { Ok("x".repeat(size)) };
    let worker = stage.start("w1", &[], |w| w.function("huge:1.0.0", huge));
    stage
        .send(&step("a", "huge:1.0.0", &limits::PAYLOAD_BYTES_MAX.to_string()))
        .await;
    stage
        .send(&step(
            "b",
            "huge:1.0.0",
            &(limits::PAYLOAD_BYTES_MAX - 2).to_string(),
        ))
        .await;
    let problem = error(&stage.result("a.1").await);
    let detail = problem.detail.unwrap();
    assert!(detail.contains("786434") && detail.contains("786432"), "{detail}");
    assert_eq!(
        output(&stage.result("b.1").await).as_str().unwrap().len(),
        limits::PAYLOAD_BYTES_MAX - 2
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_step_past_its_deadline_is_not_started() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let count = move |_ctx: Context, _input: Value| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok::<_, Failure>(()))
    };
    let mut late = step("a", "count:1.0.0", "null");
    let past = SystemTime::now() - Duration::from_secs(1);
    late.deadline_ms = Some(
        past.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_millis()
            .try_into()
            .unwrap(),
    );
    let worker = stage.start("w1", &[], |w| w.function("count:1.0.0", count));
    stage.send(&late).await;
    assert_eq!(
        error(&stage.result("a.1").await).standard(),
        Some(ErrorKind::Timeout)
    );
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_step_sent_twice_runs_once_at_a_time_and_both_messages_are_acknowledged() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let runs = Arc::new(AtomicU32::new(0));
    let (handler_gate, counted) = (gate.clone(), runs.clone());
    let wait = move |_ctx: Context, _input: Value| {
        let gate = handler_gate.clone();
        counted.fetch_add(1, Ordering::SeqCst);
        async move { gate.acquire().await.map(|permit| permit.forget()) }
    };
    let worker = stage.start("w1", &[], |w| w.function("wait:1.0.0", wait));
    let sent = step("a", "wait:1.0.0", "null");
    stage.send(&sent).await;
    stage.send(&sent).await;
    eventually("both to be given out", async || {
        (stage.held().await == 2).then_some(())
    })
    .await;
    stage.progress("a.1").await;
    gate.add_permits(2);
    stage.all_acknowledged().await;
    assert_eq!(
        (runs.load(Ordering::SeqCst), stage.results(1).await.len()),
        (1, 1)
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_function_nobody_has_is_a_configuration_error() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start("w1", &[], |w| w.function("charge:1.0.0", charge));
    stage.send(&step("a", "refund:2.0.0", "null")).await;
    let result = stage.result("a.1").await;
    let problem = error(&result);
    assert_eq!(problem.standard(), Some(ErrorKind::Configuration));
    let detail = problem.detail.unwrap();
    assert!(
        detail.contains("refund:2.0.0") && detail.contains("charge:1.0.0"),
        "{detail}"
    );
    assert!(result.delivery > 1, "other workers had no chance");
    stage.all_acknowledged().await;
    worker.stop().await;
}

#[tokio::test]
async fn nothing_is_taken_beyond_the_slots() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let running = Arc::new(AtomicU32::new(0));
    let (handler_gate, counted) = (gate.clone(), running.clone());
    let wait = move |_ctx: Context, _input: Value| {
        let gate = handler_gate.clone();
        counted.fetch_add(1, Ordering::SeqCst);
        async move { gate.acquire().await.map(|permit| permit.forget()) }
    };
    for n in 0..20 {
        stage.send(&step(&format!("s{n}"), "wait:1.0.0", "null")).await;
    }
    let worker = stage.start("w1", &[("MILLRACE_SLOTS", "3")], |w| {
        w.function("wait:1.0.0", wait)
    });
    for done in 0..20 {
        let expected = (20 - done).min(3);
        let begun = u32::try_from(done + expected).unwrap();
        eventually("the slots to fill", async || {
            (running.load(Ordering::SeqCst) == begun).then_some(())
        })
        .await;
        assert!(stage.held().await <= 3);
        gate.add_permits(1);
        stage.results(done + 1).await;
    }
    stage.all_acknowledged().await;
    worker.stop().await;
}

#[tokio::test]
async fn results_wait_for_a_full_log_and_are_not_lost() {
    let scene = Scene {
        ack_wait: Duration::from_secs(1),
        log_messages_max: 2,
    };
    let Some(stage) = Stage::open(scene).await else {
        return;
    };
    let worker = stage.start("w1", &[], |w| w.function("charge:1.0.0", charge));
    for n in 0..3 {
        stage
            .send(&step(&format!("s{n}"), "charge:1.0.0", r#"{"amount": 1}"#))
            .await;
    }
    stage.results(2).await;
    // Longer than the lease: without signs of life the step would be given out again.
    let begun = std::time::Instant::now();
    eventually("twice the lease", async || {
        (begun.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
    assert_eq!(stage.held().await, 1);
    stage.purge_log().await;
    let results = stage.results(3).await;
    assert!(results.iter().all(|r| r.delivery == 1), "{results:?}");
    stage.all_acknowledged().await;
    worker.stop().await;
}
