//! Halted partitions brought back by an operator's commands, and quarantined instances let go on.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_tests::{Stack, binary, eventually};
use serde_json::{Value, json};

use crate::halts::halted;
use crate::{all_complete, definition, noops, start_many};

/// A step, a pause in which the stores are hurt, and a step.
fn slow(name: &str, seconds: u32) -> String {
    let tasks = format!(
        "  - a: {{ call: 'noop:1.0.0@default' }}\n  - w: {{ wait: {{ seconds: {seconds} }} }}\n  - b: {{ call: 'noop:1.0.0@default' }}\n"
    );
    definition(name, &tasks)
}

async fn one_partition() -> anyhow::Result<Stack> {
    let stack = Stack::builder().coordinator_env("MILLRACE_PARTITIONS", "1");
    stack.start().await
}

/// Runs `millrace` against the first coordinator; gives exit code, stdout and stderr.
async fn millrace(stack: &Stack, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
    let output = tokio::process::Command::new(binary("millrace")?)
        .args(arguments)
        .env("MILLRACE_URL", stack.url(0))
        .env("USER", "ann")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), output).await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

/// Told first what it costs, then done.
async fn ordered(stack: &Stack, command: &[&str]) -> anyhow::Result<()> {
    let (code, _, told) = millrace(stack, command).await?;
    ensure!(
        code == Some(2) && told.contains("costs: ") && told.contains("--yes"),
        "{code:?} {told}"
    );
    let (code, out, told) = millrace(stack, &[command, &["--yes", "-o", "json"]].concat()).await?;
    ensure!(code == Some(0), "{code:?} {out} {told}");
    let shown: Value = serde_json::from_str(&out)?;
    ensure!(
        shown["phase"] == "serving" && shown["halted"].is_null(),
        "{shown}"
    );
    let log = stack.coordinators[0].log();
    ensure!(
        log.contains("operator's order") && log.contains("ann"),
        "who ordered is in the log"
    );
    Ok(())
}

