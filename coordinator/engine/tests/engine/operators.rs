//! Suspend, resume, cancel, retry, quarantine.

use millrace_common::{ControlKind, RawJson, RecordBody, ReplyBody, StepOutcome, Unquarantine, wire};
use millrace_engine::{Ignored, Instance, Outcome, Status, WaitingKind};
use serde_json::json;

use crate::world::{Answer, START_MS, World, key};

fn last_reply(world: &World) -> &ReplyBody {
    &world.replies.last().unwrap().body
}

#[test]
fn starts_are_answered_once_each() {
    let mut world = World::with("do: [{w: {wait: PT1S}}]");
    world.start("a", json!({"n": 1}));
    world.fold_all();
    assert_eq!(*last_reply(&world), ReplyBody::Started);
    let before = world.dump("a");
    world.start("a", json!({"n": 1.0}));
    world.fold_all();
    assert_eq!(*last_reply(&world), ReplyBody::Exists);
    world.start("a", json!({"n": 2}));
    world.fold_all();
    assert_eq!(*last_reply(&world), ReplyBody::Conflict);
    assert_eq!(
        *world.outcomes.last().unwrap(),
        Outcome::Ignored(Ignored::AlreadyStarted)
    );
    assert_eq!(world.dump("a"), before);
}

#[test]
fn wishes_and_what_they_come_to() {
    use ControlKind::{Cancel, Resume, Retry, Suspend};
    let mut world = World::with("do: [{w: {wait: PT1S}}]");
    world.control("none", Cancel);
    assert_eq!(*last_reply(&world), ReplyBody::NotFound);
    world.start("a", json!({}));
    world.fold_all();
    for (wish, reply, status) in [
        (Resume, ReplyBody::Done, Status::Waiting),
        (Retry, ReplyBody::NotAllowed("waiting".into()), Status::Waiting),
        (Suspend, ReplyBody::Done, Status::Suspended),
        (Suspend, ReplyBody::Done, Status::Suspended),
        (Resume, ReplyBody::Done, Status::Waiting),
        (Cancel, ReplyBody::Done, Status::Cancelled),
        (Cancel, ReplyBody::Done, Status::Cancelled),
        (
            Resume,
            ReplyBody::NotAllowed("cancelled".into()),
            Status::Cancelled,
        ),
        (
            Retry,
            ReplyBody::NotAllowed("cancelled".into()),
            Status::Cancelled,
        ),
    ] {
        world.control("a", wish);
        assert_eq!(
            (last_reply(&world), world.status("a")),
            (&reply, status),
            "{wish:?}"
        );
    }
    world.assert_clean();
}

