//! One record's turn at a schedule: what it starts, what it remembers, what leaves.

use std::collections::BTreeMap;

use millrace_common::{
    Cause, ControlKind, DefinitionRef, InstanceKey, Overlap, ParentLink, PartitionId, RawJson, RecordBody,
    SCHEDULE_FRAME, Start, TimerId, limits,
};

use super::{Armed, Due, Ended, Options, Paused, Run, Schedule, Started, Trigger, When, due, timer};
use crate::effect::{Effect, Ignored};
use crate::time::rfc3339;

/// Label of a run: what started it.
const LABEL_CAUSE: &str = "millrace.schedule";
/// Label of a run: its due time, RFC 3339.
const LABEL_AT: &str = "millrace.scheduledAt";

pub(super) struct Turn<'a> {
    pub(super) schedule: &'a mut Schedule,
    pub(super) key: &'a InstanceKey,
    now_ms: i64,
    pub(super) effects: Vec<Effect>,
}

/// True when something changed; or why the wish makes no sense.
type Done = Result<bool, String>;

impl<'a> Turn<'a> {
    pub(super) const fn new(schedule: &'a mut Schedule, key: &'a InstanceKey, now_ms: i64) -> Self {
        Self {
            schedule,
            key,
            now_ms,
            effects: Vec::new(),
        }
    }

    // ------------------------------------------------------------ what happens

    /// Another version is in force.
    pub(super) fn set(&mut self, definition: DefinitionRef, wanted: Vec<When>, options: Options) {
        let now_ms = self.now_ms;
        let before = std::mem::take(&mut self.schedule.triggers);
        let keep = |when: When| {
            let kept = before.iter().find(|t| t.when == when).cloned();
            kept.unwrap_or_else(|| Trigger {
                next_ms: when.first(now_ms),
                when,
                waits_for: None,
            })
        };
        self.schedule.triggers = wanted.into_iter().map(keep).collect();
        self.schedule.definition = definition;
        self.schedule.options = options;
        if self.schedule.triggers.is_empty() {
            self.schedule.queued = None;
            self.schedule.backfill.clear();
        }
    }

    /// The timer of the schedule is due.
    pub(super) fn timer(&mut self, fired: TimerId) -> Result<(), Ignored> {
        let Some(armed) = self.schedule.armed.filter(|armed| timer(armed.number) == fired) else {
            return Err(Ignored::StaleTimer);
        };
        if armed.due_ms > self.now_ms {
            return Err(Ignored::EarlyTimer);
        }
        self.disarm();
        for place in 0..self.schedule.triggers.len() {
            self.pass(place);
        }
        Ok(())
    }

    fn pass(&mut self, place: usize) {
        let Trigger { when, next_ms, .. } = &self.schedule.triggers[place];
        let Some(next_ms) = next_ms.filter(|next| *next <= self.now_ms) else {
            return;
        };
        let cause = when.cause();
        let passed = due::passed(when, next_ms, self.now_ms, &self.schedule.options);
        self.schedule.triggers[place].next_ms = passed.next;
        self.schedule.counts.missed += passed.missed;
        for due_ms in passed.start {
            self.occur(Due { cause, due_ms });
        }
    }

    /// A run has ended, however.
    pub(super) fn ended(&mut self, run: &InstanceKey, status: &str) -> Result<(), Ignored> {
        if run.namespace() != self.key.namespace() || self.schedule.running.remove(run.id()).is_none() {
            return Err(Ignored::StaleChild);
        }
        self.schedule.last_ended = Some(Ended {
            id: run.id().to_owned(),
            status: status.to_owned(),
            at_ms: self.now_ms,
        });
        for trigger in &mut self.schedule.triggers {
            if trigger.waits_for.as_deref() == Some(run.id()) {
                trigger.waits_for = None;
                trigger.next_ms = trigger.when.first(self.now_ms);
            }
        }
        self.release();
        Ok(())
    }

    // ------------------------------------------------------------ what is asked for

    pub(super) fn pause(&mut self, reason: Option<String>) -> Done {
        if self.schedule.paused.is_some() {
            return Ok(false);
        }
        self.schedule.paused = Some(Paused {
            since_ms: self.now_ms,
            reason,
            holds_backfill: !self.schedule.backfill.is_empty(),
        });
        Ok(true)
    }