async fn until_waiting(stack: &Stack, ids: &[String]) -> anyhow::Result<()> {
    for id in ids {
        let waits = |view: &Value| view["waitingFor"][0]["kind"] == "timer";
        stack.client().until(id, "waits", waits).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_emptied_redis_is_rebuilt_from_the_log() -> anyhow::Result<()> {
    let stack = one_partition().await?;
    let client = stack.client();
    let quick = client.apply(&noops("quick", 2)).await?;
    let done = start_many(&client, &quick, "done", 20).await?;
    all_complete(&client, &done).await?;
    let slow = client.apply(&slow("slow", 8)).await?;
    let open = start_many(&client, &slow, "open", 20).await?;
    until_waiting(&stack, &open).await?;
    let mut redis = stack.redis.connection().await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await?;
    halted(&stack, "MR-HALT-REDIS-LOST").await?;

    let wish = |halt: &str, confirmed: bool| json!({"halt": halt, "by": "ann", "confirmed": confirmed});
    for (action, body, status) in [
        ("rebuild", wish("MR-HALT-LOG-LOST", true), 409),
        ("rebuild", wish("MR-HALT-REDIS-LOST", false), 400),
        ("adopt", wish("MR-HALT-REDIS-LOST", true), 409),
        ("mend", wish("MR-HALT-REDIS-LOST", true), 404),
    ] {
        let path = format!("/api/v1/partitions/0:{action}");
        client.post(&path, &body).await?.expect(status)?;
    }
    let (code, _, told) = millrace(&stack, &["partition", "restore", "0", "--yes"]).await?;
    ensure!(
        code == Some(2) && told.contains("lost its data"),
        "nothing was restored: {told}"
    );
    ordered(&stack, &["rebuild", "0"]).await?;

    all_complete(&client, &open).await?;
    for id in &done {
        ensure!(client.instance(id).await?["status"] == "completed", "{id}");
    }
    let view = client.run(&noops("after", 2), json!({})).await?;
    ensure!(view["status"] == "completed", "{view}");
    let (code, _, told) = millrace(&stack, &["rebuild", "0", "--yes"]).await?;
    ensure!(
        code == Some(2) && told.contains("is not halted"),
        "{code:?} {told}"
    );
    Ok(())
}

#[tokio::test]
async fn a_log_that_is_gone_is_adopted_and_the_state_is_kept() -> anyhow::Result<()> {
    let stack = one_partition().await?;
    let client = stack.client();
    let slow = client.apply(&slow("slow", 8)).await?;
    let open = start_many(&client, &slow, "open", 10).await?;
    until_waiting(&stack, &open).await?;
    let jetstream = stack.nats.jetstream().await?;
    jetstream.delete_stream("MR_LOG_0").await?;
    halted(&stack, "MR-HALT-LOG-LOST").await?;
    let shown = client.get("/api/v1/partitions/0").await?.expect(200)?.body;
    ensure!(shown["stream"].is_null(), "{shown}");
    let commands: Vec<_> = shown["halted"]["remedies"]
        .as_array()
        .context("remedies")?
        .iter()
        .collect();
    ensure!(
        commands
            .iter()
            .any(|r| r["command"] == "millrace partition adopt 0 --yes"),
        "{shown}"
    );

    ordered(&stack, &["partition", "adopt", "0"]).await?;
    let shown = client.get("/api/v1/partitions/0").await?.expect(200)?.body;
    ensure!(shown["generation"] == 1, "{shown}");
    all_complete(&client, &open).await?;
    let view = client.run(&noops("after", 2), json!({})).await?;
    ensure!(view["status"] == "completed", "{view}");
    // A coordinator that starts now finds both stores at one.
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    stack.ready().await?;
    let view = client.run(&noops("later", 1), json!({})).await?;
    ensure!(view["status"] == "completed", "{view}");
    Ok(())
}

#[tokio::test]
async fn a_redis_restored_to_a_moment_ago_goes_on_without_an_operator() -> anyhow::Result<()> {
    let stack = one_partition().await?;
    let client = stack.client();
    let quick = client.apply(&noops("quick", 3)).await?;
    let slow = client.apply(&slow("slow", 6)).await?;
    let mut ids = start_many(&client, &quick, "early", 20).await?;
    ids.extend(start_many(&client, &slow, "open", 20).await?);
    let (data, copy) = (stack.dir().join("redis"), stack.dir().join("redis-copy"));
    copy_all(&data, &copy)?;
    // Begun, done and gone on with since: Redis will know nothing of it.
    let since = start_many(&client, &quick, "since", 50).await?;
    all_complete(&client, &since).await?;
    ids.extend(since);
    ids.extend(start_many(&client, &slow, "late", 20).await?);
    stack.redis.process().kill9();
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&copy, &data)?;
    stack.redis.process().restart()?;
    stack.redis.ready().await?;
    all_complete(&client, &ids).await?;
    let shown = client.get("/api/v1/partitions").await?.expect(200)?.body;
    ensure!(shown["items"][0]["phase"] == "serving", "{shown}");
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_all(&entry.path(), &target)?,
            false => std::fs::copy(entry.path(), &target).map(|_bytes| ())?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_quarantined_instance_goes_on_with_the_record_that_panicked() -> anyhow::Result<()> {
    const PANIC: &str = "MILLRACE_TEST_PANIC_INSTANCE";
    let stack = one_partition().await?;
    let client = stack.client();
    let slow = client.apply(&slow("slow", 5)).await?;
    let ids = start_many(&client, &slow, "poison-", 2).await?;
    until_waiting(&stack, &ids).await?;
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart_with(PANIC, "poison")?;
    stack.ready().await?;
    let quarantined = async || {
        let shown = client.get("/api/v1/partitions/0").await.ok()?.body;
        let items = shown["quarantined"]["items"].as_array()?.len();
        (items == 2).then_some(shown)
    };
    let shown = eventually("both are quarantined", quarantined).await?;
    let dead = shown["deadRecords"].as_array().context("dead records")?;
    ensure!(
        dead.len() == 2 && dead.iter().all(|r| r["kind"] == "timer"),
        "{shown}"
    );

    // The update that mends it.
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    stack.ready().await?;
    for (id, how) in ids.iter().zip(["--retry", "--skip"]) {
        let (code, out, told) = millrace(&stack, &["instance", "unquarantine", id, how]).await?;
        ensure!(code == Some(0), "{how}: {out} {told}");
    }
    all_complete(&client, &ids).await?;
    let shown = client.get("/api/v1/partitions/0").await?.expect(200)?.body;
    ensure!(shown["deadRecords"] == json!([]), "{shown}");
    let (code, _, told) = millrace(&stack, &["instance", "unquarantine", &ids[0], "--skip"]).await?;
    ensure!(
        code == Some(2) && told.contains("cannot unquarantine"),
        "{code:?} {told}"
    );
    Ok(())
}
