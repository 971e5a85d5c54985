//! `millrace partition list|inspect|adopt|restore` and `millrace rebuild`. An order is never guessed: without `--yes` it
//! only tells what it would cost, and it names the halt that was seen, so that another one refuses it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{OrderArgs, PartitionCommand};
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Table, fields, items, show, text};
use crate::terminal::Style;

/// A rebuild folds the whole log; the coordinator answers a little earlier.
const ORDER: Duration = Duration::from_secs(630);

pub(super) async fn run(command: PartitionCommand, client: &Client) -> Outcome {
    match command {
        PartitionCommand::List { read } => {
            let list = client.get("/api/v1/partitions").await?;
            show(read.output, &list, |list| table(items(list)))
        }
        PartitionCommand::Inspect { partition, read } => {
            let found = client.get(&path(partition)).await?;
            show(read.output, &found, details)
        }
        PartitionCommand::Adopt(args) => order("adopt", &args, client).await,
        PartitionCommand::Restore(args) => order("restore", &args, client).await,
    }
}

/// Tells what an order costs, and gives it when the operator said yes.
pub(super) async fn order(action: &str, args: &OrderArgs, client: &Client) -> Outcome {
    let p = args.partition;
    let found = client.get(&path(p)).await?;
    let halt = text(&found, "/halted/code");
    if halt.is_empty() {
        let message = format!("partition {p} is not halted; it is {}", text(&found, "/phase"));
        return Err(Failure::new(Exit::Usage, message));
    }
    let remedies = found["halted"]["remedies"].as_array();
    let remedy = remedies.into_iter().flatten().find(|r| r["action"] == action);
    let Some(remedy) = remedy else {
        let message = format!("{action} does not resolve {halt} of partition {p}");
        return Err(Failure::new(Exit::Usage, message).hint(format!("see `millrace partition inspect {p}`")));
    };
    eprintln!(
        "partition {p} is halted with {halt}: {}",
        text(&found, "/halted/text")
    );
    eprintln!("{action} costs: {}", text(remedy, "/loses"));
    if !args.yes {
        let message = format!("nothing was done to partition {p}");
        return Err(Failure::new(Exit::Usage, message).hint("repeat with --yes"));
    }
    let wish = json!({"halt": halt, "by": args.by, "confirmed": true});
    let answer = client
        .try_post(&format!("{}:{action}", path(p)), &wish, ORDER)
        .await;
    let answer = answer.map_err(|e| client.failure(e))?;
    show(args.read.output, &answer.body, |p| table(std::slice::from_ref(p)))
}

fn path(partition: u16) -> String {
    format!("/api/v1/partitions/{partition}")
}

fn table(partitions: &[Value]) -> String {
    let style = Style::stdout();
    let mut table = Table::new([
        "PARTITION",
        "PHASE",
        "OWNER",
        "EPOCH",
        "APPLIED",
        "LAG",
        "OUTBOX",
        "OPEN",
        "DEAD",
    ]);
    for p in partitions {
        let phase = text(p, "/phase");
        let phase = match text(p, "/halted/code") {
            code if code.is_empty() => phase,
            code => style.bold(&format!("{phase} {code}")),
        };
        table.row([
            text(p, "/partition"),
            phase,
            text(p, "/owner"),
            text(p, "/epoch"),
            text(p, "/applied"),
            text(p, "/lag"),
            text(p, "/outbox"),
            text(p, "/open"),
            text(p, "/dead"),
        ]);
    }
    table.text("no partitions")
}

/// The line of the table, and what does not fit into it.
fn details(p: &Value) -> String {
    let lines = |list: &Value, line: &dyn Fn(&Value) -> String| -> String {
        let all: Vec<String> = list.as_array().into_iter().flatten().map(line).collect();
        all.join("\n")
    };
    let log = match p["stream"].is_object() {
        true => format!(
            "{} holds {} to {}, {} bytes",
            text(p, "/stream/name"),
            text(p, "/stream/first"),
            text(p, "/stream/last"),
            text(p, "/stream/bytes")
        ),
        false => "its stream is gone".into(),
    };
    let remedies = lines(&p["halted"]["remedies"], &|r| {
        format!("{}\n  costs {}", text(r, "/command"), text(r, "/loses"))
    });
    let quarantined = lines(&p["quarantined"]["items"], &|i| {
        format!(
            "{} since {}: {}",
            text(i, "/instance"),
            text(i, "/since"),
            text(i, "/reason")
        )
    });
    let dead = lines(&p["deadRecords"], &|r| {
        format!(
            "{} {} {}",
            text(r, "/sequence"),
            text(r, "/kind"),
            text(r, "/instance")
        )
    });
    let rest = fields(&[
        ("log", log),
        ("generation", text(p, "/generation")),
        ("events", text(p, "/events")),
        ("timers", text(p, "/timers")),
        ("listening", text(p, "/listening")),
        ("schedules", text(p, "/schedules")),
        ("instances", text(p, "/instances")),
        ("halted", text(p, "/halted/code")),
        ("because", text(p, "/halted/text")),
        ("resolve", remedies),
        ("quarantined", quarantined),
        ("dead records", dead),
    ]);
    format!("{}\n{rest}", table(std::slice::from_ref(p)))
}
