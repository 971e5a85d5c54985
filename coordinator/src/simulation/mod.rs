//! L2: the real processor on models of NATS and Redis, in one thread and virtual time. A seed decides the load, the
//! interleaving and what goes wrong; a run that fails prints its seed, and the same seed fails again.
//!
//! `MILLRACE_SIMULATION_SEEDS=500` sets the number of runs, `MILLRACE_SIMULATION_SEED=7` the first of them.

mod check;
mod faults;
mod fleet;
mod jetstream;
mod keys;
mod redis;
mod universe;
mod world;

use std::time::Duration;

use faults::{Counts, Plan};
use millrace_common::InstanceKey;
use world::World;

use crate::partition::sabotage;

/// Partitions of every simulated cluster.
const PARTITIONS: u16 = 2;
/// Without the variable: as many as a test run can afford every time.
const SEEDS: u64 = 40;

const DEFINITIONS: [&str; 5] = [
    "document: {dsl: 1.0.3, namespace: default, name: chain, version: 1.0.0}
do:
  - a: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
  - b: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
  - c: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
  - d: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
  - e: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
",
    "document: {dsl: 1.0.3, namespace: default, name: retry, version: 1.0.0}
do:
  - a:
      try:
        - charge: {call: 'flaky:1.0.0@default', with: {failures: 2, n: '${ .n }'}}
      catch:
        errors: {with: {status: 503}}
        retry: {delay: {milliseconds: 200}, limit: {attempt: {count: 5}}}
  - b: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
",
    "document: {dsl: 1.0.3, namespace: default, name: wait, version: 1.0.0}
do:
  - a: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
  - w: {wait: {seconds: 2}}
  - b: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
",
    "document: {dsl: 1.0.3, namespace: default, name: fork, version: 1.0.0}
do:
  - f:
      fork:
        branches:
          - a: {call: 'noop:1.0.0@default', with: {n: 0}}
          - b: {call: 'noop:1.0.0@default', with: {n: 1}}
          - c: {call: 'noop:1.0.0@default', with: {n: 2}}
          - d: {call: 'noop:1.0.0@default', with: {n: 3}}
  - sum: {set: {n: '${ map(.n) | add }'}}
",
    "document: {dsl: 1.0.3, namespace: default, name: parent, version: 1.0.0}
do:
  - a: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
  - child: {run: {workflow: {namespace: default, name: chain, version: 1.0.0, input: {n: '${ .n }'}}}}
  - b: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}}
",
];

/// What an instance comes to.
struct Expected {
    n: i64,
    /// Different idempotency keys of its own steps.
    keys: usize,
    /// Names of tasks in order.
    order: &'static [&'static str],
    /// The first execution of the second task is so long after that of the first.
    gap: Option<(&'static str, &'static str, Duration)>,
}

fn expected(key: &InstanceKey) -> Option<Expected> {
    let (n, keys, order): (i64, usize, &'static [&'static str]) = match key.id().split('-').next()? {
        "chain" => (5, 5, &["/a", "/b", "/c", "/d", "/e"]),
        "retry" => (2, 2, &["/charge", "/b"]),
        "wait" => (2, 2, &["/a", "/b"]),
        "fork" => (10, 4, &[]),
        "parent" => (7, 2, &["/a", "/b"]),
        _ => return None,
    };
    let gap = (order == ["/a", "/b"] && key.id().starts_with("wait")).then_some((
        "/a",
        "/b",
        Duration::from_secs(2),
    ));
    Some(Expected { n, keys, order, gap })
}

/// What a run came to.
struct Report {
    instances: usize,
    executions: usize,
    faults: Counts,
    digest: u64,
    violations: Vec<String>,
}

/// One run: load and faults side by side, then everything is repaired and comes to its end.
fn run(seed: u64) -> Report {
    let plan = Plan::of(seed);
    // A record for another partition that its log confirmed and then lost is gone (docs/guarantees.md).
    let definitions = match plan {
        Plan::LogForgets => &DEFINITIONS[..4],
        _ => &DEFINITIONS[..],
    };
    let mut world = World::new(seed, definitions, 2, 3);
    let mut counts = Counts::new();
    world.run(Duration::from_secs(3));
    faults::temper(&world);
    let load = fleet::load(
        world.universe.clone(),
        world.jetstream.clone(),
        world.ledger.clone(),
        world.library.names(),
        25,
        Duration::from_millis(400),
    );
    world.executor.spawn(load);
    for _ in 0..8 {
        faults::strike(&mut world, plan, &mut counts);
    }
    world.heal();
    let patience = world.universe.now() + Duration::from_secs(180);
    loop {
        world.run(Duration::from_secs(2));
        let is_over = world.universe.now() > patience || world.violations().is_empty();
        if is_over && world.universe.now() + Duration::from_secs(170) > patience {
            break;
        }
    }
    let book = world.ledger.0.lock().unwrap();
    let (instances, executions) = (book.started.len(), book.effects.len());
    drop(book);
    Report {
        instances,
        executions,
        faults: counts,
        digest: world.executor.digest,
        violations: world.violations(),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}; set it to a whole number"))
    })
}

