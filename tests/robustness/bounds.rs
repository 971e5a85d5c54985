//! Bounds of the servers, and servers that are not there.

use millrace_tests::{Stack, eventually, eventually_within};
use serde_json::json;
use std::time::Duration;

use crate::{all_complete, definition, noops, phases, start_many};

#[tokio::test]
async fn a_full_log_refuses_starts_and_finishes_what_it_accepted() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .coordinator_env("MILLRACE_LOG_BYTES_MAX", "1MiB")
        .coordinator_env("MILLRACE_PARTITIONS", "1")
        .start()
        .await?;
    let client = stack.client();
    let definition = client.apply(&noops("fill", 2)).await?;
    let mut accepted = Vec::new();
    let refused = eventually("a start is refused", async || {
        let id = format!("fill-{}", accepted.len());
        let input = json!({"x": "y".repeat(20_000)});
        let answer = client.start_as(&id, &definition, input).await.ok()?;
        if answer.status == 201 {
            accepted.push(id);
            return None;
        }
        Some(answer)
    })
    .await?;
    assert!(matches!(refused.status, 429 | 503), "{}", refused.body);
    assert!(
        refused.header("retry-after").is_some(),
        "no Retry-After: {}",
        refused.body
    );
    assert!(!accepted.is_empty());
    all_complete(&client, &accepted).await?;
    // Room is made: by the operator here, by trimming in the long run.
    let jetstream = stack.nats.jetstream().await?;
    let stream = jetstream.get_stream("MR_LOG_0").await?;
    let mut config = stream.cached_info().config.clone();
    config.max_bytes = 64 << 20;
    jetstream.update_stream(config).await?;
    eventually("starts are taken again", async || {
        let answer = client.start_as("after", &definition, json!({})).await.ok()?;
        matches!(answer.status, 200 | 201).then_some(())
    })
    .await?;
    all_complete(&client, &["after".to_owned()]).await
}

#[tokio::test]
async fn redis_at_its_memory_bound_stalls_and_loses_nothing() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let slow = client
        .apply(&definition(
            "slow",
            "  - a: { wait: { seconds: 1 } }\n  - b: { call: 'noop:1.0.0@default' }\n",
        ))
        .await?;
    let ids = start_many(&client, &slow, "mem-", 50).await?;
    let mut redis = stack.redis.connection().await?;
    let mut limit = async |bytes: &str| -> anyhow::Result<()> {
        Ok(redis::cmd("CONFIG")
            .arg("SET")
            .arg("maxmemory")
            .arg(bytes)
            .query_async::<()>(&mut redis)
            .await?)
    };
    limit("1").await?;
    eventually("a partition shows that it is stalled", async || {
        phases(&client)
            .await
            .ok()?
            .iter()
            .any(|p| p == "stalled")
            .then_some(())
    })
    .await?;
    let refused = eventually("starts are refused", async || {
        let answer = client.start_as("mem-late", &slow, json!({})).await.ok()?;
        matches!(answer.status, 429 | 503).then_some(answer)
    })
    .await?;
    assert!(!refused.detail().is_empty(), "{}", refused.body);
    limit("0").await?;
    all_complete(&client, &ids).await
}

#[tokio::test]
async fn absent_servers_are_waited_for() -> anyhow::Result<()> {
    let stack = Stack::builder().prepare()?;
    for process in stack.coordinators.iter().chain(&stack.workers) {
        process.restart()?;
    }
    let client = stack.client();
    eventually("it is alive", async || {
        (client.get("/healthz").await.ok()?.status == 200).then_some(())
    })
    .await?;
    assert_eq!(client.get("/readyz").await?.status, 503);
    let answer = client.get("/api/v1/instances").await?;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.detail().contains("redis"), "{}", answer.body);
    stack.redis.process().restart()?;
    assert_eq!(client.get("/readyz").await?.status, 503);
    stack.nats.process().restart()?;
    eventually_within(Duration::from_secs(60), "it is ready", async || {
        (client.get("/readyz").await.ok()?.status == 200).then_some(())
    })
    .await?;
    let view = client.run(&noops("late", 2), json!({})).await?;
    assert_eq!(view["status"], "completed", "{view}");
    Ok(())
}
