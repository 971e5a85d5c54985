//! The stock worker: functions for demos and benchmarks, and the built-in call types.
//!
//! Exit codes: 0 drained, 64 invalid configuration, 1 anything else.

use std::process::ExitCode;
use std::time::Duration;

use millrace_runtime::config::{EXIT_CODE, unknown_names};
use millrace_worker::Worker;

/// Time for threads to end after the worker did.
const RUNTIME_LIMIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let worker = match Worker::from_env(millrace_common::names::DEFAULT_QUEUE) {
        Ok(worker) => worker.builtins(),
        Err(faults) => {
            eprintln!("millrace-worker: {faults}");
            return ExitCode::from(EXIT_CODE);
        }
    };
    for name in unknown_names(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())) {
        eprintln!("millrace-worker: warning: {name} is not a variable of Millrace");
    }
    match run(worker) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-worker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(worker: Worker) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(worker.run());
    // A handler that never gives its thread back must not keep the process.
    runtime.shutdown_timeout(RUNTIME_LIMIT);
    result
}
