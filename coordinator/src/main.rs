//! The coordinator's binary: config, telemetry, connections, parts, drain. No logic.

mod gate;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use millrace_coordinator::api::{ApiParts, ApiState, check_listen};
use millrace_coordinator::board::Board;
use millrace_coordinator::clock::Clock;
use millrace_coordinator::cluster;
use millrace_coordinator::events::Events;
use millrace_coordinator::fleet::{EnsureQueue, Fleet};
use millrace_coordinator::janitor::Janitor;
use millrace_coordinator::log::Log;
use millrace_coordinator::membership::Membership;
use millrace_coordinator::orders::Orders;
use millrace_coordinator::partition::{self, Fault, Shared};
use millrace_coordinator::queues::Queues;
use millrace_coordinator::registry::{Registry, Store};
use millrace_coordinator::servers::Real;
use millrace_coordinator::supervise;
use millrace_coordinator::trace::Trace;
use millrace_runtime::backoff::Backoff;
use millrace_runtime::config::{CoordinatorConfig, EXIT_CODE, Environment, Source, unknown_names};
use millrace_runtime::health::Health;
use millrace_runtime::metrics::Metrics;
use millrace_runtime::nats::{Nats, Publisher, PublisherOptions};
use millrace_runtime::redis::SharedRedis;
use millrace_runtime::{Shutdown, telemetry};
use tracing::{error, info, warn};

fn main() -> ExitCode {
    let config = match CoordinatorConfig::read(&Environment) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(EXIT_CODE);
        }
    };
    for name in unknown_names(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())) {
        eprintln!("millrace-coordinator: warning: {name} is not a variable of Millrace");
    }
    let guard = telemetry::init(&config.telemetry, "millrace-coordinator");
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run(config, guard.tracer())));
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!(reason = format!("{e:#}"), "coordinator ends");
            ExitCode::FAILURE
        }
    };
    guard.shutdown();
    code
}

async fn run(config: CoordinatorConfig, tracer: telemetry::Tracer) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("cannot watch signals")?;
    check_listen(
        config.listen,
        config.token.as_deref(),
        config.allow_unauthenticated,
    )?;
    let (health, metrics, board) = (Health::new(), Metrics::new(), Board::default());
    let boot = health.check("boot");
    boot.bad("waiting for nats and redis");
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .with_context(|| {
            format!(
                "cannot listen on {}: set MILLRACE_LISTEN to a free address",
                config.listen
            )
        })?;
    info!(address = %config.listen, coordinator = config.id, "coordinator starts");
    let gate = gate::Gate::new(health.clone(), metrics.clone());
    let server = tokio::spawn(gate.clone().serve(listener, shutdown.clone()));
    let nats = millrace_runtime::nats::connect(&config.nats, &format!("coordinator-{}", config.id)).await?;
    let redis = SharedRedis::new(config.redis.clone());
    let Some(opened) = shutdown.unless(open(&config, &nats, &redis)).await else {
        server.await??;
        return Ok(());
    };
    opened?;
    let parts = Parts {
        config,
        nats,
        redis,
        metrics,
        board,
        tracer,
    };
    let running = parts.start(&gate, &shutdown).await?;
    boot.good();
    info!("coordinator serves");
    shutdown.triggered().await;
    info!("coordinator drains");
    running.drain().await;
    server.await??;
    Ok(())
}

