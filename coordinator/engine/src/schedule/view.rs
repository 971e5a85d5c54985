//! What the API shows of a schedule.

use millrace_common::{CatchUp, DefinitionRef, InstanceKey, Overlap, RawJson};
use millrace_dsl::duration::Duration;
use serde::Serialize;

use super::{Counts, Schedule, Trigger, When};
use crate::time::rfc3339;

/// Running runs that are named; the rest is counted.
pub const RUNNING_SHOWN_MAX: usize = 100;

/// A schedule for `GET /schedules/{namespace}/{name}`. Times are RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleView {
    /// Namespace of the definition.
    pub namespace: String,
    /// Name of the definition.
    pub name: String,
    /// The version in force.
    pub definition: DefinitionRef,
    /// Nothing starts by itself.
    pub paused: bool,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What starts runs.
    pub triggers: Vec<TriggerView>,
    /// The earliest of their next due times; absent while paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_due: Option<String>,
    /// See the definition.
    pub overlap: Overlap,
    /// See the definition.
    pub catch_up: CatchUp,
    /// Input of the runs, when the definition gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<RawJson>,
    /// Ids of runs that have not ended, at most [`RUNNING_SHOWN_MAX`].
    pub running: Vec<String>,
    /// How many have not ended.
    pub running_total: usize,
    /// Due time of the run that waits for their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<String>,
    /// Runs of a backfill that wait for their turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<usize>,
    /// The run that started last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_started: Option<StartedView>,
    /// The run that ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ended: Option<EndedView>,
    /// Since the schedule exists.
    pub counts: Counts,
}

/// One of `every`, `cron` and `after`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TriggerView {
    /// Which.
    pub kind: &'static str,
    /// The period or delay (ISO 8601), or the cron expression.
    pub value: String,
    /// Zone of a cron expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// When it is due next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The run whose end it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// See [`ScheduleView::last_started`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StartedView {
    /// The run.
    pub id: String,
    /// What started it.
    pub cause: &'static str,
    /// Its due time.
    pub due: String,
    /// When the due time was seen.
    pub at: String,
}

/// See [`ScheduleView::last_ended`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndedView {
    /// The run.
    pub id: String,
    /// How it ended.
    pub status: String,
    /// When.
    pub at: String,
}

impl Schedule {
    /// As the API shows it; `key` is the definition's `namespace/name`.
    pub fn view(&self, key: &InstanceKey) -> ScheduleView {
        ScheduleView {
            namespace: key.namespace().to_owned(),
            name: key.id().to_owned(),
            definition: self.definition.clone(),
            paused: self.paused.is_some(),
            paused_at: self.paused.as_ref().map(|p| rfc3339(p.since_ms)),
            reason: self.paused.as_ref().and_then(|p| p.reason.clone()),
            triggers: self.triggers.iter().map(trigger).collect(),
            next_due: self.next_due_ms().map(rfc3339),
            overlap: self.options.overlap,
            catch_up: self.options.catch_up,
            input: self.options.input.clone(),
            running: self.running.keys().take(RUNNING_SHOWN_MAX).cloned().collect(),
            running_total: self.running.len(),
            queued: self.queued.map(|due| rfc3339(due.due_ms)),
            backfill: Some(self.backfill.len()).filter(|n| *n > 0),
            last_started: self.last_started.as_ref().map(|s| StartedView {
                id: s.id.clone(),
                cause: s.due.cause.name(),
                due: rfc3339(s.due.due_ms),
                at: rfc3339(s.at_ms),
            }),
            last_ended: self.last_ended.as_ref().map(|e| EndedView {
                id: e.id.clone(),
                status: e.status.clone(),
                at: rfc3339(e.at_ms),
            }),
            counts: self.counts,
        }
    }
}

fn trigger(trigger: &Trigger) -> TriggerView {
    let iso = |ms: i64| Duration(ms.unsigned_abs()).to_string();
    let (value, timezone) = match &trigger.when {
        When::Every { period_ms } => (iso(*period_ms), None),
        When::After { delay_ms } => (iso(*delay_ms), None),
        When::Cron { cron, timezone } => (cron.clone(), Some(timezone.clone())),
    };
    TriggerView {
        kind: trigger.when.cause().name(),
        value,
        timezone,
        next: trigger.next_ms.map(rfc3339),
        waits_for: trigger.waits_for.clone(),
    }
}
