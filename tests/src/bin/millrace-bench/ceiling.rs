//! The ceiling: what NATS and Redis can do for a step when there is no engine at all. A loop that plays coordinator
//! appends steps to a work queue; a worker process pulls each, appends its result to a second stream and acks the step
//! after the result is stored; the loop takes what results are ready, writes six commands a transition in one `EXEC`
//! that is already fenced by `WATCH`, and then appends the next steps. All effects of the engine, none of its thought.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use async_nats::jetstream::{self, consumer, stream};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use millrace_tests::{Process, Spec, Stack, eventually};
use redis::Value;
use serde::Serialize;

use crate::Plan;
use crate::engine::nats_options;
use crate::load::Latency;
use crate::machine::{Cpu, Meter};

/// Hidden first argument that makes this binary the loop's worker.
pub(crate) const WORKER: &str = "ceiling-worker";

const STEPS: &str = "STEPS";
const STEPS_SUBJECT: &str = "STEPS.q";
const RESULTS: &str = "RESULTS";
const RESULTS_SUBJECT: &str = "RESULTS.0";
const CONSUMER: &str = "w";
const IN_FLIGHT: u32 = 1024;
const BATCH_MAX: usize = 256;
const MESSAGE_BYTES: usize = 256;
const STATE: [u8; 500] = [b's'; 500];
const ENTRY: [u8; 120] = [b'e'; 120];
const FENCE: &str = "epoch:{0}";
const FENCE_VALUE: &str = "7";
const ANSWER_MAX: Duration = Duration::from_secs(30);
const UNLOADED_STEPS: u32 = 2_000;
const UNLOADED_WARM_UP: u32 = 300;

/// Of one round.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    /// With 1,024 steps in flight.
    pub(crate) steps_per_s: f64,
    /// One step, with one in flight.
    pub(crate) unloaded: Latency,
    /// While under load.
    pub(crate) cpu: Cpu,
}

/// One round, with servers of its own that are gone afterwards.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<Figures> {
    let servers = Stack::builder()
        .coordinators(0)
        .workers(0)
        .nats(nats_options())
        .prepare()?;
    servers.nats.process().restart()?;
    servers.redis.process().restart()?;
    servers.nats.ready().await?;
    servers.redis.ready().await?;
    let client = connect(&servers.nats.url()).await?;
    make_streams(&client).await?;
    let worker = start_worker(&servers).await?;

    let mut skeleton = Loop::new(client, &servers.redis.url()).await?;
    let unloaded = skeleton.unloaded().await.with_context(|| worker.log_tail(5))?;
    let processes = servers.processes().chain([&worker]);
    let loaded = skeleton.loaded(plan, processes).await;
    let (steps_per_s, cpu) = loaded.with_context(|| worker.log_tail(5))?;
    Ok(Figures {
        steps_per_s,
        unloaded,
        cpu,
    })
}

/// The worker's side, until killed.
pub(crate) async fn work(url: &str) -> anyhow::Result<()> {
    let client = connect(url).await?;
    let steps = jetstream::new(client.clone()).get_stream(STEPS).await?;
    let consumer: consumer::PullConsumer = steps.get_consumer(CONSUMER).await.map_err(anyhow::Error::msg)?;
    let mut steps = consumer
        .stream()
        .max_messages_per_batch(BATCH_MAX)
        .messages()
        .await?;
    let inbox = client.new_inbox();
    let mut stored = client.subscribe(format!("{inbox}.*")).await?;
    client.flush().await?;
    println!("ready");
    let result = format!("{inbox}.1");
    // One connection, one stream: results are acknowledged in the order of their appends.
    let mut unacked = VecDeque::new();
    loop {
        tokio::select! {
            step = steps.next() => {
                let step = step.context("the work queue ended")??;
                unacked.push_back(step.reply.clone().context("a step cannot be acked")?);
                client.publish_with_reply(RESULTS_SUBJECT, result.clone(), step.payload.clone()).await?;
            }
            ack = stored.next() => {
                check_ack(&ack.context("the inbox ended")?.payload)?;
                let step = unacked.pop_front().context("an ack too many")?;
                client.publish(step, Bytes::from_static(b"+ACK")).await?;
            }
        }
    }
}

