//! `millrace bench`: drives a running stack over its API and tells how fast it was, and under which durability.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::args::{BenchArgs, Scenario};
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{fields, show, text};

/// An instance that takes longer has failed the measurement.
const WAIT: &str = "60s";
const ANSWER: Duration = Duration::from_secs(75);
/// Steps of one definition.
const STEPS_MAX: u32 = 5_000;

/// What is run.
#[derive(Clone, Debug)]
struct Load {
    scenario: Scenario,
    steps: u32,
    instances: u32,
    concurrency: u32,
}

/// What came out. The names are read by tools.
#[derive(Debug, Serialize)]
struct Result {
    scenario: &'static str,
    steps: u32,
    instances: u32,
    concurrency: u32,
    seconds: f64,
    steps_per_s: f64,
    instances_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    durability: Value,
    nats: Value,
    redis: Value,
}

pub(super) async fn run(args: BenchArgs, client: &Client) -> Outcome {
    let load = load(&args)?;
    let source = definition(&load);
    let name = name(&load);
    client
        .post_source("/api/v1/definitions", &source)
        .await
        .map_err(|e| client.failure(e))?;
    let status = client.get("/api/v1/status").await?;
    // Connections, caches and code pages are warm afterwards.
    drive(
        client,
        &name,
        load.concurrency.min(load.instances),
        load.concurrency,
    )
    .await?;
    let started = Instant::now();
    let times = drive(client, &name, load.instances, load.concurrency).await?;
    let result = result(&load, started.elapsed(), times, &status);
    let value = serde_json::to_value(&result).map_err(anyhow::Error::from)?;
    show(args.read.output, &value, table)
}

fn load(args: &BenchArgs) -> Outcome<Load> {
    let single = args.scenario == Scenario::Latency;
    let load = Load {
        scenario: args.scenario,
        steps: args.steps,
        instances: args.instances.unwrap_or(if single { 200 } else { 2_000 }),
        concurrency: args.concurrency.unwrap_or(if single { 1 } else { 64 }),
    };
    let bad = |what: &str| Err(Failure::new(Exit::Usage, what));
    match load {
        Load { steps: 0, .. } | Load { instances: 0, .. } | Load { concurrency: 0, .. } => {
            bad("--steps, --instances and --concurrency are at least 1")
        }
        Load { steps, .. } if steps > STEPS_MAX => bad(&format!("--steps is above {STEPS_MAX}: {steps}")),
        load => Ok(load),
    }
}

fn name(load: &Load) -> String {
    format!("bench-{}-{}", load.scenario.name(), load.steps)
}

/// `steps` calls of `noop`, one after the other or side by side.
fn definition(load: &Load) -> String {
    let step = |n: u32| json!({format!("step{n}"): {"call": "noop:1.0.0@default", "with": {"n": n}}});
    let steps: Vec<Value> = (1..=load.steps).map(step).collect();
    let tasks = match load.scenario {
        Scenario::Sequence | Scenario::Latency => json!(steps),
        Scenario::Fanout => json!([{"all": {"fork": {"branches": steps}}}]),
    };
    let document = json!({"dsl": "1.0.3", "namespace": "default", "name": name(load), "version": "1.0.0"});
    json!({"document": document, "do": tasks}).to_string()
}

/// Runs instances, `concurrency` at a time, each to its end; gives the time of each.
async fn drive(client: &Client, name: &str, instances: u32, concurrency: u32) -> Outcome<Vec<Duration>> {
    let request = Arc::new(json!({"definition": {"name": name}, "input": {}}));
    let left = Arc::new(AtomicU32::new(instances));
    let mut lanes = JoinSet::new();
    for _ in 0..concurrency.min(instances) {
        lanes.spawn(lane(client.clone(), request.clone(), left.clone()));
    }
    let mut times = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        times.extend(lane.map_err(anyhow::Error::from)??);
    }
    Ok(times)
}

async fn lane(client: Client, request: Arc<Value>, left: Arc<AtomicU32>) -> Outcome<Vec<Duration>> {
    let mut times = Vec::new();
    let path = format!("/api/v1/instances?wait={WAIT}");
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .is_ok()
    {
        let started = Instant::now();
        let answer = client
            .try_post(&path, &request, ANSWER)
            .await
            .map_err(|e| client.failure(e))?;
        times.push(started.elapsed());
        if answer.body["status"] != "completed" {
            let (id, status) = (text(&answer.body, "/id"), text(&answer.body, "/status"));
            return Err(Failure::new(
                Exit::Failed,
                format!("instance {id} is {status} after {WAIT}"),
            ));
        }
    }
    Ok(times)
}

fn result(load: &Load, elapsed: Duration, mut times: Vec<Duration>, status: &Value) -> Result {
    times.sort_unstable();
    let ms = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
    let seconds = elapsed.as_secs_f64();
    let instances_per_s = f64::from(load.instances) / seconds;
    Result {
        scenario: load.scenario.name(),
        steps: load.steps,
        instances: load.instances,
        concurrency: load.concurrency,
        seconds: (seconds * 1000.0).round() / 1000.0,
        steps_per_s: (instances_per_s * f64::from(load.steps)).round(),
        instances_per_s: (instances_per_s * 10.0).round() / 10.0,
        p50_ms: ms(percentile(&times, 50)),
        p99_ms: ms(percentile(&times, 99)),
        max_ms: ms(percentile(&times, 100)),
        durability: status["durability"].clone(),
        nats: status["nats"].clone(),
        redis: status["redis"].clone(),
    }
}

/// Of sorted times: the smallest that is not below so many of a hundred.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn table(result: &Value) -> String {
    let member = |name: &str| text(result, &format!("/{name}"));
    let load: BTreeMap<_, _> = ["instances", "steps", "concurrency"]
        .map(|n| (n, member(n)))
        .into();
    fields(&[
        ("scenario", member("scenario")),
        (
            "load",
            format!(
                "{} instances of {} steps, {} at a time",
                load["instances"], load["steps"], load["concurrency"]
            ),
        ),
        ("time", format!("{} s", member("seconds"))),
        ("steps", format!("{} /s", member("steps_per_s"))),
        ("instances", format!("{} /s", member("instances_per_s"))),
        (
            "latency",
            format!(
                "p50 {} ms, p99 {} ms, max {} ms",
                member("p50_ms"),
                member("p99_ms"),
                member("max_ms")
            ),
        ),
        (
            "durability",
            format!(
                "mode {}, {}",
                text(result, "/durability/mode"),
                text(result, "/durability/settings")
            ),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(scenario: Scenario, steps: u32) -> Load {
        Load {
            scenario,
            steps,
            instances: 1,
            concurrency: 1,
        }
    }

    #[test]
    fn every_scenario_is_a_valid_definition() {
        for scenario in [Scenario::Sequence, Scenario::Fanout, Scenario::Latency] {
            let source = definition(&load(scenario, 3));
            let (document, faults) = crate::source::check(&source);
            assert!(document.is_some(), "{scenario:?} {faults:?}");
        }
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(50));
        assert_eq!(percentile(&times, 99), Duration::from_millis(99));
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
