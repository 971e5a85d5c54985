//! A saga of six steps whose fifth fails: the four completed ones are undone in reverse order, each once in state,
//! whatever is killed between any two of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_tests::ledger::{self, Entry, What};
use millrace_tests::{Stack, eventually_within};
use serde_json::json;

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
fn entries(ledger: &Path, id: &str) -> anyhow::Result<Vec<Entry>> {
    let mut entries = ledger::read(ledger)?;
    entries.retain(|e| e.instance == id);
    Ok(entries)
}

/// Kills the coordinator, and the worker that wrote an entry, as soon as it is there.
async fn kill_at(stack: &Stack, ledger: &Path, id: &str, what: What, step: u32) -> anyhow::Result<()> {
    let found = async || {
        let found = entries(ledger, id).map(|all| all.into_iter().find(|e| (e.what, e.step) == (what, step)));
        found.transpose()
    };
    let text = format!("the ledger says {what:?} of {step}");
    // A ledger that cannot be read ends the wait too.
    let entry = eventually_within(Duration::from_secs(60), &text, found).await??;
    let worker = stack
        .workers
        .iter()
        .find(|w| entry.worker == w.name())
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
    let kept = ledger::Kept::new("saga")?;
    let ledger = kept.path();
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
        (What::End, 4),
        (What::Begin, 104),
        (What::End, 104),
        (What::Begin, 103),
        (What::End, 103),
        (What::End, 102),
        (What::Begin, 101),
        (What::End, 101),
    ];
    for (what, step) in kills {
        let id = format!("saga-{what:?}-{step}").to_lowercase();
        client.start_new(&id, &definition, json!({})).await?;
        kill_at(&stack, ledger, &id, what, step).await?;
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
        let mut begun: Vec<u32> = Vec::new();
        let mut keys: BTreeMap<u32, String> = BTreeMap::new();
        for Entry { step, key, .. } in entries(ledger, &id)?
            .into_iter()
            .filter(|e| e.what == What::Begin)
        {
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
    Ok(())
}