async fn connect(url: &str) -> anyhow::Result<async_nats::Client> {
    let options = async_nats::ConnectOptions::new()
        .client_capacity(65_536)
        .subscription_capacity(1 << 20);
    Ok(options.connect(url).await?)
}

async fn make_streams(client: &async_nats::Client) -> anyhow::Result<()> {
    let jetstream = jetstream::new(client.clone());
    let queue = [
        (STEPS, stream::RetentionPolicy::WorkQueue),
        (RESULTS, stream::RetentionPolicy::Limits),
    ];
    for (name, retention) in queue {
        let config = stream::Config {
            name: name.into(),
            subjects: vec![format!("{name}.>")],
            retention,
            storage: stream::StorageType::File,
            ..Default::default()
        };
        jetstream.create_stream(config).await?;
    }
    let config = consumer::pull::Config {
        durable_name: Some(CONSUMER.into()),
        max_ack_pending: 20_000,
        ..Default::default()
    };
    jetstream.get_stream(STEPS).await?.create_consumer(config).await?;
    Ok(())
}

async fn start_worker(servers: &Stack) -> anyhow::Result<Process> {
    let worker = Process::start(Spec {
        name: WORKER.into(),
        program: std::env::current_exe()?,
        arguments: vec![WORKER.into(), servers.nats.url()],
        variables: Default::default(),
        log: servers.dir().join(format!("{WORKER}.log")),
    })?;
    let ready = eventually("the loop's worker is ready", async || {
        worker.log().contains("ready").then_some(())
    });
    ready.await.with_context(|| worker.log_tail(5))?;
    Ok(worker)
}

fn check_ack(payload: &[u8]) -> anyhow::Result<()> {
    ensure!(
        payload.starts_with(b"{\"stream\""),
        "refused by JetStream: {}",
        String::from_utf8_lossy(payload)
    );
    Ok(())
}

/// The coordinator's side.
struct Loop {
    client: async_nats::Client,
    inbox: String,
    /// Appends that JetStream refused.
    refused: Arc<AtomicU64>,
    results: consumer::pull::Ordered,
    commits: Commits,
    batch: Vec<u32>,
}

impl Loop {
    async fn new(client: async_nats::Client, redis_url: &str) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let mut acks = client.subscribe(format!("{inbox}.*")).await?;
        let refused = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&refused);
        // Ends with the connection.
        tokio::spawn(async move {
            while let Some(ack) = acks.next().await {
                if let Err(error) = check_ack(&ack.payload) {
                    counter.fetch_add(1, Ordering::Relaxed);
                    eprintln!("{error}");
                }
            }
        });
        let stream = jetstream::new(client.clone()).get_stream(RESULTS).await?;
        let config = consumer::pull::OrderedConfig {
            filter_subject: RESULTS_SUBJECT.into(),
            ..Default::default()
        };
        Ok(Self {
            results: stream.create_consumer(config).await?.messages().await?,
            client,
            inbox,
            refused,
            commits: Commits::new(redis_url).await?,
            batch: Vec::with_capacity(BATCH_MAX),
        })
    }

    /// From the append of a step to the commit of its result, one step at a time.
    async fn unloaded(&mut self) -> anyhow::Result<Latency> {
        let mut noted = Vec::new();
        for turn in 0..UNLOADED_STEPS {
            let begun = Instant::now();
            self.append(0).await?;
            self.commit_ready().await?;
            if turn >= UNLOADED_WARM_UP {
                noted.push(begun.elapsed());
            }
        }
        Ok(Latency::of(noted))
    }

    /// Steps a second with [`IN_FLIGHT`] of them under way.
    async fn loaded<'a>(
        &mut self,
        plan: &Plan,
        processes: impl Iterator<Item = &'a Process>,
    ) -> anyhow::Result<(f64, Cpu)> {
        for id in 0..IN_FLIGHT {
            self.append(id).await?;
        }
        self.turn_for(plan.warm_up).await?;
        let meter = Meter::start(processes)?;
        let begun = Instant::now();
        let steps = self.turn_for(plan.window).await?;
        let steps_per_s = steps as f64 / begun.elapsed().as_secs_f64();
        let refused = self.refused.load(Ordering::Relaxed);
        ensure!(refused == 0, "JetStream refused {refused} appends of the loop");
        Ok((steps_per_s, meter.stop()?))
    }

    /// Turns for some time; gives the steps done.
    async fn turn_for(&mut self, time: Duration) -> anyhow::Result<usize> {
        let begun = Instant::now();
        let mut steps = 0;
        while begun.elapsed() < time {
            self.commit_ready().await?;
            steps += self.batch.len();
            for at in 0..self.batch.len() {
                self.append(self.batch[at]).await?;
            }
        }
        Ok(steps)
    }

    async fn append(&self, id: u32) -> anyhow::Result<()> {
        let mut message = vec![b'x'; MESSAGE_BYTES];
        message[..4].copy_from_slice(&id.to_le_bytes());
        let reply = format!("{}.{id}", self.inbox);
        self.client
            .publish_with_reply(STEPS_SUBJECT, reply, message.into())
            .await?;
        Ok(())
    }

    /// Waits for a result, takes what else is ready, and commits it all.
    async fn commit_ready(&mut self) -> anyhow::Result<()> {
        self.batch.clear();
        let mut next = self.results.next().await;
        loop {
            let result = next.context("the results ended")??;
            let id = result.payload.first_chunk().context("a result without its id")?;
            self.batch.push(u32::from_le_bytes(*id));
            if self.batch.len() == BATCH_MAX {
                break;
            }
            match self.results.next().now_or_never() {
                Some(ready) => next = ready,
                None => break,
            }
        }
        self.commits.commit(&self.batch).await
    }
}

