//! What goes wrong in a run, drawn from its seed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millrace_common::{PartitionId, names};

use super::world::World;
use super::{PARTITIONS, jetstream, redis};

/// Which faults a run may have besides kills, stops, cuts and lost messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// None: both servers keep what they have confirmed.
    Faithful,
    /// Redis may forget its last writes, or be two.
    RedisForgets,
    /// The log may lose its tail.
    LogForgets,
}

impl Plan {
    pub(super) const fn of(seed: u64) -> Self {
        match seed % 3 {
            0 => Self::Faithful,
            1 => Self::RedisForgets,
            _ => Self::LogForgets,
        }
    }
}

/// Counts by name.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// The common misbehaviour of the network in a run.
pub(super) fn temper(world: &World) {
    let draw = |most: u64| world.universe.below(most + 1);
    world.jetstream.set_temper(jetstream::Temper {
        lost: draw(10),
        untold: draw(20),
        late: draw(5),
        unavailable: draw(20),
    });
    world.redis.set_temper(redis::Temper {
        lost: draw(5),
        untold: draw(10),
        late: draw(5),
        slow: draw(20),
    });
}

/// One fault.
pub(super) fn strike(world: &mut World, plan: Plan, counts: &mut Counts) {
    let universe = world.universe.clone();
    let coordinator = usize::try_from(universe.below(world.coordinators.len() as u64)).unwrap();
    let site = world.coordinators[coordinator].site.clone();
    let time = universe.between(Duration::from_millis(100), Duration::from_secs(6));
    let name = match universe.below(21) {
        0..=3 => {
            world.kill(coordinator);
            "coordinator killed"
        }
        4 => {
            for n in 0..world.coordinators.len() {
                world.kill(n);
            }
            "all coordinators killed"
        }
        5 => {
            world.stop(coordinator);
            "coordinator stopped in order"
        }
        6 | 7 => {
            world.freeze(coordinator, time);
            "coordinator frozen"
        }
        8 => {
            let worker = universe.below(world.workers() as u64);
            world.kill_worker(usize::try_from(worker).unwrap());
            "worker killed"
        }
        9 => {
            world.jetstream.restart(time);
            "nats away"
        }
        10 => {
            world.redis.restart(time);
            "redis away"
        }
        11 => {
            world.jetstream.cut(&site, time);
            "coordinator cut from nats"
        }
        12 => {
            world.redis.cut(&site, time);
            "coordinator cut from redis"
        }
        13 => {
            world.jetstream.forget_ids();
            world.jetstream.stick(time * 3);
            "consumer stuck, ids forgotten"
        }
        14 => {
            world.redis.set_full(true);
            world.run(time);
            world.redis.set_full(false);
            "redis full"
        }
        15 => {
            world.jetstream.set_full(true);
            world.run(time);
            world.jetstream.set_full(false);
            "streams full"
        }
        16 => {
            for p in 0..PARTITIONS {
                for _ in 0..5 {
                    world.jetstream.repeat(&names::log_stream(PartitionId(p)));
                }
            }
            world.jetstream.repeat(names::STEPS_STREAM);
            "records and steps repeated"
        }
        18 => {
            for p in 0..PARTITIONS {
                world.redis.touch(&names::fence_key(PartitionId(p)));
            }
            "fence touched by a stranger"
        }
        17 => {
            // Ahead or behind by up to a minute.
            let offset = i64::try_from(universe.below(120_000)).unwrap() - 60_000;
            world.coordinators[coordinator]
                .watch
                .offset_ms
                .store(offset, Ordering::Relaxed);
            "clock wrong"
        }
        _ => forget(world, plan, &site),
    };
    *counts.entry(name).or_default() += 1;
    let pause = universe.between(Duration::from_millis(50), Duration::from_secs(3));
    world.run(pause);
    for n in 0..world.coordinators.len() {
        if universe.chance(700) {
            world.start(n);
        }
    }
    world.hire();
}

fn forget(world: &mut World, plan: Plan, site: &str) -> &'static str {
    let universe = world.universe.clone();
    match plan {
        Plan::Faithful => "nothing",
        Plan::RedisForgets if universe.chance(500) => {
            world
                .redis
                .fail_over(usize::try_from(universe.below(60)).unwrap());
            "redis failed over and forgot"
        }
        Plan::RedisForgets => {
            let forgotten = usize::try_from(universe.below(20)).unwrap();
            world.redis.split(site, forgotten);
            world.run(universe.between(Duration::from_secs(1), Duration::from_secs(6)));
            world.redis.join();
            "redis was two"
        }
        Plan::LogForgets if universe.chance(400) => {
            world.jetstream.stick(Duration::from_secs(2));
            world.run(universe.between(Duration::ZERO, Duration::from_secs(2)));
            world.jetstream.lose_tail(names::STEPS_STREAM, universe.below(10));
            "work queue lost its tail"
        }
        Plan::LogForgets => {
            let p = PartitionId(u16::try_from(universe.below(PARTITIONS.into())).unwrap());
            let is_power_cut = universe.chance(500);
            if is_power_cut && universe.chance(500) {
                // While commits wait.
                world.redis.set_full(true);
                world.run(Duration::from_secs(1));
                world.redis.set_full(false);
            }
            if is_power_cut {
                (0..world.coordinators.len()).for_each(|n| world.kill(n));
            }
            let lost = world
                .jetstream
                .lose_tail(&names::log_stream(p), universe.below(40));
            world.excuse(p, &lost);
            match is_power_cut {
                true => "power cut: log lost its tail",
                false => "log lost its tail",
            }
        }
    }
}
