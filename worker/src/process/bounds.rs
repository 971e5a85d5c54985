//! What all processes of a worker share: how many run at a time, how long, with how much memory.

use std::sync::Arc;
use std::time::Duration;

use millrace_common::ErrorKind;
use millrace_runtime::config::ProcessConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Context, Failure};

/// Bounds of the worker's configuration.
#[derive(Debug)]
pub(crate) struct Bounds {
    turns: Arc<Semaphore>,
    time_max: Duration,
    pub(super) memory_bytes_max: u64,
}

/// How long a process may run, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit {
    pub(super) length: Duration,
    /// The task's deadline; otherwise the worker's bound.
    is_deadline: bool,
}

impl Bounds {
    pub(crate) fn new(config: &ProcessConfig) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(config.at_a_time)),
            time_max: config.time_max,
            memory_bytes_max: config.memory_bytes_max,
        }
    }

    /// Waits until another process may run; the permit is its turn.
    pub(crate) async fn turn(&self, ctx: &Context) -> Result<OwnedSemaphorePermit, Failure> {
        let late = async {
            match ctx.remaining() {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            permit = self.turns.clone().acquire_owned() => {
                permit.map_err(|e| Failure::runtime(format!("no process can be started any more: {e}")))
            }
            () = ctx.cancelled() => Err(Failure::cancelled()),
            () = late => Err(Failure::new(
                ErrorKind::Timeout,
                "the deadline passed while the worker ran as many processes as MILLRACE_PROCESS_COUNT allows",
            )),
        }
    }

    /// What is left for a process that starts now.
    pub(super) fn time(&self, ctx: &Context) -> TimeLimit {
        match ctx.remaining() {
            Some(time) if time <= self.time_max => TimeLimit {
                length: time,
                is_deadline: true,
            },
            _ => TimeLimit {
                length: self.time_max,
                is_deadline: false,
            },
        }
    }
}

impl TimeLimit {
    /// The error of a process that did not end in time.
    pub(crate) fn passed(self, what: &str) -> Failure {
        let ms = self.length.as_millis();
        let whose = match self.is_deadline {
            true => "what was left until its task's deadline",
            false => "the bound of this worker (MILLRACE_PROCESS_TIME)",
        };
        Failure::new(
            ErrorKind::Timeout,
            format!("{what} did not end within {ms} ms, {whose}, and was stopped"),
        )
    }
}
