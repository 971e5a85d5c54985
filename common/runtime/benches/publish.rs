//! What a confirmed message costs its sender: a future each, a tag each, and a tag with `Nats-Expected-Stream`.
//! `cargo bench --workspace --bench publish`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement fails as tests do and prints its numbers"
)]

use std::time::Instant;

use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use millrace_runtime::config::NatsConfig;
use millrace_runtime::nats::{Ack, Publisher, PublisherOptions, connect, expected_stream};

#[path = "../tests/integration/servers.rs"]
mod servers;

const MESSAGES: u64 = 200_000;
const IN_FLIGHT: usize = 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for mode in ["future", "tagged", "tagged+stream"] {
        let Some(server) = servers::NatsServer::start() else {
            return;
        };
        let config = NatsConfig {
            urls: vec![server.url()],
            credentials: None,
            ca: None,
        };
        let nats = connect(&config, "bench").await.unwrap();
        nats.ready().await.unwrap();
        let stream = Config {
            name: "S".into(),
            subjects: vec!["s.>".into()],
            ..Default::default()
        };
        nats.jetstream().create_stream(stream).await.unwrap();
        let options = PublisherOptions {
            in_flight_max: IN_FLIGHT,
            ..Default::default()
        };
        let (publisher, mut completions) = Publisher::start(&nats, options).await.unwrap();
        let payload = Bytes::from(vec![b'x'; 256]);
        let (cpu, begun) = (cpu(), Instant::now());
        if mode == "future" {
            let mut open = FuturesUnordered::new();
            for _ in 0..MESSAGES {
                if open.len() >= IN_FLIGHT {
                    let outcome: Option<Result<Ack, _>> = open.next().await;
                    outcome.unwrap().unwrap();
                }
                open.push(publisher.publish("s.a", None, payload.clone()));
            }
            while let Some(outcome) = open.next().await {
                outcome.unwrap();
            }
        } else {
            let headers = (mode == "tagged+stream").then(|| expected_stream("S"));
            let sender = publisher.clone();
            tokio::spawn(async move {
                for tag in 0..MESSAGES {
                    sender
                        .publish_tagged("s.a", headers.clone(), payload.clone(), tag)
                        .await;
                }
            });
            let mut confirmed = 0;
            while confirmed < MESSAGES {
                confirmed += completions
                    .recv()
                    .await
                    .unwrap()
                    .into_iter()
                    .map(|(_, o)| u64::from(o.is_ok()))
                    .sum::<u64>();
            }
        }
        let (time, cpu) = (begun.elapsed().as_secs_f64(), self::cpu() - cpu);
        let (rate, cost) = (MESSAGES as f64 / time, cpu * 1e6 / MESSAGES as f64);
        println!("{mode}: {rate:.0} messages/s, sender {cost:.2} us CPU/message");
    }
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text[text.rfind(')').unwrap() + 2..].split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
