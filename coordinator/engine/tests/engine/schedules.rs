//! Schedules: what starts when, exactly once, and what happens when runs overlap, coordinators were away, people pause.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_common::{
    ChildOutcome, ControlKind, DefinitionRef, ErrorKind, InstanceKey, Problem, RawJson, Record, RecordBody,
    ReplyBody, SCHEDULE_FRAME, ScheduleRecord, Start, TimerId, limits,
};
use millrace_engine::schedule::{Counts, ScheduleView};
use millrace_engine::{Definitions, Effect, Ignored, Outcome, Plan, Schedule, apply_schedule};
use serde_json::json;

use crate::world::START_MS;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;

#[derive(Default)]
struct Library(BTreeMap<DefinitionRef, Arc<Plan>>);

impl Definitions for Library {
    fn plan(&self, definition: &DefinitionRef) -> Option<Arc<Plan>> {
        self.0.get(definition).cloned()
    }

    fn latest(&self, _namespace: &str, _name: &str) -> Option<String> {
        None
    }
}

/// One schedule, its timer, and the runs it has started, in virtual time.
struct World {
    library: Library,
    schedule: Option<Schedule>,
    now_ms: i64,
    timers: BTreeMap<TimerId, i64>,
    /// Every start that left, in order.
    starts: Vec<(InstanceKey, Start)>,
    cancelled: Vec<String>,
    replies: Vec<ReplyBody>,
}

fn key() -> InstanceKey {
    "default/report".parse().unwrap()
}

fn definition(version: &str) -> DefinitionRef {
    format!("default/report@{version}").parse().unwrap()
}

impl World {
    /// A world in which version 1.0.0 with this schedule and these settings has just been applied.
    fn new(schedule: &str, settings: &str) -> Self {
        let mut world = Self {
            library: Library::default(),
            schedule: None,
            now_ms: START_MS,
            timers: BTreeMap::new(),
            starts: Vec::new(),
            cancelled: Vec::new(),
            replies: Vec::new(),
        };
        world.deploy("1.0.0", schedule, settings);
        world
    }

    fn deploy(&mut self, version: &str, schedule: &str, settings: &str) {
        let text = format!(
            "document: {{ dsl: 1.0.3, namespace: default, name: report, version: {version}, \
             metadata: {{ millrace: {settings} }} }}\n{schedule}\ndo: []\n"
        );
        let parsed = millrace_dsl::parse(&text).unwrap_or_else(|faults| panic!("{faults:?}"));
        let definition = definition(version);
        self.library
            .0
            .insert(definition.clone(), Arc::new(Plan::new(parsed.document)));
        self.wish(ScheduleRecord::Set { definition });
    }

