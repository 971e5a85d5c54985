//! From entries of the log, and from events, to what a batch must store and what must leave after it: nothing here writes
//! or sends.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use millrace_common::{
    CloudEvent, InstanceKey, RawJson, Record, RecordBody, ScheduleRecord, StepOutcome, StepResult, limits,
    names, wire,
};
use millrace_engine::Outcome as Applied;
use millrace_engine::{Effect, Ignored, Instance, Transition};
use tracing::{debug, error};

use super::Stop;
use super::batch::Batch;
use super::correlator::{Change, Moment};
use super::fence::{Position, fingerprint};
use super::outbox;
use super::processor::{Processor, stop_of};
use super::reader::{self, Entry};
use super::sabotage::{self, Bug};
use super::schedules;
use crate::events::lifecycle;

/// What an instance was before a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) existed: bool,
    pub(super) ended: bool,
    pub(super) quarantined: bool,
}

/// What a batch of records came to, before its commit.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    pub(super) batch: Batch,
    pub(super) touched: HashMap<InstanceKey, Before>,
    pub(super) order: Vec<InstanceKey>,
    pub(super) effects: Vec<(InstanceKey, Effect)>,
    /// Results that counted, for spans and metrics.
    pub(super) results: Vec<(InstanceKey, StepResult)>,
    pub(super) schedules: schedules::Changed,
    /// Detached steps as the outbox keeps them.
    pub(super) detached: Vec<(String, Bytes)>,
    /// Lifecycle events, with their fields in the outbox.
    pub(super) told: Vec<(String, CloudEvent)>,
    /// Who begins to listen, changes what it wants, or listens no more.
    pub(super) listening: Vec<Change>,
    /// Timers whose record came too early.
    pub(super) early: Vec<String>,
    /// When the record was stored that is applied now.
    pub(super) moment: Moment,
    pub(crate) records: usize,
    /// Records by kind.
    pub(super) kinds: BTreeMap<&'static str, u64>,
}

impl Folded {
    /// True when a task began to listen.
    pub(crate) fn has_new_listener(&self) -> bool {
        self.listening.iter().any(|c| c.is_new)
    }
}

impl Processor {
    /// One batch: what is ready now, never waiting for more.
    pub(super) async fn fold(&mut self, first: Option<Entry>) -> Result<(), Stop> {
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
        self.look_at_clock(&entries[last]);
        let position = self.position_after(&entries[..=last], &records[..=last]);
        self.pending = entries.into_iter().skip(folded.records).collect();
        self.finish(folded, position).await
    }

    fn look_at_clock(&mut self, last: &Entry) {
        let clock = &self.shared.clock;
        let log_ms = i64::try_from(last.time_nanos / 1_000_000).unwrap_or(i64::MAX);
        self.skew.observe(clock.now_ms(), log_ms, clock.instant());
    }

    pub(super) fn gather(&mut self, first: Option<Entry>) -> Result<Vec<Entry>, Stop> {
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
    pub(super) fn decode(&self, entries: &[Entry]) -> Vec<Option<Record>> {
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

    pub(super) async fn insert(
        &mut self,
        key: InstanceKey,
        fields: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Stop> {
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
    pub(super) fn apply_all(
        &mut self,
        entries: &[Entry],
        records: &[Option<Record>],
    ) -> Result<Option<Folded>, Stop> {
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
    pub(super) fn check_announce(&self, record: &Record) -> Result<(), Stop> {
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
    pub(super) fn apply_schedule(&self, folded: &mut Folded, record: &Record) {
        let Some(key) = &record.instance else { return };
        let transition = self
            .schedules
            .apply(&mut folded.schedules, &self.shared, key, record);
        self.take(folded, key, record, transition);
    }

    /// False when `apply` panicked.
    pub(super) fn apply_one(&mut self, folded: &mut Folded, key: &InstanceKey, record: &Record) -> bool {
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
        let was_set_aside = slot.as_ref().is_some_and(|i| i.quarantined().is_some());
        if self.poisonous.contains(&record.sequence) {
            keep(folded, record);
            let reason = "the engine panicked on a record of this instance";
            let transition = millrace_engine::set_aside(slot, record, reason);
            self.take(folded, key, record, transition);
            return true;
        }
        let definitions = &*self.shared.definitions;
        let fault = &self.shared.fault;
        let applied = catch_unwind(AssertUnwindSafe(|| {
            fault.maybe_panic(key);
            millrace_engine::apply(definitions, slot, record)
        }));
        match applied {
            Ok(transition) => {
                if !was_set_aside && slot.as_ref().is_some_and(|i| i.quarantined().is_some()) {
                    keep(folded, record);
                }
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
    pub(super) fn take(
        &self,
        folded: &mut Folded,
        key: &InstanceKey,
        record: &Record,
        transition: Transition,
    ) {
        let is_early = transition.outcome == Applied::Ignored(Ignored::EarlyTimer);
        match (transition.outcome, &record.body) {
            (Applied::Ignored(reason), _) => self.ignored(key, record, reason),
            (Applied::Applied, RecordBody::Result(result)) => {
                folded.results.push((key.clone(), summary(result)))
            }
            (Applied::Applied, RecordBody::Unquarantine(wish)) => {
                if let Some(sequence) = wish.sequence {
                    folded.batch.alive(sequence);
                }
            }
            (Applied::Applied, _) => {}
        }
        if let RecordBody::Timer { timer } = record.body {
            if is_early && !sabotage::has(Bug::EarlyTimerForgotten) {
                folded.early.push(names::timer_member(key, timer));
                return;
            }
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
                    let field = outbox::detached_field(&d.step);
                    folded.batch.outbox(field.clone(), Some(value.clone()));
                    folded.detached.push((field, value));
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

    pub(super) fn ignored(&self, key: &InstanceKey, record: &Record, reason: Ignored) {
        self.shared
            .metrics
            .records_ignored
            .with_label_values(&[reason.name()])
            .inc();
        debug!(instance.id = %key, partition.id = %self.partition, log.sequence = record.sequence,
            kind = record.body.kind(), reason = reason.name(), "record is a no-op");
    }

    /// Encodes what changed, once per instance, and keeps the indexes true.
    pub(super) fn close(&mut self, folded: &mut Folded) {
        let now = self.shared.clock.now_ms();
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

    pub(super) fn position_after(&self, entries: &[Entry], records: &[Option<Record>]) -> Position {
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
}

/// Keeps a record for whoever lifts the quarantine of its instance. One that lifts a quarantine is not kept: the record
/// that it came for still is.
fn keep(folded: &mut Folded, record: &Record) {
    if !matches!(record.body, RecordBody::Unquarantine(_)) {
        let raw = wire::encode_record(record.instance.as_ref(), &record.body);
        folded.batch.dead(record.sequence, raw);
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