#[expect(clippy::print_stdout, reason = "counts and seeds are what a run is for")]
#[test]
fn nothing_is_lost_and_nothing_is_twice_whatever_the_servers_do() {
    let first = number("MILLRACE_SIMULATION_SEED").unwrap_or(1);
    let seeds = number("MILLRACE_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let (mut failed, mut counts, mut instances, mut executions) = (Vec::new(), Counts::new(), 0, 0);
    for seed in first..first + seeds {
        let report = run(seed);
        for (name, n) in report.faults {
            *counts.entry(name).or_default() += n;
        }
        instances += report.instances;
        executions += report.executions;
        if !report.violations.is_empty() {
            println!("seed {seed}: {:#?}", report.violations);
            failed.push(seed);
        }
    }
    let faults: u64 = counts.values().sum();
    println!(
        "simulation: {seeds} seeds from {first}, {faults} faults, {instances} instances, {executions} executions, \
         {} seeds with violations",
        failed.len()
    );
    for (name, n) in counts {
        println!("  {n:6} {name}");
    }
    assert!(failed.is_empty(), "seeds with violations: {failed:?}");
}

/// A cluster under load, before anything goes wrong.
fn quiet(seed: u64) -> World {
    let mut world = World::new(seed, &DEFINITIONS, 2, 3);
    let load = fleet::load(
        world.universe.clone(),
        world.jetstream.clone(),
        world.ledger.clone(),
        world.library.names(),
        25,
        Duration::from_millis(200),
    );
    world.run(Duration::from_secs(3));
    world.executor.spawn(load);
    world.run(Duration::from_secs(3));
    world
}

/// A cluster whose stores are made to contradict each other: within a while these partitions halt with that code, and no
/// other does.
fn halts(seed: u64, partitions: &[u16], code: &str, wreck: impl FnOnce(&World)) -> Result<(), String> {
    let mut world = quiet(seed);
    wreck(&world);
    world.run(Duration::from_secs(20));
    let found = world.halts();
    let named = |p: &u16| format!("partition {p}: MR-HALT-{code}: ");
    let is_right = partitions
        .iter()
        .all(|p| found.iter().any(|h| h.starts_with(&named(p))))
        && found
            .iter()
            .all(|h| partitions.iter().any(|p| h.starts_with(&named(p))));
    is_right.then_some(()).ok_or_else(|| format!("{found:?}"))
}

/// A primary without data, while the logs show that there was some.
fn emptied(seed: u64) -> Result<(), String> {
    halts(seed, &[0, 1], "REDIS-LOST", |world| world.redis.empty())
}

/// Another stream under the name of a log.
fn replaced(seed: u64) -> Result<(), String> {
    halts(seed, &[0], "LOG-REPLACED", |world| {
        world.jetstream.replace("MR_LOG_0")
    })
}

/// A log that was trimmed beyond what Redis still knows.
fn trimmed(seed: u64) -> Result<(), String> {
    halts(seed, &[0], "LOG-TRIMMED", |world| {
        world.jetstream.trim("MR_LOG_0");
        world.redis.fail_over(60);
    })
}

/// Who is cut off gives its partitions up, and whoever is not serves them: a lease is held only with both servers (H17,
/// H18).
fn cut_off(seed: u64) -> Result<(), String> {
    let mut world = quiet(seed);
    let long = Duration::from_secs(60);
    match seed % 2 {
        0 => world.jetstream.cut("c0", long),
        _ => world.redis.cut("c0", long),
    }
    world.run(Duration::from_secs(15));
    let serving = |(_, s): &(_, crate::board::PartitionState)| s.phase == "serving";
    let served = world.coordinators[1]
        .board
        .partitions()
        .into_iter()
        .filter(serving)
        .count();
    if served < usize::from(PARTITIONS) {
        return Err(format!("the other one serves {served} partitions"));
    }
    world.run(Duration::from_secs(60));
    let violations = world.violations();
    violations
        .is_empty()
        .then_some(())
        .ok_or_else(|| format!("{violations:#?}"))
}

fn whatever_happens(seed: u64) -> Result<(), String> {
    let violations = run(seed).violations;
    violations
        .is_empty()
        .then_some(())
        .ok_or_else(|| format!("{violations:#?}"))
}

type Scenario = fn(u64) -> Result<(), String>;

fn holds(scenario: Scenario) {
    for seed in 1..20 {
        if let Err(wrong) = scenario(seed) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn an_emptied_redis_halts_every_partition() {
    holds(emptied);
}

#[test]
fn another_stream_under_the_name_of_a_log_halts_its_partition_only() {
    holds(replaced);
}

#[test]
fn a_log_that_was_trimmed_too_far_halts_its_partition_only() {
    holds(trimmed);
}

#[test]
fn a_coordinator_that_is_cut_from_one_server_is_replaced() {
    holds(cut_off);
}

/// Runs in which a bug must have been caught.
const CAUGHT_WITHIN: u64 = 50;

/// The checker is checked: each deliberate bug is caught, soon.
#[expect(clippy::print_stdout, reason = "says in which run each bug was caught")]
#[test]
fn every_deliberate_bug_is_caught() {
    let scenarios: [(&str, Scenario, u64); 5] = [
        ("emptied", emptied, 2),
        ("replaced", replaced, 2),
        ("trimmed", trimmed, 2),
        ("cut off", cut_off, 6),
        ("whatever happens", whatever_happens, CAUGHT_WITHIN),
    ];
    let mut missed = Vec::new();
    for bug in sabotage::ALL {
        // A bug may also make the engine's shell panic: that is caught, too.
        let fails = |scenario: Scenario, seed| {
            let scenario = || sabotage::with(bug, || scenario(seed));
            std::panic::catch_unwind(scenario).map_or(true, |result| result.is_err())
        };
        let runs = |(name, scenario, seeds): &(&'static str, Scenario, u64)| {
            let seed = (1..=*seeds).find(|seed| fails(*scenario, *seed))?;
            Some((*name, seed))
        };
        let caught = scenarios.iter().find_map(runs);
        match caught {
            Some((by, seed)) => println!("{bug:?}: caught by {by}, run {seed}"),
            None => missed.push(bug),
        }
    }
    assert!(
        missed.is_empty(),
        "not caught within {CAUGHT_WITHIN} runs: {missed:?}"
    );
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    assert_eq!(run(5).digest, run(5).digest);
}