    fn fold(&mut self, body: RecordBody) -> Outcome {
        let record = Record {
            sequence: 1,
            time_ms: self.now_ms,
            instance: Some(key()),
            body,
        };
        assert!(record.body.is_of_schedule());
        // Every fold goes through what is stored.
        let stored = self.schedule.as_ref().map(Schedule::encode);
        self.schedule = stored.map(|json| Schedule::decode(&json).unwrap());
        let transition = apply_schedule(&self.library, &mut self.schedule, &record);
        for effect in transition.effects {
            self.carry_out(effect);
        }
        transition.outcome
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::StartTimer { timer, due_ms } => {
                assert_eq!(timer.frame, SCHEDULE_FRAME);
                self.timers.insert(timer, due_ms);
            }
            Effect::CancelTimer { timer } => assert!(self.timers.remove(&timer).is_some()),
            Effect::Send { to, body, .. } => match *body {
                RecordBody::Start(start) => self.starts.push((to, *start)),
                RecordBody::Control {
                    action: ControlKind::Cancel,
                    ..
                } => self.cancelled.push(to.id().to_owned()),
                other => panic!("{other:?}"),
            },
            Effect::Reply { body, .. } => self.replies.push(body.body),
            other => panic!("{other:?}"),
        }
    }

    fn wish(&mut self, wish: ScheduleRecord) -> Outcome {
        self.fold(RecordBody::Schedule(Box::new(wish)))
    }

    /// Lets time pass, with somebody there to see each timer when it is due.
    fn pass(&mut self, ms: i64) {
        let until = self.now_ms + ms;
        while let Some((timer, due)) = self
            .timers
            .iter()
            .next()
            .map(|(t, d)| (*t, *d))
            .filter(|(_, d)| *d <= until)
        {
            self.now_ms = self.now_ms.max(due);
            self.fold(RecordBody::Timer { timer });
        }
        self.now_ms = until;
    }

    /// Lets time pass with nobody there; what is due is seen afterwards.
    fn outage(&mut self, ms: i64) {
        self.now_ms += ms;
        self.pass(0);
    }

    fn end(&mut self, run: &str, outcome: ChildOutcome) -> Outcome {
        self.fold(RecordBody::ChildEnded {
            frame: SCHEDULE_FRAME,
            child: format!("default/{run}").parse().unwrap(),
            outcome,
        })
    }

    fn complete(&mut self, run: &str) {
        assert_eq!(
            self.end(run, ChildOutcome::Completed(RawJson::null())),
            Outcome::Applied,
            "{run}"
        );
    }

    fn complete_all(&mut self) {
        for run in self.view().running {
            self.complete(&run);
        }
    }

    fn view(&self) -> ScheduleView {
        self.schedule.as_ref().unwrap().view(&key())
    }

    fn counts(&self) -> (u64, u64, u64) {
        let Counts {
            started,
            skipped,
            missed,
        } = self.view().counts;
        (started, skipped, missed)
    }

    /// Due times of the starts so far, in seconds after the beginning.
    fn due(&self) -> Vec<String> {
        self.starts
            .iter()
            .map(|(_, s)| s.labels["millrace.scheduledAt"].clone())
            .collect()
    }

    fn ids(&self) -> Vec<&str> {
        self.starts.iter().map(|(key, _)| key.id()).collect()
    }
}

#[test]
fn every_begins_after_one_period_and_keeps_its_rhythm() {
    let mut world = World::new("schedule: { every: PT10S }", "{}");
    world.pass(9 * SECOND);
    assert!(world.starts.is_empty());
    world.pass(22 * SECOND);
    assert_eq!(
        world.ids(),
        [
            "report.every.20260101T000010Z",
            "report.every.20260101T000020Z",
            "report.every.20260101T000030Z"
        ]
    );
    let (run, start) = &world.starts[0];
    assert_eq!(run.namespace(), "default");
    assert_eq!(
        (start.definition.to_string().as_str(), start.input.text()),
        ("default/report@1.0.0", "{}")
    );
    assert_eq!(start.labels["millrace.schedule"], "every");
    assert_eq!(start.labels["millrace.scheduledAt"], "2026-01-01T00:00:10.000Z");
    assert_eq!(world.counts(), (3, 0, 0));
}

#[test]
fn cron_follows_its_zone() {
    let mut world = World::new(
        "schedule: { cron: '0 9 * * *' }",
        "{ schedule: { timezone: Asia/Kolkata } }",
    );
    world.pass(48 * 60 * MINUTE);
    assert_eq!(
        world.due(),
        ["2026-01-01T03:30:00.000Z", "2026-01-02T03:30:00.000Z"]
    );
}

#[test]
fn triggers_are_independent() {
    let mut world = World::new(
        "schedule: { every: PT20S, cron: '*/30 * * * * *', after: PT15S }",
        "{}",
    );
    world.pass(MINUTE);
    assert_eq!(
        world.ids(),
        [
            "report.after.20260101T000015Z",
            "report.every.20260101T000020Z",
            "report.cron.20260101T000030Z",
            "report.every.20260101T000040Z",
            "report.every.20260101T000100Z",
            "report.cron.20260101T000100Z",
        ]
    );
}

