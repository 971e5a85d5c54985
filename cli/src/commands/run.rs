//! `millrace run FILE`: apply, start, follow, print the output alone on stdout.

use std::time::Duration;

use serde_json::{Value, json};

use super::apply;
use super::start::{self, Order};
use crate::args::{Connect, RunArgs};
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::follow;
use crate::input::read_input;
use crate::limit::Limit;
use crate::source::{self, Checked};
use crate::stack::{Dir, Plan, Stack, tell_processes, while_served};
use crate::stop::Stop;

/// What is run.
struct Job {
    args: RunArgs,
    source: Checked,
    input: Value,
    limit: Limit,
}

pub(super) async fn run(args: RunArgs, connect: &Connect) -> Outcome {
    let job = Job {
        limit: Limit::after(args.timeout),
        source: source::read(&args.file)?,
        input: read_input(&args.input)?,
        args,
    };
    if job.args.local {
        return job.run_locally().await;
    }
    follow::conclude(&job.execute(&Client::new(connect)?).await?)
}

impl Job {
    /// On a stack of its own, which is gone however this ends.
    async fn run_locally(&self) -> Outcome {
        let mut stop = Stop::new()?;
        let mut stack = None;
        let view = tokio::select! {
            view = self.start_and_execute(&mut stack) => view,
            failure = stop.told() => Err(failure),
        };
        let Some(stack) = stack else {
            return view.map(drop);
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

    async fn start_and_execute(&self, slot: &mut Option<Stack>) -> Outcome<Value> {
        let plan = Plan {
            workers: 1,
            port: None,
            ack_wait: Duration::from_secs(30),
            token: None,
        };
        tell_processes();
        let starting = async { Stack::start(&plan, Dir::temporary()?).await };
        let started = self.limit.cover(|| "the stack was not ready".into(), starting);
        let stack = slot.insert(started.await?);
        let client = stack.client()?;
        while_served(&mut stack.coordinator, self.execute(&client)).await
    }

    async fn execute(&self, client: &Client) -> Outcome<Value> {
        let file = &self.args.file;
        let applying = apply::apply(client, &self.limit, file, &self.source);
        let not_applied = || format!("{} was not applied", file.display());
        self.limit.cover(not_applied, applying).await?;
        let Checked {
            namespace,
            name,
            version,
            ..
        } = &self.source;
        let order = Order {
            id: start::new_id(),
            definition: json!({"namespace": namespace, "name": name, "version": version}),
            input: self.input.clone(),
            labels: json!({}),
        };
        let started = start::start(client, &self.limit, &order).await?;
        follow::follow(client, &started.target, &self.limit).await
    }
}
