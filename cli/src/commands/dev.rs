//! `millrace dev`: the whole stack in one terminal, supervised until Ctrl-C.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::workflows::Workflows;
use crate::args::{Connect, DevArgs};
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::stack::{Dir, Plan, Stack, tell_processes};
use crate::stop::Stop;
use crate::terminal::Style;

/// Between two looks at the children.
const LOOK: Duration = Duration::from_millis(250);
/// Between two looks at the definitions.
const WORKFLOWS: Duration = Duration::from_millis(500);
/// A child that ended is started again after this long.
const PAUSE: Duration = Duration::from_millis(500);
/// So many ends within this time are a fault that restarts do not heal.
const ENDS_MAX: usize = 5;
const ENDS_WITHIN: Duration = Duration::from_secs(30);
const ACK_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn run(args: DevArgs, connect: &Connect) -> Outcome {
    let mut stop = Stop::new()?;
    let mut workflows = args.workflows.map(Workflows::new).transpose()?;
    let dir = if args.ephemeral {
        Dir::temporary()?
    } else {
        Dir::kept(&args.dir)?
    };
    let plan = Plan {
        workers: args.workers,
        port: Some(args.port),
        ack_wait: ACK_WAIT,
        token: connect.token.clone(),
    };
    let started = tokio::select! {
        stack = Stack::start(&plan, dir) => Some(stack?),
        _asked = stop.told() => None,
    };
    let Some(mut stack) = started else { return Ok(()) };
    let client = stack.client()?;
    welcome(&stack, workflows.is_some());
    let ended = tokio::select! {
        failure = supervise(&mut stack) => Err(failure),
        () = keep_applied(&mut workflows, &client) => Ok(()),
        _asked = stop.told() => Ok(()),
    };
    eprintln!("stopping; Ctrl-C again ends at once");
    tokio::select! {
        () = stack.stop() => {}
        // Dropping the stack kills what is left.
        _again = stop.told() => {}
    }
    ended
}

fn welcome(stack: &Stack, has_workflows: bool) {
    let style = Style::stderr();
    let url = &stack.connect.url;
    eprintln!("{} at {}", style.bold("millrace is ready"), style.green(url));
    eprintln!("  api    {url}/api/v1, described in {url}/openapi.json");
    let nats = &stack.nats_url;
    eprintln!("  nats   {nats}; a worker of your own joins with MILLRACE_NATS_URL={nats}");
    eprintln!("  redis  {}", stack.redis_url);
    eprintln!("  logs   {}", stack.dir().join("logs").display());
    tell_processes();
    let option = if url.ends_with(":7400") {
        String::new()
    } else {
        format!(" --url {url}")
    };
    let next = if has_workflows {
        "instance list"
    } else {
        "run examples/hello.yaml"
    };
    // As it was typed here: it may not be in PATH.
    let program = std::env::args().next().unwrap_or_else(|| "millrace".into());
    eprintln!(
        "next, in another terminal: {}",
        style.cyan(&format!("{program}{option} {next}"))
    );
}

/// Starts children that ended again; returns when that does not help.
async fn supervise(stack: &mut Stack) -> Failure {
    let style = Style::stderr();
    let mut ends: VecDeque<Instant> = VecDeque::new();
    loop {
        tokio::time::sleep(LOOK).await;
        for child in stack.children() {
            let Some(status) = child.try_ended() else { continue };
            ends.push_back(Instant::now());
            ends.retain(|end| end.elapsed() < ENDS_WITHIN);
            if ends.len() >= ENDS_MAX {
                return child.not_ready(&format!("ended with {status}, too often to be started again"));
            }
            let notice = format!("{} ended with {status}; starting it again", child.name());
            eprintln!("{} {notice}", style.yellow("warning:"));
            tokio::time::sleep(PAUSE).await;
            if let Err(failure) = child.restart() {
                return failure;
            }
        }
    }
}

async fn keep_applied(workflows: &mut Option<Workflows>, client: &Client) {
    let Some(workflows) = workflows else {
        return std::future::pending().await;
    };
    loop {
        workflows.look(client).await;
        tokio::time::sleep(WORKFLOWS).await;
    }
}
