//! Expressions that would take all time or all memory fault their own instance, soon, and hold up nobody.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::definition;

const HOSTILE: [&str; 4] = [
    "[range(1e12)]",
    "def f: f; f",
    "\"x\" * 1e9",
    "[limit(1e9; repeat(1))] | length",
];
const FAULT_MAX: Duration = Duration::from_secs(5);

#[tokio::test]
async fn hostile_expressions_fault_alone() -> anyhow::Result<()> {
    let world = crate::world().await?;
    let client = &world.stack.client();
    let plain = client
        .apply(&definition(
            "bystander",
            "- a: {call: 'noop:1.0.0@default', with: {x: '${ .x }'}}",
        ))
        .await?;
    let mut hostile = Vec::new();
    for (n, expression) in HOSTILE.iter().enumerate() {
        let task = format!("- a: {{set: {{x: '${{ {expression} }}'}}}}");
        hostile.push(client.apply(&definition(&format!("hostile-{n}"), &task)).await?);
    }
    let faults = stream::iter(&hostile).map(async |definition| {
        let begun = Instant::now();
        let id = client.start(definition, json!({})).await?;
        let faulted = client.wait(&id).await?;
        anyhow::Ok((faulted, begun.elapsed()))
    });
    let bystanders = stream::iter(0..1_000).map(async |n| {
        let id = client.start(&plain, json!({"x": n})).await?;
        let done = client.wait(&id).await?;
        ensure!(done["output"] == json!({"x": n}), "{done}");
        anyhow::Ok(())
    });
    let (faults, _) = tokio::try_join!(
        faults
            .buffered(HOSTILE.len())
            .try_collect::<Vec<(Value, Duration)>>(),
        bystanders.buffered(20).try_collect::<Vec<()>>(),
    )?;
    for ((faulted, took), expression) in faults.iter().zip(HOSTILE) {
        println!("`{expression}` faulted after {took:?}");
        ensure!(faulted["status"] == "faulted", "`{expression}`: {faulted}");
        let kind = faulted["error"]["type"].as_str().unwrap_or_default();
        ensure!(kind.ends_with("/expression"), "`{expression}`: {faulted}");
        ensure!(*took < FAULT_MAX, "`{expression}` took {took:?}");
    }
    Ok(())
}
