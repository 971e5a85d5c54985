//! `millrace start NAME[@VERSION]`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::args::StartArgs;
use crate::client::{CallError, Client};
use crate::failure::{Exit, Failure, Outcome};
use crate::follow::{self, Target};
use crate::input::{labels, name_and_version, read_input};
use crate::limit::Limit;
use crate::output::{show, text};
use crate::persist::persist;

/// The API answers within its own 10 s; more is a broken connection.
const ANSWER: Duration = Duration::from_secs(20);

pub(super) async fn run(args: StartArgs, client: &Client) -> Outcome {
    let limit = Limit::after(args.timeout);
    let (name, version) = name_and_version(&args.definition);
    let mut definition = json!({"namespace": args.namespace, "name": name});
    if let Some(version) = version {
        definition["version"] = version.into();
    }
    let order = Order {
        id: args.id.unwrap_or_else(new_id),
        definition,
        input: read_input(&args.input)?,
        labels: json!(labels(&args.labels)?),
    };
    let started = start(client, &limit, &order).await?;
    if args.wait {
        return follow::conclude(&follow::follow(client, &started.target, &limit).await?);
    }
    if started.target.is_pending {
        eprintln!("accepted; it begins when the partition of the instance is served again");
    }
    show(args.read.output, &started.view, |view| text(view, "/id"))
}

/// One start, the same at every repeat.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) id: String,
    /// As the API takes it.
    pub(super) definition: Value,
    pub(super) input: Value,
    pub(super) labels: Value,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Started {
    /// As the API answered.
    pub(super) view: Value,
    /// To be followed.
    pub(super) target: Target,
}

/// Chosen here, so that a repeat after a lost answer starts nothing new.
pub(super) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Starts an instance. Its id is on stderr before the first request leaves: whatever happens then, it can be asked for.
pub(super) async fn start(client: &Client, limit: &Limit, order: &Order) -> Outcome<Started> {
    let Order {
        id,
        definition,
        input,
        labels,
    } = order;
    let request = json!({"definition": definition, "id": id, "input": input, "labels": labels});
    eprintln!("starting {} as {id}", text(definition, "/name"));
    let mut is_known = true;
    let posting = persist(client, limit, async || {
        let answer = client.try_post("/api/v1/instances", &request, ANSWER).await;
        is_known &= !answer.as_ref().is_err_and(may_have_started);
        answer
    });
    let answer = tokio::select! {
        answer = posting => answer,
        () = limit.over() => {
            let missed = limit.missed(&format!("instance {id} was not seen to start"));
            return Err(missed.hint(ask_for(id)));
        }
    };
    match answer {
        Ok(answer) => Ok(Started {
            target: Target {
                id: text(&answer.body, "/id"),
                namespace: Some(text(definition, "/namespace")),
                is_pending: answer.status.as_u16() == 202,
            },
            view: answer.body,
        }),
        Err(error) if is_known || !error.is_transient() => Err(client.failure(error)),
        Err(error) => Err(unknown(id, client.failure(error))),
    }
}

fn may_have_started(error: &CallError) -> bool {
    match error {
        CallError::Unreachable(_) => false,
        CallError::Unanswered(_) => true,
        CallError::Refused(_, problem, _) => problem.code == "outcomeUnknown",
    }
}

fn unknown(id: &str, failure: Failure) -> Failure {
    let message = format!(
        "whether instance {id} was started is not known: {}",
        failure.message
    );
    Failure {
        exit: Exit::Unreachable,
        message,
        ..failure
    }
    .hint(ask_for(id))
}

fn ask_for(id: &str) -> String {
    format!(
        "ask with `millrace instance get {id}`, or start it again with `--id {id}`: an id starts only once"
    )
}
