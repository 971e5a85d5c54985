//! A step that the work queue lost is found by the audit and dispatched again (H16b).

use anyhow::ensure;
use millrace_common::names;
use millrace_tests::{Stack, eventually};
use serde_json::json;

use crate::definition;

#[tokio::test]
async fn steps_lost_by_the_queue_are_found_and_dispatched_again() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let one = client
        .apply(&definition(
            "one",
            "- a: {call: 'noop:1.0.0@default', with: {x: 1}}",
        ))
        .await?;
    stack.workers[0].kill9();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(client.start(&one, json!({})).await?);
    }
    let jetstream = stack.nats.jetstream().await?;
    let steps = jetstream.get_stream(names::STEPS_STREAM).await?;
    let count = async || Some(steps.get_info().await.ok()?.state.messages);
    eventually("the steps are in the queue", async || {
        (count().await? == 5).then_some(())
    })
    .await?;
    steps.purge().await?;
    ensure!(count().await == Some(0), "the queue is not empty");
    // A worker that finds an empty queue has nothing to do: only the audit can help.
    stack.workers[0].restart()?;
    for id in &ids {
        let done = client.wait(id).await?;
        ensure!(done["output"] == json!({"x": 1}), "{done}");
    }
    let lost = client.metric("millrace_steps_lost_total").await?;
    ensure!(lost >= 5.0, "{lost} of 5 losses are counted");
    Ok(())
}
