//! `run: shell`: a command for `sh`, with arguments as `$1`, `$2` and so on.

use std::sync::Arc;

use millrace_common::RawJson;
use serde::Deserialize;

use super::bounds::Bounds;
use super::leash::{self, Program};
use super::request::{Inputs, Request, configuration};
use super::room::Room;
use crate::{Context, Failure};

/// For messages.
const WHAT: &str = "the shell command";

/// The definition's `shell`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Shell {
    command: String,
    #[serde(flatten)]
    inputs: Inputs,
}

/// The function.
pub(super) async fn run(
    ctx: Context,
    bounds: Arc<Bounds>,
    request: Request<Shell>,
) -> Result<RawJson, Failure> {
    let program = program(request.process)?;
    let _turn = bounds.turn(&ctx).await?;
    let room = Room::new()?;
    let ended = leash::run(&ctx, &bounds, &room, &program, request.output).await?;
    ended.into_output(WHAT, request.output)
}

fn program(shell: Shell) -> Result<Program, Failure> {
    if shell.command.contains('\0') {
        return Err(configuration("the command holds a zero byte"));
    }
    let mut arguments = vec!["-c".to_owned(), shell.command, "sh".to_owned()];
    arguments.extend(shell.inputs.arguments()?);
    Ok(Program {
        what: WHAT,
        path: "/bin/sh".into(),
        arguments,
        environment: shell.inputs.environment()?,
        stdin: shell.inputs.stdin.0,
    })
}

#[cfg(test)]
mod tests;
