//! A cluster in one thread: two partitions, coordinators that run the real processor, model servers, workers, load.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use millrace_common::{DefinitionRef, PartitionId, names};
use millrace_engine::{Definitions as _, Plan};
use millrace_runtime::Shutdown;
use millrace_runtime::config::CoordinatorConfig;
use millrace_runtime::metrics::Metrics;
use millrace_runtime::redis::SharedRedis;
use millrace_runtime::telemetry::Tracer;

use super::PARTITIONS;
use super::fleet::{self, Ledger};
use super::jetstream::JetStream;
use super::redis::Redis;
use super::universe::{Executor, TaskId, Universe, Watch};
use crate::board::Board;
use crate::clock::Clock;
use crate::cluster::Halt;
use crate::membership::Membership;
use crate::orders::Orders;
use crate::partition::{self, Fault, Shared};
use crate::registry::{Functions, Store};
use crate::servers::{Connection, Definitions, Servers, Session, Silent};
use crate::trace::Trace;

/// See the module.
pub(super) struct World {
    pub(super) universe: Universe,
    pub(super) executor: Executor,
    pub(super) jetstream: JetStream,
    pub(super) redis: Redis,
    pub(super) ledger: Ledger,
    pub(super) library: Arc<Library>,
    pub(super) coordinators: Vec<Coordinator>,
    workers: Vec<Option<TaskId>>,
}

/// A process.
pub(super) struct Coordinator {
    pub(super) site: String,
    /// None: it is dead.
    pub(super) tasks: Option<Vec<TaskId>>,
    pub(super) board: Board,
    pub(super) shutdown: Shutdown,
    pub(super) watch: Arc<Watch>,
}

/// Definitions by name.
#[derive(Default)]
pub(super) struct Library(BTreeMap<DefinitionRef, Arc<Plan>>);

impl Library {
    pub(super) fn of(texts: &[&str]) -> Self {
        let plan = |text: &&str| {
            let parsed = millrace_dsl::parse(text).expect("a valid definition");
            let d = &parsed.document;
            let name = DefinitionRef {
                namespace: d.namespace.clone(),
                name: d.name.clone(),
                version: d.version.clone(),
            };
            (name, Arc::new(Plan::new(parsed.document)))
        };
        Self(texts.iter().map(plan).collect())
    }

    pub(super) fn names(&self) -> Vec<DefinitionRef> {
        self.0.keys().cloned().collect()
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Library")
    }
}

impl millrace_engine::Definitions for Library {
    fn plan(&self, definition: &DefinitionRef) -> Option<Arc<Plan>> {
        self.0.get(definition).cloned()
    }

    fn latest(&self, namespace: &str, name: &str) -> Option<String> {
        let same = |d: &&DefinitionRef| d.namespace == namespace && d.name == name;
        self.0.keys().rfind(same).map(|d| d.version.clone())
    }
}

impl Definitions for Library {
    fn load<'a>(&'a self, definition: &'a DefinitionRef) -> BoxFuture<'a, Result<Option<Arc<Plan>>, Silent>> {
        Box::pin(async move { Ok(self.plan(definition)) })
    }

    fn scheduled(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn newest(&self, _namespace: &str, _name: &str) -> Option<DefinitionRef> {
        None
    }

    fn revision(&self) -> i64 {
        0
    }
}

/// The servers as one coordinator sees them.
#[derive(Debug)]
struct Site {
    site: String,
    jetstream: JetStream,
    redis: Redis,
    /// As they were when the process started.
    incarnations: Vec<String>,
}

impl Servers for Site {
    fn incarnation(
        &self,
        p: PartitionId,
        _adopt: bool,
    ) -> BoxFuture<'_, Result<Result<String, Halt>, Silent>> {
        Box::pin(async move { Ok(Ok(self.incarnations[usize::from(p.0)].clone())) })
    }

    fn session(&self, p: PartitionId) -> BoxFuture<'_, Result<Session, Silent>> {
        Box::pin(async move {
            let (sender, completions) = self.jetstream.sender(&self.site);
            let stream = |name: String| self.jetstream.stream(&self.site, name);
            let log = stream(names::log_stream(p));
            log.extent().await?;
            Ok(Session {
                log,
                events: stream(names::EVENTS_STREAM.into()),
                steps: stream(names::STEPS_STREAM.into()),
                sender,
                completions,
            })
        })
    }

    fn redis(&self) -> BoxFuture<'_, Result<Connection, Silent>> {
        Box::pin(self.redis.connect(&self.site))
    }

    fn ensure_queue<'a>(&'a self, _queue: &'a str) -> BoxFuture<'a, Result<(), Silent>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn forget_queues(&self) {}
}

