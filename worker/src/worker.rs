//! A worker: built from configuration and functions, run until it is told to stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::stream;
use millrace_common::{EVERY_WORKER, Register, names};
use millrace_runtime::Shutdown;
use millrace_runtime::config::{Environment, Faults, Source, WorkerConfig};
use millrace_runtime::health::{Health, router};
use millrace_runtime::metrics::Metrics;
use millrace_runtime::nats::{Completions, Link, Nats, Publisher, PublisherOptions, connect};
use millrace_runtime::telemetry::{self, Tracer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::builtin::authenticate::Tokens;
use crate::builtin::openapi::Documents;
use crate::context::Home;
use crate::egress::Egress;
use crate::fleet::Member;
use crate::function::{Function, check_key};
use crate::secrets::Secrets;
use crate::steps::flights::Flights;
use crate::steps::message::answer;
use crate::steps::pull::Puller;
use crate::steps::report::Reporter;
use crate::steps::run::{Installed, Queue, Runner};
use crate::steps::wheel;
use crate::{Context, Failure, builtin, process};

/// Time for the last messages to reach NATS.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// Time for results that are on their way when the drain ends.
const REPORT_LIMIT: Duration = Duration::from_secs(5);

/// A worker in the making. See the crate for an example.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    functions: Vec<Function>,
    /// Of all processes, whoever starts them.
    bounds: Arc<process::Bounds>,
}

impl Worker {
    /// Reads the environment. `queue` is the queue of the worker's functions unless `MILLRACE_QUEUES` names others.
    ///
    /// # Errors
    /// All faults of the configuration at once.
    pub fn from_env(queue: &str) -> Result<Self, Faults> {
        Self::from_source(&Environment, queue)
    }

    /// As [`Self::from_env`], from another source than the environment.
    ///
    /// # Errors
    /// All faults of the configuration at once.
    pub fn from_source(source: &dyn Source, queue: &str) -> Result<Self, Faults> {
        WorkerConfig::read(source, queue).map(Self::new)
    }

    /// From a configuration.
    pub fn new(config: WorkerConfig) -> Self {
        Self {
            bounds: Arc::new(process::Bounds::new(&config.processes)),
            config,
            functions: Vec::new(),
        }
    }

    /// Registers an async function under `name:semver`.
    #[must_use]
    pub fn function<F, Fut, In, Out, Err>(self, key: &str, handler: F) -> Self
    where
        F: Fn(Context, In) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Out, Err>> + Send + 'static,
        In: DeserializeOwned + Send + 'static,
        Out: Serialize,
        Err: Into<Failure>,
    {
        self.register(Function::new(key, handler))
    }

    /// Registers a function with schemas.
    #[must_use]
    pub fn register(mut self, function: Function) -> Self {
        self.functions.push(function);
        self
    }

    /// Adds what the stock worker offers: `noop`, `flaky`, `sleep`, the built-in call types, and the processes that its
    /// configuration allows, with their queues.
    #[must_use]
    pub fn builtins(mut self) -> Self {
        self.functions.extend(builtin::functions());
        let functions = process::functions(&self.config.processes, &self.bounds);
        self.functions.extend(functions);
        for queue in self.config.processes.kinds().map(names::process_queue) {
            if !self.config.queues.contains(&queue) {
                self.config.queues.push(queue);
            }
        }
        self
    }

    /// Runs until SIGTERM, SIGINT or a drain command, then finishes what runs, hands back the rest and returns. A
    /// second signal ends the process at once. Sets up logs and traces.
    ///
    /// # Errors
    /// When a function's name is not valid or used twice, or NATS can never do. A server that is away is
    /// waited for.
    pub async fn run(self) -> anyhow::Result<()> {
        let telemetry = telemetry::init(&self.config.telemetry, "millrace-worker");
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        let result = self.run_until(shutdown, telemetry.tracer()).await;
        // The exporter blocks, and spans of the last steps are still in it.
        tokio::task::spawn_blocking(move || telemetry.shutdown())
            .await
            .context("telemetry failed at the end")?;
        result
    }

    /// As [`Self::run`] without logs and signals of its own: for processes that hold more than a worker.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_until(self, shutdown: Shutdown, tracer: Tracer) -> anyhow::Result<()> {
        if self.config.processes.kinds().next().is_some() {
            process::shield();
        }
        let nats = connect(&self.config.nats, &self.config.id).await?;
        let Some(greeted) = shutdown.unless(nats.greeted()).await else {
            return Ok(());
        };
        greeted?;
        let options = PublisherOptions {
            in_flight_max: self.config.publish_in_flight,
            ..Default::default()
        };
        let (publisher, completions) = Publisher::start(&nats, options)
            .await
            .context("cannot subscribe the inbox")?;
        let running = Running::build(self, nats, publisher, tracer)?;
        running.run(completions, shutdown).await
    }
}

