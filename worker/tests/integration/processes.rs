//! `run: shell` and `run: script` on a worker: offered only where allowed, redelivered, and never left behind.

use std::process::Stdio;
use std::time::Duration;

use millrace_common::{limits, names};
use millrace_worker::Worker;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::json;
use tokio::process::Command;

use crate::servers::Scratch;
use crate::stage::{Scene, Stage, error, eventually, output, step};

const ALLOWED: (&str, &str) = ("MILLRACE_PROCESSES", "shell,script");

fn shell(command: &str) -> String {
    json!({"process": {"command": command}, "await": true, "return": "stdout"}).to_string()
}

async fn pid_in(file: &std::path::Path) -> Pid {
    eventually("a process number", async || {
        std::fs::read_to_string(file)
            .ok()?
            .trim()
            .parse()
            .ok()
            .map(Pid::from_raw)
    })
    .await
}

/// Gone, or a zombie whose new parent has not asked about it.
fn is_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    kill(pid, None).is_err()
        || stat
            .rsplit(')')
            .next()
            .is_none_or(|s| s.trim_start().starts_with('Z'))
}

#[tokio::test]
async fn kinds_are_offered_only_where_they_are_allowed() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let closed = stage.start("closed", &[], Worker::builtins);
    let open = stage.start("open", &[ALLOWED], Worker::builtins);
    let registers = eventually("two registrations", async || {
        let registers = stage.registers();
        let has = |id: &str| registers.iter().any(|r| r.worker == id);
        (has("closed") && has("open")).then_some(registers)
    })
    .await;
    let of = |id: &str| registers.iter().find(|r| r.worker == id).unwrap();
    assert!(!of("closed").capabilities.iter().any(|c| c.starts_with("run:")));
    assert_eq!(of("closed").queues, ["default"]);
    let offered = &of("open").capabilities;
    assert!(offered.contains(&"run:shell".into()) && offered.contains(&"run:script".into()));
    assert!(!offered.contains(&"run:container".into()), "{offered:?}");
    assert_eq!(of("open").queues, ["default", "run-shell", "run-script"]);
    assert_eq!(names::process_queue("shell"), "run-shell");
    closed.stop().await;
    open.stop().await;
}

#[tokio::test]
async fn scripts_run_in_their_languages() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let worker = stage.start("w1", &[ALLOWED], Worker::builtins);
    let js = r"
        import { readFileSync } from 'node:fs';
        const [_, __, arg] = process.argv;
        console.log(readFileSync(process.stdin.fd, 'utf8'), arg, process.env.foo);
    ";
    let python = "import os, sys\nprint(sys.stdin.read(), sys.argv[1], os.environ['foo'])";
    for (key, language, code) in [("a", "js", js), ("b", "python", python)] {
        let process = json!({
            "language": language, "code": code, "stdin": "in", "arguments": ["one"],
            "environment": {"foo": "bar"},
        });
        let input = json!({"process": process, "return": "stdout"}).to_string();
        stage.send(&step(key, "run:script", &input)).await;
        let result = stage.result(&format!("{key}.1")).await;
        assert_eq!(output(&result), json!("in one bar\n"), "{language}");
    }
    let input = json!({"process": {"language": "cobol", "code": ""}}).to_string();
    stage.send(&step("c", "run:script", &input)).await;
    let problem = error(&stage.result("c.1").await);
    assert_eq!(problem.status, 400);
    assert!(problem.detail.unwrap().contains("`cobol`"));
    worker.stop().await;
}

#[tokio::test]
async fn no_process_outlives_a_killed_worker() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let scratch = Scratch::new();
    let (file, temporary) = (scratch.path().join("pids"), scratch.path().join("tmp"));
    std::fs::create_dir(&temporary).unwrap();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_millrace-worker"))
        .env("MILLRACE_NATS_URL", stage.server.url())
        .env("MILLRACE_WORKER_ID", "w1")
        .env("MILLRACE_PROCESSES", "shell")
        .env("TMPDIR", &temporary)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // One that ignores SIGTERM, and one in the background.
    let command = format!(
        "trap '' TERM; sleep 1000 & echo $! > {0}.child; echo $$ > {0}; while :; do sleep 1000; done",
        file.display()
    );
    stage.send(&step("a", "run:shell", &shell(&command))).await;
    let child = pid_in(&file.with_extension("child")).await;
    let parent = pid_in(&file).await;
    assert!(!is_gone(parent) && !is_gone(child));
    // SIGKILL: no destructor runs.
    worker.kill().await.unwrap();
    eventually("the end of its processes", async || {
        (is_gone(parent) && is_gone(child)).then_some(())
    })
    .await;
    eventually("the end of their directory", async || {
        std::fs::read_dir(&temporary)
            .unwrap()
            .next()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_detached_step_runs_again_without_a_question() {
    let scene = Scene {
        ack_wait: Duration::from_secs(1),
        ..Scene::default()
    };
    let Some(stage) = Stage::open(scene).await else {
        return;
    };
    let scratch = Scratch::new();
    let file = scratch.path().join("pid");
    let mut first = Command::new(env!("CARGO_BIN_EXE_millrace-worker"))
        .env("MILLRACE_NATS_URL", stage.server.url())
        .env("MILLRACE_PROCESSES", "shell")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let command = format!(
        "if test -e {0}; then echo again; else echo $$ > {0}; sleep 1000; fi",
        file.display()
    );
    let mut detached = step("a", "run:shell", &shell(&command));
    detached.frame = limits::DETACHED_FRAMES + 1;
    stage.send(&detached).await;
    pid_in(&file).await;
    first.kill().await.unwrap();
    let second = stage.start("w2", &[ALLOWED], Worker::builtins);
    let result = stage.result("a.1").await;
    assert_eq!((result.worker.as_str(), result.delivery), ("w2", 2));
    assert_eq!(output(&result), json!("again\n"));
    assert_eq!(result.detached_node(), Some(1));
    // Nothing is left in any state that could tell whether it is open.
    assert!(stage.asked().is_empty());
    stage.all_acknowledged().await;
    second.stop().await;
}
