//! What happens at the bounds: too large, log full, memory full.

use anyhow::ensure;
use futures_util::{StreamExt, stream};
use millrace_tests::{Answer, NatsOptions, RedisOptions, Stack, eventually};
use serde_json::{Value, json};

use crate::definition;

const WAITS: &str = "- a: {wait: PT1H}";

#[tokio::test]
async fn an_input_of_ten_megabytes_is_refused_with_the_bound() -> anyhow::Result<()> {
    let world = crate::world().await?;
    let client = world.stack.client();
    let plain = client.apply(&definition("plain", "- a: {set: {x: 1}}")).await?;
    let body = json!({"definition": plain, "input": "x".repeat(10 << 20)});
    let refused = client.post("/api/v1/instances", &body).await?.expect(413)?;
    ensure!(
        refused.detail().contains("bytes") && refused.body["maxBytes"].is_u64(),
        "{}",
        refused.body
    );
    Ok(())
}

#[tokio::test]
async fn an_input_that_the_server_does_not_take_is_refused_with_both_sizes() -> anyhow::Result<()> {
    let options = NatsOptions {
        max_payload: Some(64 * 1024),
        ..NatsOptions::default()
    };
    let stack = Stack::builder().nats(options).start().await?;
    let client = stack.client();
    let plain = client.apply(&definition("plain", "- a: {set: {x: 1}}")).await?;
    let body = json!({"definition": plain, "input": "x".repeat(100_000)});
    let refused = client.post("/api/v1/instances", &body).await?.expect(413)?;
    let (bytes, max) = (refused.body["bytes"].as_u64(), refused.body["maxBytes"].as_u64());
    ensure!(
        bytes > Some(100_000) && max == Some(64 * 1024),
        "{}",
        refused.body
    );
    client
        .post(
            "/api/v1/instances",
            &json!({"definition": plain, "input": "x".repeat(10_000)}),
        )
        .await?
        .expect(201)?;
    Ok(())
}

#[tokio::test]
async fn a_step_that_the_server_does_not_take_faults_its_task() -> anyhow::Result<()> {
    let options = NatsOptions {
        max_payload: Some(64 * 1024),
        ..NatsOptions::default()
    };
    let stack = Stack::builder().nats(options).start().await?;
    let client = stack.client();
    let child = definition("child", "- a: {set: {x: '${ \"x\" * (.n // 0) }'}}");
    client.apply(&child).await?;
    let large = "'${ \"x\" * 100000 }'";
    let small = "'${ 100000 }'";
    let workflow = |input: &str| {
        format!(
            "- a: {{run: {{workflow: {{namespace: default, name: child, version: 1.0.0, input: {{{input}}}}}}}}}"
        )
    };
    for (name, task, says) in [
        (
            "large-step",
            format!("- a: {{call: 'noop:1.0.0@default', with: {{x: {large}}}}}"),
            "the step for `noop:1.0.0",
        ),
        (
            "large-start",
            workflow(&format!("n: 0, x: {large}")),
            "the start of the workflow",
        ),
        (
            "large-end",
            workflow(&format!("n: {small}")),
            "the output of the workflow",
        ),
    ] {
        let faulted = client.run(&definition(name, &task), json!({})).await?;
        let detail = faulted["error"]["detail"].as_str().unwrap_or_default();
        ensure!(
            faulted["status"] == "faulted" && detail.contains(says) && detail.contains("max_payload"),
            "{name}: {} {}",
            faulted["status"],
            faulted["error"]
        );
    }
    // The partition works on, and nothing is left to be sent.
    let task = "- a: {call: 'noop:1.0.0@default', with: {x: 1}}";
    let done = client.run(&definition("small-step", task), json!({})).await?;
    ensure!(done["status"] == "completed", "{done}");
    Ok(())
}

