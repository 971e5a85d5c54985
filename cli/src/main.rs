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
mod output;
mod screen;
mod source;
mod stack;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::failure::{Exit, Failure};

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return Failure::new(Exit::Failed, format!("cannot start the runtime: {e}")).finish(),
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.finish(),
    }
}
