//! A saga of six steps whose fifth fails: the four completed ones are undone in reverse order, each once in state,
//! whatever is killed between any two of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_tests::{Stack, eventually_within};
use serde_json::{Value, json};

const SAGA: &str = "document: { dsl: 1.0.3, namespace: default, name: saga, version: 1.0.0, metadata: { millrace: { saga: true } } }
use:
  functions:
    undo: { call: 'ledger:1.0.0@default', with: { step: '${ 100 + .output.step }', ms: 150 } }
do:
  - a: { call: 'ledger:1.0.0@default', with: { step: 1 }, metadata: { millrace: { compensateWith: undo } } }
  - b: { call: 'ledger:1.0.0@default', with: { step: 2 }, metadata: { millrace: { compensateWith: undo } } }
  - c: { call: 'ledger:1.0.0@default', with: { step: 3 }, metadata: { millrace: { compensateWith: undo } } }
  - d: { call: 'ledger:1.0.0@default', with: { step: 4 }, metadata: { millrace: { compensateWith: undo } } }
  - e: { call: 'flaky:1.0.0@default', with: { failures: 9 }, metadata: { millrace: { compensateWith: undo } } }
  - f: { call: 'ledger:1.0.0@default', with: { step: 6 }, metadata: { millrace: { compensateWith: undo } } }
";

/// Entries of the ledger about an instance, in order.
fn entries(ledger: &Path, id: &str) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(ledger)?;
    let all = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    Ok(all.filter(|e| e["instance"] == id).collect())
}

/// Kills the coordinator, and the worker that wrote an entry, as soon as it is there.
async fn kill_at(stack: &Stack, ledger: &Path, id: &str, what: &str, step: u64) -> anyhow::Result<()> {
    let found = async || {
        let all = entries(ledger, id).ok()?;
        all.into_iter().find(|e| e["what"] == what && e["step"] == step)
    };
    let text = format!("the ledger says {what} of {step}");
    let entry = eventually_within(Duration::from_secs(60), &text, found).await?;
    let worker = stack
        .workers
        .iter()
        .find(|w| entry["worker"] == w.name())
        .context("a worker of the stack wrote it")?;
    for process in [&stack.coordinators[0], worker] {
        process.kill9();
    }
    for process in [&stack.coordinators[0], worker] {
        process.restart()?;
    }
    stack.ready().await
}

#[tokio::test]
async fn completed_steps_are_undone_in_reverse_whatever_is_killed_between() -> anyhow::Result<()> {
    let ledger: PathBuf =
        std::env::temp_dir().join(format!("millrace-test-{}-saga.ledger", std::process::id()));
    std::fs::write(&ledger, "")?;
    let stack = Stack::builder()
        .workers(2)
        .worker_program("ledger-worker")
        .worker_env("MILLRACE_TEST_LEDGER", ledger.to_string_lossy())
        .env("MILLRACE_ACK_WAIT", "2s")
        .coordinator_env("MILLRACE_LEASE_TTL", "1s")
        .start()
        .await?;
    let client = stack.client();
    let definition = client.apply(SAGA).await?;
    // Before the first compensation, within each, and between any two.
    let kills = [
        ("end", 4),
        ("begin", 104),
        ("end", 104),
        ("begin", 103),
        ("end", 103),
        ("end", 102),
        ("begin", 101),
        ("end", 101),
    ];
    for (what, step) in kills {
        let id = format!("saga-{what}-{step}");
        client.start_new(&id, &definition, json!({})).await?;
        kill_at(&stack, &ledger, &id, what, step).await?;
        let view = client.wait(&id).await?;
        ensure!(view["status"] == "faulted", "{id}: {view}");
        ensure!(
            view["error"]["instance"] == "/do/4/e",
            "the first error stays: {view}"
        );
        ensure!(
            view["compensations"] == json!({"completed": 4, "failed": 0}),
            "{id}: {view}"
        );
        let history = client.history(&id).await?;
        let undone: Vec<&str> = history
            .iter()
            .filter(|e| e["type"] == "task.compensated")
            .filter_map(|e| e["name"].as_str())
            .collect();
        ensure!(undone == ["d", "c", "b", "a"], "{id}: {undone:?}");
        let mut begun: Vec<u64> = Vec::new();
        let mut keys: BTreeMap<u64, String> = BTreeMap::new();
        for entry in entries(&ledger, &id)?.iter().filter(|e| e["what"] == "begin") {
            let step = entry["step"].as_u64().context("a step")?;
            let key = entry["key"].as_str().context("a key")?.to_owned();
            ensure!(
                keys.entry(step).or_insert_with(|| key.clone()) == &key,
                "{id}: step {step} ran under two keys"
            );
            if !begun.contains(&step) {
                begun.push(step);
            }
        }
        ensure!(begun == [1, 2, 3, 4, 104, 103, 102, 101], "{id}: {begun:?}");
    }
    std::fs::remove_file(&ledger)?;
    Ok(())
}
