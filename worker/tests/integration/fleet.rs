//! The worker as the fleet sees it.

use millrace_common::{RawJson, WorkerCommand, names};
use millrace_worker::{Context, Failure, Function, Worker};
use serde_json::json;

use crate::stage::{Scene, Stage, eventually, step};

#[tokio::test]
async fn a_worker_announces_what_it_can_do_and_that_it_lives() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let echo = async |_ctx: Context, input: RawJson| -> Result<RawJson, Failure> { Ok(input) };
    let schema = RawJson::encode(&json!({"type": "object"})).unwrap();
    let echo = Function::new("echo:2.1.0", echo).schemas(schema.clone(), schema.clone());
    let settings = [
        ("MILLRACE_SLOTS", "5"),
        ("MILLRACE_WORKER_LABELS", "zone=a,gpu=no"),
    ];
    let worker = stage.start("w1", &settings, |w| w.builtins().register(echo));
    let register = eventually("the registration", async || stage.registers().pop()).await;
    assert_eq!(
        (
            register.worker.as_str(),
            register.slots,
            register.queues.as_slice()
        ),
        ("w1", 5, &["default".into()][..])
    );
    for call in ["call:a2a", "call:asyncapi", "call:grpc", "call:http", "call:mcp"] {
        assert!(register.capabilities.iter().any(|c| c == call), "{call}");
    }
    assert_eq!(register.labels["zone"], "a");
    let info = register.functions.iter().find(|f| f.name == "echo").unwrap();
    assert_eq!((info.version.as_str(), info.queue.as_str()), ("2.1.0", "default"));
    assert_eq!(info.input_schema.as_ref(), Some(&schema));
    stage.send(&step("a", "flaky:1.0.0", r#"{"failures": 1}"#)).await;
    stage
        .send(&step("b", "sleep:1.0.0", r#"{"duration": "PT1H"}"#))
        .await;
    let beat = eventually("a beat about both steps", async || {
        stage
            .beats()
            .into_iter()
            .find(|b| b.failed_total == 1 && b.slots_used == 1)
    });
    let beat = beat.await;
    assert_eq!(
        (beat.running[0].step.as_str(), beat.running[0].function.as_str()),
        ("b.1", "sleep:1.0.0")
    );
    stage
        .client
        .publish(names::cancel_subject("w1"), "b.1".into())
        .await
        .unwrap();
    worker.stop().await;
}

#[tokio::test]
async fn a_command_drains_one_worker() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start("w1", &[], Worker::builtins);
    eventually("the registration", async || {
        (!stage.registers().is_empty()).then_some(())
    })
    .await;
    let command = serde_json::to_vec(&WorkerCommand::Drain).unwrap();
    stage
        .client
        .publish(names::worker_subject("w1"), command.into())
        .await
        .unwrap();
    assert!(!worker.shutdown.is_triggered());
    worker.ended().await;
}

#[tokio::test]
async fn functions_with_bad_or_repeated_names_are_refused_at_the_start() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let nothing = async |_ctx: Context, _input: RawJson| -> Result<(), Failure> { Ok(()) };
    let unversioned = stage.start("w1", &[], |w| w.function("charge", nothing));
    let text = unversioned.task.await.unwrap().unwrap_err().to_string();
    assert!(text.contains("`charge`"), "{text}");
    let twice = stage.start("w1", &[], |w| {
        w.function("a:1.0.0", nothing).function("a:1.0.0", nothing)
    });
    let text = twice.task.await.unwrap().unwrap_err().to_string();
    assert!(text.contains("registered twice"), "{text}");
}

#[tokio::test]
async fn two_queues_are_served_by_one_worker() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    // The second queue has no consumer: it is waited for and holds up nothing.
    let worker = stage.start(
        "w1",
        &[("MILLRACE_QUEUES", "default,gpu"), ("MILLRACE_SLOTS", "2")],
        Worker::builtins,
    );
    for n in 0..20 {
        stage.send(&step(&format!("s{n}"), "noop:1.0.0", "1")).await;
    }
    stage.results(20).await;
    stage.all_acknowledged().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_needs_few_permissions() {
    let Some(stage) = Stage::open_guarded().await else {
        return;
    };
    let worker = stage.start("w1", &[], Worker::builtins);
    eventually("the registration", async || {
        (!stage.registers().is_empty()).then_some(())
    })
    .await;
    stage.send(&step("a", "noop:1.0.0", "1")).await;
    stage
        .send(&step("b", "sleep:1.0.0", r#"{"duration": "PT1H"}"#))
        .await;
    stage.result("a.1").await;
    stage.progress("b.1").await;
    stage
        .client
        .publish(names::cancel_subject("w1"), "b.1".into())
        .await
        .unwrap();
    stage.result("b.1").await;
    stage.all_acknowledged().await;
    worker.stop().await;
}