/// A worker at work.
struct Running {
    config: WorkerConfig,
    nats: Nats,
    flights: Arc<Flights>,
    runner: Arc<Runner>,
    reporter: Reporter,
    metrics: Metrics,
    health: Health,
}

impl Running {
    fn build(worker: Worker, nats: Nats, publisher: Publisher, tracer: Tracer) -> anyhow::Result<Self> {
        let Worker {
            config,
            functions,
            bounds,
        } = worker;
        let metrics = Metrics::new();
        metrics
            .worker_slots_limit
            .set(i64::try_from(config.slots).unwrap_or(i64::MAX));
        let flights = Arc::new(Flights::new(config.slots, config.queues.len()));
        let reporter = Reporter::new(nats.clone(), publisher.clone(), flights.clone(), metrics.clone());
        let home = Home {
            worker: config.id.clone(),
            egress: Egress::new(config.redirects.clone()),
            publisher: Some(publisher),
            tracer: tracer.clone(),
            secrets: Secrets::from_env(config.secrets_dir.clone()),
            tokens: Tokens::default(),
            documents: Documents::default(),
            files: config.files.clone(),
            processes: config.processes.shell.then_some(bounds),
        };
        let runner = Arc::new(Runner {
            nats: nats.clone(),
            home: Arc::new(home),
            flights: flights.clone(),
            reporter: reporter.clone(),
            tracer,
            metrics: metrics.clone(),
            functions: install(functions, &metrics)?,
            queues: config.queues.iter().map(|q| Queue::new(q, &metrics)).collect(),
        });
        Ok(Self {
            config,
            nats,
            flights,
            runner,
            reporter,
            metrics,
            health: Health::new(),
        })
    }

    async fn run(self, completions: Completions, shutdown: Shutdown) -> anyhow::Result<()> {
        // Commands drain this worker alone; the caller's shutdown drains it too.
        let drain = shutdown.child();
        let mut service = JoinSet::new();
        self.start_service(&mut service, completions, &drain).await?;
        let mut pullers = self.start_pullers(&drain);
        tracing::info!(
            worker.id = self.config.id,
            slots = self.config.slots,
            queues = self.config.queues.join(","),
            functions = self.runner.functions.len(),
            "worker started"
        );
        let ended = tokio::select! {
            () = drain.triggered() => None,
            ended = service.join_next() => Some(ended),
        };
        if ended.is_none() {
            self.drain(&mut pullers).await;
        }
        pullers.shutdown().await;
        service.shutdown().await;
        self.nats.flush(FLUSH_LIMIT).await;
        match ended {
            None => Ok(()),
            Some(Some(Err(error))) => Err(error).context("a part of the worker failed"),
            Some(_) => {
                anyhow::bail!("a part of the worker ended before the worker: the NATS client is closed")
            }
        }
    }

    /// Everything that goes on until the last step is reported.
    async fn start_service(
        &self,
        service: &mut JoinSet<()>,
        completions: Completions,
        drain: &Shutdown,
    ) -> anyhow::Result<()> {
        let client = self.nats.client();
        let subscribe = async |subject: String| client.subscribe(subject).await.context("cannot subscribe");
        let own = subscribe(names::cancel_subject(&self.config.id)).await?;
        let cancels = stream::select(own, subscribe(names::cancel_subject(EVERY_WORKER)).await?);
        let commands = subscribe(names::worker_subject(&self.config.id)).await?;
        let member = Arc::new(Member {
            nats: self.nats.clone(),
            register: self.registration(),
            flights: self.flights.clone(),
            reporter: self.reporter.clone(),
            drain: drain.clone(),
        });
        service.spawn(self.reporter.clone().confirm(completions));
        service.spawn(wheel::turn(self.runner.clone()));
        service.spawn(member.clone().obey(cancels, commands));
        service.spawn(member.clone().keep_registered());
        service.spawn(member.beat());
        service.spawn(show(
            self.metrics.clone(),
            self.flights.clone(),
            self.runner.tracer.clone(),
        ));
        service.spawn(watch_link(
            self.nats.clone(),
            self.health.check("nats"),
            self.metrics.clone(),
        ));
        if let Some(listen) = self.config.listen {
            let listener = tokio::net::TcpListener::bind(listen).await;
            let listener = listener.with_context(|| format!("cannot listen on {listen}"))?;
            let app = router(self.health.clone(), self.metrics.clone());
            service.spawn(async move {
                if let Err(error) = axum::serve(listener, app).await {
                    tracing::error!(%error, "probes are not served any more");
                }
            });
        }
        Ok(())
    }

