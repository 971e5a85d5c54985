//! Trims logs behind positions that Redis has made durable, and says when a store comes near its bound.
//!
//! Instances whose retention is over are removed by their partition, inside its fenced commits; here is only what needs
//! no fence: trimming below a watermark is safe whoever does it (H3).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream;
use millrace_common::{PartitionId, names};
use millrace_runtime::Shutdown;
use millrace_runtime::config::CoordinatorConfig;
use millrace_runtime::metrics::Metrics;
use millrace_runtime::redis::SharedRedis;
use tracing::{debug, warn};

use crate::board::{Board, Pressure};
use crate::cluster;
use crate::partition::Position;
use crate::queues::Queues;

const EVERY: Duration = Duration::from_secs(2);
const TRIM_EVERY: Duration = Duration::from_secs(30);
/// Log kept behind the durable position when it is near its bound, at most: room to look back, and for a Redis that is
/// restored from a moment ago. Otherwise the configuration says how much.
const KEEP_UNDER_PRESSURE: Duration = Duration::from_secs(60);
/// Logs are trimmed in every round above this share, so that starts are not refused for a log that could be shorter.
const TRIM_SHARE: f64 = 0.5;
/// Starts are refused above this share of a log or of the steps stream; results are taken up to the whole.
const STREAM_SHARE_MAX: f64 = 0.7;
/// Starts are refused above this share of Redis' `maxmemory`.
const MEMORY_SHARE_MAX: f64 = 0.75;
/// Starts are refused while a partition has more open effects than this.
const OUTBOX_MAX: u64 = 200_000;

/// See the module.
#[derive(Debug)]
pub struct Janitor {
    config: CoordinatorConfig,
    jetstream: jetstream::Context,
    redis: SharedRedis,
    board: Board,
    queues: Queues,
    metrics: Metrics,
}

/// Positions seen, by time: what was durable then.
type Seen = HashMap<PartitionId, History>;

/// Of one log: sequences say nothing of another one under the same name, nor after the log lost its tail.
#[derive(Debug, Default, PartialEq, Eq)]
struct History {
    log: (String, u64),
    positions: VecDeque<(Instant, u64)>,
}

impl History {
    /// Adds what is applied now; gives the position that was durable so long ago, if one was seen then.
    fn see(&mut self, log: (String, u64), applied: u64, now: Instant, keep: Duration) -> Option<u64> {
        if self.log != log {
            *self = Self {
                log,
                positions: VecDeque::new(),
            };
        }
        self.positions.push_back((now, applied));
        let mut until = None;
        let is_old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= keep;
        while self.positions.front().is_some_and(is_old) {
            until = self.positions.pop_front().map(|(_, sequence)| sequence);
        }
        // A Redis that was restored stands further back than what was seen.
        until.map(|sequence| sequence.min(applied))
    }
}

impl Janitor {
    /// Works on all partitions; several coordinators may do so side by side.
    pub const fn new(
        config: CoordinatorConfig,
        jetstream: jetstream::Context,
        redis: SharedRedis,
        board: Board,
        queues: Queues,
        metrics: Metrics,
    ) -> Self {
        Self {
            config,
            jetstream,
            redis,
            board,
            queues,
            metrics,
        }
    }

