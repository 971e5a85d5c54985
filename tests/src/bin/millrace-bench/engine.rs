//! The engine as shipped: release binaries, one coordinator with two partitions, one worker with 1,024 slots, servers
//! as the harness sets them up (file storage, append-only file synced every second).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use millrace_tests::{NatsOptions, Stack, eventually_within};
use serde::Serialize;
use serde_json::Value;

use crate::Plan;
use crate::http::{Connection, post};
use crate::load::{Latency, Load};
use crate::machine::{Cpu, Meter};

/// Branches of the forks.
pub(crate) const FORK_SMALL: usize = 1_000;
/// See [`FORK_SMALL`].
pub(crate) const FORK_LARGE: usize = 10_000;

const STEPS: u32 = 10;
const SEQUENCE: &str = "bench-sequence";
const WARM_UP_INSTANCES: usize = 20;
const CALL: &str = "{ call: 'noop:1.0.0@default' }";

/// A running stack and what it has done.
pub(crate) struct Engine {
    stack: Stack,
    host: String,
    finished: u64,
}

/// What serves the stack, in its own words.
#[derive(Debug, Serialize)]
pub(crate) struct Servers {
    nats: String,
    nats_sync: &'static str,
    redis: String,
    appendfsync: String,
    durability: String,
    partitions: String,
}

/// The sequence under load, one round.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sequence {
    pub(crate) steps_per_s: f64,
    /// Of whole instances.
    pub(crate) latency: Latency,
    pub(crate) failed: u64,
    pub(crate) cpu: Cpu,
}

/// Resident memory after many instances.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    pub(crate) instances: u64,
    pub(crate) failed: u64,
    pub(crate) coordinator_bytes: u64,
    pub(crate) coordinator_bytes_max: u64,
    /// For information: other processes by name.
    pub(crate) others: Vec<(String, u64)>,
}