#[test]
fn a_suspended_instance_keeps_what_comes() {
    let body = "
do:
- f:
    fork:
      branches:
      - step: {do: [{s: {call: 'noop:1.0.0@default', with: {n: 1}}}, {t: {call: 'noop:1.0.0@default', with: {n: 2}}}]}
      - wait: {do: [{w: {wait: PT1S}}, {u: {call: 'noop:1.0.0@default', with: {n: 3}}}]}
      - retry: {try: [{x: {call: 'flaky:1.0.0@default', with: {failures: 1}}}], catch: {retry: {delay: PT2S}}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.fold_all();
    let first: Vec<_> = world.dispatched.clone();
    // the flaky step fails, its retry waits
    let flaky = first
        .iter()
        .find(|d| d.function.starts_with("flaky"))
        .unwrap()
        .clone();
    world.queue.retain(|(_, d)| d.step == flaky.step);
    world.answer_one();
    world.fold_all();
    world.control("a", ControlKind::Suspend);
    let dispatched = world.dispatched.len();
    let step = first
        .iter()
        .find(|d| d.function.starts_with("noop"))
        .unwrap()
        .clone();
    world.result(
        &key("a"),
        &step,
        StepOutcome::Output(RawJson::parse(b"{\"n\":1}").unwrap()),
    );
    world.run_until(START_MS + 10_000);
    assert_eq!(
        (world.status("a"), world.dispatched.len()),
        (Status::Suspended, dispatched)
    );
    assert!(world.timers.is_empty() && world.outbox.is_empty());
    let before = world.dump("a");
    world.result(&key("a"), &step, StepOutcome::Output(RawJson::null()));
    world.fold_all();
    assert_eq!(world.dump("a"), before, "a second result of a kept step");
    world.control("a", ControlKind::Resume);
    assert_eq!(world.dispatched.len(), dispatched + 3);
    world.run();
    world.assert_clean();
    assert_eq!(
        world.output("a"),
        json!([{"n": 2}, {"n": 3}, {"failures": 1, "attempt": 2}])
    );
}

#[test]
fn a_timeout_during_a_suspension_counts_at_resume() {
    let body = "do: [{s: {call: 'silent:1.0.0@default', timeout: {after: PT5S}}}]";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.fold_all();
    world.control("a", ControlKind::Suspend);
    world.run_until(START_MS + 60_000);
    assert_eq!(world.status("a"), Status::Suspended);
    world.control("a", ControlKind::Resume);
    world.run();
    world.assert_clean();
    assert_eq!(world.error("a").status, 408);
}

#[test]
fn a_suspension_stops_inline_loops() {
    let body = "do: [{s: {set: {n: '${ .n + 1 }'}, then: s}}]";
    let mut world = World::with(body);
    world.start("a", json!({"n": 0}));
    for _ in 0..5 {
        let record = world.log.pop_front().unwrap();
        world.fold(record);
    }
    assert_eq!(world.status("a"), Status::Running);
    assert_eq!(world.view("a").waiting_for[0].kind, WaitingKind::Continue);
    world.control("a", ControlKind::Suspend);
    world.run();
    assert_eq!(world.status("a"), Status::Suspended);
    world.log.clear();
    let body = millrace_common::RecordBody::Control {
        action: ControlKind::Resume,
        reason: None,
        reply: None,
    };
    world.append(&key("a"), body);
    let record = world.log.pop_front().unwrap();
    world.fold(record);
    assert_eq!((world.status("a"), world.log.len()), (Status::Running, 1));
    let record = world.log.pop_front().unwrap();
    world.fold(record);
    world.log.clear();
    world.control("a", ControlKind::Cancel);
    world.run();
    world.assert_clean();
    assert_eq!(world.status("a"), Status::Cancelled);
}

#[test]
fn a_loop_and_others_take_turns() {
    let body = "
do:
- f:
    fork:
      compete: true
      branches:
      - busy: {do: [{s: {set: {n: 1}, then: s}}]}
      - other: {do: [{w: {wait: PT1S}}, {t: {set: {won: true}}}]}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    for _ in 0..10 {
        let record = world.log.pop_front().unwrap();
        world.fold(record);
    }
    assert_eq!(world.timers.len(), 1, "the other branch began");
    let timer = world.timers.keys().next().unwrap().1;
    world.now_ms += 1_000;
    world.append(&key("a"), millrace_common::RecordBody::Timer { timer });
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"won": true}));
}

#[test]
fn retry_goes_on_from_the_failed_task() {
    let body = "
timeout: {after: PT1H}
do:
- a: {call: 'noop:1.0.0@default', with: {n: 1}, export: {as: '${ {a: 1} }'}}
- f:
    fork:
      branches:
      - ok: {call: 'noop:1.0.0@default', with: {n: 2}}
      - bad: {do: [{b1: {call: 'noop:1.0.0@default', with: {n: 3}}}, {b2: {call: 'fail:1.0.0@default'}}]}
      - slow: {do: [{c1: {call: 'noop:1.0.0@default', with: {n: 4}}}, {c2: {call: 'silent:1.0.0@default'}}]}
      - wait: {wait: PT9S}
- z: {set: '${ [., $context] }'}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run();
    assert_eq!(
        world.error("a").instance.as_deref(),
        Some("/do/1/f/fork/branches/1/bad/do/1/b2")
    );
    assert!(world.timers.is_empty() && world.outbox.is_empty());
    let before = world.dispatched.len();
    world.now_ms += 7_200_000;
    world.worker = Box::new(|step| Answer::Output(json!({"again": step.task.rsplit('/').next()})));
    world.control("a", ControlKind::Retry);
    assert_eq!(*last_reply(&world), ReplyBody::Done);
    assert!(world.view("a").error.is_none());
    world.run();
    world.assert_clean();
    let output = world.output("a");
    assert_eq!(
        output,
        json!([[{"n": 2}, {"again": "b2"}, {"again": "c2"}, {"n": 1}], {"a": 1}])
    );
    let again = &world.dispatched[before..];
    assert_eq!(again.len(), 2, "only what failed or was called off runs again");
    for step in again {
        let first = world.dispatched[..before]
            .iter()
            .find(|d| d.task == step.task)
            .unwrap();
        assert_eq!((&first.key, first.attempt, step.attempt), (&step.key, 1, 2));
        assert_ne!(first.step, step.step);
    }
}

#[test]
fn retry_gives_policies_and_timeouts_anew() {
    let body = "
do:
- t:
    timeout: {after: PT1M}
    try: [{s: {call: 'flaky:1.0.0@default', with: {failures: 3}}}]
    catch: {retry: {delay: PT1S, limit: {attempt: {count: 1, duration: PT10S}}}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run();
    assert_eq!(world.dispatched.len(), 2);
    world.control("a", ControlKind::Retry);
    let after = world.timers.values().map(|due| due - world.now_ms).max();
    assert_eq!(after, Some(60_000));
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"failures": 3, "attempt": 4}));
}

