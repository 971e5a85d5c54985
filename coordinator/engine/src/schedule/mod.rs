//! Schedules: the other thing that records are folded into. A schedule belongs to the definition whose `namespace/name`
//! is its key; it knows which version is in force, when it is due next, and which of its runs have not ended.
//!
//! A due time comes as the record of the schedule's one timer. Starting a run is an effect like any other: it leaves
//! after the commit that moved the schedule on, maybe twice, and the run's id derives from the definition's name, the
//! cause and the due time, so that it is one run. The end of a run comes back as it would to a parent instance.

mod due;
mod turn;
mod view;

use std::collections::{BTreeMap, VecDeque};

use millrace_common::{
    CatchUp, Cause, ChildOutcome, DefinitionRef, InstanceKey, Overlap, ParentLink, RawJson, Record,
    RecordBody, Reply, ReplyBody, SCHEDULE_FRAME, ScheduleRecord, TimerId, limits,
};
use millrace_dsl::calendar::UTC;
use millrace_dsl::model::{Document, DurationValue, ScheduleSettings};
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, Ignored, Outcome, Transition};
use crate::plan::Definitions;
use turn::Turn;

pub use view::{RUNNING_SHOWN_MAX, ScheduleView};

/// A schedule as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// The version in force.
    definition: DefinitionRef,
    /// What starts runs; none when that version has no schedule.
    triggers: Vec<Trigger>,
    options: Options,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused: Option<Paused>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    armed: Option<Armed>,
    /// Number of the last timer.
    timer: u32,
    /// Runs that have not ended, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    running: BTreeMap<String, Run>,
    /// A due time that waits for the end of the runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queued: Option<Due>,
    /// Due times of a backfill that wait for their turn.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    backfill: VecDeque<Due>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_started: Option<Started>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_ended: Option<Ended>,
    #[serde(default)]
    counts: Counts,
}

