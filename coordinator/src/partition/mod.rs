//! The processor of each partition: a thread of its own with its own connections, supervised alone. A partition that
//! fails or halts leaves the others running.

mod audit;
mod batch;
mod cache;
mod commit;
mod correlator;
mod dispatch;
mod fence;
mod fold;
mod outbox;
mod oversize;
mod processor;
mod reader;
mod recover;
mod repair;
pub(crate) mod sabotage;
mod schedules;
mod store;
mod timers;

use std::sync::Arc;
use std::time::Duration;

use millrace_common::{InstanceKey, PartitionId};
use millrace_engine::Status;
use millrace_runtime::Shutdown;
use millrace_runtime::backoff::Backoff;
use millrace_runtime::config::CoordinatorConfig;
use millrace_runtime::metrics::Metrics;
use tracing::{error, info, warn};

use crate::board::Board;
use crate::clock::Clock;
use crate::membership::Membership;
use crate::orders::{Order, Orders};
use crate::registry::Functions;
use crate::servers::{Connection, Definitions, Servers, Session, Silent};
use crate::trace::Trace;

pub(crate) use fence::{Fence, Position};

/// Stack of a partition's thread. Expressions are evaluated on it; their depth bound is far below (the pages are only
/// reserved, not used).
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// What all partitions of a coordinator share.
#[derive(Debug)]
pub struct Shared {
    /// Settings.
    pub config: CoordinatorConfig,
    /// NATS and Redis.
    pub servers: Arc<dyn Servers>,
    /// The time.
    pub clock: Clock,
    /// Definitions.
    pub definitions: Arc<dyn Definitions>,
    /// Functions of the fleet.
    pub functions: Functions,
    /// Who else is there.
    pub membership: Membership,
    /// Instruments.
    pub metrics: Metrics,
    /// State shown to the other parts.
    pub board: Board,
    /// Orders of an operator.
    pub orders: Orders,
    /// Spans of runs and steps.
    pub trace: Trace,
    /// Test-only faults.
    pub fault: Fault,
}

/// Faults that tests inject into a running coordinator; off unless configured.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// `apply` panics for instances whose id contains this.
    pub panic_instance: Option<String>,
}

impl Fault {
    fn maybe_panic(&self, key: &InstanceKey) {
        if let Some(part) = &self.panic_instance
            && key.id().contains(part.as_str())
        {
            panic!("injected: apply of {key}");
        }
    }
}

/// Why a processor stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Told to, and the partition is released.
    Shutdown,
    /// Another coordinator is preferred; release it.
    Handover(String),
    /// Somebody else owns the partition now.
    Lost(String),
    /// A commit may or may not have happened.
    Unknown(String),
    /// A server does not answer.
    Broken(String),
    /// The stores contradict each other: an operator decides. Looked at again now and then.
    Halted {
        /// Stable code.
        code: &'static str,
        /// What was found.
        text: String,
    },
}

impl From<Silent> for Stop {
    fn from(e: Silent) -> Self {
        Self::Broken(e.0)
    }
}

/// What a partition's thread remembers from one ownership to the next.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// `CLIENT ID` of the last commit connection.
    client_id: Option<i64>,
    /// Nonce of the last fence this process held.
    nonce: Option<String>,
    /// Code of the halt that was found at the last look.
    halted: Option<&'static str>,
}

impl Shared {
    async fn session(&self, p: PartitionId) -> Result<Session, Stop> {
        self.servers.session(p).await.map_err(Stop::from)
    }

    async fn connect_redis(&self) -> Result<Connection, Stop> {
        self.servers.redis().await.map_err(Stop::from)
    }

    /// A back-off of this process.
    fn backoff(&self) -> Backoff {
        Backoff::for_servers_seeded(self.clock.random())
    }

    /// How long an ended instance is kept, in milliseconds.
    fn retention(&self, status: Status) -> i64 {
        let keep = match status {
            Status::Completed => self.config.retention_completed,
            _ => self.config.retention_faulted,
        };
        i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)
    }

    /// Another coordinator to which this partition should go.
    fn check_preferred(&self, p: PartitionId) -> Option<String> {
        self.membership.handover(p)
    }
}

/// Starts a thread for every partition. They end when `shutdown` is triggered.
///
/// # Errors
/// When the system has no threads left.
pub fn spawn(shared: &Arc<Shared>, shutdown: &Shutdown) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    (0..shared.config.partitions)
        .map(|n| {
            let (shared, shutdown) = (Arc::clone(shared), shutdown.clone());
            std::thread::Builder::new()
                .name(format!("partition-{n}"))
                .stack_size(STACK_BYTES)
                .spawn(move || run(&shared, PartitionId(n), &shutdown))
        })
        .collect()
}

fn run(shared: &Arc<Shared>, p: PartitionId, shutdown: &Shutdown) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            error!(partition.id = %p, reason = %e, "partition cannot start");
            return;
        }
    };
    runtime.block_on(supervise(shared, p, shutdown));
}