#[test]
fn after_waits_for_the_end_whatever_it_was() {
    let mut world = World::new("schedule: { after: PT10S }", "{}");
    let ends = [
        ChildOutcome::Completed(RawJson::null()),
        ChildOutcome::Faulted(Problem::new(ErrorKind::Runtime, "x")),
        ChildOutcome::Cancelled,
    ];
    for (n, end) in ends.into_iter().enumerate() {
        world.pass(10 * SECOND);
        assert_eq!(world.starts.len(), n + 1);
        assert!(world.timers.is_empty(), "nothing is due before the run has ended");
        world.pass(25 * SECOND);
        let run = world.ids()[n].to_owned();
        assert_eq!(world.view().triggers[0].waits_for.as_deref(), Some(run.as_str()));
        world.end(&run, end);
        assert_eq!(
            world.end(&run, ChildOutcome::Cancelled),
            Outcome::Ignored(Ignored::StaleChild)
        );
    }
    assert_eq!(
        world.due(),
        [
            "2026-01-01T00:00:10.000Z",
            "2026-01-01T00:00:45.000Z",
            "2026-01-01T00:01:20.000Z"
        ]
    );
}

#[test]
fn a_timer_that_fires_again_starts_nothing() {
    let mut world = World::new("schedule: { every: PT10S }", "{}");
    let timer = *world.timers.keys().next().unwrap();
    world.pass(10 * SECOND);
    assert_eq!(
        world.fold(RecordBody::Timer { timer }),
        Outcome::Ignored(Ignored::StaleTimer)
    );
    assert_eq!(world.starts.len(), 1);
}

#[test]
fn a_timer_counts_once_the_clock_of_the_log_is_there() {
    let mut world = World::new("schedule: { every: PT10S }", "{}");
    let timer = *world.timers.keys().next().unwrap();
    world.now_ms += 9_900;
    let early = world.fold(RecordBody::Timer { timer });
    assert_eq!(early, Outcome::Ignored(Ignored::EarlyTimer));
    assert_eq!(
        (world.starts.len(), world.timers[&timer]),
        (0, START_MS + 10 * SECOND)
    );
    world.now_ms += 100;
    world.fold(RecordBody::Timer { timer });
    assert_eq!(world.due(), ["2026-01-01T00:00:10.000Z"]);
    assert_eq!(*world.timers.values().next().unwrap(), START_MS + 20 * SECOND);
}

#[test]
fn what_an_outage_missed_is_not_made_up_for_unless_asked() {
    for (catch_up, started, missed) in [
        ("none", vec![60], 5),
        ("one", vec![60], 5),
        ("all", vec![10, 20, 30, 40, 50, 60], 0),
        ("all, catchUpMax: 2", vec![50, 60], 4),
    ] {
        let settings = format!("{{ schedule: {{ catchUp: {catch_up} }} }}");
        let mut world = World::new("schedule: { every: PT10S }", &settings);
        world.outage(65 * SECOND);
        let due: Vec<i64> = world
            .starts
            .iter()
            .map(|(key, _)| {
                let time = key.id().rsplit('T').next().unwrap().trim_end_matches('Z');
                let (minute, second) = (
                    time[2..4].parse::<i64>().unwrap(),
                    time[4..6].parse::<i64>().unwrap(),
                );
                minute * 60 + second
            })
            .collect();
        assert_eq!(due, started, "{catch_up}");
        assert_eq!(world.counts().2, missed, "{catch_up}");
        world.pass(5 * SECOND);
        assert_eq!(world.starts.len(), started.len() + 1, "the rhythm goes on");
    }
}

#[test]
fn a_rare_run_is_not_started_an_hour_late() {
    let mut world = World::new("schedule: { cron: '0 3 * * *' }", "{}");
    world.outage(4 * 60 * MINUTE);
    assert_eq!((world.starts.len(), world.counts()), (0, (0, 0, 1)));
    let mut world = World::new(
        "schedule: { cron: '0 3 * * *' }",
        "{ schedule: { catchUp: one } }",
    );
    world.outage(4 * 60 * MINUTE);
    assert_eq!(world.due(), ["2026-01-01T03:00:00.000Z"]);
}

#[test]
fn overlap_allow_starts_beside_what_runs() {
    let mut world = World::new("schedule: { every: PT10S }", "{}");
    world.pass(30 * SECOND);
    assert_eq!(world.view().running_total, 3);
}

