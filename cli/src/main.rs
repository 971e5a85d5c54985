//! The `millrace` command. Data on stdout, everything else on stderr, exit codes as [`failure::Exit`] says.
//!
//! One thread only: children are tied to the thread that makes them (see [`stack::child`]), and it ends with the process.

mod args;
mod client;
mod commands;
mod entry;
mod failure;
mod follow;
mod input;
mod limit;
mod output;
mod persist;
mod screen;
mod source;
mod stack;
mod stop;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Format;
use crate::failure::{Exit, Failure};

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::MissingSubcommand => return choices(&error),
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let message = format!("cannot start the runtime: {e}");
            return Failure::new(Exit::Failed, message).finish(Format::Table);
        }
    };
    let format = cli.command.format();
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.finish(format),
    }
}

/// What there is to choose from, as `-h` shows it. The error itself would list hidden commands and describe none.
fn choices(error: &clap::Error) -> ExitCode {
    let asked = std::env::args_os().chain(["-h".into()]);
    match args::Cli::try_parse_from(asked) {
        Err(help) if help.kind() == ErrorKind::DisplayHelp => eprint!("{help}"),
        _ => eprint!("{error}"),
    }
    ExitCode::from(Exit::Usage.code())
}
