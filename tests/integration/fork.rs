//! A wide fork.

use std::fmt::Write;
use std::time::Instant;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::definition;

#[tokio::test]
async fn a_fork_of_a_thousand_steps_keeps_its_order() -> anyhow::Result<()> {
    let world = crate::world().await?;
    let client = world.stack.client();
    let mut tasks = String::from("- wide:\n    fork:\n      branches:\n");
    for n in 0..1_000 {
        writeln!(
            tasks,
            "      - b{n}: {{call: 'noop:1.0.0@default', with: {{n: {n}}}}}"
        )?;
    }
    let wide = client.apply(&definition("wide", &tasks)).await?;
    let begun = Instant::now();
    let id = client.start(&wide, json!({})).await?;
    let done = client.wait(&id).await?;
    println!("fork of 1,000 steps: {:?}", begun.elapsed());
    let expected: Value = (0..1_000).map(|n| json!({"n": n})).collect();
    ensure!(done["output"] == expected, "{} {}", done["status"], done["error"]);
    Ok(())
}
