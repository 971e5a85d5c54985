//! The stores contradict each other: the partition halts with a code, and never starts from nothing.

use millrace_tests::{Stack, eventually};
use serde_json::json;

use crate::noops;

pub(crate) async fn halted(stack: &Stack, code: &str) -> anyhow::Result<String> {
    let client = stack.client();
    eventually(&format!("a partition halts with {code}"), async || {
        let status = client.get("/api/v1/status").await.ok()?.body;
        let here = status["partitions"]["here"].as_object()?.clone();
        let problem = |p: &serde_json::Value| {
            let text = p["problem"].as_str()?.to_owned();
            (p["phase"] == "halted" && text.contains(code)).then_some(text)
        };
        here.values().find_map(problem)
    })
    .await
}

#[tokio::test]
async fn an_emptied_redis_halts_instead_of_starting_from_nothing() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .coordinator_env("MILLRACE_PARTITIONS", "1")
        .start()
        .await?;
    let client = stack.client();
    let view = client.run(&noops("before", 2), json!({})).await?;
    assert_eq!(view["status"], "completed");
    let mut redis = stack.redis.connection().await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await?;
    let problem = halted(&stack, "MR-HALT-REDIS-LOST").await?;
    assert!(problem.contains("lost its data"), "{problem}");
    eventually("it is not ready", async || {
        (client.get("/readyz").await.ok()?.status == 503).then_some(())
    })
    .await?;
    assert_eq!(client.get("/healthz").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_deleted_log_halts_and_is_never_made_again() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .coordinator_env("MILLRACE_PARTITIONS", "1")
        .start()
        .await?;
    let client = stack.client();
    client.run(&noops("before", 2), json!({})).await?;
    let jetstream = stack.nats.jetstream().await?;
    jetstream.delete_stream("MR_LOG_0").await?;
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    halted(&stack, "LOG-LOST").await?;
    assert!(
        jetstream.get_stream("MR_LOG_0").await.is_err(),
        "the log was made again"
    );
    Ok(())
}