#[tokio::test]
async fn a_result_that_is_too_large_faults_its_task_with_both_sizes() -> anyhow::Result<()> {
    let world = crate::world().await?;
    let client = world.stack.client();
    let task = "- a: {call: http, with: {method: get, endpoint: 'http://stub.test/own/big/900000'}}";
    let faulted = client.run(&definition("big-result", task), json!({})).await?;
    ensure!(faulted["status"] == "faulted", "{}", faulted["status"]);
    let error = &faulted["error"];
    let detail = error["detail"].as_str().unwrap_or_default();
    let bound = millrace_common::limits::PAYLOAD_BYTES_MAX.to_string();
    ensure!(detail.contains("90000") && detail.contains(&bound), "{error}");
    ensure!(
        error["type"].as_str().is_some_and(|t| t.ends_with("/runtime")),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_computed_input_that_is_too_large_faults_its_task() -> anyhow::Result<()> {
    let world = crate::world().await?;
    let client = world.stack.client();
    let task = "- a: {call: 'noop:1.0.0@default', with: {x: '${ \"x\" * 900000 }'}}";
    let faulted = client.run(&definition("big-input", task), json!({})).await?;
    let detail = faulted["error"]["detail"].as_str().unwrap_or_default();
    let bound = millrace_common::limits::PAYLOAD_BYTES_MAX.to_string();
    ensure!(
        faulted["status"] == "faulted" && detail.contains(&bound),
        "{} {}",
        faulted["status"],
        faulted["error"]
    );
    Ok(())
}

#[tokio::test]
async fn a_full_log_refuses_starts_and_running_instances_finish() -> anyhow::Result<()> {
    let builder = Stack::builder().coordinator_env("MILLRACE_PARTITIONS", "1");
    let stack = builder
        .coordinator_env("MILLRACE_LOG_BYTES_MAX", "1MiB")
        .start()
        .await?;
    let client = stack.client();
    let slow = "- a: {call: 'sleep:1.0.0@default', with: {duration: PT4S}}\n- b: {set: {done: true}}";
    let slow = client.apply(&definition("slow", slow)).await?;
    let waits = client.apply(&definition("waits", WAITS)).await?;
    let mut running = Vec::new();
    for _ in 0..5 {
        running.push(client.start(&slow, json!({})).await?);
    }
    // Eight of 100 kB are three quarters of the log.
    for _ in 0..8 {
        client.start(&waits, json!("x".repeat(100_000))).await?;
    }
    // A new id each time: a repeated start is answered with the instance that exists, also under pressure.
    let mut more = 0;
    let refused = eventually("starts are refused", async || {
        more += 1;
        let answer = client
            .start_as(&format!("one-more-{more}"), &waits, json!({}))
            .await
            .ok()?;
        (answer.status != 201 && answer.status != 200).then_some(answer)
    })
    .await;
    let refused = match refused {
        Ok(refused) => refused,
        Err(error) => {
            let log = stack
                .nats
                .jetstream()
                .await?
                .get_stream("MR_LOG_0")
                .await?
                .get_info()
                .await?;
            let status = client.get("/api/v1/status").await?.body;
            return Err(error.context(format!("log {log:?}, status {status}")));
        }
    };
    is_refusal(&refused)?;
    for id in &running {
        let done = client.wait(id).await?;
        ensure!(done["output"] == json!({"done": true}), "{done}");
    }
    Ok(())
}

#[tokio::test]
async fn a_full_redis_loses_nothing_and_goes_on_when_there_is_room() -> anyhow::Result<()> {
    let redis = RedisOptions {
        max_memory: Some(12 << 20),
        ..RedisOptions::default()
    };
    let stack = Stack::builder().redis(redis).start().await?;
    let client = &stack.client();
    let waits = &client.apply(&definition("waits", WAITS)).await?;
    let quick = client
        .apply(&definition(
            "quick",
            "- a: {call: 'noop:1.0.0@default', with: {x: 1}}",
        ))
        .await?;
    // Twice as much as there is room for, before anybody can look at the memory again.
    let input = &Value::from("x".repeat(200_000));
    let answers: Vec<(String, Answer)> = stream::iter(0..120)
        .map(async |n| {
            let id = format!("large-{n}");
            let answer = client.start_as(&id, waits, input.clone()).await?;
            anyhow::Ok((id, answer))
        })
        .buffer_unordered(10)
        .filter_map(async |result| result.ok())
        .collect()
        .await;
    ensure!(
        answers.len() == 120,
        "only {} of 120 starts were answered",
        answers.len()
    );
    let accepted = |a: &Answer| matches!(a.status, 200..=202);
    let refused: Vec<_> = answers.iter().filter(|(_, a)| !accepted(a)).collect();
    ensure!(!refused.is_empty(), "memory was never full");
    refused.iter().try_for_each(|(_, answer)| is_refusal(answer))?;

    let mut connection = stack.redis.connection().await?;
    redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory", "0"])
        .query_async::<()>(&mut connection)
        .await?;
    let count = answers.iter().filter(|(_, a)| accepted(a)).count();
    println!("{count} starts accepted, {} refused", refused.len());
    for (id, _) in answers.iter().filter(|(_, a)| accepted(a)) {
        client.until(id, "it waits", |v| v["status"] == "waiting").await?;
    }
    let id = eventually("starts are accepted again", async || {
        client.start(&quick, json!({})).await.ok()
    })
    .await?;
    let done = client.wait(&id).await?;
    ensure!(done["status"] == "completed", "{done}");
    Ok(())
}

/// 429 or 503 that says when to come again.
fn is_refusal(answer: &Answer) -> anyhow::Result<()> {
    let says_when = answer
        .header("retry-after")
        .is_some_and(|text| text.parse::<u32>().is_ok());
    ensure!(
        matches!(answer.status, 429 | 503) && says_when,
        "no polite refusal: {answer:?}"
    );
    Ok(())
}
