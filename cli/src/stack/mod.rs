//! A whole Millrace as children of this process, on loopback, against real servers: what `dev`, `run --local` and
//! `demo` run. Nothing is left behind, not even when this process is killed with SIGKILL.

pub(crate) mod child;
mod dir;
pub(crate) mod exec;
mod ports;
mod programs;
mod ready;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::Connect;
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome};

use child::{Child, Spec};
pub(crate) use dir::Dir;
use programs::Programs;

/// Tries with other ports when one was taken between its choice and its use.
const TRIES: usize = 3;
/// Time for each process to come up.
const READY: Duration = Duration::from_secs(30);
/// The kernel tells of the end of a process a moment after its connections broke.
const TOLD: Duration = Duration::from_secs(1);
/// Time for workers and coordinator to hand over and end.
const DRAIN: Duration = Duration::from_secs(10);
/// Time for a server to write its data and end.
const CLOSE: Duration = Duration::from_secs(5);

/// The worker's setting of that name.
const PROCESSES: &str = "MILLRACE_PROCESSES";

/// Processes that definitions may start on the workers of a stack: whoever runs it runs its definitions too. The
/// variable decides when it is set, also to nothing.
fn processes() -> String {
    std::env::var(PROCESSES).unwrap_or_else(|_unset| "shell,script".to_owned())
}

/// Tells people which processes their definitions may start. Standard output belongs to results.
pub(crate) fn tell_processes() {
    let kinds = processes();
    if !kinds.trim().is_empty() {
        let style = crate::terminal::Style::stderr();
        let text = format!("definitions may start processes with your rights ({PROCESSES}={kinds})");
        eprintln!("{} {text}", style.yellow("notice:"));
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Stock workers.
    pub(crate) workers: u16,
    /// Port of the API; `None`: any free one.
    pub(crate) port: Option<u16>,
    /// Silence after which a step goes to another worker.
    pub(crate) ack_wait: Duration,
    /// Token of the API, if any.
    pub(crate) token: Option<String>,
}

/// The running children.
#[derive(Debug)]
pub(crate) struct Stack {
    /// `nats-server` and `redis-server`.
    pub(crate) servers: Vec<Child>,
    /// One.
    pub(crate) coordinator: Child,
    /// Stock workers.
    pub(crate) workers: Vec<Child>,
    /// Where the API is served.
    pub(crate) connect: Connect,
    /// For people.
    pub(crate) nats_url: String,
    /// For people.
    pub(crate) redis_url: String,
    // Last: removed when the children are gone.
    dir: Dir,
}

impl Stack {
    /// Starts everything and returns when the API is ready.
    pub(crate) async fn start(plan: &Plan, dir: Dir) -> Outcome<Self> {
        let programs = Programs::find()?;
        let (nats, nats_url) = start_nats(&programs, dir.path()).await?;
        let (redis, redis_url) = start_redis(&programs, dir.path()).await?;
        let servers = vec![nats, redis];
        let common = [
            ("MILLRACE_NATS_URL", nats_url.clone()),
            ("MILLRACE_REDIS_URL", redis_url.clone()),
        ];
        let (coordinator, connect) = start_coordinator(&programs, plan, dir.path(), &common).await?;
        let mut workers = Vec::new();
        for n in 1..=plan.workers {
            workers.push(start_worker(&programs, n, dir.path(), &common)?);
        }
        let mut stack = Self {
            servers,
            coordinator,
            workers,
            connect,
            nats_url,
            redis_url,
            dir,
        };
        stack.wait_ready().await?;
        Ok(stack)
    }

    /// Where data and logs are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client of this stack.
    pub(crate) fn client(&self) -> Outcome<Client> {
        Client::new(&self.connect)
    }

    /// Every child, in the order in which they were started.
    pub(crate) fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        self.servers
            .iter_mut()
            .chain([&mut self.coordinator])
            .chain(&mut self.workers)
    }

    /// The coordinator serves, and knows every worker: a definition may be applied and run without a word of warning.
    async fn wait_ready(&mut self) -> Outcome {
        let client = self.client()?;
        ready::until(READY, || async { client.try_get("/readyz").await.is_ok() })
            .await
            .map_err(|()| self.coordinator.not_ready("did not get ready"))?;
        for worker in &mut self.workers {
            let path = &format!("/api/v1/workers/{}", worker.name());
            let client = &client;
            let alive =
                || async move { matches!(client.try_get(path).await, Ok(w) if w["health"] == "alive") };
            ready::until_or_end(READY, worker, alive).await?;
        }
        Ok(())
    }

    /// Stops everything in order: those who work first, the servers that keep their data last.
    pub(crate) async fn stop(mut self) {
        for worker in &self.workers {
            worker.terminate();
        }
        for worker in &mut self.workers {
            worker.end_within(DRAIN).await;
        }
        self.coordinator.terminate();
        self.coordinator.end_within(DRAIN).await;
        for server in &self.servers {
            server.terminate();
        }
        for server in &mut self.servers {
            server.end_within(CLOSE).await;
        }
    }

    /// Kills everything at once. For stacks whose data nobody needs.
    pub(crate) async fn kill(mut self) {
        for child in self.children() {
            child.kill();
        }
        for child in self.children() {
            child.end_within(CLOSE).await;
        }
    }
}