/// Owns, loses and takes the partition again until shutdown. A panic of the shell (not of `apply`, which is caught
/// closer) restarts the partition like any other failure.
pub(crate) async fn supervise(shared: &Arc<Shared>, p: PartitionId, shutdown: &Shutdown) {
    let mut memory = Memory::default();
    let mut backoff = shared.backoff();
    while !shutdown.is_triggered() {
        shared.board.partition(p, |s| s.phase = "contending".into());
        let once = std::panic::AssertUnwindSafe(own_once(shared, p, &mut memory, shutdown));
        let stop = match futures_util::FutureExt::catch_unwind(once).await {
            Ok((stop, served)) => {
                if served {
                    backoff.reset();
                }
                stop
            }
            Err(_) => Stop::Broken("the processor panicked".into()),
        };
        show(shared, p, &stop);
        memory.halted = match &stop {
            Stop::Halted { code, .. } => Some(*code),
            _ => None,
        };
        let pause = match &stop {
            Stop::Shutdown => return,
            Stop::Unknown(_) | Stop::Lost(_) => Duration::from_millis(50),
            Stop::Handover(_) => shared.config.lease_ttl,
            Stop::Halted { .. } => Duration::from_secs(5),
            Stop::Broken(_) => backoff.next_delay(),
        };
        let ordered = shared.orders.placed();
        let pause = async { shared.clock.limit(pause, ordered).await.unwrap_or(()) };
        let _ = shutdown.unless(pause).await;
    }
}

async fn own_once(
    shared: &Arc<Shared>,
    p: PartitionId,
    memory: &mut Memory,
    shutdown: &Shutdown,
) -> (Stop, bool) {
    let order = shared.orders.take(p).and_then(|order| fitting(order, memory));
    let action = order.as_ref().map(|order| order.action);
    if let Some(order) = &order {
        warn!(partition.id = %p, order = order.action.name(), by = order.by, halt.code = order.code,
            "an operator's order is carried out");
    }
    let acquired = recover::acquire(Arc::clone(shared), p, memory, shutdown, action).await;
    if let Some(order) = order {
        told(p, order, acquired.as_ref().err());
    }
    let mut processor = match acquired {
        Ok(processor) => processor,
        Err(stop) => return (stop, false),
    };
    let mut stop = processor.serve(shutdown).await;
    if let Stop::Handover(to) = &stop {
        info!(partition.id = %p, to, "partition is handed over");
        let to = to.clone();
        stop = match processor.release().await {
            Stop::Shutdown => Stop::Handover(to),
            other => other,
        };
    }
    (stop, true)
}

/// An order is for the halt that was found at the last look, and for no other situation.
fn fitting(order: Order, memory: &Memory) -> Option<Order> {
    if memory.halted == Some(order.code.as_str()) {
        return Some(order);
    }
    let now = memory.halted.map_or_else(
        || "not halted".into(),
        |code| format!("halted with MR-HALT-{code}"),
    );
    order.answer(Err(format!("it is {now} by now; look at it again")));
    None
}

/// What came of an order: for whoever waits, and for the log.
fn told(p: PartitionId, order: Order, failed: Option<&Stop>) {
    let outcome = match failed {
        None => Ok(()),
        Some(Stop::Halted { code, text }) => Err(format!("MR-HALT-{code}: {text}")),
        Some(Stop::Lost(reason) | Stop::Unknown(reason) | Stop::Broken(reason)) => Err(reason.clone()),
        Some(Stop::Shutdown | Stop::Handover(_)) => Err("this coordinator ends".into()),
    };
    let result = outcome.as_ref().map_or_else(String::as_str, |()| "done");
    warn!(partition.id = %p, order = order.action.name(), by = order.by, result, "an operator's order has ended");
    order.answer(outcome);
}

fn show(shared: &Shared, p: PartitionId, stop: &Stop) {
    let (phase, problem) = match stop {
        Stop::Shutdown => ("released", None),
        Stop::Handover(_) => ("contending", None),
        Stop::Lost(reason) => {
            info!(partition.id = %p, reason, "partition lost");
            ("contending", None)
        }
        Stop::Unknown(reason) => {
            warn!(partition.id = %p, reason, error.code = "MR-UNKNOWN", "outcome of a commit is unknown; the partition is taken again");
            shared.board.restarted(&format!("partition-{p}"));
            ("contending", None)
        }
        Stop::Broken(reason) => {
            warn!(partition.id = %p, reason, "partition is not served by this coordinator for now");
            shared.board.restarted(&format!("partition-{p}"));
            ("contending", Some(reason.clone()))
        }
        Stop::Halted { code, text } => {
            error!(partition.id = %p, error.code = format!("MR-HALT-{code}"), reason = text, "partition halts");
            ("halted", Some(format!("MR-HALT-{code}: {text}")))
        }
    };
    shared.board.partition(p, |s| {
        s.phase = phase.into();
        s.problem = problem;
        s.halt = match stop {
            Stop::Halted { code, text } => Some((*code, text.clone())),
            _ => None,
        };
    });
}
