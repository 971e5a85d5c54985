//! `run: shell`, `run: script` and `run: container`: processes that a definition starts, as far as the worker's
//! configuration allows the kind.
//!
//! A process runs in a group of its own with a cleared environment and a private directory, within bounds of time,
//! memory and output ([`leash`]); a container on Docker, Podman or Kubernetes ([`container`]).
//! Neither is a sandbox: `docs/run-processes.md` says what they protect from.

mod bounds;
mod capture;
mod container;
mod leash;
mod outcome;
mod request;
mod room;
mod script;
mod shell;

use std::sync::Arc;

use millrace_runtime::config::ProcessConfig;

use self::bounds::Bounds;
use self::container::Containers;
use crate::Function;

/// The functions of the kinds that are allowed.
pub(crate) fn functions(config: &ProcessConfig) -> Vec<Function> {
    let bounds = Arc::new(Bounds::new(config));
    let mut functions = Vec::new();
    if config.shell {
        let bounds = bounds.clone();
        functions.push(Function::new("run:shell", move |ctx, request| {
            shell::run(ctx, bounds.clone(), request)
        }));
    }
    if config.script {
        let bounds = bounds.clone();
        functions.push(Function::new("run:script", move |ctx, request| {
            script::run(ctx, bounds.clone(), request)
        }));
    }
    if config.container {
        let containers = Arc::new(Containers::new(config, bounds));
        functions.push(Function::new("run:container", move |ctx, request| {
            container::run(ctx, containers.clone(), request)
        }));
    }
    functions
}