    fn start_pullers(&self, drain: &Shutdown) -> JoinSet<()> {
        let mut pullers = JoinSet::new();
        for (queue, name) in self.config.queues.iter().enumerate() {
            let check = self.health.check(format!("queue {name}"));
            let puller = Puller {
                nats: self.nats.clone(),
                flights: self.flights.clone(),
                runner: self.runner.clone(),
                queue,
                name: name.clone(),
                check,
            };
            pullers.spawn(puller.run(drain.clone()));
        }
        pullers
    }

    /// Nothing new; what runs may finish; the rest is handed back.
    async fn drain(&self, pullers: &mut JoinSet<()>) {
        tracing::info!(running = self.flights.counts().used, "draining");
        let rest = async {
            while pullers.join_next().await.is_some() {}
            wait_until(&self.flights, Flights::is_quiet).await;
        };
        if tokio::time::timeout(self.config.drain, rest).await.is_err() {
            let replies = self.flights.abandon_running(self.runner.shortest_ack_wait());
            tracing::warn!(steps = replies.len(), "time is up: handing back what still runs");
            for reply in replies {
                drop(self.nats.client().publish(reply, answer::NAK).await);
            }
        }
        let reported = wait_until(&self.flights, Flights::is_empty);
        if tokio::time::timeout(REPORT_LIMIT, reported).await.is_err() {
            let left = self.flights.counts().reporting;
            tracing::warn!(
                left,
                "results did not reach the log; their steps will run again elsewhere"
            );
        }
    }

    fn registration(&self) -> Register {
        let queue = &self.config.queues[0];
        let functions = self.runner.functions.values();
        Register {
            worker: self.config.id.clone(),
            build: env!("CARGO_PKG_VERSION").into(),
            host: self.config.host.clone(),
            queues: self.config.queues.clone(),
            slots: u32::try_from(self.config.slots).unwrap_or(u32::MAX),
            functions: functions.clone().filter_map(|f| f.function.info(queue)).collect(),
            capabilities: functions
                .filter(|f| f.function.info(queue).is_none())
                .map(|f| f.function.key.clone())
                .collect(),
            labels: self.config.labels.clone(),
        }
    }
}

fn install(functions: Vec<Function>, metrics: &Metrics) -> anyhow::Result<BTreeMap<String, Installed>> {
    let mut installed = BTreeMap::new();
    for function in functions {
        let key = function.key.clone();
        check_key(&key).map_err(anyhow::Error::msg)?;
        let is_taken = installed
            .insert(key.clone(), Installed::new(function, metrics))
            .is_some();
        anyhow::ensure!(!is_taken, "function `{key}` is registered twice");
    }
    anyhow::ensure!(!installed.is_empty(), "the worker has no functions");
    Ok(installed)
}

/// Waits for a state of the table; it tells whenever nothing runs.
async fn wait_until(flights: &Flights, holds: impl Fn(&Flights) -> bool) {
    loop {
        let settled = flights.settled.notified();
        tokio::pin!(settled);
        settled.as_mut().enable();
        if holds(flights) {
            return;
        }
        settled.await;
    }
}

/// Keeps gauges up to date: they are read seldom, so steps do not pay for them.
async fn show(metrics: Metrics, flights: Arc<Flights>, tracer: Tracer) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    let mut dropped = 0;
    loop {
        ticks.tick().await;
        metrics
            .worker_slots_used
            .set(i64::try_from(flights.counts().used).unwrap_or(i64::MAX));
        metrics.spans_dropped.inc_by(tracer.dropped() - dropped);
        dropped = tracer.dropped();
    }
}

async fn watch_link(nats: Nats, check: millrace_runtime::health::Check, metrics: Metrics) {
    let mut link = nats.link();
    loop {
        let Link { connected, connects } = *link.borrow_and_update();
        metrics
            .nats_connects
            .set(i64::try_from(connects).unwrap_or(i64::MAX));
        if connected {
            check.good();
        } else {
            check.bad("not connected");
        }
        if link.changed().await.is_err() {
            return;
        }
    }
}