#[test]
fn retry_of_a_task_that_failed_by_itself() {
    for (body, input) in [
        ("do: [{s: {set: '${ .n + 1 }'}}]", json!({"n": []})),
        (
            "do: [{t: {timeout: {after: PT1S}, do: [{s: {call: 'silent:1.0.0@default'}}]}}]",
            json!({}),
        ),
        (
            "do: [{c: {call: 'noop:1.0.0@default', output: {as: 'error(\"x\")'}}}]",
            json!({}),
        ),
        (
            "input: {schema: {format: json, document: {required: [x]}}}\ndo: []",
            json!({}),
        ),
        (
            "output: {as: 'error(\"x\")'}\ndo: [{s: {set: {n: 1}}}]",
            json!({}),
        ),
        (
            "do: [{f: {fork: {compete: true, branches: [{a: {call: 'fail:1.0.0@default'}}, {b: {set: '${ error }'}}]}}}]",
            json!({}),
        ),
        (
            "do: [{f: {fork: {branches: [{a: {set: '${ error }'}}, {b: {set: {n: 1}}}]}}}]",
            json!({}),
        ),
    ] {
        let mut world = World::with(body);
        world.start("a", input);
        world.run();
        world.assert_clean();
        let first = world.error("a");
        for _ in 0..2 {
            world.control("a", ControlKind::Retry);
            world.run();
            world.assert_clean();
            assert_eq!(world.error("a"), first, "{body}");
        }
    }
}

#[test]
fn cancel_calls_everything_off() {
    let body = "
timeout: {after: PT1H}
do:
- f:
    fork:
      branches:
      - a: {call: 'silent:1.0.0@default', timeout: {after: PT1M}}
      - b: {wait: PT9S}
      - c: {try: [{x: {call: 'fail:1.0.0@default'}}], catch: {retry: {delay: PT1M}}}
      - d: {for: {in: '${ [1] }'}, do: [{y: {call: 'silent:1.0.0@default'}}]}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run_until(START_MS);
    assert_eq!(world.timers.len(), 4);
    world.control("a", ControlKind::Cancel);
    world.assert_clean();
    assert_eq!(
        (world.status("a"), world.cancelled_steps.len()),
        (Status::Cancelled, 2)
    );
    let view = world.view("a");
    assert!(view.ended_at.is_some() && view.waiting_for.is_empty());
}

