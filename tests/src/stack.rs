//! A whole Millrace on loopback.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use millrace_common::{PartitionId, names};

use crate::servers::Dir;
use crate::{Client, Nats, NatsOptions, Process, Redis, RedisOptions, Spec, binary, eventually, ports};

/// What a stack is made of.
#[derive(Clone, Debug)]
pub struct StackBuilder {
    coordinators: usize,
    workers: usize,
    worker_program: &'static str,
    coordinator_variables: BTreeMap<String, String>,
    worker_variables: BTreeMap<String, String>,
    nats: NatsOptions,
    redis: RedisOptions,
}

/// Real servers, coordinators and workers; killed when dropped. When the test fails, the ends of all logs are shown and
/// the directory with logs and data is kept.
#[derive(Debug)]
pub struct Stack {
    /// Coordinators, in order of their names.
    pub coordinators: Vec<Process>,
    /// Workers, in order of their names.
    pub workers: Vec<Process>,
    /// NATS.
    pub nats: Nats,
    /// Redis.
    pub redis: Redis,
    urls: Vec<String>,
    // Last, so that it is removed after the processes are gone.
    dir: Dir,
}

/// Owner of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The coordinator's name.
    pub name: String,
    /// Raised by every take-over.
    pub counter: u64,
    /// It left on purpose, and nobody followed yet.
    pub released: bool,
}

impl Stack {
    /// One coordinator and one worker, to be changed.
    pub fn builder() -> StackBuilder {
        let common = [("MILLRACE_LOG", "info")];
        let common: BTreeMap<String, String> =
            common.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        StackBuilder {
            coordinators: 1,
            workers: 1,
            worker_program: "millrace-worker",
            coordinator_variables: common.clone(),
            worker_variables: common,
            nats: NatsOptions::default(),
            redis: RedisOptions::default(),
        }
    }

    /// A client of all coordinators.
    pub fn client(&self) -> Client {
        Client::new(self.urls.clone())
    }

    /// A client of one coordinator.
    pub fn client_of(&self, coordinator: usize) -> Client {
        Client::new(vec![self.urls[coordinator].clone()])
    }

    /// URL of a coordinator.
    pub fn url(&self, coordinator: usize) -> &str {
        &self.urls[coordinator]
    }

    /// Directory of logs and data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the directory of logs and data; gives its place.
    pub fn keep_dir(&mut self) -> PathBuf {
        let path = self.dir.path().to_owned();
        self.dir.keep();
        path
    }

    /// Every process.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let servers = [self.nats.process(), self.redis.process()];
        servers.into_iter().chain(&self.coordinators).chain(&self.workers)
    }

    /// Waits until every coordinator serves and every running worker is known.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn ready(&self) -> anyhow::Result<()> {
        for coordinator in 0..self.coordinators.len() {
            let client = self.client_of(coordinator);
            let ready = async || (client.get("/readyz").await.ok()?.status == 200).then_some(());
            eventually(
                &format!("{} is ready", self.coordinators[coordinator].name()),
                ready,
            )
            .await?;
        }
        let wanted = self.workers.iter().filter(|w| w.is_running()).count();
        eventually(&format!("{wanted} workers are known"), async || {
            let answer = self.client().get("/api/v1/workers").await.ok()?;
            (answer.body["items"].as_array()?.len() >= wanted).then_some(())
        })
        .await
    }

    /// Who owns a partition, as Redis says: the coordinator's name and the number of its reign.
    ///
    /// # Errors
    /// When Redis does not answer, or nobody ever owned it.
    pub async fn owner(&self, partition: u16) -> anyhow::Result<Owner> {
        let mut redis = self.redis.connection().await?;
        let key = names::fence_key(PartitionId(partition));
        let text: Option<String> = redis::cmd("GET").arg(key).query_async(&mut redis).await?;
        let fence: serde_json::Value =
            serde_json::from_str(&text.context("nobody ever owned the partition")?)?;
        let name = fence["owner"]
            .as_str()
            .context("the fence names its owner")?
            .to_owned();
        let counter = fence["counter"].as_u64().context("the fence has a counter")?;
        Ok(Owner {
            name,
            counter,
            released: fence["released"] == true,
        })
    }

    /// Place in [`Self::coordinators`] of a name.
    pub fn coordinator_named(&self, name: &str) -> Option<usize> {
        self.coordinators.iter().position(|c| c.name() == name)
    }

    /// The ends of all logs.
    pub fn log_tails(&self, lines: usize) -> String {
        self.processes().map(|p| p.log_tail(lines)).collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}logs and data are kept in {}",
                self.log_tails(25),
                self.dir.path().display()
            );
            self.dir.keep();
        }
    }
}

