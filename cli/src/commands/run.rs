//! `millrace run FILE`: apply, start, follow, print the output alone on stdout.

use std::time::Duration;

use serde_json::{Value, json};

use super::{apply, start};
use crate::args::{Connect, RunArgs};
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome};
use crate::follow::{self, Target};
use crate::input::read_input;
use crate::output::text;
use crate::source::{self, Checked};
use crate::stack::{Dir, Plan, Stack};

pub(super) async fn run(args: RunArgs, connect: &Connect) -> Outcome {
    let source = source::read(&args.file)?;
    let input = read_input(&args.input)?;
    if !args.local {
        return follow::conclude(&execute(&args, &source, &input, &Client::new(connect)?).await?);
    }
    let plan = Plan {
        workers: 1,
        port: None,
        ack_wait: Duration::from_secs(30),
        token: None,
    };
    let starting = Stack::start(&plan, Dir::temporary()?);
    let stack = tokio::select! {
        stack = starting => stack?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    let view = match stack.client() {
        Ok(client) => execute(&args, &source, &input, &client).await,
        Err(failure) => Err(failure),
    };
    // Nobody needs its data: no reason to wait for a clean end.
    stack.kill().await;
    // The instance is gone with the stack: no advice how to follow or retry it.
    let concluded = view.and_then(|view| follow::conclude(&view));
    concluded.map_err(|failure| Failure {
        hint: None,
        ..failure
    })
}

async fn execute(args: &RunArgs, source: &Checked, input: &Value, client: &Client) -> Outcome<Value> {
    apply::apply(client, &args.file, source).await?;
    let Checked {
        namespace,
        name,
        version,
        ..
    } = source;
    let definition = json!({"namespace": namespace, "name": name, "version": version});
    let view = start::start(client, None, &definition, input, &json!({})).await?;
    let target = Target {
        id: text(&view, "/id"),
        namespace: Some(namespace.clone()),
    };
    eprintln!("started {name} {version} as {}", target.id);
    follow::follow(client, &target, args.timeout).await
}
