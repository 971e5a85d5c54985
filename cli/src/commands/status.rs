//! `millrace status`.

use serde_json::Value;

use crate::args::ReadArgs;
use crate::client::Client;
use crate::failure::Outcome;
use crate::output::{fields, show, text};
use crate::terminal::Style;

pub(super) async fn run(args: &ReadArgs, client: &Client) -> Outcome {
    let status = client.get("/api/v1/status").await?;
    show(args.output, &status, |status| table(status, client.base()))
}

fn table(s: &Value, base: &str) -> String {
    let style = Style::stdout();
    let coordinators = s["coordinators"].as_array().map_or(0, Vec::len);
    let durability = format!(
        "mode {}: {}\n{}",
        text(s, "/durability/mode"),
        text(s, "/durability/promise"),
        unknown(s)
    );
    fields(&[
        (
            "coordinator",
            format!(
                "{} {} at {base}, 1 of {coordinators}",
                text(s, "/coordinator"),
                text(s, "/build")
            ),
        ),
        ("nats", format!("nats-server {}", text(s, "/nats/version"))),
        ("redis", redis(s)),
        ("durability", durability),
        ("partitions", partitions(s, style)),
        (
            "instances",
            format!(
                "{} open of {}",
                text(s, "/instances/open"),
                text(s, "/instances/total")
            ),
        ),
        ("workers", workers(s)),
        ("schedules", schedules(s)),
        ("pressure", pressure(s, style)),
        ("restarts", restarts(s, style)),
    ])
}

fn unknown(s: &Value) -> String {
    let lines = s["durability"]["unknown"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    lines
        .iter()
        .filter_map(|l| Some(format!("{}\n", l.as_str()?)))
        .collect()
}

fn redis(s: &Value) -> String {
    let error = text(s, "/redis/error");
    if !error.is_empty() {
        return error;
    }
    let aof = match (s["redis"]["appendonly"].as_bool(), text(s, "/redis/appendfsync")) {
        (Some(true), fsync) if fsync.is_empty() => "append-only file".to_owned(),
        (Some(true), fsync) => format!("append-only file, fsync {fsync}"),
        _ => "no append-only file".to_owned(),
    };
    format!(
        "{} {}, {aof}",
        text(s, "/redis/flavour"),
        text(s, "/redis/version")
    )
}

fn partitions(s: &Value, style: Style) -> String {
    let here = s["partitions"]["here"].as_object();
    let mut lines = format!("{} in the cluster\n", text(s, "/partitions/count"));
    for (number, state) in here.into_iter().flatten() {
        let phase = text(state, "/phase");
        let shown = if phase == "serving" {
            style.green(&phase)
        } else {
            style.yellow(&phase)
        };
        lines += &format!("{number} {shown}, applied {}", text(state, "/applied"));
        let problem = text(state, "/problem");
        if !problem.is_empty() {
            lines += &format!(": {}", style.red(&problem));
        }
        lines.push('\n');
    }
    lines
}

fn workers(s: &Value) -> String {
    let count = |health: &str| text(s, &format!("/workers/{health}"));
    format!(
        "{} alive, {} late, {} gone",
        count("alive"),
        count("late"),
        count("gone")
    )
}

fn schedules(s: &Value) -> String {
    let due = text(s, "/schedules/nextDue");
    let here = text(s, "/schedules/here");
    if due.is_empty() {
        here
    } else {
        format!("{here}, next due {due}")
    }
}

fn pressure(s: &Value, style: Style) -> String {
    match text(s, "/pressure/bound") {
        bound if bound.is_empty() => "none".into(),
        bound => style.red(&format!(
            "{bound}: {}; starts are refused",
            text(s, "/pressure/detail")
        )),
    }
}

fn restarts(s: &Value, style: Style) -> String {
    let restarts = s["restarts"].as_object();
    let parts: Vec<_> = restarts
        .into_iter()
        .flatten()
        .map(|(part, n)| format!("{part} {n}"))
        .collect();
    if parts.is_empty() {
        "none".into()
    } else {
        style.yellow(&parts.join(", "))
    }
}
