//! Schedules on whole stacks: they keep their rhythm, wait for what they should wait for, obey people, and lose and double
//! nothing while coordinators die.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_common::{InstanceKey, partition_of};
use millrace_dsl::calendar::moment;
use millrace_tests::{Client, Stack, eventually, eventually_within};
use serde_json::{Value, json};

use crate::definition;

/// A definition with a schedule and settings of ours.
fn scheduled(name: &str, schedule: &str, settings: &str, tasks: &str) -> String {
    format!(
        "document: {{dsl: '1.0.3', namespace: default, name: {name}, version: 1.0.0, \
         metadata: {{millrace: {{schedule: {settings}}}}}}}\nschedule: {schedule}\ndo:\n{tasks}"
    )
}

/// Runs of a definition by due time.
async fn runs(client: &Client, name: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let path = format!("/api/v1/instances?definition={name}&limit=500");
    let list = client.get(&path).await?.expect(200)?.body;
    let items = list["items"].as_array().context("no items")?;
    let mut found = BTreeMap::new();
    for run in items {
        let due = run["labels"]["millrace.scheduledAt"]
            .as_str()
            .context("no due time")?;
        let before = found.insert(
            format!("{} {due}", run["labels"]["millrace.schedule"]),
            run.clone(),
        );
        ensure!(before.is_none(), "two runs for one due time: {run}");
    }
    Ok(found)
}

async fn at_least(client: &Client, name: &str, count: usize) -> anyhow::Result<BTreeMap<String, Value>> {
    eventually_within(
        Duration::from_secs(120),
        &format!("{count} runs of {name}"),
        async || runs(client, name).await.ok().filter(|runs| runs.len() >= count),
    )
    .await
}

async fn schedule(client: &Client, name: &str) -> anyhow::Result<Value> {
    let path = format!("/api/v1/schedules/default/{name}");
    eventually(&format!("schedule {name} is in force"), async || {
        client
            .get(&path)
            .await
            .ok()
            .filter(|a| a.status == 200)
            .map(|a| a.body)
    })
    .await
}

async fn command(client: &Client, name: &str, action: &str, body: &Value) -> anyhow::Result<Value> {
    let path = format!("/api/v1/schedules/default/{name}/{action}");
    Ok(client.post(&path, body).await?.expect(200)?.body)
}

/// RFC 3339 in UTC to Unix ms.
fn ms(text: &Value) -> anyhow::Result<i64> {
    let text = text.as_str().context("no time")?;
    moment(text).with_context(|| format!("{text} is no time"))
}

#[tokio::test]
async fn runs_come_in_rhythm_and_schedules_obey() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let set = "- a: {set: {seen: '${ . }'}}";
    client
        .apply(&scheduled("every", "{every: PT1S}", "{input: {n: 7}}", set))
        .await?;
    client
        .apply(&scheduled(
            "cron",
            "{cron: '* * * * * *'}",
            "{timezone: Asia/Kolkata}",
            set,
        ))
        .await?;
    client
        .apply(&scheduled("after", "{after: PT1S}", "{}", "- a: {wait: PT2S}"))
        .await?;
    client
        .apply(&scheduled(
            "skip",
            "{every: PT1S}",
            "{overlap: skip}",
            "- a: {wait: PT3S}",
        ))
        .await?;

    for name in ["every", "cron"] {
        let found = at_least(&client, name, 4).await?;
        rhythm(&found, 1_000)?;
    }
    let found = at_least(&client, "every", 4).await?;
    let run = found.values().next().context("no run")?;
    let whole = client.wait(run["id"].as_str().unwrap_or_default()).await?;
    ensure!(whole["output"] == json!({"seen": {"n": 7}}), "{whole}");

    let found = at_least(&client, "after", 3).await?;
    let mut ended = None;
    for (n, run) in found.values().take(3).enumerate() {
        let whole = client.wait(run["id"].as_str().unwrap_or_default()).await?;
        let started = ms(&whole["createdAt"])?;
        if let Some(ended) = ended {
            ensure!(
                started - ended >= 1_000,
                "run {n} began {} ms after the one before",
                started - ended
            );
        }
        ended = Some(ms(&whole["endedAt"])?);
    }

    let found = at_least(&client, "skip", 3).await?;
    let mut free = 0;
    for run in found.values().take(2) {
        let whole = client.wait(run["id"].as_str().unwrap_or_default()).await?;
        ensure!(ms(&whole["createdAt"])? >= free, "two runs at a time");
        free = ms(&whole["endedAt"])?;
    }
    let skipped = schedule(&client, "skip").await?["counts"]["skipped"].as_u64();
    ensure!(skipped.unwrap_or(0) >= 2, "nothing was skipped: {skipped:?}");

    let status = client.get("/api/v1/status").await?.expect(200)?.body;
    ensure!(status["schedules"]["here"] == 4, "{}", status["schedules"]);
    ensure!(
        status["schedules"]["nextDue"].is_string(),
        "{}",
        status["schedules"]
    );
    eventually("the metrics know of schedules", async || {
        let text = client.get("/metrics").await.ok()?.body;
        let text = text.as_str()?;
        (text.contains("millrace_schedules 4")
            && text.contains("millrace_schedule_due_total{outcome=\"started\"}"))
        .then_some(())
    })
    .await
}

/// Due times are `period` ms apart, without a gap, and no run came early.
fn rhythm(found: &BTreeMap<String, Value>, period: i64) -> anyhow::Result<()> {
    let mut before = None;
    for run in found.values() {
        let (due, created) = (
            ms(&run["labels"]["millrace.scheduledAt"])?,
            ms(&run["createdAt"])?,
        );
        ensure!(created >= due, "{} ms early: {run}", due - created);
        if let Some(before) = before {
            ensure!(
                due - before == period,
                "{} ms lie between two due times: {run}",
                due - before
            );
        }
        before = Some(due);
    }
    Ok(())
}

