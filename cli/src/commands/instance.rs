//! `millrace instance list|get|history|watch|cancel|suspend|resume|retry|unquarantine`.

use serde_json::{Value, json};

use crate::args::{ControlArgs, InstanceCommand, InstanceRef};
use crate::client::{Client, Query};
use crate::entry;
use crate::failure::Outcome;
use crate::follow::{self, History, Target};
use crate::limit::Limit;
use crate::output::{Table, fields, items, show, text};
use crate::terminal::{Style, cut};

/// Instances in one page of the API.
const PAGE: usize = 500;

pub(super) async fn run(command: InstanceCommand, client: &Client) -> Outcome {
    match command {
        InstanceCommand::List {
            namespace,
            status,
            definition,
            labels,
            limit,
            read,
        } => {
            let mut query = Query::default();
            query.add_some("namespace", namespace.as_deref());
            query.add_some("definition", definition.as_deref());
            status.iter().for_each(|s| query.add("status", s));
            labels.iter().for_each(|l| query.add("label", l));
            let list = list(client, query, limit).await?;
            show(read.output, &list, table)
        }
        InstanceCommand::Get { instance, read } => {
            let (path, query) = target(instance).path("");
            let view = client.get(&format!("{path}{}", query.text())).await?;
            show(read.output, &view, details)
        }
        InstanceCommand::History { instance, read } => {
            let news = History::new(target(instance)).news(client).await;
            let entries = news.map_err(|e| client.failure(e))?;
            show(read.output, &json!({"entries": entries}), history)
        }
        InstanceCommand::Watch { instance, timeout } => {
            let target = target(instance);
            follow::conclude(&follow::follow(client, &target, &Limit::after(timeout)).await?)
        }
        InstanceCommand::Cancel(args) => control("cancel", args, client).await,
        InstanceCommand::Suspend(args) => control("suspend", args, client).await,
        InstanceCommand::Resume(args) => control("resume", args, client).await,
        InstanceCommand::Retry(args) => control("retry", args, client).await,
        InstanceCommand::Unquarantine { control, retry, .. } => {
            let record = if retry { "retry" } else { "skip" };
            ask("unquarantine", control, json!({"record": record}), client).await
        }
    }
}

async fn control(action: &str, args: ControlArgs, client: &Client) -> Outcome {
    ask(action, args, json!({}), client).await
}

async fn ask(action: &str, args: ControlArgs, mut body: Value, client: &Client) -> Outcome {
    let (path, query) = target(args.instance).path(&format!(":{action}"));
    if let Some(reason) = args.reason {
        body["reason"] = reason.into();
    }
    let answer = client.post(&format!("{path}{}", query.text()), &body).await?;
    if answer.status.as_u16() == 202 {
        eprintln!("accepted; it is carried out when the instance's partition is served again");
    }
    show(args.read.output, &answer.body, |view| {
        format!("{} {}", text(view, "/id"), text(view, "/status"))
    })
}

/// Reads pages until there are `limit` instances or no more.
async fn list(client: &Client, filter: Query, limit: usize) -> Outcome<Value> {
    let mut all = Vec::new();
    let mut cursor = None;
    while all.len() < limit {
        let mut query = filter.clone();
        query.add("limit", &(limit - all.len()).min(PAGE).to_string());
        query.add_some("cursor", cursor.as_deref());
        let page = client.get(&format!("/api/v1/instances{}", query.text())).await?;
        all.extend(items(&page).iter().cloned());
        match page["nextCursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(json!({"items": all})),
        }
    }
    Ok(json!({"items": all, "nextCursor": cursor}))
}

fn target(instance: InstanceRef) -> Target {
    Target {
        id: instance.id,
        namespace: instance.namespace,
        is_pending: false,
    }
}

fn table(list: &Value) -> String {
    let style = Style::stdout();
    let mut table = Table::new(["ID", "NAMESPACE", "DEFINITION", "STATUS", "CREATED", "ENDED"]);
    for i in items(list) {
        let definition = format!(
            "{}@{}",
            text(i, "/definition/name"),
            text(i, "/definition/version")
        );
        let status = style.status(&text(i, "/status"));
        table.row([
            text(i, "/id"),
            text(i, "/namespace"),
            definition,
            status,
            text(i, "/createdAt"),
            text(i, "/endedAt"),
        ]);
    }
    table.text("no instances")
}

fn details(view: &Value) -> String {
    let style = Style::stdout();
    let definition = ["namespace", "name", "version"].map(|part| text(view, &format!("/definition/{part}")));
    let [namespace, name, version] = definition;
    let labels = view["labels"].as_object().map_or_else(String::new, |labels| {
        labels
            .iter()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(" ")
    });
    let waiting = view["waitingFor"].as_array().map_or(&[][..], Vec::as_slice);
    let waiting: String = waiting
        .iter()
        .map(|w| entry::waiting(w, 120, style) + "\n")
        .collect();
    fields(&[
        ("id", text(view, "/id")),
        ("definition", format!("{namespace}/{name}@{version}")),
        ("status", style.status(&text(view, "/status"))),
        ("labels", labels),
        ("created", text(view, "/createdAt")),
        ("started", text(view, "/startedAt")),
        ("ended", text(view, "/endedAt")),
        ("input", cut(&shortened(&view["input"]), 400)),
        ("output", cut(&shortened(&view["output"]), 400)),
        ("error", entry::problem(&view["error"])),
        ("at", text(view, "/error/instance")),
        ("waits for", waiting),
    ])
}

fn shortened(value: &Value) -> String {
    if value.is_null() {
        String::new()
    } else {
        value.to_string()
    }
}

fn history(history: &Value) -> String {
    let entries = history["entries"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(first) = entries.first() else {
        return "nothing has happened yet".into();
    };
    let base = entry::base_ms(first);
    entries
        .iter()
        .map(|e| entry::line(e, base, Style::stdout()) + "\n")
        .collect()
}
