//! What is broken, when, and for how long: drawn from the seed before the run begins.

use std::time::Duration;

use millrace_tests::Rng;

use crate::{COORDINATORS, WORKERS};

/// A process to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Coordinator(usize),
    Worker(usize),
    Nats,
    Redis,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Kills the coordinator that owns the most partitions; it comes back when the others have taken over, or soon.
    Owner { soon: bool },
    /// Kills a worker that is in the middle of a step.
    Worker(usize),
    /// Kills each of them at the same time.
    Kill(Vec<Target>),
    /// Stops the coordinator that owns the most partitions for longer than its lease, then lets it go on.
    Freeze,
}

/// A fault and its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Time without a fault before it.
    pub(crate) pause: Duration,
    pub(crate) fault: Fault,
    /// Time that what was killed stays dead, for each target of [`Fault::Kill`]; the first one for others.
    pub(crate) dead: Vec<Duration>,
}

impl Fault {
    /// Under what it is counted.
    pub(crate) fn class(&self) -> String {
        match self {
            Self::Owner { soon: false } => "coordinator".into(),
            Self::Owner { soon: true } => "coordinator, back soon".into(),
            Self::Worker(_) => "worker in mid-step".into(),
            Self::Freeze => "coordinator stopped".into(),
            Self::Kill(targets) => match targets.as_slice() {
                [Target::Nats] => "nats".into(),
                [Target::Redis] => "redis".into(),
                [_] => "one".into(),
                many if many.len() == all().len() => "all".into(),
                many => format!("{} together", many.len()),
            },
        }
    }
}

fn all() -> Vec<Target> {
    let coordinators = (0..COORDINATORS).map(Target::Coordinator);
    let workers = (0..WORKERS).map(Target::Worker);
    [Target::Nats, Target::Redis]
        .into_iter()
        .chain(coordinators)
        .chain(workers)
        .collect()
}

/// Every class at least once, in any order, and a few that only chance decides.
pub(crate) fn draw(rng: &mut Rng) -> Vec<Planned> {
    let mut faults = vec![
        Fault::Owner { soon: false },
        Fault::Owner { soon: true },
        worker(rng),
        worker(rng),
        Fault::Kill(vec![Target::Nats]),
        Fault::Kill(vec![Target::Redis]),
        Fault::Kill(some(rng, 2)),
        Fault::Kill(all()),
        Fault::Freeze,
    ];
    let count = rng.between(2..5);
    faults.push(Fault::Kill(some(rng, count)));
    shuffle(rng, &mut faults);
    faults.into_iter().map(|fault| plan(rng, fault)).collect()
}

fn plan(rng: &mut Rng, fault: Fault) -> Planned {
    let deaths = match &fault {
        Fault::Kill(targets) => targets.len(),
        _ => 1,
    };
    Planned {
        pause: Duration::from_millis(rng.between(300..1_800)),
        fault,
        dead: (0..deaths)
            .map(|_| Duration::from_millis(rng.between(0..1_000)))
            .collect(),
    }
}

fn worker(rng: &mut Rng) -> Fault {
    Fault::Worker(usize::try_from(rng.between(0..WORKERS as u64)).expect("few workers"))
}

fn some(rng: &mut Rng, count: u64) -> Vec<Target> {
    let mut targets = all();
    shuffle(rng, &mut targets);
    targets.truncate(usize::try_from(count).expect("few targets"));
    targets
}

fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for at in (1..items.len()).rev() {
        let other = usize::try_from(rng.between(0..at as u64 + 1)).expect("below the number of items");
        items.swap(at, other);
    }
}

#[test]
fn one_seed_gives_one_schedule_with_every_class() {
    let draw = |seed| draw(&mut Rng::new(seed));
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    for seed in 0..50 {
        let classes: std::collections::BTreeSet<_> = draw(seed).iter().map(|p| p.fault.class()).collect();
        for class in [
            "coordinator",
            "worker in mid-step",
            "nats",
            "redis",
            "2 together",
            "all",
            "coordinator stopped",
        ] {
            assert!(classes.contains(class), "seed {seed}: {classes:?}");
        }
    }
}
