//! `millrace worker list|get|drain`.

use serde_json::{Value, json};

use crate::args::WorkerCommand;
use crate::client::{Client, segment};
use crate::failure::Outcome;
use crate::output::{Table, fields, items, show, text};

pub(super) async fn run(command: WorkerCommand, client: &Client) -> Outcome {
    match command {
        WorkerCommand::List { read } => {
            let list = client.get("/api/v1/workers").await?;
            show(read.output, &list, table)
        }
        WorkerCommand::Get { id, read } => {
            let worker = client.get(&format!("/api/v1/workers/{}", segment(&id))).await?;
            show(read.output, &worker, details)
        }
        WorkerCommand::Drain { id, read } => {
            let answer = client
                .post(&format!("/api/v1/workers/{}:drain", segment(&id)), &json!({}))
                .await?;
            show(read.output, &answer.body, |worker| {
                format!(
                    "{} was asked to drain; it runs {} steps",
                    text(worker, "/id"),
                    text(worker, "/slotsUsed")
                )
            })
        }
    }
}

fn table(list: &Value) -> String {
    let mut table = Table::new(["ID", "HEALTH", "QUEUES", "SLOTS", "DONE", "FAILED", "LAST BEAT"]);
    for w in items(list) {
        let health = match w["draining"].as_bool() {
            Some(true) => format!("{} (draining)", text(w, "/health")),
            _ => text(w, "/health"),
        };
        let slots = format!("{}/{}", text(w, "/slotsUsed"), text(w, "/slots"));
        table.row([
            text(w, "/id"),
            health,
            joined(&w["queues"]),
            slots,
            text(w, "/doneTotal"),
            text(w, "/failedTotal"),
            text(w, "/lastBeatAt"),
        ]);
    }
    table.text("no workers")
}

fn details(w: &Value) -> String {
    let running = w["running"].as_array().map_or(&[][..], Vec::as_slice);
    let running: String = running
        .iter()
        .map(|r| {
            format!(
                "{} {} since {}\n",
                text(r, "/function"),
                text(r, "/step"),
                text(r, "/since")
            )
        })
        .collect();
    fields(&[
        ("id", text(w, "/id")),
        ("health", text(w, "/health")),
        ("draining", text(w, "/draining")),
        ("build", text(w, "/build")),
        ("host", text(w, "/host")),
        ("queues", joined(&w["queues"])),
        ("functions", joined(&w["functions"])),
        ("capabilities", joined(&w["capabilities"])),
        (
            "slots",
            format!("{} of {} in use", text(w, "/slotsUsed"), text(w, "/slots")),
        ),
        ("done", text(w, "/doneTotal")),
        ("failed", text(w, "/failedTotal")),
        ("registered", text(w, "/registeredAt")),
        ("last beat", text(w, "/lastBeatAt")),
        ("running", running),
    ])
}

fn joined(list: &Value) -> String {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
