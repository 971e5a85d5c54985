//! A coordinator that starts before its servers waits for them, alive and not ready (H34).

use std::time::Duration;

use anyhow::ensure;
use millrace_tests::{Client, Process, Stack, eventually_within};
use serde_json::json;

use crate::definition;

#[tokio::test]
async fn a_coordinator_waits_for_nats() -> anyhow::Result<()> {
    let stack = Stack::builder().prepare()?;
    waits_for(&stack, stack.redis.process(), stack.nats.process()).await
}

#[tokio::test]
async fn a_coordinator_waits_for_redis() -> anyhow::Result<()> {
    let stack = Stack::builder().prepare()?;
    waits_for(&stack, stack.nats.process(), stack.redis.process()).await
}

async fn waits_for(stack: &Stack, present: &Process, absent: &Process) -> anyhow::Result<()> {
    present.restart()?;
    stack.coordinators[0].restart()?;
    stack.workers[0].restart()?;
    let client = stack.client();
    is(&client, "/healthz", 200).await?;
    // Ready would be wrong at any moment, so look at many of them.
    for _ in 0..100 {
        let ready = client.get("/readyz").await?;
        ensure!(ready.status == 503, "ready without a server: {}", ready.body);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = client
        .try_apply(&definition("early", "- a: {set: {x: 1}}"))
        .await?
        .expect(503)?;
    ensure!(
        refused.header("retry-after").is_some(),
        "no Retry-After in {:?}",
        refused.headers
    );

    absent.restart()?;
    stack.ready().await?;
    let done = client
        .run(
            &definition("late", "- a: {call: 'noop:1.0.0@default', with: {x: 1}}"),
            json!({}),
        )
        .await?;
    ensure!(done["status"] == "completed", "{done}");
    ensure!(
        stack.coordinators[0].is_running() && stack.workers[0].is_running(),
        "a process gave up"
    );
    Ok(())
}

async fn is(client: &Client, path: &str, status: u16) -> anyhow::Result<()> {
    let check = async || (client.get(path).await.ok()?.status == status).then_some(());
    eventually_within(Duration::from_secs(20), &format!("{path} gives {status}"), check).await
}