impl Engine {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let stack = Stack::builder()
            .workers(2)
            .nats(nats_options())
            .coordinator_env("MILLRACE_PARTITIONS", "2")
            .worker_env("MILLRACE_SLOTS", "1024")
            .prepare()?;
        // The second worker waits for its turn: see `idle`.
        for process in [stack.nats.process(), stack.redis.process()] {
            process.restart()?;
        }
        stack.nats.ready().await?;
        stack.redis.ready().await?;
        stack.coordinators[0].restart()?;
        stack.workers[0].restart()?;
        stack.ready().await.with_context(|| stack.log_tails(25))?;
        let host = stack.url(0).trim_start_matches("http://").to_owned();
        let engine = Self {
            stack,
            host,
            finished: 0,
        };
        engine.apply(&sequence()).await?;
        for process in engine.stack.processes().filter(|p| p.is_running()) {
            eprintln!("  {} has id {}", process.name(), process.pid().unwrap_or(0));
        }
        Ok(engine)
    }

    /// What serves it.
    pub(crate) async fn servers(&self) -> anyhow::Result<Servers> {
        let status = self.stack.client().get("/api/v1/status").await?.expect(200)?.body;
        let text = |pointer: &str| match status.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "unknown".into(),
        };
        Ok(Servers {
            nats: text("/nats/version"),
            nats_sync: nats_options().sync_interval.unwrap_or("default (2m)"),
            redis: format!("{} {}", text("/redis/flavour"), text("/redis/version")),
            appendfsync: text("/redis/appendfsync"),
            durability: text("/durability/mode"),
            partitions: text("/partitions/count"),
        })
    }

    /// Instances of the sequence one after the other.
    pub(crate) async fn unloaded(&mut self, count: usize) -> anyhow::Result<Latency> {
        let mut connection = Connection::open(&self.host).await?;
        let request = self.start_of(SEQUENCE);
        let mut noted = Vec::with_capacity(count);
        for turn in 0..WARM_UP_INSTANCES + count {
            let begun = Instant::now();
            connection.ask(&request).await?.completed()?;
            if turn >= WARM_UP_INSTANCES {
                noted.push(begun.elapsed());
            }
            self.finished += 1;
        }
        Ok(Latency::of(noted))
    }

    /// The sequence under load.
    pub(crate) async fn sequence(&mut self, plan: &Plan) -> anyhow::Result<Sequence> {
        let load = Load::start(&self.host, &self.start_of(SEQUENCE));
        tokio::time::sleep(plan.warm_up).await;
        let meter = Meter::start(self.stack.processes())?;
        let (begun, before) = (Instant::now(), load.completed());
        load.note(true);
        tokio::time::sleep(plan.window).await;
        let instances = load.completed() - before;
        let elapsed = begun.elapsed();
        let cpu = meter.stop()?;
        load.note(false);
        let (completed, failed, noted) = load.stop().await;
        self.finished += completed;
        ensure!(
            instances > 0,
            "no instance completed under load\n{}",
            self.stack.log_tails(10)
        );
        Ok(Sequence {
            steps_per_s: f64::from(STEPS) * instances as f64 / elapsed.as_secs_f64(),
            latency: Latency::of(noted),
            failed,
            cpu,
        })
    }

    /// Memory when this many instances have finished in all.
    pub(crate) async fn memory_after(&mut self, instances: u64) -> anyhow::Result<Memory> {
        let mut failed = 0;
        if self.finished < instances {
            let load = Load::start(&self.host, &self.start_of(SEQUENCE));
            let missing = instances - self.finished;
            let deadline = Duration::from_secs(600);
            eventually_within(deadline, "the instances have finished", async || {
                (load.completed() >= missing).then_some(())
            })
            .await?;
            let (completed, refused, _) = load.stop().await;
            self.finished += completed;
            failed = refused;
        }
        let coordinator = &self.stack.coordinators[0];
        let usage = coordinator.usage()?;
        let others = self
            .stack
            .processes()
            .filter(|p| p.is_running() && p.name() != coordinator.name())
            .map(|p| Ok((p.name().to_owned(), p.usage()?.rss_bytes)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Memory {
            instances: self.finished,
            failed,
            coordinator_bytes: usage.rss_bytes,
            coordinator_bytes_max: usage.rss_bytes_max,
            others,
        })
    }

    /// Times of whole instances with a fork of so many branches, in seconds.
    pub(crate) async fn forks(&self, branches: usize, count: usize) -> anyhow::Result<Vec<f64>> {
        let name = format!("bench-fork-{branches}");
        self.apply(&fork(&name, branches)).await?;
        let mut connection = Connection::open(&self.host).await?;
        let request = self.start_of(&name);
        // Not counted: the first one of all reads and compiles the definition.
        connection.ask(&request).await?.completed()?;
        let mut seconds = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            connection.ask(&request).await?.completed()?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }

    /// Each process's share of a core while nothing is to do.
    pub(crate) async fn idle(&self, time: Duration) -> anyhow::Result<Option<Cpu>> {
        self.stack.workers[1].restart()?;
        self.stack.ready().await?;
        self.quiet().await?;
        let meter = Meter::start(self.stack.processes())?;
        tokio::time::sleep(time).await;
        meter.stop().map(Some)
    }

    /// Waits until Redis no longer rewrites its append-only file, and a little for whatever else runs on.
    pub(crate) async fn quiet(&self) -> anyhow::Result<()> {
        let mut redis = self.stack.redis.connection().await?;
        let mut rewritten = async || {
            let info: String = redis::cmd("INFO")
                .arg("persistence")
                .query_async(&mut redis)
                .await
                .ok()?;
            let busy = ["aof_rewrite_in_progress:1", "aof_rewrite_scheduled:1"];
            (!busy.iter().any(|line| info.contains(line))).then_some(())
        };
        let deadline = Duration::from_secs(120);
        eventually_within(deadline, "redis has rewritten its file", &mut rewritten).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    async fn apply(&self, definition: &str) -> anyhow::Result<()> {
        let answer = self.stack.client().try_apply(definition).await?;
        ensure!(
            matches!(answer.status, 200 | 201),
            "definition refused: {}",
            answer.body
        );
        Ok(())
    }

    fn start_of(&self, definition: &str) -> Vec<u8> {
        let body =
            format!(r#"{{"definition":{{"namespace":"default","name":"{definition}"}},"input":{{}}}}"#);
        post(&self.host, "/api/v1/instances?wait=30s", &body)
    }
}

impl Servers {
    pub(crate) fn line(&self) -> String {
        format!(
            "nats-server {} (sync_interval {}), {} (appendonly yes, appendfsync {}), durability mode {}, {} partitions",
            self.nats, self.nats_sync, self.redis, self.appendfsync, self.durability, self.partitions
        )
    }
}

/// Those of the ceiling too.
pub(crate) fn nats_options() -> NatsOptions {
    NatsOptions::default()
}

fn head(name: &str) -> String {
    format!("document: {{ dsl: 1.0.3, namespace: default, name: {name}, version: 1.0.0 }}\ndo:\n")
}

fn sequence() -> String {
    let mut text = head(SEQUENCE);
    for step in 0..STEPS {
        writeln!(text, "  - s{step}: {CALL}").expect("a string takes everything");
    }
    text
}

fn fork(name: &str, branches: usize) -> String {
    let mut text = head(name) + "  - all:\n      fork:\n        branches:\n";
    for branch in 0..branches {
        writeln!(text, "          - b{branch}: {CALL}").expect("a string takes everything");
    }
    text
}