#[tokio::test]
async fn people_pause_trigger_and_backfill() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let name = "report";
    client
        .apply(&scheduled(
            name,
            "{cron: '0 9 * * *'}",
            "{timezone: Europe/Vienna}",
            "- a: {set: {x: 1}}",
        ))
        .await?;
    let found = schedule(&client, name).await?;
    ensure!(
        found["triggers"][0]["timezone"] == "Europe/Vienna" && found["nextDue"].is_string(),
        "{found}"
    );

    let paused = command(&client, name, "pause", &json!({"reason": "migration"})).await?;
    ensure!(
        paused["paused"] == true && paused["reason"] == "migration",
        "{paused}"
    );
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    stack.ready().await?;
    let still = schedule(&client, name).await?;
    ensure!(
        still["paused"] == true && still["reason"] == "migration" && still["nextDue"].is_null(),
        "{still}"
    );

    let first = command(
        &client,
        name,
        "trigger",
        &json!({"id": "by-hand", "input": {"a": 1}}),
    )
    .await?;
    ensure!(first["instance"] == "by-hand", "{first}");
    let run = client.wait("by-hand").await?;
    ensure!(
        run["input"] == json!({"a": 1}) && run["labels"]["millrace.schedule"] == "manual",
        "{run}"
    );
    command(
        &client,
        name,
        "trigger",
        &json!({"id": "by-hand", "input": {"a": 1}}),
    )
    .await?;

    let span = json!({"from": "2026-03-27T00:00:00Z", "to": "2026-03-31T00:00:00Z"});
    command(&client, name, "backfill", &span).await?;
    let mut ids = Vec::new();
    for (_, run) in at_least(&client, name, 5).await? {
        ids.extend(
            run["id"]
                .as_str()
                .filter(|id| *id != "by-hand")
                .map(str::to_owned),
        );
    }
    // The clock goes forward on the 29th.
    let expected = [
        "report.cron.20260327T080000Z",
        "report.cron.20260328T080000Z",
        "report.cron.20260329T070000Z",
        "report.cron.20260330T070000Z",
    ];
    ensure!(ids == expected, "{ids:?}");

    let resumed = command(&client, name, "resume", &json!({})).await?;
    ensure!(
        resumed["paused"] == false && resumed["nextDue"].is_string(),
        "{resumed}"
    );
    let text = definition(name, "- a: {set: {x: 1}}").replace("version: 1.0.0", "version: 1.1.0");
    client.apply(&text).await?;
    eventually("a version without schedule ends it", async || {
        let answer = client.get("/api/v1/schedules/default/report").await.ok()?;
        (answer.status == 404 && answer.body["code"] == "scheduleNotFound").then_some(())
    })
    .await?;

    let wrong = scheduled(
        "wrong",
        "{every: PT1H, on: {one: {with: {type: x}}}}",
        "{}",
        "- a: {set: {x: 1}}",
    );
    let answer = client.try_apply(&wrong).await?.expect(422)?;
    ensure!(
        answer
            .body
            .to_string()
            .contains("`schedule.on` is not supported yet"),
        "{}",
        answer.body
    );
    Ok(())
}

#[tokio::test]
async fn each_due_time_has_one_run_while_coordinators_die() -> anyhow::Result<()> {
    let stack = Stack::builder().coordinators(2).start().await?;
    let client = stack.client();
    let name = "steady";
    client
        .apply(&scheduled(
            name,
            "{every: PT1S}",
            "{catchUp: all}",
            "- a: {wait: PT0.5S}",
        ))
        .await?;
    client
        .apply(&scheduled("chain", "{after: PT1S}", "{}", "- a: {wait: PT1S}"))
        .await?;
    schedule(&client, name).await?;
    let status = client.get("/api/v1/status").await?.expect(200)?.body;
    let partitions = u16::try_from(status["partitions"]["count"].as_u64().unwrap_or(0))?;
    let partition = partition_of(&InstanceKey::new("default", name)?, partitions);

    let mut wanted = 2;
    for _ in 0..4 {
        at_least(&client, name, wanted).await?;
        let owner = stack.owner(partition.0).await?;
        let killed = stack
            .coordinator_named(&owner.name)
            .context("the owner is one of ours")?;
        stack.coordinators[killed].kill9();
        wanted = at_least(&client, name, wanted + 2).await?.len();
        stack.coordinators[killed].restart()?;
        stack.ready().await?;
    }
    eventually("it is paused", async || {
        command(&client, name, "pause", &json!({})).await.ok()
    })
    .await?;
    let found = eventually("all its runs have ended", async || {
        schedule(&client, name)
            .await
            .ok()
            .filter(|s| s["runningTotal"] == 0)
    })
    .await?;
    let runs = runs(&client, name).await?;
    rhythm(&runs, 1_000)?;
    ensure!(
        found["counts"]["started"] == runs.len(),
        "{found}: {} runs",
        runs.len()
    );
    ensure!(
        found["counts"]["missed"] == 0 && found["counts"]["skipped"] == 0,
        "{found}"
    );
    ensure!(runs.values().all(|run| run["status"] == "completed"), "{runs:?}");

    let chain = at_least(&client, "chain", 4).await?;
    let mut free = 0;
    for run in chain.values().take(3) {
        let whole = client.wait(run["id"].as_str().unwrap_or_default()).await?;
        ensure!(
            ms(&whole["createdAt"])? >= free,
            "a run of `after` began before the one before had ended: {whole}"
        );
        free = ms(&whole["endedAt"])?;
    }
    Ok(())
}
