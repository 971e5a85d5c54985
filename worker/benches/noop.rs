//! What one `noop` step costs the worker: CPU time of the worker's process by the number of steps, in a closed loop with
//! a fixed number of steps in flight. `cargo bench --workspace --bench noop`; `STEPS`, `IN_FLIGHT` and `SLOTS` change the run.
//!
//! The coordinator's side is as thin as it can be: it sends the next step when a result arrives.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement fails as tests do and prints its numbers"
)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use futures_util::StreamExt;
use millrace_common::{InstanceKey, PartitionId, RawJson, Step, names, wire};
use millrace_runtime::config::NatsConfig;
use millrace_runtime::nats::{Nats, Publisher, PublisherOptions, connect};
use tokio::process::Command;

#[path = "../../common/runtime/tests/integration/servers.rs"]
mod servers;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (steps, slots) = (number("STEPS", 100_000), number("SLOTS", 64));
    for in_flight in
        std::env::var("IN_FLIGHT").map_or_else(|_e| vec![1, 64, 256, 1024], |t| vec![t.parse().unwrap()])
    {
        let steps = if in_flight == 1 { steps.min(5_000) } else { steps };
        let Some(server) = servers::NatsServer::start() else {
            return;
        };
        run(&server.url(), steps, in_flight, slots).await;
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |t| t.parse().unwrap())
}

async fn run(url: &str, steps: usize, in_flight: usize, slots: usize) {
    let config = NatsConfig {
        urls: vec![url.into()],
        credentials: None,
        ca: None,
    };
    let nats = connect(&config, "bench").await.unwrap();
    nats.ready().await.unwrap();
    create(&nats).await;
    let worker = Command::new(env!("CARGO_BIN_EXE_millrace-worker"))
        .env("MILLRACE_NATS_URL", url)
        .env("MILLRACE_SLOTS", slots.to_string())
        .env(
            "MILLRACE_LOG",
            std::env::var("MILLRACE_LOG").unwrap_or_else(|_e| "info".into()),
        )
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = worker.id().unwrap();
    drive(&nats, 2_000, in_flight, "warm").await;
    let (cpu, begun) = (cpu_of(pid), Instant::now());
    drive(&nats, steps, in_flight, "run").await;
    let (time, cpu) = (begun.elapsed().as_secs_f64(), cpu_of(pid) - cpu);
    let (rate, cost) = (steps as f64 / time, cpu * 1e6 / steps as f64);
    println!(
        "in_flight={in_flight} slots={slots} steps={steps}: {rate:.0} steps/s, worker {cost:.2} us CPU/step"
    );
}

async fn create(nats: &Nats) {
    let js = nats.jetstream();
    let log = Config {
        name: names::log_stream(PartitionId(0)),
        subjects: vec![names::log_subjects(PartitionId(0))],
        ..Default::default()
    };
    js.create_stream(log).await.unwrap();
    let queue = Config {
        name: names::STEPS_STREAM.into(),
        subjects: vec![names::STEPS_SUBJECTS.into()],
        retention: RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    let consumer = pull::Config {
        durable_name: Some(names::queue_consumer("default")),
        filter_subject: names::queue_filter("default"),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 10_000,
        ..Default::default()
    };
    js.create_stream(queue)
        .await
        .unwrap()
        .create_consumer(consumer)
        .await
        .unwrap();
}

/// Sends steps so that this many are in flight, until all have a result.
async fn drive(nats: &Nats, steps: usize, in_flight: usize, name: &str) {
    let (publisher, mut completions) = Publisher::start(nats, PublisherOptions::default()).await.unwrap();
    tokio::spawn(async move { while completions.recv().await.is_some() {} });
    let stream = nats
        .jetstream()
        .get_stream(names::log_stream(PartitionId(0)))
        .await
        .unwrap();
    let start = stream.cached_info().state.last_sequence + 1;
    let reader = pull::OrderedConfig {
        deliver_policy: async_nats::jetstream::consumer::DeliverPolicy::ByStartSequence {
            start_sequence: start,
        },
        ..Default::default()
    };
    let mut results = stream
        .create_consumer(reader)
        .await
        .unwrap()
        .messages()
        .await
        .unwrap();
    let subject = names::step_subject("default", "default", 5);
    for n in 0..steps {
        if n >= in_flight {
            result(&mut results).await;
        }
        publisher
            .publish_tagged(subject.clone(), None, wire::encode_step(&step(name, n)), 0)
            .await;
    }
    for _ in 0..in_flight.min(steps) {
        result(&mut results).await;
    }
}

async fn result(results: &mut pull::Ordered) {
    let next = tokio::time::timeout(Duration::from_secs(30), results.next());
    next.await.expect("a result within 30 s").unwrap().unwrap();
}

fn step(name: &str, n: usize) -> Step {
    Step {
        id: format!("{name}-{n:016x}.1"),
        key: format!("{name}-{n:016x}"),
        instance: InstanceKey::new("default", "order-4711").unwrap(),
        definition: "default/order@1.0.0".into(),
        task: "/do/3/charge".into(),
        function: "noop:1.0.0".into(),
        attempt: 1,
        generation: 0,
        frame: 3,
        input: RawJson::parse(
            br#"{"order":"4711","amount":42,"lines":[{"sku":"a","n":1},{"sku":"b","n":2}]}"#,
        )
        .unwrap(),
        deadline_ms: None,
        start_by_ms: None,
        heartbeat_ms: None,
        max_deliveries: None,
        progress: None,
        report: names::report_subject(PartitionId(0), "default"),
        token: String::new(),
        late: None,
    }
}

/// CPU seconds of a process so far.
fn cpu_of(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text[text.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
