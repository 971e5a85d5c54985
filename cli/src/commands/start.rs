//! `millrace start NAME[@VERSION]`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::StartArgs;
use crate::client::{CallError, Client};
use crate::failure::Outcome;
use crate::follow::{self, Target};
use crate::input::{labels, name_and_version, read_input};
use crate::output::{show, text};

/// The API answers within its own 10 s; more is a broken connection.
const ANSWER: Duration = Duration::from_secs(20);
/// Repeats of a start whose outcome is not known: safe, since the id is the same.
const TRIES: usize = 3;

pub(super) async fn run(args: StartArgs, client: &Client) -> Outcome {
    let (name, version) = name_and_version(&args.definition);
    let mut definition = json!({"namespace": args.namespace, "name": name});
    if let Some(version) = version {
        definition["version"] = version.into();
    }
    let input = read_input(&args.input)?;
    let labels = json!(labels(&args.labels)?);
    let view = start(client, args.id, &definition, &input, &labels).await?;
    if !args.wait {
        return show(args.read.output, &view, |view| text(view, "/id"));
    }
    let target = Target {
        id: text(&view, "/id"),
        namespace: Some(args.namespace),
    };
    eprintln!("started {}", target.id);
    follow::conclude(&follow::follow(client, &target, args.timeout).await?)
}

/// Starts an instance and gives its view. The id is chosen here, so that a repeat after a lost answer starts nothing new.
pub(super) async fn start(
    client: &Client,
    id: Option<String>,
    definition: &Value,
    input: &Value,
    labels: &Value,
) -> Outcome<Value> {
    let id = id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let request = json!({"definition": definition, "id": id, "input": input, "labels": labels});
    for _ in 1..TRIES {
        match client.try_post("/api/v1/instances", &request, ANSWER).await {
            Ok(answer) => return Ok(answer.body),
            Err(CallError::Refused(status, problem)) if status.as_u16() == 503 => {
                eprintln!("waiting: {}", problem.detail);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(client.failure(error)),
        }
    }
    let last = client.try_post("/api/v1/instances", &request, ANSWER).await;
    last.map(|answer| answer.body)
        .map_err(|error| client.failure(error))
}