/// Waits for both servers, for ever: a coordinator that starts before them is not a fault.
async fn open(config: &CoordinatorConfig, nats: &Nats, redis: &SharedRedis) -> anyhow::Result<()> {
    nats.ready().await?;
    let mut backoff = Backoff::for_servers();
    loop {
        match cluster::open(config, nats.jetstream(), redis).await {
            Ok(()) => return Ok(()),
            Err(e @ cluster::Error::Unreachable { .. }) => {
                warn!(reason = %e, "waiting for the servers");
                backoff.sleep().await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

struct Parts {
    config: CoordinatorConfig,
    nats: Nats,
    redis: SharedRedis,
    metrics: Metrics,
    board: Board,
    tracer: telemetry::Tracer,
}

struct Running {
    partitions: Vec<std::thread::JoinHandle<()>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    nats: Nats,
}

impl Parts {
    /// Starts every part; each is supervised alone.
    async fn start(self, gate: &gate::Gate, shutdown: &Shutdown) -> anyhow::Result<Running> {
        let Self {
            config,
            nats,
            redis,
            metrics,
            board,
            tracer,
        } = self;
        let store = Store::new(config.redis.clone(), redis.clone());
        let registry = Registry::new(&store, nats.client().clone(), config.redirects.clone());
        start_registry(&registry, shutdown).await?;
        let queues = Queues::new(nats.jetstream().clone(), config.ack_wait);
        queues.ensure(millrace_common::names::DEFAULT_QUEUE).await?;
        let membership = Membership::new(&config.id);
        let (publisher, _) = Publisher::start(&nats, PublisherOptions::default()).await?;
        let publisher = Arc::new(publisher);
        let orders = Orders::default();
        let api = ApiState::new(ApiParts {
            coordinator: config.id.clone(),
            build: env!("CARGO_PKG_VERSION").into(),
            partitions: config.partitions,
            token: config.token.clone(),
            nats: nats.clone(),
            store: store.clone(),
            log: Log::new(config.partitions, publisher.clone()),
            events: Events::new(publisher),
            registry: registry.clone(),
            board: board.clone(),
            orders: orders.clone(),
            metrics: metrics.clone(),
        });
        let shared = Arc::new(Shared {
            servers: Arc::new(Real::new(
                config.clone(),
                nats.jetstream().clone(),
                redis.clone(),
                queues.clone(),
            )),
            clock: Clock::system(),
            definitions: Arc::new(registry.definitions.clone()),
            orders,
            functions: registry.functions.clone(),
            membership: membership.clone(),
            metrics: metrics.clone(),
            board: board.clone(),
            trace: Trace::new(tracer.clone(), config.telemetry.sampled_share),
            fault: Fault {
                panic_instance: Environment.get("MILLRACE_TEST_PANIC_INSTANCE"),
            },
            config: config.clone(),
        });
        let of_fleet = queues.clone();
        let ensure: EnsureQueue = Arc::new(move |queue| {
            let queues = of_fleet.clone();
            Box::pin(async move { queues.ensure(&queue).await })
        });
        let fleet = Fleet::new(
            config.id.clone(),
            config.partitions,
            nats.client().clone(),
            store,
            registry.clone(),
            ensure,
        );
        let janitor = Janitor::new(
            config,
            nats.jetstream().clone(),
            redis.clone(),
            board.clone(),
            queues,
            metrics.clone(),
        );
        let vitals = (nats.clone(), tracer, metrics);
        let tasks = vec![
            spawn("vitals", &board, shutdown, &vitals, |(n, t, m), s| async move {
                millrace_coordinator::vitals::run(n, t, m, s).await;
                Ok(())
            }),
            spawn("registry", &board, shutdown, &registry, |r, s| async move {
                r.run(s).await
            }),
            spawn("fleet", &board, shutdown, &Arc::new(fleet), |f, s| async move {
                f.run(s).await
            }),
            spawn(
                "api",
                &board,
                shutdown,
                &api,
                |a, s| async move { a.run(s).await },
            ),
            spawn(
                "janitor",
                &board,
                shutdown,
                &Arc::new(janitor),
                |j, s| async move { j.run(s).await },
            ),
            spawn(
                "membership",
                &board,
                shutdown,
                &(membership, redis),
                |(m, r), s| async move {
                    m.run(r, s).await;
                    Ok(())
                },
            ),
        ];
        let partitions = partition::spawn(&shared, shutdown).context("cannot start the partitions")?;
        gate.open(millrace_coordinator::api::router(api));
        Ok(Running {
            partitions,
            tasks,
            nats,
        })
    }
}

/// Starts a supervised part that works on clones of `state`.
fn spawn<S, F, Fut>(
    name: &'static str,
    board: &Board,
    shutdown: &Shutdown,
    state: &S,
    part: F,
) -> tokio::task::JoinHandle<()>
where
    S: Clone + Send + 'static,
    F: Fn(S, Shutdown) -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let state = state.clone();
    supervise::spawn(name, board, shutdown, move |shutdown| {
        part(state.clone(), shutdown)
    })
}

async fn start_registry(registry: &Registry, shutdown: &Shutdown) -> anyhow::Result<()> {
    let mut backoff = Backoff::for_servers();
    while let Err(e) = registry.start().await {
        warn!(reason = %e, "waiting for the registry");
        if shutdown.unless(backoff.sleep()).await.is_none() {
            anyhow::bail!("stopped while waiting for the registry");
        }
    }
    Ok(())
}

impl Running {
    /// Partitions are handed over first, then the rest ends.
    async fn drain(self) {
        let partitions = self.partitions;
        let joined = tokio::task::spawn_blocking(move || partitions.into_iter().all(|t| t.join().is_ok()));
        match tokio::time::timeout(Duration::from_secs(10), joined).await {
            Ok(Ok(true)) => {}
            _ => warn!("a partition did not end in time; its lease runs out"),
        }
        for task in self.tasks {
            if tokio::time::timeout(Duration::from_secs(5), task).await.is_err() {
                warn!("a part did not end in time");
            }
        }
        self.nats.flush(Duration::from_secs(2)).await;
    }
}
