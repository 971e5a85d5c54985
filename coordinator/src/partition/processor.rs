//! The loop of one owned partition: read, fold, commit, and only then let the effects leave.
//!
//! Everything of a partition happens on one thread, in one order, without locks. State in memory is ahead of Redis only
//! between fold and commit; whenever the outcome of a commit is not a clear success the processor stops, and its owner
//! starts again from what Redis holds.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use millrace_common::{InstanceKey, PartitionId, names};
use millrace_engine::Dispatch;
use millrace_runtime::Shutdown;
use tracing::{debug, info};

use super::audit::Audit;
use super::batch::Batch;
use super::cache::Cache;
use super::correlator::{self, Correlator};
use super::dispatch::Dispatcher;
use super::fence::Position;
use super::reader::{self, Entry, Reader};
use super::sabotage::{self, Bug};
use super::schedules::{self, Schedules};
use super::store::Store;
use super::timers::{Skew, Timers};
use super::{Shared, Stop};
use crate::clock::Clock;
use crate::servers::Stream;

/// NATS may be silent for this long before the owner gives the partition up (H17).
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A partition stays at least this long where it was taken over.
const HANDOVER_AFTER: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Processor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) partition: PartitionId,
    pub(crate) store: Store,
    pub(crate) log: Arc<dyn Stream>,
    pub(crate) steps: Arc<dyn Stream>,
    pub(crate) reader: Reader,
    pub(crate) position: Position,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) timers: Timers,
    pub(crate) skew: Skew,
    pub(crate) cache: Cache,
    pub(crate) audit: Audit,
    pub(crate) schedules: Schedules,
    pub(crate) correlator: Correlator,
    /// Entries read but not folded: the last batch was full.
    pub(crate) pending: VecDeque<Entry>,
    /// Sequences at which `apply` panicked; their instances are set aside when they are folded again.
    pub(crate) poisonous: HashSet<u64>,
    pub(crate) marked: (u64, Instant),
    pub(crate) committed_at: Instant,
    /// When the partition was taken over.
    pub(crate) since: Instant,
    /// Before the barrier effects are kept in the outbox and do not leave.
    pub(crate) suppressed: bool,
}

