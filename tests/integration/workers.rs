//! Workers come and go; steps do not.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_tests::{Stack, eventually};
use serde_json::json;

use crate::definition;

const SLOW: &str = "- a: {call: 'sleep:1.0.0@default', with: {duration: PT6S}}";

#[tokio::test]
async fn a_drained_worker_hands_its_step_back_at_once() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .workers(2)
        .worker_env("MILLRACE_DRAIN", "1s")
        .start()
        .await?;
    let client = stack.client();
    let slow = client.apply(&definition("slow", SLOW)).await?;
    let id = client.start(&slow, json!({})).await?;
    let holder = runs_on(&stack).await?;
    let begun = Instant::now();
    stack.workers[holder].terminate();
    let status = stack.workers[holder].ended(Duration::from_secs(10)).await?;
    ensure!(status.success(), "a drained worker ended with {status}");
    let done = client.wait(&id).await?;
    let other = stack.workers[1 - holder].name();
    ensure!(done["output"]["worker"] == other, "{done}");
    // The lease lasts 30 s; handed back, the step goes to the other worker at once.
    ensure!(
        begun.elapsed() < Duration::from_secs(15),
        "the step waited for its lease: {:?}",
        begun.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_killed_workers_step_goes_to_another_when_its_lease_ends() -> anyhow::Result<()> {
    let ack_wait = Duration::from_secs(2);
    let stack = Stack::builder()
        .workers(2)
        .env("MILLRACE_ACK_WAIT", "2s")
        .start()
        .await?;
    let client = stack.client();
    let slow = client.apply(&definition("slow", SLOW)).await?;
    let id = client.start(&slow, json!({})).await?;
    let holder = runs_on(&stack).await?;
    let begun = Instant::now();
    stack.workers[holder].kill9();
    let other = stack.workers[1 - holder].name().to_owned();
    eventually("the other worker runs the step", async || {
        let workers = client.get("/api/v1/workers").await.ok()?;
        let worker = workers.body["items"]
            .as_array()?
            .iter()
            .find(|w| w["id"] == *other)?
            .clone();
        (worker["slotsUsed"].as_u64()? == 1).then_some(())
    })
    .await?;
    let done = client.wait(&id).await?;
    ensure!(
        done["output"]["worker"] == *other && done["output"]["delivery"] == 2,
        "{done}"
    );
    let took = begun.elapsed().saturating_sub(Duration::from_secs(6));
    println!("a killed worker's step ran again {took:?} after the kill");
    ensure!(
        took < ack_wait + Duration::from_secs(1),
        "taken over after {took:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_step_that_kills_every_worker_is_given_up() -> anyhow::Result<()> {
    let builder = Stack::builder()
        .worker_program("ledger-worker")
        .env("MILLRACE_ACK_WAIT", "1s");
    let stack = builder.start().await?;
    let client = stack.client();
    let crash = client
        .apply(&definition("crash", "- a: {call: 'crash:1.0.0@default'}"))
        .await?;
    let id = client.start(&crash, json!({})).await?;
    let mut crashes = 0;
    let path = format!("/api/v1/instances/{id}");
    let faulted =
        millrace_tests::eventually_within(Duration::from_secs(120), "the step is given up", async || {
            if !stack.workers[0].is_running() {
                crashes += 1;
                stack.workers[0].restart().ok()?;
            }
            let view = client.get(&path).await.ok()?.body;
            (view["status"] == "faulted").then_some(view)
        })
        .await?;
    println!("given up after {crashes} crashes");
    ensure!(crashes <= 20, "{crashes} workers were killed");
    let detail = faulted["error"]["detail"].as_str().unwrap_or_default();
    ensure!(
        faulted["error"]["status"] == 500 && detail.contains("20"),
        "{faulted}"
    );
    Ok(())
}

/// Place of the worker that runs the only step.
async fn runs_on(stack: &Stack) -> anyhow::Result<usize> {
    let client = stack.client();
    let name = eventually("a worker runs the step", async || {
        let workers = client.get("/api/v1/workers").await.ok()?;
        let busy = workers.body["items"]
            .as_array()?
            .iter()
            .find(|w| w["slotsUsed"] == 1)?
            .clone();
        Some(busy["id"].as_str()?.to_owned())
    })
    .await?;
    stack
        .workers
        .iter()
        .position(|w| w.name() == name)
        .context("a worker of this stack")
}