#[test]
fn overlap_skip_gives_due_times_up() {
    let mut world = World::new("schedule: { every: PT10S }", "{ schedule: { overlap: skip } }");
    world.pass(35 * SECOND);
    assert_eq!((world.starts.len(), world.counts()), (1, (1, 2, 0)));
    world.complete_all();
    world.pass(5 * SECOND);
    assert_eq!(
        world.due(),
        ["2026-01-01T00:00:10.000Z", "2026-01-01T00:00:40.000Z"]
    );
}

#[test]
fn overlap_queue_keeps_one() {
    let mut world = World::new("schedule: { every: PT10S }", "{ schedule: { overlap: queue } }");
    world.pass(35 * SECOND);
    assert_eq!((world.starts.len(), world.counts()), (1, (1, 1, 0)));
    assert_eq!(world.view().queued.as_deref(), Some("2026-01-01T00:00:20.000Z"));
    world.complete_all();
    assert_eq!(
        world.due(),
        ["2026-01-01T00:00:10.000Z", "2026-01-01T00:00:20.000Z"]
    );
    assert_eq!((world.view().queued, world.view().running_total), (None, 1));
}

#[test]
fn overlap_cancel_starts_the_newest_when_the_old_one_has_ended() {
    let mut world = World::new(
        "schedule: { every: PT10S }",
        "{ schedule: { overlap: cancelRunning } }",
    );
    world.pass(35 * SECOND);
    assert_eq!(
        world.cancelled,
        ["report.every.20260101T000010Z", "report.every.20260101T000010Z"]
    );
    assert_eq!((world.starts.len(), world.counts()), (1, (1, 1, 0)));
    world.end("report.every.20260101T000010Z", ChildOutcome::Cancelled);
    assert_eq!(
        world.due(),
        ["2026-01-01T00:00:10.000Z", "2026-01-01T00:00:30.000Z"]
    );
}

#[test]
fn after_that_is_skipped_tries_again() {
    let mut world = World::new(
        "schedule: { every: PT10S, after: PT15S }",
        "{ schedule: { overlap: skip } }",
    );
    world.pass(20 * SECOND);
    assert_eq!(world.ids(), ["report.every.20260101T000010Z"]);
    world.complete_all();
    world.pass(9 * SECOND);
    assert_eq!(
        world.starts.len(),
        1,
        "after was skipped at 15 s and is due again at 30 s, as every is"
    );
    world.pass(SECOND);
    assert_eq!(world.ids()[1..], ["report.every.20260101T000030Z"]);
    world.complete_all();
    world.pass(10 * SECOND);
    world.complete_all();
    world.pass(5 * SECOND);
    assert_eq!(world.ids().last(), Some(&"report.after.20260101T000045Z"));
}

#[test]
fn a_paused_schedule_starts_nothing_and_makes_nothing_up() {
    let mut world = World::new("schedule: { every: PT10S }", "{ schedule: { catchUp: all } }");
    let reason = Some("migration".to_owned());
    world.wish(ScheduleRecord::Pause {
        reason,
        reply: Some("inbox".into()),
    });
    assert!(world.timers.is_empty());
    let again = ScheduleRecord::Pause {
        reason: None,
        reply: Some("inbox".into()),
    };
    assert_eq!(world.wish(again), Outcome::Ignored(Ignored::NotAllowed));
    world.pass(65 * SECOND);
    let view = world.view();
    assert_eq!(
        (view.paused, view.reason.as_deref(), view.next_due),
        (true, Some("migration"), None)
    );
    world.wish(ScheduleRecord::Resume {
        reply: Some("inbox".into()),
    });
    world.pass(10 * SECOND);
    assert_eq!(world.due(), ["2026-01-01T00:01:10.000Z"]);
    assert_eq!(world.replies, [ReplyBody::Done, ReplyBody::Done, ReplyBody::Done]);
}

#[test]
fn a_run_that_ends_during_a_pause_is_followed_after_it() {
    let mut world = World::new("schedule: { after: PT10S }", "{ schedule: { overlap: queue } }");
    world.pass(10 * SECOND);
    world.wish(ScheduleRecord::Pause {
        reason: None,
        reply: None,
    });
    world.complete_all();
    world.pass(MINUTE);
    assert_eq!(world.starts.len(), 1);
    world.wish(ScheduleRecord::Resume { reply: None });
    world.pass(10 * SECOND);
    assert_eq!(world.due()[1], "2026-01-01T00:01:20.000Z");
}

