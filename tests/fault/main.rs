//! Kills, stops and restarts real processes under load, at moments drawn from a seed, and judges from outside: every
//! accepted instance completes, every step is run at least once and always under the same key, every result is applied
//! once, and what was killed is taken over in time.
//!
//! `MILLRACE_FAULT_RUNS` says how many runs are made, `MILLRACE_FAULT_SEED` the seed of the first (the next has the next
//! number). A failing run prints its seed and keeps its directory.

mod check;
mod inject;
mod load;
mod report;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use check::Seen;
use inject::Injector;
use load::Started;
use millrace_common::{PartitionId, names};
use millrace_tests::ledger::{self, What};
use millrace_tests::{Client, Rng, Stack, eventually_within};
use report::Figures;

const COORDINATORS: usize = 2;
const WORKERS: usize = 3;
const PARTITIONS: u16 = 4;
const STEPS: u32 = 10;
const INSTANCES_MIN: u32 = 200;
const INSTANCES_MAX: u32 = 1_200;
const LEASE_TTL: Duration = Duration::from_secs(2);
const ACK_WAIT: Duration = Duration::from_secs(3);
/// Bound of the take-over of a coordinator's partitions.
const TAKE_OVER_MAX: Duration = Duration::from_secs(5);
/// Bound of the take-over of a worker's step.
const STEP_TAKE_OVER_MAX: Duration = ACK_WAIT.saturating_add(Duration::from_secs(1));
/// Time for the rest of the work, once nothing breaks any more.
const DRAIN: Duration = Duration::from_secs(60);
/// Time until nothing is left lying about.
const REST: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_is_applied_twice() -> anyhow::Result<()> {
    let runs = std::env::var("MILLRACE_FAULT_RUNS")
        .ok()
        .map_or(Ok(3), |n| n.parse::<u64>());
    let runs = runs.context("MILLRACE_FAULT_RUNS is not a number")?;
    let first = Rng::fresh_seed();
    let mut figures = Figures::default();
    let mut failures = Vec::new();
    for seed in (first..).take(usize::try_from(runs)?) {
        eprintln!("run with seed {seed}");
        // The ledger lies outside of the stack, which knows nothing of it.
        let ledger = std::env::temp_dir().join(format!("millrace-test-{}-{seed}.ledger", std::process::id()));
        let mut stack = start(&ledger).await?;
        let (seen, violations) = match run(&stack, &ledger, seed).await {
            Ok(done) => done,
            Err(error) => (Figures::default(), vec![format!("{error:#}")]),
        };
        eprintln!("{seen}");
        figures.extend(seen);
        if violations.is_empty() {
            std::fs::remove_file(&ledger)?;
        } else {
            let kept = stack.keep_dir();
            let shown: Vec<_> = violations.iter().take(20).map(|v| format!("  {v}\n")).collect();
            let failure = format!(
                "seed {seed}: {} violations, logs and data in {}, ledger {}\n{}",
                violations.len(),
                kept.display(),
                ledger.display(),
                shown.concat()
            );
            eprintln!("{}{failure}", stack.log_tails(15));
            failures.push(failure);
        }
    }
    eprintln!("all runs\n{figures}");
    failures.extend(figures.violations());
    assert!(
        failures.is_empty(),
        "MILLRACE_FAULT_SEED repeats a run\n{}",
        failures.concat()
    );
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

async fn start(ledger: &Path) -> anyhow::Result<Stack> {
    let stack = Stack::builder()
        .coordinators(COORDINATORS)
        .workers(WORKERS)
        .worker_program("ledger-worker")
        .coordinator_env("MILLRACE_PARTITIONS", PARTITIONS.to_string())
        .coordinator_env("MILLRACE_LEASE_TTL", seconds(LEASE_TTL))
        .coordinator_env("MILLRACE_ACK_WAIT", seconds(ACK_WAIT))
        .worker_env("MILLRACE_SLOTS", "12")
        .worker_env("MILLRACE_TEST_LEDGER", ledger.display().to_string());
    stack.start().await
}

/// One run: its figures, and what is wrong.
async fn run(stack: &Stack, ledger: &Path, seed: u64) -> anyhow::Result<(Figures, Vec<String>)> {
    let client = stack.client();
    let definition = client.apply(&load::definition()).await?;
    let mut rng = Rng::new(seed);
    let schedule = schedule::draw(&mut rng);
    let mut injector = Injector::new(stack, ledger);
    let enough = AtomicBool::new(false);
    let breaking = async {
        let done = injector.run(&schedule).await;
        enough.store(true, Ordering::Relaxed);
        done
    };
    let (started, broke) = tokio::join!(load::run(stack, definition, rng, &enough), breaking);
    broke?;
    let started = started?;
    let Injector {
        mut figures,
        mut violations,
        ..
    } = injector;
    if let Err(left) = all_ended(&client, &started).await {
        violations.push(format!("{left:#}"));
    }
    let instances = look(&client, &started).await?;
    if let Err(left) = at_rest(stack).await {
        violations.push(format!("{left:#}"));
    }
    let entries = ledger::read(ledger)?;
    violations.extend(check::violations(&instances, &entries));
    figures.seeds.push(seed);
    figures.instances = instances.len();
    figures.executions = entries.iter().filter(|e| e.what == What::Begin).count();
    figures.extra = check::extra_executions(&entries);
    figures.answers = started.answers;
    Ok((figures, violations))
}

/// Waits until every instance has ended, one way or the other.
async fn all_ended(client: &Client, started: &Started) -> anyhow::Result<()> {
    let mut left: BTreeSet<&String> = started.totals.keys().collect();
    let ended = eventually_within(DRAIN, "every instance has ended", async || {
        for id in left.clone() {
            if let Ok(view) = client.instance(id).await
                && ["completed", "faulted", "cancelled"]
                    .iter()
                    .any(|s| view["status"] == *s)
            {
                left.remove(id);
            }
        }
        left.is_empty().then_some(())
    });
    let ended = ended.await;
    ended.with_context(|| format!("{} of {}: {left:?}", left.len(), started.totals.len()))
}

/// What the API says of every instance.
async fn look(client: &Client, started: &Started) -> anyhow::Result<BTreeMap<String, Seen>> {
    let mut instances = BTreeMap::new();
    for (id, total) in &started.totals {
        let answer = client.get(&format!("/api/v1/instances/{id}")).await?;
        let (view, history) = match answer.status {
            404 => (None, Vec::new()),
            _ => (Some(answer.expect(200)?.body), client.history(id).await?),
        };
        instances.insert(
            id.clone(),
            Seen {
                total: *total,
                view,
                history,
            },
        );
    }
    Ok(instances)
}

/// Waits until no effect, timer or step is pending, and sees that no record was set aside.
async fn at_rest(stack: &Stack) -> anyhow::Result<()> {
    let mut seen = Ok(Vec::new());
    let rested = eventually_within(REST, "nothing is pending", async || {
        seen = pending(stack).await;
        seen.as_ref().is_ok_and(Vec::is_empty).then_some(())
    });
    let rested = rested.await;
    rested.with_context(|| format!("everything has ended, but still pending: {seen:?}"))
}

/// Names and sizes of everything that should be empty at rest and is not.
async fn pending(stack: &Stack) -> anyhow::Result<Vec<(String, u64)>> {
    let mut redis = stack.redis.connection().await?;
    let mut found = Vec::new();
    for p in (0..PARTITIONS).map(PartitionId) {
        for (command, key) in [
            ("HLEN", names::outbox_key(p)),
            ("ZCARD", names::timers_key(p)),
            ("ZCARD", names::open_key(p)),
            ("HLEN", names::dead_key(p)),
        ] {
            let size: u64 = redis::cmd(command).arg(&key).query_async(&mut redis).await?;
            found.push((key, size));
        }
    }
    let steps = stack
        .nats
        .jetstream()
        .await?
        .get_stream(names::STEPS_STREAM)
        .await?;
    found.push((names::STEPS_STREAM.into(), steps.cached_info().state.messages));
    found.retain(|(_, size)| *size > 0);
    Ok(found)
}
