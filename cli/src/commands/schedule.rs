//! `millrace schedule list|get|pause|resume|trigger|backfill`.

use serde_json::{Map, Value, json};

use crate::args::{ScheduleArgs, ScheduleCommand};
use crate::client::{Client, segment};
use crate::failure::Outcome;
use crate::input::read_input;
use crate::output::{Table, fields, items, show, text};

pub(super) async fn run(command: ScheduleCommand, client: &Client) -> Outcome {
    match command {
        ScheduleCommand::List { namespace, read } => {
            let filter = namespace
                .map(|n| format!("?namespace={}", segment(&n)))
                .unwrap_or_default();
            let list = client.get(&format!("/api/v1/schedules{filter}")).await?;
            show(read.output, &list, |list| table(items(list)))
        }
        ScheduleCommand::Get(args) => {
            let schedule = client.get(&path(&args)).await?;
            show(args.read.output, &schedule, details)
        }
        ScheduleCommand::Pause { schedule, reason } => {
            change("pause", &schedule, &json!({"reason": reason}), client).await
        }
        ScheduleCommand::Resume(args) => change("resume", &args, &json!({}), client).await,
        ScheduleCommand::Trigger {
            schedule,
            id,
            input: given,
        } => {
            let mut body = Map::new();
            body.extend(id.map(|id| ("id".to_owned(), id.into())));
            if let Some(given) = given {
                body.insert("input".to_owned(), read_input(&given)?);
            }
            change("trigger", &schedule, &Value::Object(body), client).await
        }
        ScheduleCommand::Backfill { schedule, from, to } => {
            change("backfill", &schedule, &json!({"from": from, "to": to}), client).await
        }
    }
}

async fn change(action: &str, args: &ScheduleArgs, body: &Value, client: &Client) -> Outcome {
    let answer = client.post(&format!("{}/{action}", path(args)), body).await?;
    show(args.read.output, &answer.body, |schedule| {
        match schedule.get("instance").and_then(Value::as_str) {
            Some(run) => format!("{run}\n"),
            None => table(std::slice::from_ref(schedule)),
        }
    })
}

fn path(args: &ScheduleArgs) -> String {
    format!(
        "/api/v1/schedules/{}/{}",
        segment(&args.namespace),
        segment(&args.name)
    )
}

fn table(schedules: &[Value]) -> String {
    let mut table = Table::new([
        "NAMESPACE",
        "NAME",
        "VERSION",
        "STATE",
        "DUE",
        "NEXT",
        "RUNNING",
        "STARTED",
        "MISSED",
    ]);
    for s in schedules {
        let state = if s["paused"] == true { "paused" } else { "active" };
        table.row([
            text(s, "/namespace"),
            text(s, "/name"),
            text(s, "/definition/version"),
            state.into(),
            triggers(s),
            text(s, "/nextDue"),
            text(s, "/runningTotal"),
            text(s, "/counts/started"),
            text(s, "/counts/missed"),
        ]);
    }
    table.text("no schedules")
}

fn triggers(schedule: &Value) -> String {
    let one = |t: &Value| match t["timezone"].as_str() {
        Some(zone) => format!("{} {} ({zone})", text(t, "/kind"), text(t, "/value")),
        None => format!("{} {}", text(t, "/kind"), text(t, "/value")),
    };
    let all: Vec<String> = schedule["triggers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(one)
        .collect();
    all.join(", ")
}

/// The line of the table, and what does not fit into it.
fn details(schedule: &Value) -> String {
    let running: Vec<&str> = schedule["running"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let rest = fields(&[
        ("reason", text(schedule, "/reason")),
        ("overlap", text(schedule, "/overlap")),
        ("catch-up", text(schedule, "/catchUp")),
        ("queued", text(schedule, "/queued")),
        ("backfill", text(schedule, "/backfill")),
        ("skipped", text(schedule, "/counts/skipped")),
        ("started last", text(schedule, "/lastStarted/id")),
        ("ended last", text(schedule, "/lastEnded/id")),
        ("ended as", text(schedule, "/lastEnded/status")),
        ("running", running.join("\n")),
    ]);
    format!("{}\n{rest}", table(std::slice::from_ref(schedule)))
}
