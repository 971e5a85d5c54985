//! The stock worker as a process: exit codes, signals, probes.

use std::process::{ExitStatus, Stdio};

use millrace_common::names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::servers::{LIMIT, free_port};
use crate::stage::{Scene, Stage, eventually, output, step};

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-worker"));
    command
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

async fn ended(child: &mut Child) -> ExitStatus {
    tokio::time::timeout(LIMIT, child.wait())
        .await
        .expect("the process ends in time")
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(
        std::process::Command::new("sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status()
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn every_fault_of_the_configuration_is_printed_and_the_code_is_64() {
    let output = command()
        .env("MILLRACE_SLOTS", "0")
        .env("MILLRACE_DRAIN", "soon")
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("MILLRACE_SLOTS") && text.contains("MILLRACE_DRAIN"),
        "{text}"
    );
}

#[tokio::test]
async fn sigterm_drains_and_the_code_is_0() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let port = free_port();
    let mut child = command()
        .env("MILLRACE_NATS_URL", stage.server.url())
        .env("MILLRACE_WORKER_ID", "w1")
        .env("MILLRACE_WORKER_LISTEN", format!("127.0.0.1:{port}"))
        .spawn()
        .unwrap();
    stage.send(&step("a", "noop:1.0.0", r#"{"n": 1.50}"#)).await;
    stage
        .send(&step("b", "sleep:1.0.0", r#"{"duration": 700}"#))
        .await;
    assert_eq!(output(&stage.result("a.1").await)["n"], 1.5);
    eventually("readiness", async || {
        get(port, "/readyz").await.filter(|t| t.contains("200 OK"))
    })
    .await;
    let metrics = get(port, "/metrics").await.unwrap();
    let line = r#"millrace_worker_steps_total{function="noop:1.0.0",outcome="output"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
    stage.progress("b.1").await;
    signal(&child, "TERM");
    assert_eq!(ended(&mut child).await.code(), Some(0));
    stage.result("b.1").await;
    stage.all_acknowledged().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let url = stage.server.url();
    let mut child = command()
        .env("MILLRACE_NATS_URL", url)
        .env("MILLRACE_DRAIN", "1h")
        .spawn()
        .unwrap();
    stage
        .send(&step("a", "sleep:1.0.0", r#"{"duration": "PT1H"}"#))
        .await;
    stage.progress("a.1").await;
    signal(&child, "TERM");
    eventually("the drain", async || {
        stage.beats().iter().any(|b| b.draining).then_some(())
    })
    .await;
    signal(&child, "TERM");
    assert_eq!(ended(&mut child).await.code(), Some(130));
}

#[tokio::test]
async fn a_killed_process_loses_no_step() {
    let scene = Scene {
        ack_wait: std::time::Duration::from_secs(1),
        ..Scene::default()
    };
    let Some(stage) = Stage::open(scene).await else {
        return;
    };
    let start = |id: &str| {
        command()
            .env("MILLRACE_NATS_URL", stage.server.url())
            .env("MILLRACE_WORKER_ID", id)
            .spawn()
            .unwrap()
    };
    let mut first = start("w1");
    stage
        .send(&step("a", "flaky:1.0.0", r#"{"failures": 0, "sleep": "PT2S"}"#))
        .await;
    assert_eq!(stage.progress("a.1").await.worker, "w1");
    first.kill().await.unwrap();
    stage.answer("a.1", true, None);
    let mut second = start("w2");
    let result = stage.result("a.1").await;
    assert_eq!((result.worker.as_str(), result.delivery), ("w2", 2));
    assert_eq!(output(&result)["idempotencyKey"], "a");
    let command = serde_json::to_vec(&millrace_common::WorkerCommand::Drain).unwrap();
    stage
        .client
        .publish(names::worker_subject("w2"), command.into())
        .await
        .unwrap();
    assert_eq!(ended(&mut second).await.code(), Some(0));
}

async fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}
