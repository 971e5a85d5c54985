//! The commit of a batch, and what follows from it: effects leave, the index of listeners and the board follow.

use std::time::Duration;

use millrace_common::{InstanceKey, names};
use millrace_engine::Effect;
use millrace_runtime::config::Lifecycle;
use tracing::warn;

use super::Stop;
use super::batch::Batch;
use super::correlator;
use super::fence::Position;
use super::fold::Folded;
use super::outbox;
use super::processor::Processor;
use super::sabotage::{self, Bug};
use super::store::Outcome;
use crate::events::lifecycle;

/// A batch boundary is remembered at most this often (H1).
const MARK_EVERY: Duration = Duration::from_millis(250);

impl Processor {
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
        if sabotage::has(Bug::PublishBeforeCommit) {
            self.deliver(std::mem::take(&mut folded.effects)).await?;
        }
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
        for member in &folded.early {
            self.timers.again(member);
        }
        for (field, value) in folded.detached {
            self.dispatcher.detach(field, value, self.suppressed).await;
        }
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
    pub(super) fn tell_correlations(&mut self, folded: &mut Folded, batch: &mut Batch) {
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
    pub(super) async fn commit(
        &mut self,
        mut batch: Batch,
        position: Position,
        release: bool,
    ) -> Result<(), Stop> {
        for (field, value) in self.dispatcher.outbox.take_marks() {
            batch.left(field, value);
        }
        let clock = self.shared.clock.clone();
        if clock.since(self.marked.1) >= MARK_EVERY && position.sequence != self.position.sequence {
            self.marked = (self.marked.0 + 1, clock.instant());
            batch.mark(self.marked.0, position.sequence, position.fingerprint);
        }
        let mut backoff = self.shared.backoff();
        loop {
            let started = clock.instant();
            let outcome = self.store.commit(&batch, &position, release).await;
            self.measure(clock.since(started), &outcome);
            match outcome {
                Outcome::Applied => {
                    self.position = position;
                    self.committed_at = clock.instant();
                    self.report();
                    return Ok(());
                }
                Outcome::Refused(reason) => {
                    if backoff.attempts() == 0 {
                        warn!(partition.id = %self.partition, %reason, error.code = "MR-REFUSED",
                            "redis refuses to write; the partition waits");
                    }
                    self.stalled(&reason);
                    clock.sleep(backoff.next_delay()).await;
                }
                Outcome::Lost => return Err(Stop::Lost("the fence was moved by another coordinator".into())),
                Outcome::Unknown(reason) => return Err(Stop::Unknown(reason)),
                Outcome::Torn(text) => return Err(Stop::Halted { code: "TORN", text }),
            }
        }
    }

    /// Effects of a committed batch.
    pub(super) async fn deliver(&mut self, effects: Vec<(InstanceKey, Effect)>) -> Result<(), Stop> {
        for (key, effect) in effects {
            match effect {
                Effect::Dispatch(d) => {
                    if d.attempt > 1 && d.generation == 0 {
                        let retried = &self.shared.metrics.steps_retried;
                        retried.with_label_values(&[&d.function]).inc();
                    }
                    self.dispatcher.step(&key, *d, self.suppressed).await;
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
                | Effect::Detach(_)
                | Effect::Listen { .. }
                | Effect::Unlisten { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn count(&self, folded: &Folded) {
        let metrics = &self.shared.metrics;
        let records = u32::try_from(folded.records).unwrap_or(u32::MAX);
        metrics.commit_records.observe(f64::from(records));
        for (kind, count) in &folded.kinds {
            metrics.records.with_label_values(&[kind]).inc_by(*count);
        }
    }

    pub(super) fn measure(&self, took: Duration, outcome: &Outcome) {
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

    pub(super) fn report(&self) {
        let (applied, epoch) = (self.position.sequence, self.store.fence().counter);
        let (outbox, cached, timers) = (self.dispatcher.outbox.len(), self.cache.len(), self.timers.len());
        let (suppressed, listening) = (self.suppressed, self.correlator.len());
        let (schedules, next_schedule_due_ms) = self.schedules.summary();
        self.shared.board.partition(self.partition, |s| {
            s.phase.clear();
            s.phase
                .push_str(if suppressed { "recovering" } else { "serving" });
            s.problem = None;
            s.halt = None;
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

    pub(super) fn stalled(&self, reason: &str) {
        self.shared.board.partition(self.partition, |s| {
            s.phase = "stalled".into();
            s.problem = Some(format!("MR-REFUSED: redis refuses to write: {reason}"));
        });
    }
}
