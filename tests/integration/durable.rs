//! Nothing that matters lives in a process: timers, children and suspensions outlive coordinators and servers.

use std::time::{Duration, Instant};

use anyhow::ensure;
use millrace_tests::Stack;
use serde_json::json;

use crate::definition;

#[tokio::test]
async fn timers_children_and_suspensions_survive_a_coordinator() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let wait = client
        .apply(&definition("wait", "- a: {wait: PT3S}\n- b: {set: {done: true}}"))
        .await?;
    client
        .apply(&definition(
            "child",
            "- a: {wait: PT2S}\n- b: {set: {child: true}}",
        ))
        .await?;
    let child = "- a: {run: {workflow: {namespace: default, name: child, version: 1.0.0}}}";
    let parent = client.apply(&definition("parent", child)).await?;
    let begun = Instant::now();
    let waiting = client.start(&wait, json!({})).await?;
    let with_child = client.start(&parent, json!({})).await?;
    let suspended = client.start(&wait, json!({})).await?;
    client.control(&suspended, "suspend").await?.expect(200)?;

    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    stack.ready().await?;

    let done = client.wait(&waiting).await?;
    ensure!(done["output"] == json!({"done": true}), "{done}");
    ensure!(
        begun.elapsed() >= Duration::from_secs(3),
        "the timer was early: {:?}",
        begun.elapsed()
    );
    let done = client.wait(&with_child).await?;
    ensure!(done["output"] == json!({"child": true}), "{done}");
    let still = client.instance(&suspended).await?;
    ensure!(
        still["status"] == "suspended",
        "a suspension was forgotten: {still}"
    );
    client.control(&suspended, "resume").await?.expect(200)?;
    let done = client.wait(&suspended).await?;
    ensure!(done["status"] == "completed", "{done}");
    Ok(())
}

#[tokio::test]
async fn everything_killed_at_once_goes_on() -> anyhow::Result<()> {
    let stack = Stack::builder().env("MILLRACE_ACK_WAIT", "2s").start().await?;
    let client = stack.client();
    let tasks = "- a: {call: 'sleep:1.0.0@default', with: {duration: PT2S}}\n- b: {wait: PT1S}\n- c: {set: {done: true}}";
    let slow = client.apply(&definition("slow", tasks)).await?;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(client.start(&slow, json!({})).await?);
    }
    for process in stack.processes() {
        process.kill9();
    }
    for process in stack.processes() {
        process.restart()?;
    }
    for id in &ids {
        let done = client.wait(id).await?;
        ensure!(done["output"] == json!({"done": true}), "{done}");
    }
    Ok(())
}

#[tokio::test]
async fn a_retry_goes_on_from_the_failed_task() -> anyhow::Result<()> {
    let world = crate::world().await?;
    let client = world.stack.client();
    let tasks = "- first: {call: http, with: {method: get, endpoint: 'http://stub.test/own/count/retry-first'}}\n\
                 - second: {call: http, with: {method: get, endpoint: 'http://stub.test/own/flaky/retry-second/1'}}";
    let failed = client.run(&definition("retried", tasks), json!({})).await?;
    ensure!(failed["status"] == "faulted", "{failed}");
    let id = failed["id"].as_str().unwrap_or_default();
    client.control(id, "retry").await?.expect(200)?;
    let done = client
        .until(id, "it has completed", |v| v["status"] == "completed")
        .await?;
    ensure!(done["output"] == json!({"call": 2}), "{done}");
    ensure!(
        world.stub.calls("retry-first") == 1,
        "the completed task ran again"
    );
    Ok(())
}