impl StackBuilder {
    /// Number of coordinators.
    #[must_use]
    pub const fn coordinators(mut self, count: usize) -> Self {
        self.coordinators = count;
        self
    }

    /// Number of workers.
    #[must_use]
    pub const fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Another program for the workers.
    #[must_use]
    pub const fn worker_program(mut self, name: &'static str) -> Self {
        self.worker_program = name;
        self
    }

    /// A variable of the coordinators.
    #[must_use]
    pub fn coordinator_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.coordinator_variables.insert(name.into(), value.into());
        self
    }

    /// A variable of the workers.
    #[must_use]
    pub fn worker_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.worker_variables.insert(name.into(), value.into());
        self
    }

    /// A variable of coordinators and workers.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        self.coordinator_env(name, value).worker_env(name, value)
    }

    /// nats-server's settings.
    #[must_use]
    pub const fn nats(mut self, options: NatsOptions) -> Self {
        self.nats = options;
        self
    }

    /// redis-server's settings.
    #[must_use]
    pub const fn redis(mut self, options: RedisOptions) -> Self {
        self.redis = options;
        self
    }

    /// Starts everything and waits until it serves.
    ///
    /// # Errors
    /// When a program is missing or something does not come up; with the ends of all logs.
    pub async fn start(self) -> anyhow::Result<Stack> {
        let stack = self.prepare()?;
        stack.nats.process().restart()?;
        stack.redis.process().restart()?;
        stack.nats.ready().await?;
        stack.redis.ready().await?;
        for process in stack.coordinators.iter().chain(&stack.workers) {
            process.restart()?;
        }
        stack.ready().await.with_context(|| stack.log_tails(25))?;
        Ok(stack)
    }

    /// As [`Self::start`], but nothing is started.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn prepare(mut self) -> anyhow::Result<Stack> {
        let dir = Dir::new()?;
        let nats = Nats::new(dir.path(), &self.nats)?;
        let redis = Redis::new(dir.path(), &self.redis)?;
        self = self.env("MILLRACE_NATS_URL", &nats.url());
        self = self.coordinator_env("MILLRACE_REDIS_URL", redis.url());
        let ports: Vec<u16> = (0..self.coordinators).map(|_| ports::free()).collect();
        let coordinators: anyhow::Result<_> = ports
            .iter()
            .enumerate()
            .map(|(n, port)| self.coordinator(dir.path(), n, *port))
            .collect();
        let workers: anyhow::Result<_> = (0..self.workers).map(|n| self.worker(dir.path(), n)).collect();
        Ok(Stack {
            coordinators: coordinators?,
            workers: workers?,
            nats,
            redis,
            urls: ports
                .iter()
                .map(|port| format!("http://127.0.0.1:{port}"))
                .collect(),
            dir,
        })
    }

    fn coordinator(&self, dir: &Path, number: usize, port: u16) -> anyhow::Result<Process> {
        let name = format!("coordinator-{number}");
        let mut variables = self.coordinator_variables.clone();
        variables.insert("MILLRACE_LISTEN".into(), format!("127.0.0.1:{port}"));
        variables.insert("MILLRACE_COORDINATOR_ID".into(), name.clone());
        self.process(dir, name, "millrace-coordinator", variables)
    }

    fn worker(&self, dir: &Path, number: usize) -> anyhow::Result<Process> {
        let name = format!("worker-{number}");
        let mut variables = self.worker_variables.clone();
        variables.insert("MILLRACE_WORKER_ID".into(), name.clone());
        self.process(dir, name, self.worker_program, variables)
    }

    fn process(
        &self,
        dir: &Path,
        name: String,
        program: &str,
        variables: BTreeMap<String, String>,
    ) -> anyhow::Result<Process> {
        let log = dir.join(format!("{name}.log"));
        Ok(Process::new(Spec {
            name,
            program: binary(program)?,
            arguments: Vec::new(),
            variables,
            log,
        }))
    }
}
