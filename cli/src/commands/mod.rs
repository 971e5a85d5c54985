//! The commands, a file each: high-level work on what [`crate::args`] read.

mod apply;
mod bench;
mod completion;
mod definition;
mod demo;
mod dev;
mod event;
mod instance;
mod partition;
mod queue;
mod run;
mod schedule;
mod start;
mod status;
mod validate;
mod worker;
mod workflows;

use crate::args::{Cli, Command};
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome};
use crate::stack::exec;

/// Runs a command to its end.
pub(crate) async fn run(cli: Cli) -> Outcome {
    let client = || Client::new(&cli.connect);
    match cli.command {
        Command::Dev(args) => dev::run(args, &cli.connect).await,
        Command::Run(args) => run::run(args, &cli.connect).await,
        Command::Validate(args) => validate::run(&args),
        Command::Apply(args) => apply::run(&args, &client()?).await,
        Command::Start(args) => start::run(args, &client()?).await,
        Command::Status(args) => status::run(&args, &client()?).await,
        Command::Instance(args) => instance::run(args, &client()?).await,
        Command::Definition(args) => definition::run(args, &client()?).await,
        Command::Worker(args) => match args.command {
            Some(command) => worker::run(command, &client()?).await,
            None => Err(exec::become_binary("millrace-worker")),
        },
        Command::Queue(args) => queue::run(args, &client()?).await,
        Command::Schedule(command) => schedule::run(command, &client()?).await,
        Command::Partition(command) => partition::run(command, &client()?).await,
        Command::Rebuild(args) => partition::order("rebuild", &args, &client()?).await,
        Command::Coordinator => Err(exec::become_binary("millrace-coordinator")),
        Command::Bench(args) => bench::run(args, &client()?).await,
        Command::Demo(args) => demo::run(&args).await,
        Command::Completion { shell } => completion::run(shell),
        Command::Agent(later) => Err(not_yet("agent", &later.rest)),
        Command::Event(args) => event::run(args, &client()?).await,
        Command::Dlq(later) => Err(not_yet("dlq", &later.rest)),
        Command::Exec(args) => Err(exec::run(&args)),
    }
}

fn not_yet(noun: &str, rest: &[String]) -> Failure {
    let verb = rest.first().map(|verb| format!(" {verb}")).unwrap_or_default();
    Failure::new(
        Exit::Usage,
        format!("`millrace {noun}{verb}` is not supported yet"),
    )
}