#[test]
fn waiting_is_shown_with_what_it_waits_for() {
    let body = "
do:
- f:
    fork:
      branches:
      - a: {wait: PT9S}
      - b: {try: [{x: {call: 'fail:1.0.0@default'}}], catch: {retry: {delay: PT1M}}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run_until(START_MS);
    assert_eq!(world.status("a"), Status::Waiting);
    let view = world.view("a");
    let shown: Vec<_> = view
        .waiting_for
        .iter()
        .map(|w| (w.kind, w.task.as_str(), w.due.as_deref().unwrap()))
        .collect();
    assert_eq!(
        shown,
        [
            (
                WaitingKind::Timer,
                "/do/0/f/fork/branches/0/a",
                "2026-01-01T00:00:09.000Z"
            ),
            (
                WaitingKind::Retry,
                "/do/0/f/fork/branches/1/b",
                "2026-01-01T00:01:00.000Z"
            ),
        ]
    );
    assert_eq!(world.instance("a").waiting_for(), view.waiting_for);
    let text = serde_json::to_value(&view).unwrap();
    assert_eq!(text["status"], "waiting");
    assert_eq!(text["createdAt"], "2026-01-01T00:00:00.000Z");
    assert_eq!(text["labels"], json!({"team": "blue"}));
    assert_eq!(
        text["definition"],
        json!({"namespace": "default", "name": "flow", "version": "1.0.0"})
    );
    assert_eq!(text["waitingFor"][1]["attempt"], 2);
}

#[test]
fn a_start_that_was_set_aside_begins_when_it_is_resumed() {
    let mut world = World::with("do: [{a: {set: {x: 1}}}]");
    world.start("a", json!({"n": 1}));
    let start = world.log.pop_front().unwrap();
    let mut live = None;
    let transition = millrace_engine::set_aside(&mut live, &start, "a bug");
    assert_eq!(
        transition.effects.len(),
        1,
        "whoever asked is told: {:?}",
        transition.effects
    );
    let mut live = live.unwrap();
    assert_eq!((live.quarantined(), live.is_ended()), (Some("a bug"), false));
    let writes = live.take_writes();
    let stored = world.instances.entry(key("a")).or_default();
    stored.take(writes);
    stored.live = Some(Instance::load(key("a"), stored.fields.clone()).unwrap());
    assert_eq!(world.status("a"), Status::Suspended);
    world.control("a", ControlKind::Resume);
    assert_eq!(world.output("a"), json!({"x": 1}));
    world.assert_clean();
}

#[test]
fn a_record_that_panicked_is_applied_or_skipped_when_the_quarantine_is_lifted() {
    for retry in [true, false] {
        let mut world = World::with("do: [{c: {call: 'noop:1.0.0@default'}}, {s: {set: {done: true}}}]");
        world.start("a", json!({"n": 1}));
        world.fold_all();
        let step = world.dispatched[0].clone();
        world.result(&key("a"), &step, StepOutcome::Output(RawJson::null()));
        let result = world.log.pop_back().unwrap();
        let raw = wire::encode_record(result.instance.as_ref(), &result.body);
        let stored = world.instances.get_mut(&key("a")).unwrap();
        stored.live.as_mut().unwrap().quarantine("a bug", START_MS);
        let lift = RecordBody::Unquarantine(Box::new(Unquarantine {
            sequence: Some(result.sequence),
            retry: retry.then(|| RawJson::parse(&raw).unwrap()),
            reason: None,
            reply: Some("inbox".to_owned()),
        }));
        world.append(&key("a"), lift.clone());
        world.fold_all();
        assert_eq!(*last_reply(&world), ReplyBody::Done);
        let expected = if retry { Status::Completed } else { Status::Running };
        assert_eq!(world.status("a"), expected, "retry: {retry}");
        let before = world.dump("a");
        world.append(&key("a"), lift);
        world.fold_all();
        assert!(matches!(last_reply(&world), ReplyBody::NotAllowed(_)));
        assert_eq!(world.dump("a"), before, "it is not quarantined any more");
    }
}

#[test]
fn a_quarantined_instance_does_nothing_until_resumed() {
    let body = "
do:
- f:
    fork:
      branches:
      - a: {wait: PT1S}
      - b: {run: {workflow: {namespace: default, name: child, version: '1.0.0'}}}
      - c: {call: 'noop:1.0.0@default'}
";
    let mut world = World::with(body);
    world.define("child", "do: [{w: {wait: PT2S}}]");
    world.start("a", json!({"n": 1}));
    world.fold_all();
    let stored = world.instances.get_mut(&key("a")).unwrap();
    stored.live.as_mut().unwrap().quarantine("a bug", START_MS);
    let before = world.dump("a");
    assert_eq!(world.status("a"), Status::Suspended);
    let waiting = world.view("a").waiting_for;
    assert_eq!(
        (waiting[0].kind, waiting[0].reason.as_deref()),
        (WaitingKind::Quarantine, Some("a bug"))
    );
    let step = world.dispatched[0].clone();
    // as the shell does: a timer that fired is forgotten
    world.timers.retain(|(key, _), _| key.id() != "a");
    world.queue.clear();
    world.result(&key("a"), &step, StepOutcome::Output(RawJson::null()));
    world.control("a", ControlKind::Suspend);
    world.run();
    assert_eq!(world.dump("a"), before, "ignored");
    world.control("a", ControlKind::Resume);
    world.fold_all();
    let lost = millrace_common::RecordBody::Lost {
        frame: step.frame,
        step: step.step,
        generation: 0,
    };
    world.append(&key("a"), lost);
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!([{"n": 1}, {"n": 1}, {"n": 1}]));
}

#[test]
fn an_unknown_definition_faults_the_start() {
    let mut world = World::new();
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let problem = world.error("a");
    assert_eq!(problem.status, 400);
    assert!(problem.detail.unwrap().contains("default/flow@1.0.0"));
    world.define("flow", "do: [{s: {set: {n: 1}}}]");
    world.control("a", ControlKind::Retry);
    world.run();
    assert_eq!(world.output("a"), json!({"n": 1}));
}

#[test]
fn only_the_first_of_two_timeouts_of_a_suspension_counts() {
    let body = "
timeout: {after: PT9S}
do:
- d: {do: [{s: {call: 'silent:1.0.0@default'}}], timeout: {after: PT5S}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.fold_all();
    world.control("a", ControlKind::Suspend);
    world.run_until(START_MS + 60_000);
    world.control("a", ControlKind::Resume);
    world.run();
    world.assert_clean();
    assert_eq!(world.error("a").instance.as_deref(), Some("/do/0/d"));
    let faults = world
        .events("a")
        .iter()
        .filter(|e| e.starts_with("instance.faulted"))
        .count();
    assert_eq!(faults, 1);
}