impl World {
    pub(super) fn new(seed: u64, definitions: &[&str], coordinators: usize, workers: usize) -> Self {
        let universe = Universe::new(seed);
        let mut world = Self {
            executor: Executor::new(universe.clone()),
            jetstream: JetStream::new(&universe, PARTITIONS),
            redis: Redis::new(&universe),
            ledger: Ledger::default(),
            library: Arc::new(Library::of(definitions)),
            coordinators: Vec::new(),
            workers: vec![None; workers],
            universe,
        };
        for n in 0..coordinators {
            world.coordinators.push(world.dead(n));
            world.start(n);
        }
        world.hire();
        world
    }

    fn dead(&self, n: usize) -> Coordinator {
        Coordinator {
            site: format!("c{n}"),
            tasks: None,
            board: Board::default(),
            shutdown: Shutdown::new(),
            watch: Arc::new(Watch {
                universe: self.universe.clone(),
                offset_ms: AtomicI64::new(0),
            }),
        }
    }

    /// Starts a coordinator that is dead.
    pub(super) fn start(&mut self, n: usize) {
        if self.coordinators[n].tasks.is_some() {
            return;
        }
        let offset = self.coordinators[n].watch.offset_ms.load(Ordering::Relaxed);
        let mut coordinator = self.dead(n);
        coordinator.watch.offset_ms.store(offset, Ordering::Relaxed);
        let shared = self.shared(&coordinator);
        let tasks = (0..PARTITIONS).map(|p| {
            let (shared, shutdown) = (Arc::clone(&shared), coordinator.shutdown.clone());
            self.executor
                .spawn(async move { partition::supervise(&shared, PartitionId(p), &shutdown).await })
        });
        coordinator.tasks = Some(tasks.collect());
        self.coordinators[n] = coordinator;
    }

    fn shared(&self, coordinator: &Coordinator) -> Arc<Shared> {
        let settings = BTreeMap::from([
            ("MILLRACE_COORDINATOR_ID", coordinator.site.as_str()),
            ("MILLRACE_PARTITIONS", "2"),
            ("MILLRACE_LEASE_TTL", "2s"),
            ("MILLRACE_LIFECYCLE_EVENTS", "off"),
        ]);
        let config = CoordinatorConfig::read(&settings).expect("valid settings");
        // Never asked: what workers offer is not part of the simulation.
        let store = Store::new(config.redis.clone(), SharedRedis::new(config.redis.clone()));
        let logs = (0..PARTITIONS).map(|p| names::log_stream(PartitionId(p)));
        Arc::new(Shared {
            servers: Arc::new(Site {
                site: coordinator.site.clone(),
                jetstream: self.jetstream.clone(),
                redis: self.redis.clone(),
                incarnations: logs.map(|log| self.jetstream.incarnation(&log)).collect(),
            }),
            clock: Clock::new(Arc::clone(&coordinator.watch) as _),
            definitions: Arc::clone(&self.library) as _,
            functions: Functions::new(store),
            membership: Membership::new(&coordinator.site),
            metrics: Metrics::new(),
            board: coordinator.board.clone(),
            orders: Orders::default(),
            trace: Trace::new(Tracer::disabled(), 0.0),
            fault: Fault::default(),
            config,
        })
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, n: usize) {
        for task in self.coordinators[n].tasks.take().into_iter().flatten() {
            self.executor.kill(task);
        }
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub(super) fn freeze(&mut self, n: usize, time: Duration) {
        for task in self.coordinators[n].tasks.iter().flatten() {
            self.executor.freeze(*task, time);
        }
    }

    /// SIGTERM.
    pub(super) fn stop(&mut self, n: usize) {
        self.coordinators[n].shutdown.trigger();
        self.run(Duration::from_millis(700));
        self.kill(n);
    }

    pub(super) fn kill_worker(&mut self, n: usize) {
        if let Some(task) = self.workers[n].take() {
            self.executor.kill(task);
        }
    }

    /// Every place of a worker is taken.
    pub(super) fn hire(&mut self) {
        for n in 0..self.workers.len() {
            if self.workers[n].is_none() {
                let name = format!("w{n}");
                let work = fleet::work(
                    self.universe.clone(),
                    self.jetstream.clone(),
                    self.ledger.clone(),
                    name,
                );
                self.workers[n] = Some(self.executor.spawn(work));
            }
        }
    }

    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Virtual time passes.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.universe.now() + time;
        self.executor.run_until(end);
    }

    /// Everything is repaired, and everybody lives.
    pub(super) fn heal(&mut self) {
        self.jetstream.heal();
        self.redis.heal();
        for n in 0..self.coordinators.len() {
            self.coordinators[n].watch.offset_ms.store(0, Ordering::Relaxed);
            self.start(n);
        }
        self.hire();
    }

    /// Which partitions halted, with their codes.
    pub(super) fn halts(&self) -> Vec<String> {
        let problems = self.coordinators.iter().flat_map(|c| c.board.partitions());
        problems
            .filter(|(_, state)| state.phase == "halted")
            .map(|(p, state)| format!("partition {p}: {}", state.problem.unwrap_or_default()))
            .collect()
    }
}
