//! Two coordinators: partitions are shared, taken over after a crash, handed over at a stop.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_common::{InstanceKey, partition_of};
use millrace_tests::{Client, Owner, Stack, eventually_within};
use serde_json::{Value, json};

use crate::definition;

const CRASH_MAX: Duration = Duration::from_secs(5);
const STOP_MAX: Duration = Duration::from_secs(1);

#[tokio::test]
async fn partitions_move_when_their_owner_dies_and_when_it_stops() -> anyhow::Result<()> {
    let stack = Stack::builder().coordinators(2).start().await?;
    let any = stack.client_of(0);
    let hello = any
        .apply(&definition(
            "hello",
            "- a: {call: 'noop:1.0.0@default', with: {x: 1}}",
        ))
        .await?;

    // Both serve the whole API, whoever owns what.
    for at in 0..2 {
        let client = stack.client_of(at);
        let id = client.start(&hello, json!({})).await?;
        let done = stack.client_of(1 - at).wait(&id).await?;
        ensure!(done["status"] == "completed", "{done}");
    }

    let (killed, before) = owner(&stack).await?;
    let survivor = stack.client_of(1 - killed);
    let begun = Instant::now();
    stack.coordinators[killed].kill9();
    run_in_partition_0(&survivor, &hello, "after-crash").await?;
    let took = begun.elapsed();
    println!("a run in the killed owner's partition completed after {took:?}");
    ensure!(took < CRASH_MAX, "take-over took {took:?}");
    let (after, now) = owner(&stack).await?;
    ensure!(
        after != killed && now.counter > before.counter,
        "{before:?} then {now:?}"
    );

    stack.coordinators[killed].restart()?;
    stack.ready().await?;
    let (stopped, before) = owner(&stack).await?;
    let begun = Instant::now();
    stack.coordinators[stopped].terminate();
    let took = moved(&stack, &before, begun).await?;
    println!("a stopped owner's partition moved after {took:?}");
    ensure!(took < STOP_MAX, "hand-over took {took:?}");
    run_in_partition_0(&stack.client_of(1 - stopped), &hello, "after-stop").await?;
    let status = stack.coordinators[stopped].ended(Duration::from_secs(20)).await?;
    ensure!(status.success(), "a polite stop ended with {status}");
    Ok(())
}

#[tokio::test]
async fn a_start_waits_for_an_owner_that_is_stalled_as_long_as_it_was_asked_to() -> anyhow::Result<()> {
    // Nobody takes over within this test.
    let stack = Stack::builder()
        .coordinators(2)
        .coordinator_env("MILLRACE_LEASE_TTL", "40s")
        .start()
        .await?;
    let tasks = "- a: {set: {x: 1}}";
    let hello = stack.client().apply(&definition("stalled-owner", tasks)).await?;
    let (frozen, _) = owner(&stack).await?;
    let awake = stack.client_of(1 - frozen);
    let body = json!({"definition": hello, "id": id_in_partition_0("stalled")?});
    stack.coordinators[frozen].stop();
    // Longer than the API waits for the owner's answer: the start is in the log, and nobody reads it.
    let wait = Duration::from_secs(13);
    let begun = Instant::now();
    let accepted = awake
        .post("/api/v1/instances?wait=13s", &body)
        .await?
        .expect(202)?;
    ensure!(accepted.body["status"] == "pending", "{}", accepted.body);
    ensure!(begun.elapsed() >= wait, "answered after {:?}", begun.elapsed());
    stack.coordinators[frozen].cont();
    let done = awake.post("/api/v1/instances?wait=60s", &body).await?;
    ensure!(
        matches!(done.status, 200 | 201) && done.body["status"] == "completed",
        "{} {}",
        done.status,
        done.body
    );
    Ok(())
}

#[tokio::test]
async fn a_frozen_owner_changes_nothing_when_it_wakes() -> anyhow::Result<()> {
    let stack = Stack::builder().coordinators(2).start().await?;
    let any = stack.client();
    let tasks =
        "- a: {call: 'noop:1.0.0@default', with: {n: 1}}\n- b: {call: 'noop:1.0.0@default', with: {n: 2}}";
    let two = any.apply(&definition("two", tasks)).await?;
    let (frozen, before) = owner(&stack).await?;
    let awake = stack.client_of(1 - frozen);
    start_twenty(&awake, &two, "before").await?;
    stack.coordinators[frozen].stop();
    moved(&stack, &before, Instant::now()).await?;
    start_twenty(&awake, &two, "during").await?;
    stack.coordinators[frozen].cont();
    start_twenty(&awake, &two, "after").await?;
    for when in ["before", "during", "after"] {
        for n in 0..20 {
            let id = format!("{when}-{n}");
            let done = awake.wait(&id).await?;
            ensure!(done["output"] == json!({"n": 2}), "{done}");
            let completed = awake
                .history(&id)
                .await?
                .iter()
                .filter(|e| e["type"] == "task.completed")
                .count();
            ensure!(completed == 2, "{id} has {completed} completed tasks");
        }
    }
    ensure!(
        stack.coordinators[frozen].is_running(),
        "the frozen coordinator ended"
    );
    Ok(())
}

/// While owners change an answer may be lost; then the start is found in Redis, and 200 says that it exists.
async fn start_twenty(client: &Client, definition: &Value, when: &str) -> anyhow::Result<()> {
    for n in 0..20 {
        let answer = client
            .start_as(&format!("{when}-{n}"), definition, json!({}))
            .await?;
        ensure!(matches!(answer.status, 200..=202), "{}", answer.body);
    }
    Ok(())
}

/// Place and reign of partition 0's owner.
async fn owner(stack: &Stack) -> anyhow::Result<(usize, Owner)> {
    let owner = stack.owner(0).await?;
    let at = stack
        .coordinator_named(&owner.name)
        .with_context(|| format!("unknown owner {owner:?}"))?;
    Ok((at, owner))
}

/// Time until partition 0 has another owner.
async fn moved(stack: &Stack, before: &Owner, begun: Instant) -> anyhow::Result<Duration> {
    eventually_within(
        Duration::from_secs(20),
        "partition 0 has a new owner",
        async || {
            let now = stack.owner(0).await.ok()?;
            (now.name != before.name && !now.released).then(|| begun.elapsed())
        },
    )
    .await
}

/// An id that partition 0 owns.
fn id_in_partition_0(name: &str) -> anyhow::Result<String> {
    let in_0 = |id: &String| InstanceKey::new("default", id).is_ok_and(|key| partition_of(&key, 2).0 == 0);
    (0..)
        .map(|n| format!("{name}-{n}"))
        .find(in_0)
        .context("half of all ids")
}

/// Runs an instance that partition 0 owns.
async fn run_in_partition_0(client: &Client, definition: &Value, name: &str) -> anyhow::Result<()> {
    let id = id_in_partition_0(name)?;
    client.start_as(&id, definition, json!({})).await?;
    let done = client.wait(&id).await?;
    ensure!(done["status"] == "completed", "{done}");
    Ok(())
}