    /// Looks around until shutdown.
    ///
    /// # Errors
    /// None that ends it: what does not answer is looked at again in the next round.
    pub async fn run(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut seen = Seen::new();
        let mut trimmed = Instant::now();
        loop {
            let mut is_pressed = false;
            match self.pressure().await {
                Ok((pressure, share)) => {
                    self.board.press(pressure);
                    is_pressed = share > TRIM_SHARE;
                }
                Err(e) => debug!(reason = format!("{e:#}"), "pressure cannot be measured"),
            }
            if let Err(e) = self.measure().await {
                debug!(reason = format!("{e:#}"), "backlogs cannot be measured");
            }
            if is_pressed || trimmed.elapsed() >= TRIM_EVERY {
                trimmed = Instant::now();
                let keep = match is_pressed {
                    true => KEEP_UNDER_PRESSURE.min(self.config.log_keep),
                    false => self.config.log_keep,
                };
                if let Err(e) = self.trim(&mut seen, keep).await {
                    debug!(reason = format!("{e:#}"), "logs cannot be trimmed now");
                }
            }
            if shutdown.unless(tokio::time::sleep(EVERY)).await.is_none() {
                return Ok(());
            }
        }
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.config.partitions).map(PartitionId)
    }

    /// Reasons to refuse starts, and the share of its bound that the fullest log has reached.
    async fn pressure(&self) -> anyhow::Result<(Vec<Pressure>, f64)> {
        let (mut found, mut fullest) = (Vec::new(), 0.0_f64);
        for p in self.partitions() {
            let log = names::log_stream(p);
            fullest = fullest.max(self.stream_pressure("logFull", &log, &mut found).await?);
        }
        self.stream_pressure("stepsFull", names::STEPS_STREAM, &mut found)
            .await?;
        self.memory_pressure(&mut found).await?;
        for (p, state) in self.board.partitions() {
            if state.outbox > OUTBOX_MAX {
                let detail = format!(
                    "partition {p} has {} open effects, the bound is {OUTBOX_MAX}",
                    state.outbox
                );
                found.push(Pressure {
                    bound: "outbox".into(),
                    detail,
                });
            }
        }
        Ok((found, fullest))
    }

    async fn stream_pressure(
        &self,
        bound: &str,
        name: &str,
        found: &mut Vec<Pressure>,
    ) -> anyhow::Result<f64> {
        let Some(info) = cluster::find(&self.jetstream, name).await? else {
            return Ok(0.0);
        };
        let (used, max) = (info.state.bytes, info.config.max_bytes);
        if max <= 0 {
            return Ok(0.0);
        }
        let share = share(used, max.unsigned_abs());
        if share > STREAM_SHARE_MAX {
            let detail =
                format!("stream {name} holds {used} of {max} bytes; starts wait until it has drained");
            found.push(Pressure {
                bound: bound.into(),
                detail,
            });
        }
        Ok(share)
    }

    /// Gauges that no single partition can set.
    async fn measure(&self) -> anyhow::Result<()> {
        let (mut outbox, mut timers, mut backlog, mut active) = (0, 0, 0, 0);
        let (mut schedules, mut due_ms) = (0, None::<i64>);
        let served = || {
            let all = self.board.partitions().into_iter();
            all.filter(|(_, s)| s.phase == "serving")
        };
        self.metrics.partitions_owned.set(gauge(served().count() as u64));
        for (p, state) in served() {
            outbox += state.outbox;
            schedules += state.schedules;
            due_ms = due_ms.into_iter().chain(state.next_schedule_due_ms).min();
            timers += self.count(names::timers_key(p)).await?;
            active += self.count(names::open_key(p)).await?;
            if let Some(info) = cluster::find(&self.jetstream, &names::log_stream(p)).await? {
                backlog += info.state.last_sequence.saturating_sub(state.applied);
            }
        }
        self.metrics.outbox_backlog.set(gauge(outbox));
        self.metrics.timers_pending.set(gauge(timers));
        self.metrics.log_backlog.set(gauge(backlog));
        self.metrics.schedules.set(gauge(schedules));
        self.metrics
            .schedule_next_due
            .set(due_ms.map_or(0, |ms| ms / 1_000));
        self.metrics.instances_active.set(gauge(active));
        for found in self.queues.backlogs().await? {
            let (labels, age) = ([found.queue.as_str()], found.oldest.unwrap_or_default());
            let lag = self.metrics.queue_lag.with_label_values(&labels);
            lag.set(gauge(found.lag));
            let oldest = self.metrics.queue_oldest_age.with_label_values(&labels);
            oldest.set(gauge(age.as_secs()));
        }
        Ok(())
    }

    /// Members of a sorted set.
    async fn count(&self, key: String) -> anyhow::Result<u64> {
        let mut cmd = redis::cmd("ZCARD");
        cmd.arg(key);
        Ok(self.redis.query(&cmd).await?)
    }

    async fn memory_pressure(&self, found: &mut Vec<Pressure>) -> anyhow::Result<()> {
        let mut cmd = redis::cmd("INFO");
        cmd.arg("memory");
        let text: String = self.redis.query(&cmd).await?;
        let field = |name: &str| -> Option<u64> {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        let (used, max) = (field("used_memory").unwrap_or(0), field("maxmemory").unwrap_or(0));
        if max > 0 && share(used, max) > MEMORY_SHARE_MAX {
            let detail = format!("redis uses {used} of {max} bytes; starts wait until there is room");
            found.push(Pressure {
                bound: "redisMemory".into(),
                detail,
            });
        }
        Ok(())
    }

    /// Trims every log to the position that was durable so long ago.
    async fn trim(&self, seen: &mut Seen, keep: Duration) -> anyhow::Result<()> {
        if !self.durable().await? {
            return Ok(());
        }
        for p in self.partitions() {
            let Some((log, applied)) = self.applied(p).await? else {
                continue;
            };
            let past = seen.entry(p).or_default();
            if let Some(sequence) = past.see(log, applied, Instant::now(), keep) {
                self.purge(p, sequence).await?;
            }
        }
        Ok(())
    }

    /// Whether what Redis holds now will have been written to disk by the time it is used as a bound, half a minute or
    /// more later: the append-only file is on and healthy, or persistence is not asked for at all.
    async fn durable(&self) -> anyhow::Result<bool> {
        let mut cmd = redis::cmd("INFO");
        cmd.arg("persistence");
        let text: String = self.redis.query(&cmd).await?;
        let is = |name: &str, value: &str| text.lines().any(|l| l.trim() == format!("{name}:{value}"));
        if is("aof_enabled", "0") {
            return Ok(true);
        }
        let good = is("aof_last_write_status", "ok");
        if !good {
            warn!(
                error.code = "MR-AOF",
                "redis cannot write its append-only file; logs are not trimmed"
            );
        }
        Ok(good)
    }

    /// Which log, and how far it is applied; `None` while there is no position, or its state is being made anew.
    async fn applied(&self, p: PartitionId) -> anyhow::Result<Option<((String, u64), u64)>> {
        let mut cmd = redis::cmd("GET");
        cmd.arg(names::position_key(p));
        let text: Option<String> = self.redis.query(&cmd).await?;
        let Some(text) = text else { return Ok(None) };
        let position: Position = serde_json::from_str(&text).context("position is not ours")?;
        let log = (position.incarnation, position.generation.into());
        Ok((!position.rebuilding).then_some((log, position.sequence)))
    }

    /// Removes the log up to `sequence`, which stays as the one that the position's fingerprint is compared with.
    async fn purge(&self, p: PartitionId, sequence: u64) -> anyhow::Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(names::watermark_key(p)).arg(sequence);
        self.redis.query::<String>(&set).await?;
        let stream = cluster::handle(&self.jetstream, &names::log_stream(p)).await?;
        let purged = stream.purge().sequence(sequence).await?;
        debug!(partition.id = %p, log.sequence = sequence, removed = purged.purged, "log trimmed");
        Ok(())
    }
}

fn gauge(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a share for a threshold")]
fn share(used: u64, max: u64) -> f64 {
    used as f64 / max as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(600);

    #[test]
    fn a_log_is_trimmed_to_what_was_applied_long_ago_and_never_beyond_what_is_applied_now() {
        let (mut history, start) = (History::default(), Instant::now());
        let mut see = |log: (&str, u64), applied, seconds| {
            let now = start + Duration::from_secs(seconds);
            history.see((log.0.into(), log.1), applied, now, KEEP)
        };
        assert_eq!(see(("a", 0), 5_000, 0), None);
        assert_eq!(see(("a", 0), 6_000, 600), Some(5_000));
        assert_eq!(see(("a", 0), 40, 1_200), Some(40), "redis was restored");
        assert_eq!(see(("a", 1), 10, 2_400), None, "the log lost its tail");
        assert_eq!(see(("b", 1), 7, 3_600), None, "another log");
        assert_eq!(see(("b", 1), 9, 4_200), Some(7));
    }
}