    pub(super) fn resume(&mut self) -> Done {
        if self.schedule.paused.take().is_none() {
            return Ok(false);
        }
        for trigger in self
            .schedule
            .triggers
            .iter_mut()
            .filter(|t| t.waits_for.is_none())
        {
            trigger.next_ms = trigger.when.following(trigger.next_ms, self.now_ms);
        }
        self.release();
        Ok(true)
    }

    pub(super) fn trigger(&mut self, id: &str, input: Option<RawJson>) -> Done {
        if self.schedule.running.contains_key(id) {
            return Ok(false);
        }
        if self.is_full() {
            return Err(full());
        }
        let due = Due {
            cause: Cause::Manual,
            due_ms: self.now_ms,
        };
        self.start(id.to_owned(), due, input, false)?;
        Ok(true)
    }

    pub(super) fn backfill(&mut self, from_ms: i64, to_ms: i64) -> Done {
        if !self.schedule.backfill.is_empty() {
            return Err(format!(
                "a backfill has {} runs to go",
                self.schedule.backfill.len()
            ));
        }
        let max = limits::SCHEDULE_BACKFILL_MAX;
        let mut dues: Vec<Due> = Vec::new();
        for trigger in &self.schedule.triggers {
            let cause = trigger.when.cause();
            let found = trigger.when.between(trigger.next_ms, from_ms, to_ms, max + 1);
            dues.extend(found.into_iter().map(|due_ms| Due { cause, due_ms }));
        }
        match dues.len() {
            0 => return Err("no due time lies between the two".into()),
            n if n > max => return Err(format!("more than {max} due times lie between the two")),
            _ => {}
        }
        dues.sort_by_key(|due| due.due_ms);
        self.schedule.backfill = dues.into();
        self.release();
        Ok(true)
    }

    // ------------------------------------------------------------ runs

    /// A due time has come.
    fn occur(&mut self, due: Due) {
        let busy = !self.schedule.running.is_empty();
        match self.schedule.options.overlap {
            _ if self.is_full() => self.skip(due),
            Overlap::Skip if busy => self.skip(due),
            Overlap::Queue if busy && self.schedule.queued.is_some() => self.skip(due),
            Overlap::Queue if busy => self.schedule.queued = Some(due),
            Overlap::CancelRunning if busy => {
                if let Some(older) = self.schedule.queued.replace(due) {
                    self.skip(older);
                }
                self.cancel_running();
            }
            Overlap::Allow | Overlap::Skip | Overlap::Queue | Overlap::CancelRunning => {
                self.begin(due, false)
            }
        }
    }

    /// A due time is given up; `after` tries again a delay later.
    fn skip(&mut self, due: Due) {
        self.schedule.counts.skipped += 1;
        let now_ms = self.now_ms;
        let after = self
            .schedule
            .triggers
            .iter_mut()
            .find(|t| t.when.cause() == due.cause);
        if let Some(trigger) = after.filter(|_| due.cause == Cause::After) {
            trigger.next_ms = trigger.when.first(now_ms);
        }
    }

    /// Runs have ended: what waited may start.
    fn release(&mut self) {
        if self.schedule.paused.is_none()
            && self.schedule.running.is_empty()
            && let Some(due) = self.schedule.queued.take()
        {
            self.begin(due, false);
        }
        while self.may_fill()
            && let Some(due) = self.schedule.backfill.pop_front()
        {
            self.begin(due, true);
        }
    }

    fn may_fill(&self) -> bool {
        if self.schedule.paused.as_ref().is_some_and(|p| p.holds_backfill) {
            return false;
        }
        let filling = self.schedule.running.values().filter(|r| r.backfill).count();
        match self.schedule.options.overlap {
            Overlap::Allow => filling < limits::SCHEDULE_BACKFILL_WINDOW && !self.is_full(),
            Overlap::Skip | Overlap::Queue | Overlap::CancelRunning => self.schedule.running.is_empty(),
        }
    }

