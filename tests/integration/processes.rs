//! Processes that nobody waits for, and processes that wait for a worker that may run them.

use std::path::Path;

use anyhow::ensure;
use millrace_common::{PartitionId, names};
use millrace_tests::{Stack, eventually};
use serde_json::json;

use crate::definition;

/// Processes that a run hands over, one after the other.
const EACH: usize = 5;
const RUNS: usize = 8;

#[tokio::test]
async fn detached_processes_survive_their_coordinator_and_leave_nothing_behind() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .worker_env("MILLRACE_PROCESSES", "shell")
        .start()
        .await?;
    let client = stack.client();
    let tasks = format!(
        "- loop:
    for: {{ each: n, in: '[range({EACH})]' }}
    do: [{{ p: {{ run: {{ shell: {{ command: 'echo x >> \"$1\"', arguments: ['${{ \"\\($workflow.input.dir)/\\($workflow.id | gsub(\"[^a-zA-Z0-9]\"; \"_\"))-\\($n)\" }}'] }}, await: false }} }} }}]
"
    );
    let detach = client.apply(&definition("detach", &tasks)).await?;
    let dir = stack.dir().join("made");
    std::fs::create_dir(&dir)?;
    let mut ids = Vec::new();
    for _ in 0..RUNS {
        ids.push(client.start(&detach, json!({"dir": dir})).await?);
    }
    // Somewhere between the commits, the queue's confirmations and the notes of them.
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    for id in &ids {
        let done = client.wait(id).await?;
        ensure!(done["status"] == "completed", "{done}");
    }
    eventually("every process ran", async || {
        (made(&dir)? == RUNS * EACH).then_some(())
    })
    .await?;
    let mut redis = stack.redis.connection().await?;
    for partition in 0..2 {
        let key = names::outbox_key(PartitionId(partition));
        eventually("the outbox is empty", async || {
            let left: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(&mut redis).await.ok()?;
            left.is_empty().then_some(())
        })
        .await?;
    }
    eventually("the ends are told in the traces", async || {
        let mut told = 0;
        for id in &ids {
            let history = client.history(id).await.ok()?;
            told += history
                .iter()
                .filter(|e| e["type"] == "task.detachedCompleted")
                .count();
        }
        (told >= RUNS * EACH).then_some(())
    })
    .await
}

fn made(dir: &Path) -> Option<usize> {
    Some(std::fs::read_dir(dir).ok()?.count())
}

#[tokio::test]
async fn a_process_waits_for_a_worker_that_may_run_it() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let text = definition("waits", "- a: { run: { shell: { command: printf done } } }\n");
    let applied = client.try_apply(&text).await?.expect(201)?;
    let warning = &applied.body["warnings"][0];
    ensure!(
        warning["message"] == "no worker offers function `run:shell` now",
        "{warning}"
    );
    ensure!(warning["line"] == 3 && warning["hint"].is_string(), "{warning}");
    let reference = json!({"namespace": "default", "name": "waits", "version": "1.0.0"});
    let id = client.start(&reference, json!({})).await?;
    let waits = client
        .until(&id, "says why it waits", |i| {
            i["waitingFor"][0]["offered"] == false
        })
        .await?;
    let reason = waits["waitingFor"][0]["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("MILLRACE_PROCESSES=shell"), "{waits}");
    let jetstream = stack.nats.jetstream().await?;
    let steps = jetstream.get_stream(names::STEPS_STREAM).await?;
    eventually("the step is in the queue", async || {
        (steps.get_info().await.ok()?.state.messages == 1).then_some(())
    })
    .await?;
    stack.workers[0].terminate();
    stack.workers[0].ended(std::time::Duration::from_secs(10)).await?;
    stack.workers[0].restart_with("MILLRACE_PROCESSES", "shell")?;
    let done = client.wait(&id).await?;
    ensure!(done["output"] == "done", "{done}");
    let again = client.try_apply(&text).await?.expect(200)?;
    ensure!(again.body["warnings"] == json!([]), "{}", again.body);
    Ok(())
}