/// Does something that needs the coordinator of a stack; stops when that ends, and says so: no advice about another one
/// helps then.
pub(crate) async fn while_served<T>(
    coordinator: &mut Child,
    doing: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    let done = tokio::select! {
        done = doing => done,
        failure = lost(coordinator) => return Err(failure),
    };
    match done {
        Err(failure) if failure.exit == Exit::Unreachable => {
            let lost = tokio::time::timeout(TOLD, lost(coordinator)).await;
            Err(lost.unwrap_or(Failure {
                hint: None,
                ..failure
            }))
        }
        done => done,
    }
}

async fn lost(coordinator: &mut Child) -> Failure {
    let how = match coordinator.ended().await {
        Ok(status) => format!("ended with {status}"),
        Err(e) => format!("cannot be watched: {e}"),
    };
    let message = format!("this command's own coordinator {how}");
    Failure::new(Exit::Unreachable, message).report(coordinator.log_tail())
}

async fn start_nats(programs: &Programs, dir: &Path) -> Outcome<(Child, String)> {
    on_free_port(async |port| {
        let store = data_dir(dir, "nats")?;
        let mut spec = Spec::new("nats-server", &programs.nats, dir);
        spec.args([
            "--addr",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--jetstream",
            "--store_dir",
        ])
        .arg(store);
        let mut child = Child::start(spec)?;
        let up = ready::until_or_end(READY, &mut child, || ready::greets(port, b"", b"INFO "));
        up.await.map(|()| (child, format!("nats://127.0.0.1:{port}")))
    })
    .await
}

async fn start_redis(programs: &Programs, dir: &Path) -> Outcome<(Child, String)> {
    on_free_port(async |port| {
        let data = data_dir(dir, "redis")?;
        let mut spec = Spec::new("redis-server", &programs.redis, dir);
        spec.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"])
            .arg(data);
        spec.args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]);
        spec.args(["--maxmemory-policy", "noeviction"]);
        let mut child = Child::start(spec)?;
        let up = ready::until_or_end(READY, &mut child, || ready::greets(port, b"PING\r\n", b"+PONG"));
        up.await.map(|()| (child, format!("redis://127.0.0.1:{port}")))
    })
    .await
}

async fn start_coordinator(
    programs: &Programs,
    plan: &Plan,
    dir: &Path,
    common: &[(&'static str, String)],
) -> Outcome<(Child, Connect)> {
    let start = async |port: u16| {
        let mut spec = Spec::new("coordinator", &programs.coordinator, dir);
        spec.envs(common);
        spec.env("MILLRACE_COORDINATOR_ID", "dev");
        spec.env("MILLRACE_LISTEN", &format!("127.0.0.1:{port}"));
        spec.env("MILLRACE_ACK_WAIT", &format!("{}ms", plan.ack_wait.as_millis()));
        let mut child = Child::start(spec)?;
        ready::until_or_end(READY, &mut child, || ready::accepts(port)).await?;
        let connect = Connect {
            url: format!("http://127.0.0.1:{port}"),
            token: plan.token.clone(),
        };
        Ok((child, connect))
    };
    match plan.port {
        None => on_free_port(start).await,
        Some(port) if ports::is_free(port) => start(port).await,
        Some(port) => Err(Failure::new(Exit::Failed, format!("port {port} is in use"))
            .hint("another `millrace dev` may be running; choose a port with --port")),
    }
}

fn start_worker(
    programs: &Programs,
    number: u16,
    dir: &Path,
    common: &[(&'static str, String)],
) -> Outcome<Child> {
    let name = format!("worker-{number}");
    let mut spec = Spec::new(&name, &programs.worker, dir);
    spec.envs(common);
    spec.env("MILLRACE_WORKER_ID", &name);
    spec.env(PROCESSES, &processes());
    Child::start(spec)
}

/// Runs `start` with a port that the kernel gave, again with another when the child did not come up with it.
async fn on_free_port<T>(mut start: impl AsyncFnMut(u16) -> Outcome<T>) -> Outcome<T> {
    for _ in 1..TRIES {
        match start(ports::free()?).await {
            Err(failure) if failure.report.as_ref().is_some_and(|log| is_taken(log)) => {}
            other => return other,
        }
    }
    start(ports::free()?).await
}

fn is_taken(log: &str) -> bool {
    log.to_ascii_lowercase().contains("address already in use")
}

fn data_dir(dir: &Path, name: &str) -> Outcome<PathBuf> {
    let path = dir.join(name);
    std::fs::create_dir_all(&path)
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot make {}: {e}", path.display())))?;
    Ok(path)
}
