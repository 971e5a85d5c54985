//! Partitions change hands, steps are lost or left behind, timers outlive their coordinator.

use std::time::{Duration, Instant};

use millrace_tests::{Stack, eventually, eventually_within};
use serde_json::json;

use crate::{all_complete, definition, noops, phases, start_many};

const PARTITIONS: usize = 4;

async fn pair() -> anyhow::Result<Stack> {
    let stack = Stack::builder()
        .coordinators(2)
        .workers(2)
        .coordinator_env("MILLRACE_PARTITIONS", PARTITIONS.to_string())
        .coordinator_env("MILLRACE_LEASE_TTL", "2s")
        .coordinator_env("MILLRACE_ACK_WAIT", "3s")
        .start()
        .await?;
    Ok(stack)
}

async fn serves_all(stack: &Stack, coordinator: usize) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let client = stack.client_of(coordinator);
    eventually(
        &format!("coordinator {coordinator} serves everything"),
        async || {
            let phases = phases(&client).await.ok()?;
            (phases.len() == PARTITIONS && phases.iter().all(|p| p == "serving")).then_some(())
        },
    )
    .await?;
    Ok(begun.elapsed())
}

#[tokio::test]
async fn partitions_are_shared_and_taken_over_within_seconds() -> anyhow::Result<()> {
    let stack = pair().await?;
    eventually_within(
        Duration::from_secs(60),
        "both coordinators serve something",
        async || {
            let mut all = Vec::new();
            for coordinator in 0..2 {
                all.push(
                    phases(&stack.client_of(coordinator))
                        .await
                        .ok()?
                        .iter()
                        .any(|p| p == "serving"),
                );
            }
            all.iter().all(|serves| *serves).then_some(())
        },
    )
    .await?;
    let client = stack.client_of(1);
    let definition = client.apply(&noops("shared", 3)).await?;
    let ids = start_many(&client, &definition, "shared-a", 50).await?;
    stack.coordinators[0].kill9();
    let took = serves_all(&stack, 1).await?;
    assert!(took < Duration::from_secs(5), "take-over took {took:?}");
    let more = start_many(&client, &definition, "shared-b", 20).await?;
    all_complete(&client, &ids).await?;
    all_complete(&client, &more).await?;
    // The other one comes back, and the first leaves in good order.
    stack.coordinators[0].restart()?;
    let back = stack.client_of(0);
    eventually("it is ready again", async || {
        (back.get("/readyz").await.ok()?.status == 200).then_some(())
    })
    .await?;
    stack.coordinators[1].terminate();
    let status = stack.coordinators[1].ended(Duration::from_secs(20)).await?;
    assert!(status.success(), "{status}");
    let took = serves_all(&stack, 0).await?;
    assert!(
        took < Duration::from_secs(3),
        "hand-over took {took:?} after the process had ended"
    );
    let last = start_many(&back, &definition, "shared-c", 20).await?;
    all_complete(&back, &last).await
}

#[tokio::test]
async fn a_timer_outlives_its_coordinator_and_is_never_early() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let definition = client
        .apply(&definition("sleepy", "  - a: { wait: { seconds: 4 } }\n"))
        .await?;
    let begun = Instant::now();
    let id = client.start(&definition, json!({})).await?;
    client
        .until(&id, "it waits", |v| v["status"] == "waiting")
        .await?;
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    let view = client.wait(&id).await?;
    assert_eq!(view["status"], "completed", "{view}");
    assert!(
        begun.elapsed() >= Duration::from_secs(4),
        "early: {:?}",
        begun.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn a_step_of_a_killed_worker_is_taken_over() -> anyhow::Result<()> {
    let stack = pair().await?;
    let client = stack.client();
    let source = definition(
        "slow-step",
        "  - s: { call: 'sleep:1.0.0@default', with: { sleep: 2000 } }\n",
    );
    let definition = client.apply(&source).await?;
    let id = client.start(&definition, json!({})).await?;
    let view = client
        .until(&id, "a worker runs it", |v| {
            v["waitingFor"][0]["worker"].is_string()
        })
        .await?;
    let worker = view["waitingFor"][0]["worker"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let process = stack
        .workers
        .iter()
        .find(|w| w.name() == worker)
        .expect("one of the stack's workers");
    process.kill9();
    let killed = Instant::now();
    let other = client
        .until(&id, "another worker runs it", |v| {
            v["waitingFor"][0]["worker"].as_str().is_some_and(|w| w != worker)
        })
        .await?;
    let took = killed.elapsed();
    // The lease is 3 s; the sign of life is written when the step begins again.
    assert!(took < Duration::from_secs(4), "take-over took {took:?}: {other}");
    let view = client.wait(&id).await?;
    assert_eq!(view["status"], "completed", "{view}");
    let history = client.history(&id).await?;
    let done = history.iter().filter(|e| e["type"] == "task.completed").count();
    assert_eq!(done, 1, "{history:?}");
    Ok(())
}

#[tokio::test]
async fn a_step_that_the_queue_lost_is_dispatched_again() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let definition = client.apply(&noops("lost", 1)).await?;
    stack.workers[0].kill9();
    let id = client.start(&definition, json!({})).await?;
    client
        .until(&id, "the step is out", |v| v["waitingFor"][0]["kind"] == "step")
        .await?;
    let jetstream = stack.nats.jetstream().await?;
    let steps = jetstream.get_stream("MR_STEPS").await?;
    eventually(
        "the step is in the queue and its sequence is committed",
        async || {
            let mut redis = stack.redis.connection().await.ok()?;
            let mut marked = 0;
            for p in 0..2 {
                let key = format!("{{mr:{p}}}:outbox");
                let values: Vec<String> = redis::cmd("HVALS").arg(key).query_async(&mut redis).await.ok()?;
                marked += values.iter().filter(|v| v.contains(' ')).count();
            }
            (marked == 1).then_some(())
        },
    )
    .await?;
    steps.purge().await?;
    stack.workers[0].restart()?;
    // The audit looks every half minute.
    let view = eventually_within(Duration::from_secs(90), "the lost step was run", async || {
        let view = client.instance(&id).await.ok()?;
        (view["status"] == "completed").then_some(view)
    })
    .await?;
    assert_eq!(view["status"], "completed");
    Ok(())
}
