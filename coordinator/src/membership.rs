//! Which coordinators are alive, and which of them should own a partition: rendezvous hashing over the living. Only a
//! preference; the fence decides. Liveness is a beat that moves, seen on the own clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_common::hash::StableHash;
use millrace_common::{PartitionId, names};
use millrace_runtime::Shutdown;
use millrace_runtime::redis::SharedRedis;
use tracing::debug;

const EVERY: Duration = Duration::from_secs(1);
/// A beat that did not move for this long is a coordinator that is gone.
const DEAD_AFTER: Duration = Duration::from_secs(5);
/// Partitions are handed only to a coordinator whose beat moved this recently: a dead one would be handed them back.
const FRESH: Duration = Duration::from_millis(2_500);
/// A coordinator must have been alive for this long before partitions move to it.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
struct Member {
    beat: String,
    moved: Instant,
    first: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    members: BTreeMap<String, Member>,
    last_handover: Option<Instant>,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Membership {
    me: String,
    inner: Arc<Mutex<Inner>>,
}

impl Membership {
    /// Knows only itself at first.
    pub fn new(me: &str) -> Self {
        Self {
            me: me.into(),
            inner: Arc::default(),
        }
    }

    /// The coordinator that should own the partition.
    pub fn preferred(&self, p: PartitionId) -> String {
        let inner = self.lock();
        let alive = inner
            .members
            .iter()
            .filter(|(_, m)| m.moved.elapsed() < DEAD_AFTER)
            .map(|(id, _)| id);
        alive
            .chain([&self.me])
            .max_by_key(|id| weight(id, p))
            .cloned()
            .unwrap_or_else(|| self.me.clone())
    }

    /// Whether this coordinator should be the next owner, once `silent` is gone: preferred among all others.
    pub fn is_next(&self, p: PartitionId, silent: &str) -> bool {
        let inner = self.lock();
        let alive = inner
            .members
            .iter()
            .filter(|(id, m)| *id != silent && m.moved.elapsed() < DEAD_AFTER);
        let others = alive.map(|(id, _)| id).filter(|id| **id != self.me);
        others.chain([&self.me]).max_by_key(|id| weight(id, p)) == Some(&self.me)
    }

    /// The coordinator to which this partition should be handed now: the preferred one, when that is another, settled
    /// coordinator and no partition was moved in the last second (H25).
    pub fn handover(&self, p: PartitionId) -> Option<String> {
        let preferred = self.preferred(p);
        if preferred == self.me {
            return None;
        }
        let mut inner = self.lock();
        let fits = |m: &Member| m.first.elapsed() >= SETTLED_AFTER && m.moved.elapsed() < FRESH;
        let settled = inner.members.get(&preferred).is_some_and(fits);
        let quiet = inner.last_handover.is_none_or(|at| at.elapsed() >= EVERY);
        (settled && quiet).then(|| {
            inner.last_handover = Some(Instant::now());
            preferred
        })
    }

    /// Ids of the living, this one included.
    pub fn alive(&self) -> Vec<String> {
        let inner = self.lock();
        let others = inner
            .members
            .iter()
            .filter(|(id, m)| **id != self.me && m.moved.elapsed() < DEAD_AFTER);
        let mut ids: Vec<String> = others
            .map(|(id, _)| id.clone())
            .chain([self.me.clone()])
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Beats and looks at the others until shutdown; then takes its name off.
    pub async fn run(self, redis: SharedRedis, shutdown: Shutdown) {
        let mut beat = 0u64;
        let nonce = uuid::Uuid::now_v7().simple().to_string();
        loop {
            beat += 1;
            if let Err(e) = self.round(&redis, &format!("{nonce}:{beat}")).await {
                debug!(reason = %e, "membership cannot be refreshed");
            }
            if shutdown.unless(tokio::time::sleep(EVERY)).await.is_none() {
                break;
            }
        }
        let mut cmd = redis::cmd("HDEL");
        cmd.arg(names::COORDINATORS_KEY).arg(&self.me);
        if let Err(e) = redis.query::<i64>(&cmd).await {
            debug!(reason = %e, "own entry could not be removed; it ends by its silent beat");
        }
    }

    async fn round(&self, redis: &SharedRedis, beat: &str) -> Result<(), millrace_runtime::redis::Error> {
        let mut set = redis::cmd("HSET");
        set.arg(names::COORDINATORS_KEY).arg(&self.me).arg(beat);
        redis.query::<i64>(&set).await?;
        let mut get = redis::cmd("HGETALL");
        get.arg(names::COORDINATORS_KEY);
        let all: BTreeMap<String, String> = redis.query(&get).await?;
        let gone = self.observe(all);
        if !gone.is_empty() {
            let mut delete = redis::cmd("HDEL");
            delete.arg(names::COORDINATORS_KEY).arg(gone);
            redis.query::<i64>(&delete).await?;
        }
        Ok(())
    }

    /// Books what was read; returns entries that have been silent for a minute.
    fn observe(&self, all: BTreeMap<String, String>) -> Vec<String> {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.members.retain(|id, _| all.contains_key(id));
        for (id, beat) in all {
            match inner.members.get_mut(&id) {
                Some(m) if m.beat == beat => {}
                Some(m) => {
                    if m.moved.elapsed() >= DEAD_AFTER {
                        m.first = now;
                    }
                    (m.beat, m.moved) = (beat, now);
                }
                None => {
                    inner.members.insert(
                        id,
                        Member {
                            beat,
                            moved: now,
                            first: now,
                        },
                    );
                }
            }
        }
        let silent = |m: &Member| m.moved.elapsed() >= Duration::from_secs(60);
        inner
            .members
            .iter()
            .filter(|(_, m)| silent(m))
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(id: &str, p: PartitionId) -> u64 {
    StableHash::new().part(id).number(u64::from(p.0)).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(list: &[&str]) -> BTreeMap<String, String> {
        list.iter().map(|id| ((*id).to_owned(), "1".to_owned())).collect()
    }

    #[test]
    fn partitions_spread_over_the_living_and_everyone_agrees() {
        let (a, b) = (Membership::new("a"), Membership::new("b"));
        a.observe(seen(&["a", "b"]));
        b.observe(seen(&["a", "b"]));
        let owners: Vec<String> = (0..16).map(|n| a.preferred(PartitionId(n))).collect();
        assert_eq!(
            owners,
            (0..16).map(|n| b.preferred(PartitionId(n))).collect::<Vec<_>>()
        );
        assert!(
            owners.iter().any(|o| o == "a") && owners.iter().any(|o| o == "b"),
            "{owners:?}"
        );
    }

    #[test]
    fn alone_it_prefers_itself_and_hands_nothing_over() {
        let a = Membership::new("a");
        assert!((0..16).all(|n| a.preferred(PartitionId(n)) == "a" && a.handover(PartitionId(n)).is_none()));
    }

    #[test]
    fn a_newcomer_gets_nothing_before_it_has_settled() {
        let a = Membership::new("a");
        a.observe(seen(&["a", "b"]));
        assert!((0..16).all(|n| a.handover(PartitionId(n)).is_none()));
    }
}