impl Processor {
    /// Serves until told to stop or until the partition is lost.
    pub(crate) async fn serve(&mut self, shutdown: &Shutdown) -> Stop {
        match self.serve_inner(shutdown).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn serve_inner(&mut self, shutdown: &Shutdown) -> Result<std::convert::Infallible, Stop> {
        let third = self.shared.config.lease_ttl / 3;
        let clock = self.shared.clock.clone();
        let mut beat = Every::new(&clock, third);
        let mut chores = Every::new(&clock, Duration::from_secs(1));
        loop {
            if !self.pending.is_empty() {
                self.fold(None).await?;
                self.fold_events().await?;
                continue;
            }
            let timer = self.timer_delay();
            tokio::select! {
                biased;
                () = shutdown.triggered() => return Err(self.release().await),
                done = self.dispatcher.completed() => self.dispatcher.settle(done),
                entry = self.reader.next() => match entry {
                    Ok(entry) => {
                        self.fold(Some(entry)).await?;
                        self.fold_events().await?;
                    }
                    Err(e) => self.read_again(e).await?,
                },
                event = self.correlator.next() => {
                    self.correlator.take(event);
                    self.fold_events().await?;
                }
                () = clock.sleep(timer) => self.fire().await?,
                () = beat.tick() => self.beat(third).await?,
                () = chores.tick() => self.chores().await?,
            }
        }
    }

    /// Folds events that are ready: one round, so that the log has its turn.
    async fn fold_events(&mut self) -> Result<(), Stop> {
        match self.correlator.gather() {
            true => correlator::fold(self).await,
            false => Ok(()),
        }
    }

    /// Reads and folds everything up to and including `barrier`; nothing leaves.
    pub(crate) async fn catch_up(&mut self, barrier: u64) -> Result<(), Stop> {
        let clock = self.shared.clock.clone();
        while self.position.sequence < barrier {
            let entry = match self.pending.is_empty() {
                false => None,
                true => Some(match clock.limit(SILENCE_MAX, self.reader.next()).await {
                    Ok(Ok(entry)) => entry,
                    Ok(Err(e)) => return Err(stop_of(e)),
                    Err(_) => return Err(Stop::Broken("the log stays silent before the barrier".into())),
                }),
            };
            self.fold(entry).await?;
        }
        Ok(())
    }

    fn timer_delay(&self) -> Duration {
        let due = self
            .timers
            .next_due_ms()
            .map_or(i64::MAX, |due| due.saturating_sub(self.log_now_ms()));
        Duration::from_millis(u64::try_from(due.max(0)).unwrap_or(0).min(60_000))
    }

    /// What the log's clock says now, as far as this process knows: timers are due by it.
    pub(crate) fn log_now_ms(&self) -> i64 {
        self.shared.clock.now_ms().saturating_sub(self.skew.ahead_ms())
    }

    async fn fire(&mut self) -> Result<(), Stop> {
        let (now, instant) = (self.log_now_ms(), self.shared.clock.instant());
        for (member, due_ms) in self.timers.fire(now, instant, 1_000) {
            let late = u64::try_from(now - due_ms).unwrap_or(0);
            let late = Duration::from_millis(late).as_secs_f64();
            self.shared.metrics.timer_lag.observe(late);
            self.dispatcher.timer(&member).await;
        }
        Ok(())
    }

    /// Moves the fence when no commit did, and stores acknowledgements that wait.
    async fn beat(&mut self, third: Duration) -> Result<(), Stop> {
        if self.shared.clock.since(self.committed_at) * 3 < third * 2 && !self.dispatcher.outbox.has_marks() {
            return Ok(());
        }
        let beat = self.commit(Batch::default(), self.position.clone(), false).await;
        if beat.is_err() {
            self.shared.metrics.lease_failures.inc();
        }
        beat
    }

    /// Once a second: publishes what could not leave, repeats lost timer records, audits, removes what expired.
    async fn chores(&mut self) -> Result<(), Stop> {
        self.fire().await?;
        super::recover::load_timers(self).await?;
        correlator::read(self).await;
        self.republish().await?;
        super::audit::run(self).await?;
        schedules::reconcile(self).await?;
        self.expire().await?;
        // Not soon after a take-over: whoever is preferred may be the one that just died.
        if self.shared.clock.since(self.since) < HANDOVER_AFTER {
            return Ok(());
        }
        self.shared
            .check_preferred(self.partition)
            .map_or(Ok(()), |to| Err(Stop::Handover(to)))
    }

    /// Publishes steps and records again whose publish failed or whose function is known only now.
    async fn republish(&mut self) -> Result<(), Stop> {
        for (key, frame) in self.dispatcher.due_steps() {
            self.publish_step(&key, frame).await?;
        }
        self.dispatcher.resend().await;
        Ok(())
    }

    /// Rebuilds the message of an open step from the state; `None` when it is not open.
    pub(crate) async fn rebuild(&mut self, key: &InstanceKey, frame: u32) -> Result<Option<Dispatch>, Stop> {
        if !self.cache.contains(key) {
            let fields = self.store.instances(std::slice::from_ref(key)).await;
            let fields = fields.map_err(|e| Stop::Broken(e.to_string()))?.remove(0);
            self.insert(key.clone(), fields).await?;
        }
        let shared = Arc::clone(&self.shared);
        Ok(self
            .cache
            .get(key)
            .and_then(|slot| slot.as_ref())
            .and_then(|instance| {
                let plan = shared.definitions.plan(instance.definition())?;
                instance.step(&plan, frame)
            }))
    }

    /// Publishes an open step from the state.
    pub(crate) async fn publish_step(&mut self, key: &InstanceKey, frame: u32) -> Result<(), Stop> {
        match self.rebuild(key, frame).await? {
            Some(d) => self.dispatcher.step(key, d, false).await,
            None => {
                // The step closed in the meantime: its entry is removed by the commit that closed it.
                self.dispatcher.outbox.settle(key, frame);
            }
        }
        Ok(())
    }

    /// Removes instances whose retention is over, a bounded number at a time.
    async fn expire(&mut self) -> Result<(), Stop> {
        let mut cmd = redis::cmd("ZRANGEBYSCORE");
        cmd.arg(names::expire_key(self.partition))
            .arg("-inf")
            .arg(self.shared.clock.now_ms())
            .arg("LIMIT")
            .arg(0)
            .arg(500);
        let members: Vec<String> = self
            .store
            .read(&cmd)
            .await
            .map_err(|e| Stop::Broken(e.to_string()))?;
        if members.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for key in members.iter().filter_map(|m| m.parse::<InstanceKey>().ok()) {
            self.cache.remove(&key);
            batch.remove(key);
        }
        self.commit(batch, self.position.clone(), false).await
    }

    /// After a lost reader: the position must still be true before reading goes on.
    async fn read_again(&mut self, error: reader::Error) -> Result<(), Stop> {
        if matches!(error, reader::Error::Hole { .. }) {
            return Err(stop_of(error));
        }
        info!(partition.id = %self.partition, reason = %error, "log reader is started again");
        let clock = self.shared.clock.clone();
        let deadline = clock.instant() + SILENCE_MAX;
        let mut backoff = self.shared.backoff();
        loop {
            while sabotage::has(Bug::LeaseWithoutNats) {
                self.beat(Duration::ZERO).await?;
                clock.sleep(self.shared.config.lease_ttl / 4).await;
            }
            match super::recover::read_from(&*self.log, &clock, &self.position).await {
                Ok(reader) => {
                    self.reader = reader;
                    self.shared.servers.forget_queues();
                    self.audit.hurry(&clock);
                    return Ok(());
                }
                Err(Stop::Broken(reason)) if clock.instant() < deadline => {
                    debug!(partition.id = %self.partition, reason, "log reader cannot start yet");
                    clock.sleep(backoff.next_delay()).await;
                }
                Err(Stop::Broken(reason)) => {
                    self.release().await;
                    return Err(Stop::Broken(reason));
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Leaves on purpose: what is on its way is waited for shortly, then the fence is marked free.
    pub(crate) async fn release(&mut self) -> Stop {
        self.dispatcher.drain(Duration::from_millis(500)).await;
        match self.commit(Batch::default(), self.position.clone(), true).await {
            Ok(()) => Stop::Shutdown,
            Err(stop) => stop,
        }
    }
}

impl std::fmt::Debug for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Processor")
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

/// Ticks: at once, and then so long after each tick was taken.
struct Every {
    clock: Clock,
    period: Duration,
    next: BoxFuture<'static, ()>,
}

impl Every {
    fn new(clock: &Clock, period: Duration) -> Self {
        Self {
            clock: clock.clone(),
            period,
            next: Box::pin(std::future::ready(())),
        }
    }

    /// Safe to drop while it waits.
    async fn tick(&mut self) {
        (&mut self.next).await;
        let (clock, period) = (self.clock.clone(), self.period);
        self.next = Box::pin(async move { clock.sleep(period).await });
    }
}

pub(crate) fn stop_of(e: reader::Error) -> Stop {
    match e {
        reader::Error::Lost(reason) => Stop::Broken(reason),
        hole @ reader::Error::Hole { .. } => Stop::Halted {
            code: "LOG-HOLE",
            text: hole.to_string(),
        },
    }
}
