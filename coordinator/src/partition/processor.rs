//! The loop of one owned partition: read, fold, commit, and only then let the effects leave.
//!
//! Everything of a partition happens on one thread, in one order, without locks. State in memory is ahead of Redis only
//! between fold and commit; whenever the outcome of a commit is not a clear success the processor stops, and its owner
//! starts again from what Redis holds.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;
use millrace_common::{
    CloudEvent, InstanceKey, PartitionId, RawJson, Record, RecordBody, ScheduleRecord, StepOutcome,
    StepResult, limits, names, wire,
};
use millrace_engine::Outcome as Applied;
use millrace_engine::{Dispatch, Effect, Ignored, Instance, Transition};
use millrace_runtime::Shutdown;
use millrace_runtime::config::Lifecycle;
use tracing::{debug, error, info, warn};

use super::audit::Audit;
use super::batch::Batch;
use super::cache::Cache;
use super::correlator::{self, Change, Correlator, Moment};
use super::dispatch::Dispatcher;
use super::fence::{Position, fingerprint};
use super::outbox;
use super::reader::{self, Entry, Reader};
use super::schedules::{self, Schedules};
use super::store::{Outcome, Store};
use super::timers::Timers;
use super::{Shared, Stop, now_ms};
use crate::events::lifecycle;

/// NATS may be silent for this long before the owner gives the partition up (H17).
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A partition stays at least this long where it was taken over.
const HANDOVER_AFTER: Duration = Duration::from_secs(5);
/// A batch boundary is remembered at most this often (H1).
const MARK_EVERY: Duration = Duration::from_millis(250);

/// See the module.
pub(crate) struct Processor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) partition: PartitionId,
    pub(crate) store: Store,
    pub(crate) stream: Stream<()>,
    pub(crate) reader: Reader,
    pub(crate) position: Position,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) timers: Timers,
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

/// What an instance was before a batch.
#[derive(Clone, Copy, Debug)]
struct Before {
    existed: bool,
    ended: bool,
    quarantined: bool,
}

/// What a batch of records came to, before its commit.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    batch: Batch,
    touched: HashMap<InstanceKey, Before>,
    order: Vec<InstanceKey>,
    effects: Vec<(InstanceKey, Effect)>,
    /// Results that counted, for spans and metrics.
    results: Vec<(InstanceKey, StepResult)>,
    schedules: schedules::Changed,
    /// Lifecycle events, with their fields in the outbox.
    told: Vec<(String, CloudEvent)>,
    /// Who begins to listen, changes what it wants, or listens no more.
    listening: Vec<Change>,
    /// When the record was stored that is applied now.
    moment: Moment,
    pub(crate) records: usize,
    /// Records by kind.
    kinds: BTreeMap<&'static str, u64>,
}

