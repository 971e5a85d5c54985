//! What a running Millrace does when it is abused: hostile definitions, bounds, missing servers, lost data, killed
//! processes, operators' commands. Real servers and binaries; each test has a stack of its own.

mod bounds;
mod control;
mod halts;
mod hostile;
mod ownership;
mod parallel;
mod repair;
mod saga;
mod traces;

use anyhow::Context;
use millrace_tests::Client;
use serde_json::{Value, json};

/// A definition in namespace `default`, version 1.0.0; `tasks` is the YAML under `do`, indented by two.
fn definition(name: &str, tasks: &str) -> String {
    format!("document: {{ dsl: 1.0.3, namespace: default, name: {name}, version: 1.0.0 }}\ndo:\n{tasks}")
}

/// `count` calls of `noop` in a row.
fn noops(name: &str, count: usize) -> String {
    let tasks: String = (0..count)
        .map(|n| format!("  - s{n}: {{ call: 'noop:1.0.0@default' }}\n"))
        .collect();
    definition(name, &tasks)
}

/// Starts `count` instances side by side and gives their ids.
async fn start_many(
    client: &Client,
    definition: &Value,
    prefix: &str,
    count: usize,
) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(count);
    for chunk in (0..count).collect::<Vec<_>>().chunks(50) {
        let starts = chunk.iter().map(|n| {
            let id = format!("{prefix}{n}");
            async move {
                let answer = client.start_as(&id, definition, json!({})).await?;
                answer.expect(201).map(|_| id)
            }
        });
        for id in futures_util::future::join_all(starts).await {
            ids.push(id?);
        }
    }
    Ok(ids)
}

/// Waits until all of them have completed.
async fn all_complete(client: &Client, ids: &[String]) -> anyhow::Result<()> {
    for id in ids {
        let view = client.wait(id).await?;
        anyhow::ensure!(view["status"] == "completed", "{id}: {view}");
    }
    Ok(())
}

/// Phases of partitions as one coordinator sees them.
async fn phases(client: &Client) -> anyhow::Result<Vec<String>> {
    let status = client.get("/api/v1/status").await?.expect(200)?.body;
    let here = status["partitions"]["here"]
        .as_object()
        .context("no partitions")?;
    Ok(here
        .values()
        .map(|p| p["phase"].as_str().unwrap_or_default().to_owned())
        .collect())
}