#[test]
fn a_run_asked_for_starts_whatever_runs_and_also_while_paused() {
    let mut world = World::new(
        "schedule: { every: PT10S }",
        "{ schedule: { overlap: skip, input: { a: 1 } } }",
    );
    world.wish(ScheduleRecord::Pause {
        reason: None,
        reply: None,
    });
    let ask = |id: &str, input: Option<RawJson>| ScheduleRecord::Trigger {
        id: id.into(),
        input,
        reply: Some("inbox".into()),
    };
    world.wish(ask("one", None));
    world.wish(ask("two", Some(RawJson::encode(&json!({"b": 2})).unwrap())));
    assert_eq!(
        world.wish(ask("one", None)),
        Outcome::Ignored(Ignored::NotAllowed)
    );
    assert_eq!(world.ids(), ["one", "two"]);
    let inputs: Vec<&str> = world.starts.iter().map(|(_, s)| s.input.text()).collect();
    assert_eq!(inputs, [r#"{"a":1}"#, r#"{"b":2}"#]);
    assert_eq!(world.starts[0].1.labels["millrace.schedule"], "manual");
    assert_eq!(world.replies, [ReplyBody::Done, ReplyBody::Done, ReplyBody::Done]);
}

#[test]
fn a_backfill_starts_each_due_time_once_a_few_at_a_time() {
    let mut world = World::new("schedule: { every: PT10S }", "{}");
    world.wish(ScheduleRecord::Pause {
        reason: None,
        reply: None,
    });
    let from_ms = START_MS - 300 * SECOND;
    world.wish(ScheduleRecord::Backfill {
        from_ms,
        to_ms: START_MS,
        reply: Some("inbox".into()),
    });
    assert_eq!(world.view().running_total, limits::SCHEDULE_BACKFILL_WINDOW);
    let second = ScheduleRecord::Backfill {
        from_ms,
        to_ms: START_MS,
        reply: Some("inbox".into()),
    };
    world.wish(second);
    assert!(matches!(&world.replies[1], ReplyBody::NotAllowed(why) if why == "a backfill has 20 runs to go"));
    while world.view().running_total > 0 {
        let run = world.view().running[0].clone();
        world.complete(&run);
        assert!(world.view().running_total <= limits::SCHEDULE_BACKFILL_WINDOW);
    }
    let ids: BTreeSet<&str> = world.ids().into_iter().collect();
    assert_eq!((ids.len(), world.starts.len()), (30, 30));
    assert!(ids.contains("report.every.20251231T235500Z") && ids.contains("report.every.20251231T235950Z"));
}

#[test]
fn a_pause_holds_the_rest_of_a_backfill() {
    let mut world = World::new("schedule: { every: PT10S }", "{}");
    world.wish(ScheduleRecord::Backfill {
        from_ms: START_MS - 300 * SECOND,
        to_ms: START_MS,
        reply: None,
    });
    let begun = limits::SCHEDULE_BACKFILL_WINDOW;
    assert_eq!(world.starts.len(), begun);
    world.wish(ScheduleRecord::Pause {
        reason: None,
        reply: None,
    });
    world.complete_all();
    assert_eq!(world.starts.len(), begun, "nothing begins during the pause");
    world.wish(ScheduleRecord::Resume { reply: None });
    while world.view().running_total > 0 {
        let run = world.view().running[0].clone();
        world.complete(&run);
    }
    assert_eq!(world.starts.len(), 30);
}

#[test]
fn a_backfill_obeys_the_overlap() {
    let mut world = World::new(
        "schedule: { cron: '* * * * *' }",
        "{ schedule: { overlap: skip } }",
    );
    let wish = ScheduleRecord::Backfill {
        from_ms: START_MS - 3 * MINUTE,
        to_ms: START_MS,
        reply: None,
    };
    world.wish(wish);
    for n in 1..=3 {
        assert_eq!((world.starts.len(), world.view().running_total), (n, 1));
        world.complete_all();
    }
    assert_eq!(world.view().running_total, 0);
}

#[test]
fn a_backfill_is_bounded_and_must_have_due_times() {
    let mut world = World::new("schedule: { every: PT1S }", "{}");
    for (from_ms, to_ms, why) in [
        (0, 2_000_000, "more than 1000 due times lie between the two"),
        (5_000, 5_000, "no due time lies between the two"),
        (9_000, 5_000, "no due time lies between the two"),
    ] {
        world.wish(ScheduleRecord::Backfill {
            from_ms,
            to_ms,
            reply: Some("inbox".into()),
        });
        assert_eq!(world.replies.pop(), Some(ReplyBody::NotAllowed(why.into())));
    }
    assert!(world.starts.is_empty());
}

#[test]
fn runs_of_one_schedule_are_bounded() {
    let mut world = World::new("schedule: { every: PT1S }", "{}");
    let bound = limits::SCHEDULE_RUNS_MAX as i64;
    world.pass((bound + 5) * SECOND);
    assert_eq!(world.counts(), (bound as u64, 5, 0));
    world.wish(ScheduleRecord::Trigger {
        id: "x".into(),
        input: None,
        reply: Some("inbox".into()),
    });
    assert!(
        matches!(&world.replies[0], ReplyBody::NotAllowed(why) if why == "1000 of its runs have not ended")
    );
}

#[test]
fn a_new_version_takes_over_and_what_it_shares_goes_on() {
    let mut world = World::new("schedule: { every: PT10S, cron: '* * * * *' }", "{}");
    world.pass(5 * SECOND);
    world.deploy(
        "1.1.0",
        "schedule: { every: PT10S }",
        "{ schedule: { input: { v: 2 } } }",
    );
    world.pass(5 * SECOND);
    assert_eq!(
        world.due(),
        ["2026-01-01T00:00:10.000Z"],
        "the same period keeps its rhythm"
    );
    assert_eq!(world.starts[0].1.definition, definition("1.1.0"));
    assert_eq!(world.starts[0].1.input.text(), r#"{"v":2}"#);
    world.deploy("1.2.0", "schedule: { every: PT30S }", "{}");
    world.pass(30 * SECOND);
    assert_eq!(
        world.due()[1..],
        ["2026-01-01T00:00:40.000Z"],
        "another period begins anew"
    );
    let same = ScheduleRecord::Set {
        definition: definition("1.2.0"),
    };
    assert_eq!(world.wish(same), Outcome::Ignored(Ignored::AlreadySet));
}

#[test]
fn a_version_without_schedule_ends_it() {
    let mut world = World::new("schedule: { every: PT10S }", "{}");
    world.pass(10 * SECOND);
    world.deploy("2.0.0", "", "{}");
    assert!(world.timers.is_empty() && !world.schedule.as_ref().unwrap().is_in_force());
    world.pass(MINUTE);
    assert_eq!(world.starts.len(), 1);
    world.complete_all();
    let wish = ScheduleRecord::Resume {
        reply: Some("inbox".into()),
    };
    assert_eq!(world.wish(wish), Outcome::Ignored(Ignored::NoSchedule));
    assert_eq!(world.replies, [ReplyBody::NotFound]);
    world.deploy("2.1.0", "schedule: { every: PT10S }", "{}");
    world.pass(10 * SECOND);
    assert_eq!(world.starts.len(), 2);
}

#[test]
fn a_schedule_that_is_not_there_says_so() {
    let mut world = World::new("", "{}");
    world.schedule = None;
    let wish = ScheduleRecord::Pause {
        reason: None,
        reply: Some("inbox".into()),
    };
    assert_eq!(world.wish(wish), Outcome::Ignored(Ignored::NoSchedule));
    assert_eq!(world.replies, [ReplyBody::NotFound]);
    assert_eq!(
        world.wish(ScheduleRecord::Set {
            definition: definition("9.9.9")
        }),
        Outcome::Ignored(Ignored::NoSchedule)
    );
}

#[test]
fn what_is_stored_is_read_for_ever() {
    let stored = include_bytes!("schedule.json");
    let schedule = Schedule::decode(stored).unwrap();
    let again: serde_json::Value = serde_json::from_slice(&schedule.encode()).unwrap();
    assert_eq!(
        again,
        serde_json::from_slice::<serde_json::Value>(stored).unwrap()
    );
}