impl Folded {
    /// True when a task began to listen.
    pub(crate) fn has_new_listener(&self) -> bool {
        self.listening.iter().any(|c| c.is_new)
    }
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
        let mut beat = tokio::time::interval(third);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut chores = tokio::time::interval(Duration::from_secs(1));
        chores.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
                () = tokio::time::sleep(timer) => self.fire().await?,
                _ = beat.tick() => self.beat(third).await?,
                _ = chores.tick() => self.chores().await?,
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
        while self.position.sequence < barrier {
            let entry = match self.pending.is_empty() {
                false => None,
                true => Some(
                    match tokio::time::timeout(SILENCE_MAX, self.reader.next()).await {
                        Ok(Ok(entry)) => entry,
                        Ok(Err(e)) => return Err(stop_of(e)),
                        Err(_) => return Err(Stop::Broken("the log stays silent before the barrier".into())),
                    },
                ),
            };
            self.fold(entry).await?;
        }
        Ok(())
    }

    /// One batch: what is ready now, never waiting for more.
    async fn fold(&mut self, first: Option<Entry>) -> Result<(), Stop> {
        let entries = self.gather(first)?;
        let records = self.decode(&entries);
        self.load(&records).await?;
        let folded = loop {
            if let Some(folded) = self.apply_all(&entries, &records)? {
                break folded;
            }
            self.load(&records).await?;
        };
        let last = folded.records - 1;
        let position = self.position_after(&entries[..=last], &records[..=last]);
        self.pending = entries.into_iter().skip(folded.records).collect();
        self.finish(folded, position).await
    }

    fn gather(&mut self, first: Option<Entry>) -> Result<Vec<Entry>, Stop> {
        let mut entries: Vec<Entry> = self.pending.drain(..).chain(first).collect();
        let mut bytes: usize = entries.iter().map(|e| e.payload.len()).sum();
        while entries.len() < limits::COMMIT_RECORDS_MAX && bytes < limits::COMMIT_BYTES_MAX {
            match self.reader.ready() {
                Some(Ok(entry)) => {
                    bytes += entry.payload.len();
                    entries.push(entry);
                }
                // The reader repeats a loss at its next call; what was read before it is good.
                Some(Err(reader::Error::Lost(_))) | None => break,
                Some(Err(hole)) => return Err(stop_of(hole)),
            }
        }
        Ok(entries)
    }

    /// Decodes, with record time clamped so that it never steps back. `None`: not a record.
    fn decode(&self, entries: &[Entry]) -> Vec<Option<Record>> {
        let mut clock = self.position.clock_ms;
        let decode = |entry: &Entry| {
            let (instance, body) = match wire::decode_record(&entry.payload) {
                Ok(decoded) => decoded,
                Err(e) => {
                    error!(partition.id = %self.partition, log.sequence = entry.sequence, reason = %e,
                        error.code = "MR-RECORD", "record cannot be decoded and is set aside");
                    return None;
                }
            };
            let at = i64::try_from(entry.time_nanos / 1_000_000).unwrap_or(i64::MAX);
            clock = clock.max(at);
            Some(Record {
                sequence: entry.sequence,
                time_ms: clock,
                instance,
                body,
            })
        };
        entries.iter().map(decode).collect()
    }

    /// Brings every instance and definition that the records need into memory, in two round trips at most.
    pub(crate) async fn load(&mut self, records: &[Option<Record>]) -> Result<(), Stop> {
        let mut missing: Vec<InstanceKey> = Vec::new();
        let of_instances = records.iter().flatten().filter(|r| !r.body.is_of_schedule());
        for key in of_instances.filter_map(|r| r.instance.as_ref()) {
            if !self.cache.contains(key) && !missing.contains(key) {
                missing.push(key.clone());
            }
        }
        if !missing.is_empty() {
            let loaded = self
                .store
                .instances(&missing)
                .await
                .map_err(|e| Stop::Broken(e.to_string()))?;
            for (key, fields) in missing.into_iter().zip(loaded) {
                self.insert(key, fields).await?;
            }
        }
        for record in records.iter().flatten() {
            match &record.body {
                RecordBody::Start(start) => self.definition(&start.definition).await?,
                RecordBody::Schedule(wish) => {
                    if let ScheduleRecord::Set { definition } = &**wish {
                        self.definition(definition).await?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn insert(&mut self, key: InstanceKey, fields: Vec<(String, Vec<u8>)>) -> Result<(), Stop> {
        if fields.is_empty() {
            self.cache.insert(key, None);
            return Ok(());
        }
        let instance = Instance::load(key.clone(), fields).map_err(|e| Stop::Halted {
            code: "STATE",
            text: format!("state of {key} cannot be read: {e}"),
        })?;
        self.definition(instance.definition()).await?;
        self.cache.insert(key, Some(instance));
        Ok(())
    }

    pub(crate) async fn definition(&self, definition: &millrace_common::DefinitionRef) -> Result<(), Stop> {
        match self.shared.definitions.load(definition).await {
            Ok(_) => Ok(()),
            Err(e) => Err(Stop::Broken(format!("cannot load definition {definition}: {e}"))),
        }
    }

    /// Applies records until the batch is full. `None`: an instance panicked; what was touched is out of memory and the
    /// batch must be folded again.
    fn apply_all(&mut self, entries: &[Entry], records: &[Option<Record>]) -> Result<Option<Folded>, Stop> {
        let mut folded = Folded::default();
        for (entry, record) in entries.iter().zip(records) {
            folded.records += 1;
            let Some(record) = record else {
                folded.batch.dead(entry.sequence, entry.payload.clone());
                continue;
            };
            self.check_announce(record)?;
            *folded.kinds.entry(record.body.kind()).or_default() += 1;
            folded.moment = Moment {
                nanos: i64::try_from(entry.time_nanos).unwrap_or(i64::MAX),
                event: None,
            };
            if record.body.is_of_schedule() {
                self.apply_schedule(&mut folded, record);
            } else if let Some(key) = record.instance.clone()
                && !self.apply_one(&mut folded, &key, record)
            {
                for key in &folded.order {
                    self.cache.remove(key);
                }
                return Ok(None);
            }
            if folded.batch.is_full() {
                break;
            }
        }
        self.close(&mut folded);
        Ok(Some(folded))
    }

    /// As [`Self::apply_all`], of events: ends behind an event that made a task listen, because the ones after it may
    /// concern that task.
    pub(crate) fn apply_events(&mut self, records: &[Option<Record>], moments: &[Moment]) -> Option<Folded> {
        let mut folded = Folded::default();
        let mut listens_since = None;
        for (record, moment) in records.iter().flatten().zip(moments) {
            if listens_since.is_some_and(|event| event != moment.event) || folded.batch.is_full() {
                break;
            }
            folded.records += 1;
            folded.moment = *moment;
            if let Some(key) = record.instance.clone()
                && !self.apply_one(&mut folded, &key, record)
            {
                for key in &folded.order {
                    self.cache.remove(key);
                }
                return None;
            }
            if folded.has_new_listener() {
                listens_since = Some(moment.event);
            }
        }
        self.close(&mut folded);
        Some(folded)
    }

    /// A higher announcement in the log means that somebody else is the owner.
    fn check_announce(&self, record: &Record) -> Result<(), Stop> {
        match &record.body {
            RecordBody::Announce {
                counter,
                nonce,
                owner,
                ..
            } if *counter >= self.store.fence().counter && *nonce != self.store.fence().nonce => {
                Err(Stop::Lost(format!(
                    "coordinator {owner} announced itself with epoch {counter}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// As [`Self::apply_one`], for the records of schedules.
    fn apply_schedule(&self, folded: &mut Folded, record: &Record) {
        let Some(key) = &record.instance else { return };
        let transition = self
            .schedules
            .apply(&mut folded.schedules, &self.shared, key, record);
        self.take(folded, key, record, transition);
    }

    /// False when `apply` panicked.
    fn apply_one(&mut self, folded: &mut Folded, key: &InstanceKey, record: &Record) -> bool {
        let Some(slot) = self.cache.get(key) else {
            unreachable!("every instance of a batch is loaded before")
        };
        if !folded.touched.contains_key(key) {
            let before = Before {
                existed: slot.is_some(),
                ended: slot.as_ref().is_some_and(Instance::is_ended),
                quarantined: slot.as_ref().is_some_and(|i| i.quarantined().is_some()),
            };
            folded.touched.insert(key.clone(), before);
            folded.order.push(key.clone());
        }
        if self.poisonous.contains(&record.sequence) {
            let reason = "the engine panicked on a record of this instance";
            let transition = millrace_engine::set_aside(slot, record, reason);
            self.take(folded, key, record, transition);
            return true;
        }
        let definitions = &self.shared.definitions;
        let fault = &self.shared.fault;
        let applied = catch_unwind(AssertUnwindSafe(|| {
            fault.maybe_panic(key);
            millrace_engine::apply(definitions, slot, record)
        }));
        match applied {
            Ok(transition) => {
                self.take(folded, key, record, transition);
                true
            }
            Err(_) => {
                error!(instance.id = %key, partition.id = %self.partition, log.sequence = record.sequence,
                    error.code = "MR-QUARANTINE", "engine panicked; the instance is set aside, the partition goes on");
                self.poisonous.insert(record.sequence);
                false
            }
        }
    }

    /// Turns effects into what the batch must store; those that must leave are kept for after the commit.
    fn take(&self, folded: &mut Folded, key: &InstanceKey, record: &Record, transition: Transition) {
        match (transition.outcome, &record.body) {
            (Applied::Ignored(reason), _) => self.ignored(key, record, reason),
            (Applied::Applied, RecordBody::Result(result)) => {
                folded.results.push((key.clone(), summary(result)))
            }
            (Applied::Applied, _) => {}
        }
        if let RecordBody::Timer { timer } = record.body {
            folded.batch.timer(key, timer, None);
            folded.effects.push((key.clone(), Effect::CancelTimer { timer }));
        }
        folded.batch.grow(64 + transition.effects.len() * 256);
        for effect in transition.effects {
            match &effect {
                Effect::Dispatch(d) => {
                    folded.batch.outbox(
                        outbox::step_field(key, d.frame),
                        Some(outbox::step_value(d.generation, None)),
                    );
                }
                Effect::Detach(d) => {
                    let value = self.dispatcher.detached(key, d).encode();
                    folded.batch.outbox(outbox::detached_field(&d.step), Some(value));
                }
                Effect::Settle { frame } => folded.batch.outbox(outbox::step_field(key, *frame), None),
                Effect::StartTimer { timer, due_ms } => folded.batch.timer(key, *timer, Some(*due_ms)),
                Effect::CancelTimer { timer } => folded.batch.timer(key, *timer, None),
                Effect::Send { id, to, body } => {
                    let record = wire::encode_record(Some(to), body);
                    folded.batch.outbox(outbox::send_field(key, id), Some(record));
                }
                Effect::Listen {
                    frame,
                    interest,
                    is_new,
                } => folded.listening.push(Change {
                    place: (key.clone(), *frame),
                    interest: Some((**interest).clone()),
                    is_new: *is_new,
                    moment: folded.moment,
                }),
                Effect::Unlisten { frame } => folded.listening.push(Change {
                    place: (key.clone(), *frame),
                    interest: None,
                    is_new: false,
                    moment: folded.moment,
                }),
                Effect::Emit { id, event } => {
                    let field = outbox::event_field(key, id);
                    folded
                        .batch
                        .outbox(field, Some(event.raw.text().to_owned().into()));
                }
                Effect::CancelStep { .. } | Effect::Reply { .. } => {}
            }
            folded.effects.push((key.clone(), effect));
        }
    }

    fn ignored(&self, key: &InstanceKey, record: &Record, reason: Ignored) {
        self.shared
            .metrics
            .records_ignored
            .with_label_values(&[reason.name()])
            .inc();
        debug!(instance.id = %key, partition.id = %self.partition, log.sequence = record.sequence,
            kind = record.body.kind(), reason = reason.name(), "record is a no-op");
    }

    /// Encodes what changed, once per instance, and keeps the indexes true.
    fn close(&mut self, folded: &mut Folded) {
        let now = now_ms();
        for key in &folded.order {
            let Some(Some(instance)) = self.cache.get(key) else {
                continue;
            };
            let before = folded.touched[key];
            if !before.existed {
                folded.batch.created(key, instance.created_at_ms());
            }
            match (before.ended, instance.is_ended()) {
                (false, true) => {
                    let keep = self.shared.retention(instance.status());
                    folded.batch.ended(key, now.saturating_add(keep));
                }
                (true, false) => folded.batch.reopened(key, instance.created_at_ms()),
                _ => {}
            }
            let writes = instance.take_writes();
            let subject = lifecycle::Subject {
                instance: key,
                definition: instance.definition(),
            };
            for (_, entry) in &writes.trace {
                for (id, event) in subject.of_entry(entry, self.shared.config.lifecycle) {
                    let field = outbox::lifecycle_field(key, &id);
                    folded
                        .batch
                        .outbox(field.clone(), Some(event.raw.text().to_owned().into()));
                    folded.told.push((field, event));
                }
            }
            folded.batch.instance(key.clone(), writes);
        }
        for (key, schedule) in &folded.schedules {
            folded.batch.schedule(key, schedule.encode());
        }
    }

    fn position_after(&self, entries: &[Entry], records: &[Option<Record>]) -> Position {
        let last = &entries[entries.len() - 1];
        let mut position = Position {
            sequence: last.sequence,
            fingerprint: fingerprint(&last.subject, last.time_nanos, &last.payload),
            ..self.position.clone()
        };
        for record in records.iter().flatten() {
            position.clock_ms = position.clock_ms.max(record.time_ms);
            if let RecordBody::Announce { counter, .. } = record.body {
                position.announce = position.announce.max(counter);
            }
        }
        position
    }

    pub(crate) async fn finish(&mut self, mut folded: Folded, mut position: Position) -> Result<(), Stop> {
        let mut batch = std::mem::take(&mut folded.batch);
        self.tell_correlations(&mut folded, &mut batch);
        let listening = correlator::prepare(self, std::mem::take(&mut folded.listening)).await?;
        for ((key, frame), listener) in &listening {
            let definition = self.cache.get(key).and_then(|slot| slot.as_ref());
            let row = listener
                .as_ref()
                .zip(definition)
                .map(|(listener, instance)| correlator::row(instance.definition(), listener).into());
            batch.listener(names::listener_field(key, *frame), row);
        }
        correlator::begin(&mut position, &listening);
        self.commit(batch, position, false).await?;
        correlator::settle(self, listening).await;
        self.count(&folded);
        self.schedules
            .keep(std::mem::take(&mut folded.schedules), &self.shared.metrics);
        for (key, result) in &folded.results {
            self.dispatcher.step_ended(key, result);
        }
        for key in &folded.order {
            let before = folded.touched[key];
            if let Some(Some(instance)) = self.cache.get(key) {
                if !before.existed {
                    self.dispatcher.instance_started(instance);
                }
                if instance.is_ended() && !before.ended {
                    self.dispatcher.instance_ended(instance).await;
                }
                if instance.quarantined().is_some() && !before.quarantined {
                    self.shared.metrics.instances_quarantined.inc();
                }
            }
        }
        self.deliver(folded.effects).await?;
        for (field, event) in &folded.told {
            self.dispatcher.tell(field.clone(), event, self.suppressed).await;
        }
        for key in &folded.order {
            self.cache.settle(key);
        }
        self.cache.evict();
        Ok(())
    }

    /// Lifecycle events of tasks that begin to listen or end it.
    fn tell_correlations(&mut self, folded: &mut Folded, batch: &mut Batch) {
        if self.shared.config.lifecycle == Lifecycle::Off {
            return;
        }
        for change in folded
            .listening
            .iter()
            .filter(|c| c.is_new || c.interest.is_none())
        {
            let (key, frame) = &change.place;
            let Some(instance) = self.cache.get(key).and_then(|slot| slot.as_ref()) else {
                continue;
            };
            let subject = lifecycle::Subject {
                instance: key,
                definition: instance.definition(),
            };
            let at_ms = change.moment.nanos / 1_000_000;
            if let Some((id, event)) = subject.of_correlation(*frame, change.is_new, at_ms) {
                let field = outbox::lifecycle_field(key, &id);
                batch.outbox(field.clone(), Some(event.raw.text().to_owned().into()));
                folded.told.push((field, event));
            }
        }
    }

    /// Commits; returns only when the outcome is a clear success. A refused batch is repeated as it is: nothing is lost
    /// by waiting, and everything by going on.
    async fn commit(&mut self, mut batch: Batch, position: Position, release: bool) -> Result<(), Stop> {
        for (field, value) in self.dispatcher.outbox.take_marks() {
            batch.left(field, value);
        }
        if self.marked.1.elapsed() >= MARK_EVERY && position.sequence != self.position.sequence {
            self.marked = (self.marked.0 + 1, Instant::now());
            batch.mark(self.marked.0, position.sequence, position.fingerprint);
        }
        let mut backoff = millrace_runtime::backoff::Backoff::for_servers();
        loop {
            let started = Instant::now();
            let outcome = self.store.commit(&batch, &position, release).await;
            self.measure(started.elapsed(), &outcome);
            match outcome {
                Outcome::Applied => {
                    self.position = position;
                    self.committed_at = Instant::now();
                    self.report();
                    return Ok(());
                }
                Outcome::Refused(reason) => {
                    if backoff.attempts() == 0 {
                        warn!(partition.id = %self.partition, %reason, error.code = "MR-REFUSED",
                            "redis refuses to write; the partition waits");
                    }
                    self.stalled(&reason);
                    backoff.sleep().await;
                }
                Outcome::Lost => return Err(Stop::Lost("the fence was moved by another coordinator".into())),
                Outcome::Unknown(reason) => return Err(Stop::Unknown(reason)),
                Outcome::Torn(text) => return Err(Stop::Halted { code: "TORN", text }),
            }
        }
    }

    /// Effects of a committed batch.
    async fn deliver(&mut self, effects: Vec<(InstanceKey, Effect)>) -> Result<(), Stop> {
        for (key, effect) in effects {
            match effect {
                Effect::Dispatch(d) => {
                    if d.attempt > 1 && d.generation == 0 {
                        let retried = &self.shared.metrics.steps_retried;
                        retried.with_label_values(&[&d.function]).inc();
                    }
                    self.dispatcher.step(&key, *d, self.suppressed).await;
                }
                Effect::Detach(d) => {
                    let value = self.dispatcher.detached(&key, &d).encode();
                    self.dispatcher
                        .detach(outbox::detached_field(&d.step), value, self.suppressed)
                        .await;
                }
                Effect::Settle { frame } => self.dispatcher.outbox.settle(&key, frame),
                Effect::CancelStep { step, worker } if !self.suppressed => {
                    self.dispatcher.cancel(worker.as_deref(), &step).await;
                }
                Effect::StartTimer { timer, due_ms } => {
                    self.timers.start(names::timer_member(&key, timer), due_ms);
                }
                Effect::CancelTimer { timer } => self.timers.cancel(&names::timer_member(&key, timer)),
                Effect::Send { id, to, body } => {
                    let field = outbox::send_field(&key, &id);
                    self.dispatcher.send(field, &to, &body, self.suppressed).await;
                }
                Effect::Emit { id, event } => {
                    let field = outbox::event_field(&key, &id);
                    self.dispatcher.emit(field, &event, self.suppressed).await;
                }
                Effect::Reply { to, body } if !self.suppressed => self.dispatcher.reply(to, &body).await,
                Effect::CancelStep { .. }
                | Effect::Reply { .. }
                | Effect::Listen { .. }
                | Effect::Unlisten { .. } => {}
            }
        }
        Ok(())
    }

    fn timer_delay(&self) -> Duration {
        let due = self
            .timers
            .next_due_ms()
            .map_or(i64::MAX, |due| due.saturating_sub(now_ms()));
        Duration::from_millis(u64::try_from(due.max(0)).unwrap_or(0).min(60_000))
    }

    async fn fire(&mut self) -> Result<(), Stop> {
        let now = now_ms();
        for (member, due_ms) in self.timers.fire(now, Instant::now(), 1_000) {
            let late = u64::try_from(now - due_ms).unwrap_or(0);
            let late = Duration::from_millis(late).as_secs_f64();
            self.shared.metrics.timer_lag.observe(late);
            self.dispatcher.timer(&member).await;
        }
        Ok(())
    }

    /// Moves the fence when no commit did, and stores acknowledgements that wait.
    async fn beat(&mut self, third: Duration) -> Result<(), Stop> {
        if self.committed_at.elapsed() * 3 < third * 2 && !self.dispatcher.outbox.has_marks() {
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
        if self.since.elapsed() < HANDOVER_AFTER {
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
                let plan = millrace_engine::Definitions::plan(&shared.definitions, instance.definition())?;
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
            .arg(now_ms())
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
        let deadline = Instant::now() + SILENCE_MAX;
        let mut backoff = millrace_runtime::backoff::Backoff::for_servers();
        loop {
            match super::recover::read_from(&self.stream, &self.position).await {
                Ok(reader) => {
                    self.reader = reader;
                    self.shared.queues.forget();
                    self.audit.hurry();
                    return Ok(());
                }
                Err(Stop::Broken(reason)) if Instant::now() < deadline => {
                    debug!(partition.id = %self.partition, reason, "log reader cannot start yet");
                    backoff.sleep().await;
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

    fn count(&self, folded: &Folded) {
        let metrics = &self.shared.metrics;
        let records = u32::try_from(folded.records).unwrap_or(u32::MAX);
        metrics.commit_records.observe(f64::from(records));
        for (kind, count) in &folded.kinds {
            metrics.records.with_label_values(&[kind]).inc_by(*count);
        }
    }

    fn measure(&self, took: Duration, outcome: &Outcome) {
        let metrics = &self.shared.metrics;
        let name = match outcome {
            Outcome::Applied => "applied",
            Outcome::Lost => "aborted",
            Outcome::Refused(_) => "refused",
            Outcome::Unknown(_) => "unknown",
            Outcome::Torn(_) => "torn",
        };
        metrics.commits.with_label_values(&[name]).inc();
        metrics
            .commit_duration
            .with_label_values(&["exec"])
            .observe(took.as_secs_f64());
        if *outcome == Outcome::Lost {
            metrics.fenced_writes.inc();
        }
    }

    fn report(&self) {
        let (applied, epoch) = (self.position.sequence, self.store.fence().counter);
        let (outbox, cached, timers) = (self.dispatcher.outbox.len(), self.cache.len(), self.timers.len());
        let (suppressed, listening) = (self.suppressed, self.correlator.len());
        let (schedules, next_schedule_due_ms) = self.schedules.summary();
        self.shared.board.partition(self.partition, |s| {
            s.phase.clear();
            s.phase
                .push_str(if suppressed { "recovering" } else { "serving" });
            s.problem = None;
            s.epoch = epoch;
            s.applied = applied;
            s.outbox = outbox as u64;
            s.cached = cached as u64;
            s.timers = timers as u64;
            s.schedules = schedules;
            s.next_schedule_due_ms = next_schedule_due_ms;
            s.listening = listening as u64;
        });
    }

    fn stalled(&self, reason: &str) {
        self.shared.board.partition(self.partition, |s| {
            s.phase = "stalled".into();
            s.problem = Some(format!("MR-REFUSED: redis refuses to write: {reason}"));
        });
    }
}

impl std::fmt::Debug for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Processor")
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

/// The result without its payload.
fn summary(result: &StepResult) -> StepResult {
    let outcome = match &result.outcome {
        StepOutcome::Output(_) => StepOutcome::Output(RawJson::null()),
        other => other.clone(),
    };
    StepResult {
        outcome,
        ..result.clone()
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