/// How often what happened, since the schedule exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Runs started.
    pub started: u64,
    /// Due times given up: an earlier run had not ended, or too many had not.
    pub skipped: u64,
    /// Due times that passed unseen and were not made up for.
    pub missed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trigger {
    when: When,
    /// Unix ms; `None` while `after` waits for the end of its run, and beyond the end of the calendar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_ms: Option<i64>,
    /// The run whose end `after` waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum When {
    Every { period_ms: i64 },
    Cron { cron: String, timezone: String },
    After { delay_ms: i64 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    #[serde(default)]
    overlap: Overlap,
    #[serde(default)]
    catch_up: CatchUp,
    catch_up_max: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<RawJson>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Paused {
    since_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// A backfill was under way: the rest of it waits. One that is asked for during the pause does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    holds_backfill: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Armed {
    number: u32,
    due_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Due {
    cause: Cause,
    due_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    #[serde(flatten)]
    due: Due,
    /// Part of a backfill.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    backfill: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    id: String,
    #[serde(flatten)]
    due: Due,
    at_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    id: String,
    status: String,
    at_ms: i64,
}

impl When {
    const fn cause(&self) -> Cause {
        match self {
            Self::Every { .. } => Cause::Every,
            Self::Cron { .. } => Cause::Cron,
            Self::After { .. } => Cause::After,
        }
    }
}

impl Schedule {
    /// The version in force.
    pub const fn definition(&self) -> &DefinitionRef {
        &self.definition
    }

    /// False when the version in force has no schedule (any more).
    pub const fn is_in_force(&self) -> bool {
        !self.triggers.is_empty()
    }

    /// When its timer is due, in Unix ms.
    pub fn next_due_ms(&self) -> Option<i64> {
        self.armed.map(|armed| armed.due_ms)
    }

    /// What happened so far.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// As it is stored.
    pub fn encode(&self) -> bytes::Bytes {
        serde_json::to_vec(self)
            .expect("a schedule has string keys and no failing serialiser")
            .into()
    }

    /// After a panic of the engine: nothing starts by itself until somebody has looked and resumes it.
    pub fn set_aside(&mut self, reason: &str, now_ms: i64) {
        self.paused = Some(Paused {
            since_ms: now_ms,
            reason: Some(reason.to_owned()),
            holds_backfill: true,
        });
    }

    fn new(definition: DefinitionRef) -> Self {
        Self {
            definition,
            triggers: Vec::new(),
            options: Options::default(),
            paused: None,
            armed: None,
            timer: 0,
            running: BTreeMap::new(),
            queued: None,
            backfill: VecDeque::new(),
            last_started: None,
            last_ended: None,
            counts: Counts::default(),
        }
    }
}

/// Folds one record into a schedule: those of which [`RecordBody::is_of_schedule`] is true. Total, as
/// [`crate::apply`] is.
pub fn apply_schedule(
    definitions: &dyn Definitions,
    slot: &mut Option<Schedule>,
    record: &Record,
) -> Transition {
    let Some(key) = &record.instance else {
        return ignored(Ignored::NoSchedule, Vec::new());
    };
    if let RecordBody::Schedule(wish) = &record.body
        && let ScheduleRecord::Set { definition } = &**wish
    {
        return set(definitions, slot, key, definition, record.time_ms);
    }
    let Some(schedule) = slot.as_mut().filter(|s| s.is_in_force() || !s.running.is_empty()) else {
        let reply = reply_of(&record.body).map(|to| answer(key, to, ReplyBody::NotFound));
        return ignored(Ignored::NoSchedule, reply.into_iter().collect());
    };
    let mut turn = Turn::new(schedule, key, record.time_ms);
    let outcome = event(&mut turn, &record.body);
    finish(turn, outcome)
}

fn finish(mut turn: Turn<'_>, outcome: Result<(), Ignored>) -> Transition {
    match outcome {
        Ok(()) => {
            turn.arm();
            Transition {
                outcome: Outcome::Applied,
                effects: turn.effects,
            }
        }
        Err(reason) => ignored(reason, turn.effects),
    }
}

fn event(turn: &mut Turn<'_>, body: &RecordBody) -> Result<(), Ignored> {
    match body {
        RecordBody::Timer { timer } => turn.timer(*timer),
        RecordBody::ChildEnded { child, outcome, .. } => turn.ended(child, status(outcome)),
        RecordBody::Schedule(wish) => asked(turn, wish),
        RecordBody::Announce { .. }
        | RecordBody::Start(_)
        | RecordBody::Control { .. }
        | RecordBody::Unquarantine(_)
        | RecordBody::Result(_)
        | RecordBody::Progress(_)
        | RecordBody::Continue { .. }
        | RecordBody::Lost { .. }
        | RecordBody::Event { .. } => Err(Ignored::NoSchedule),
    }
}

/// What a person asks for. The answer says what came of it.
fn asked(turn: &mut Turn<'_>, wish: &ScheduleRecord) -> Result<(), Ignored> {
    let (result, reply) = match wish {
        ScheduleRecord::Set { .. } => return Err(Ignored::NotAllowed),
        ScheduleRecord::Pause { reason, reply } => (turn.pause(reason.clone()), reply),
        ScheduleRecord::Resume { reply } => (turn.resume(), reply),
        ScheduleRecord::Trigger { id, input, reply } => (turn.trigger(id, input.clone()), reply),
        ScheduleRecord::Backfill {
            from_ms,
            to_ms,
            reply,
        } => (turn.backfill(*from_ms, *to_ms), reply),
    };
    let body = match &result {
        Ok(_) => ReplyBody::Done,
        Err(reason) => ReplyBody::NotAllowed(reason.clone()),
    };
    if let Some(to) = reply {
        let effect = answer(turn.key, to, body);
        turn.effects.push(effect);
    }
    match result {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(Ignored::NotAllowed),
    }
}

/// A version is in force. A trigger that it shares with the version before goes on undisturbed.
fn set(
    definitions: &dyn Definitions,
    slot: &mut Option<Schedule>,
    key: &InstanceKey,
    definition: &DefinitionRef,
    now_ms: i64,
) -> Transition {
    let Some(plan) = definitions.plan(definition) else {
        return ignored(Ignored::NoSchedule, Vec::new());
    };
    if slot.as_ref().is_some_and(|s| s.definition == *definition) {
        return ignored(Ignored::AlreadySet, Vec::new());
    }
    let schedule = slot.get_or_insert_with(|| Schedule::new(definition.clone()));
    let mut turn = Turn::new(schedule, key, now_ms);
    let (wanted, options) = wanted(&plan.document);
    turn.set(definition.clone(), wanted, options);
    finish(turn, Ok(()))
}

fn wanted(document: &Document) -> (Vec<When>, Options) {
    let Some(schedule) = &document.schedule else {
        return (Vec::new(), Options::default());
    };
    let fixed = |duration: &DurationValue| match duration {
        DurationValue::Fixed(duration) => i64::try_from(duration.0).ok(),
        // Refused at deploy.
        DurationValue::Computed(_) => None,
    };
    let ScheduleSettings {
        timezone,
        overlap,
        catch_up,
        catch_up_max,
        input,
    } = schedule.settings.clone();
    let every = schedule.every.as_ref().and_then(fixed);
    let after = schedule.after.as_ref().and_then(fixed);
    let cron = schedule.cron.clone().map(|cron| When::Cron {
        cron,
        timezone: timezone.unwrap_or_else(|| UTC.to_owned()),
    });
    let triggers = [
        every.map(|period_ms| When::Every { period_ms }),
        cron,
        after.map(|delay_ms| When::After { delay_ms }),
    ];
    let options = Options {
        overlap,
        catch_up,
        catch_up_max: catch_up_max.unwrap_or(limits::SCHEDULE_CATCH_UP_DEFAULT),
        input,
    };
    (triggers.into_iter().flatten().collect(), options)
}

/// What an ended run tells the one that started it: a schedule has no use for the output.
pub(crate) fn told(parent: &ParentLink, outcome: ChildOutcome) -> ChildOutcome {
    match outcome {
        ChildOutcome::Completed(_) if parent.frame == SCHEDULE_FRAME => {
            ChildOutcome::Completed(RawJson::null())
        }
        outcome => outcome,
    }
}

const fn status(outcome: &ChildOutcome) -> &'static str {
    match outcome {
        ChildOutcome::Completed(_) => "completed",
        ChildOutcome::Faulted(_) => "faulted",
        ChildOutcome::Cancelled => "cancelled",
    }
}

fn reply_of(body: &RecordBody) -> Option<&str> {
    let RecordBody::Schedule(wish) = body else {
        return None;
    };
    match &**wish {
        ScheduleRecord::Set { .. } => None,
        ScheduleRecord::Pause { reply, .. }
        | ScheduleRecord::Resume { reply }
        | ScheduleRecord::Trigger { reply, .. }
        | ScheduleRecord::Backfill { reply, .. } => reply.as_deref(),
    }
}

fn answer(key: &InstanceKey, to: &str, body: ReplyBody) -> Effect {
    Effect::Reply {
        to: to.to_owned(),
        body: Reply {
            instance: key.clone(),
            body,
        },
    }
}

const fn timer(number: u32) -> TimerId {
    TimerId {
        frame: SCHEDULE_FRAME,
        number,
    }
}

fn ignored(reason: Ignored, effects: Vec<Effect>) -> Transition {
    Transition {
        outcome: Outcome::Ignored(reason),
        effects,
    }
}
