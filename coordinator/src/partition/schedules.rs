//! The schedules of one partition: all of them in memory, changed by the fold only, stored by the same commit as
//! everything else. Once a second they are compared with the registry: the newest version of a definition that has (or
//! had) a schedule must be the one in force.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use millrace_common::{
    DefinitionRef, InstanceKey, PartitionId, Record, RecordBody, ScheduleRecord, names, partition_of,
};
use millrace_engine::{Outcome, Schedule, Transition, apply_schedule};
use millrace_runtime::metrics::Metrics;
use tracing::{error, info, warn};

use super::processor::Processor;
use super::store::Store;
use super::{Shared, Stop};

/// Versions put in force in one round; the rest a second later.
const SET_MAX: usize = 100;

/// Schedules that a batch has changed and not yet committed.
pub(crate) type Changed = BTreeMap<InstanceKey, Schedule>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    held: BTreeMap<InstanceKey, Schedule>,
    /// Revision of the registry that was compared and found to agree.
    agreed: Option<i64>,
    /// Versions that this build cannot read: said once.
    unreadable: BTreeSet<DefinitionRef>,
}

impl Schedules {
    /// All of the partition.
    pub(crate) async fn load(store: &mut Store, p: PartitionId) -> Result<Self, Stop> {
        let mut read = redis::cmd("HGETALL");
        read.arg(names::schedules_key(p));
        let rows: Vec<(String, Vec<u8>)> =
            store.read(&read).await.map_err(|e| Stop::Broken(e.to_string()))?;
        let held = rows
            .into_iter()
            .map(|(field, json)| row(&field, &json))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            held,
            ..Self::default()
        })
    }

    /// Those in force, and the earliest of their due times.
    pub(crate) fn summary(&self) -> (u64, Option<i64>) {
        let in_force = || self.held.values().filter(|s| s.is_in_force());
        (
            in_force().count() as u64,
            in_force().filter_map(Schedule::next_due_ms).min(),
        )
    }

    /// Folds a record of a schedule. A panic sets that schedule aside, as it would an instance.
    pub(crate) fn apply(
        &self,
        changed: &mut Changed,
        shared: &Shared,
        key: &InstanceKey,
        record: &Record,
    ) -> Transition {
        let before = changed.get(key).or_else(|| self.held.get(key)).cloned();
        let mut slot = before.clone();
        let applied = catch_unwind(AssertUnwindSafe(|| {
            shared.fault.maybe_panic(key);
            apply_schedule(&*shared.definitions, &mut slot, record)
        }));
        let (after, transition) = match applied {
            Ok(transition) => (slot, transition),
            Err(_) => {
                error!(schedule = %key, log.sequence = record.sequence, error.code = "MR-QUARANTINE",
                    "engine panicked; the schedule is paused, the partition goes on");
                (set_aside(before, record.time_ms), Transition::default())
            }
        };
        if transition.outcome == Outcome::Applied
            && let Some(schedule) = after
        {
            changed.insert(key.clone(), schedule);
        }
        transition
    }

    /// The batch is committed.
    pub(crate) fn keep(&mut self, changed: Changed, metrics: &Metrics) {
        for (key, schedule) in changed {
            let before = self.held.get(&key).map(Schedule::counts).unwrap_or_default();
            let now = schedule.counts();
            for (outcome, now, before) in [
                ("started", now.started, before.started),
                ("skipped", now.skipped, before.skipped),
                ("missed", now.missed, before.missed),
            ] {
                metrics
                    .schedule_due
                    .with_label_values(&[outcome])
                    .inc_by(now.saturating_sub(before));
            }
            if now.missed > before.missed {
                let missed = now.missed - before.missed;
                info!(schedule = %key, missed, "due times passed unseen and are not made up for");
            }
            self.held.insert(key, schedule);
        }
    }

    /// Newest versions that are not in force, of definitions of this partition.
    fn differing(&self, p: &Processor) -> Vec<(InstanceKey, DefinitionRef)> {
        let definitions = &p.shared.definitions;
        let here = |key: &InstanceKey| partition_of(key, p.shared.config.partitions) == p.partition;
        definitions
            .scheduled()
            .into_iter()
            .filter_map(|(namespace, name)| {
                let key = InstanceKey::new(&namespace, &name).ok().filter(here)?;
                let latest = definitions.newest(&namespace, &name)?;
                let in_force = self.held.get(&key).map(Schedule::definition);
                (in_force != Some(&latest)).then_some((key, latest))
            })
            .collect()
    }
}

/// Puts newest versions in force: appends a record for each; the fold does the rest. Repeated until they agree.
pub(crate) async fn reconcile(p: &mut Processor) -> Result<(), Stop> {
    let revision = p.shared.definitions.revision();
    if p.schedules.agreed == Some(revision) {
        return Ok(());
    }
    let differing = p.schedules.differing(p);
    let mut open = differing.len() > SET_MAX;
    for (key, definition) in differing.into_iter().take(SET_MAX) {
        match p.shared.definitions.load(&definition).await {
            Ok(Some(_)) => {
                open = true;
                let wish = ScheduleRecord::Set { definition };
                p.dispatcher
                    .note(&key, &RecordBody::Schedule(Box::new(wish)))
                    .await;
            }
            Ok(None) => p.schedules.refuse(definition),
            Err(e) => {
                warn!(%definition, reason = %e, "version of a schedule cannot be loaded now");
                open = true;
            }
        }
    }
    p.schedules.agreed = (!open).then_some(revision);
    Ok(())
}

impl Schedules {
    fn refuse(&mut self, definition: DefinitionRef) {
        if !self.unreadable.contains(&definition) {
            error!(%definition, error.code = "MR-DEFINITION",
                "newest version of a scheduled definition is not readable; the version before stays in force");
            self.unreadable.insert(definition);
        }
    }
}

fn row(field: &str, json: &[u8]) -> Result<(InstanceKey, Schedule), Stop> {
    let unreadable = |reason: String| Stop::Halted {
        code: "STATE",
        text: format!("schedule {field} cannot be read: {reason}"),
    };
    let key = field
        .parse()
        .map_err(|e: millrace_common::IdError| unreadable(e.to_string()))?;
    let schedule = Schedule::decode(json).map_err(|e| unreadable(e.to_string()))?;
    Ok((key, schedule))
}

fn set_aside(before: Option<Schedule>, now_ms: i64) -> Option<Schedule> {
    let mut schedule = before?;
    schedule.set_aside("the engine panicked on a record of this schedule", now_ms);
    Some(schedule)
}