/// Fenced commits: one write holds the transaction and the `WATCH` of the next.
struct Commits {
    connection: redis::aio::MultiplexedConnection,
    transitions: u64,
}

impl Commits {
    async fn new(redis_url: &str) -> anyhow::Result<Self> {
        // On a busy machine the append-only file can hold up an answer for longer than the library waits by itself.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_MAX));
        let mut connection = redis::Client::open(redis_url)?
            .get_multiplexed_async_connection_with_config(&patient)
            .await?;
        let mut arm = redis::pipe();
        arm.cmd("SET").arg(FENCE).arg(FENCE_VALUE);
        arm.cmd("WATCH").arg(FENCE);
        let _armed: Vec<Value> = arm.query_async(&mut connection).await?;
        Ok(Self {
            connection,
            transitions: 0,
        })
    }

    async fn commit(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        let mut pipe = redis::Pipeline::with_capacity(ids.len() * 6 + 5);
        pipe.cmd("MULTI");
        for id in ids {
            self.transitions += 1;
            transition(&mut pipe, *id, self.transitions);
        }
        pipe.cmd("LTRIM").arg("ob:{0}").arg(ids.len()).arg(-1);
        pipe.cmd("EXEC");
        pipe.cmd("WATCH").arg(FENCE).cmd("GET").arg(FENCE);
        let replies: Vec<Value> = pipe.query_async(&mut self.connection).await?;
        match &replies[..] {
            [.., Value::Array(_), _, Value::BulkString(fence)] if fence == FENCE_VALUE.as_bytes() => Ok(()),
            _ => bail!("a commit of the loop was refused"),
        }
    }
}

fn transition(pipe: &mut redis::Pipeline, id: u32, number: u64) {
    pipe.cmd("HSET")
        .arg(format!("wf:{{0}}:{id}"))
        .arg("s")
        .arg(&STATE)
        .arg("r")
        .arg(number);
    pipe.cmd("RPUSH").arg(format!("h:{{0}}:{id}")).arg(&ENTRY);
    pipe.cmd("ZADD").arg("tm:{0}").arg(number).arg(id);
    pipe.cmd("ZREM").arg("tm2:{0}").arg(id);
    pipe.cmd("RPUSH").arg("ob:{0}").arg(&ENTRY);
    pipe.cmd("SET").arg("off:{0}").arg(number);
}