    fn is_full(&self) -> bool {
        self.schedule.running.len() >= limits::SCHEDULE_RUNS_MAX
    }

    /// Starts the run of a due time. One that goes on already is that run.
    fn begin(&mut self, due: Due, backfill: bool) {
        let id = run_id(self.key.id(), due);
        if self.schedule.running.contains_key(&id) {
            return;
        }
        if due.cause == Cause::After {
            for trigger in self
                .schedule
                .triggers
                .iter_mut()
                .filter(|t| t.when.cause() == Cause::After)
            {
                trigger.next_ms = None;
                trigger.waits_for = Some(id.clone());
            }
        }
        // The ids made here are short and of legal characters.
        if self.start(id, due, None, backfill).is_err() {
            self.schedule.counts.skipped += 1;
        }
    }

    fn start(&mut self, id: String, due: Due, input: Option<RawJson>, backfill: bool) -> Result<(), String> {
        let run = InstanceKey::new(self.key.namespace(), &id).map_err(|e| e.to_string())?;
        let input = input.or_else(|| self.schedule.options.input.clone());
        let start = Start {
            definition: self.schedule.definition.clone(),
            input: input.unwrap_or_else(empty),
            labels: BTreeMap::from([
                (LABEL_CAUSE.to_owned(), due.cause.name().to_owned()),
                (LABEL_AT.to_owned(), rfc3339(due.due_ms)),
            ]),
            parent: Some(ParentLink {
                instance: self.key.clone(),
                partition: PartitionId(0),
                frame: SCHEDULE_FRAME,
                awaited: true,
            }),
            traceparent: None,
            reply: None,
        };
        self.send(format!("start:{id}"), run, RecordBody::Start(Box::new(start)));
        self.schedule.counts.started += 1;
        self.schedule.last_started = Some(Started {
            id: id.clone(),
            due,
            at_ms: self.now_ms,
        });
        self.schedule.running.insert(id, Run { due, backfill });
        Ok(())
    }

    fn cancel_running(&mut self) {
        let ids: Vec<String> = self.schedule.running.keys().cloned().collect();
        for id in ids {
            let Ok(run) = InstanceKey::new(self.key.namespace(), &id) else {
                continue;
            };
            let body = RecordBody::Control {
                action: ControlKind::Cancel,
                reason: Some("the next run of the schedule is due".into()),
                reply: None,
            };
            self.send(format!("cancel:{id}"), run, body);
        }
    }

    fn send(&mut self, id: String, to: InstanceKey, body: RecordBody) {
        self.effects.push(Effect::Send {
            // Apart from what an instance of the same key sends.
            id: format!("schedule:{id}"),
            to,
            body: Box::new(body),
        });
    }

    // ------------------------------------------------------------ timer

    /// Arms the one timer for the earliest due time.
    pub(super) fn arm(&mut self) {
        let due = match self.schedule.paused {
            Some(_) => None,
            None => self.schedule.triggers.iter().filter_map(|t| t.next_ms).min(),
        };
        if self.schedule.armed.map(|armed| armed.due_ms) == due {
            return;
        }
        self.disarm();
        if let Some(due_ms) = due {
            let number = self.schedule.timer.wrapping_add(1);
            self.schedule.timer = number;
            self.schedule.armed = Some(Armed { number, due_ms });
            self.effects.push(Effect::StartTimer {
                timer: timer(number),
                due_ms,
            });
        }
    }

    fn disarm(&mut self) {
        if let Some(armed) = self.schedule.armed.take() {
            self.effects.push(Effect::CancelTimer {
                timer: timer(armed.number),
            });
        }
    }
}

fn full() -> String {
    format!("{} of its runs have not ended", limits::SCHEDULE_RUNS_MAX)
}

fn empty() -> RawJson {
    RawJson::parse(b"{}").unwrap_or_else(|_| RawJson::null())
}

/// `report.cron.20261124T104000Z`: the same due time is the same run, whoever starts it, and however often.
fn run_id(name: &str, due: Due) -> String {
    let moment = rfc3339(due.due_ms).replace(['-', ':'], "").replace(".000Z", "Z");
    format!("{name}.{}.{moment}", due.cause.name())
}
