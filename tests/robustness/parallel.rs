//! A large parallel `for`: results in order, time that grows with the number of items, memory that stays small.

use std::time::{Duration, Instant};

use anyhow::ensure;
use millrace_tests::{Client, Stack};
use serde_json::{Value, json};

use crate::definition;

const TASKS: &str = "  - l:
      for: { in: '${ [range(.n)] }' }
      do:
        - c: { call: 'noop:1.0.0@default', with: { i: '${ $index }' }, output: { as: '${ .i }' } }
      metadata: { millrace: { for: { mode: parallel, maxConcurrency: 64 } } }
";

/// Memory that Redis uses, in bytes.
async fn redis_bytes(stack: &Stack) -> anyhow::Result<u64> {
    let mut redis = stack.redis.connection().await?;
    let text: String = redis::cmd("INFO").arg("memory").query_async(&mut redis).await?;
    let used = text.lines().find_map(|l| l.strip_prefix("used_memory:"));
    Ok(used.unwrap_or_default().trim().parse()?)
}

async fn timed(client: &Client, definition: &Value, n: u32) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let id = client.start(definition, json!({"n": n})).await?;
    let view = client
        .until(&id, "it ended", |v| v["endedAt"].is_string())
        .await?;
    let took = begun.elapsed();
    let output = view["output"].as_array().cloned().unwrap_or_default();
    ensure!(
        output.len() == n as usize,
        "{} results: {}",
        output.len(),
        view["error"]
    );
    let is_in_order = output
        .iter()
        .enumerate()
        .all(|(i, v)| v.as_u64() == Some(i as u64));
    ensure!(is_in_order, "the results of {n} items are not in order");
    Ok(took)
}

/// Runs `n` items and a tenth of them; gives both times, and checks memory.
async fn large(n: u32) -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let definition = client.apply(&definition("parallel", TASKS)).await?;
    timed(&client, &definition, 500).await?;
    let (memory, redis) = (
        stack.coordinators[0].usage()?.rss_bytes,
        redis_bytes(&stack).await?,
    );
    let small = timed(&client, &definition, n / 10).await?;
    let whole = timed(&client, &definition, n).await?;
    let grown = stack.coordinators[0].usage()?.rss_bytes.saturating_sub(memory);
    let stored = redis_bytes(&stack).await?.saturating_sub(redis);
    let per_item = |took: Duration, n: u32| took.as_secs_f64() * 1e6 / f64::from(n);
    eprintln!(
        "{n} items: {whole:?}, {:.0} µs an item ({:.0} for {}); coordinator grew by {} KiB, redis by {} KiB",
        per_item(whole, n),
        per_item(small, n / 10),
        n / 10,
        grown / 1024,
        stored / 1024,
    );
    ensure!(
        whole < small * 20,
        "time is not linear: {whole:?} for {n} items, {small:?} for a tenth"
    );
    let bound = 64 * 1024 * 1024 + 1024 * u64::from(n);
    ensure!(
        grown < bound && stored < bound,
        "memory: {grown} and {stored} bytes, allowed are {bound}"
    );
    Ok(())
}

#[tokio::test]
async fn a_hundred_thousand_items_are_linear_in_order_and_bounded() -> anyhow::Result<()> {
    large(100_000).await
}
