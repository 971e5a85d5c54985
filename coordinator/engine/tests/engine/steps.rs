//! Steps on their way: heard of, taken over, lost, answered twice, answered wrongly.

use millrace_common::{ErrorKind, Problem, Progress, RawJson, RecordBody, StepOutcome, StepResult, limits};
use millrace_engine::{Dispatch, Ignored, Outcome, Status, WaitingKind};
use serde_json::json;

use crate::world::{Answer, START_MS, World, key};

/// One step that nobody answers.
fn waiting(body: &str) -> (World, Dispatch) {
    let mut world = World::with(body);
    world.start("a", json!({"n": 1}));
    world.fold_all();
    let step = world.dispatched[0].clone();
    world.queue.clear();
    (world, step)
}

const STEP: &str =
    "do: [{s: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}, metadata: {millrace: {queue: gpu}}}}]";

fn last(world: &World) -> Outcome {
    *world.outcomes.last().unwrap()
}

fn ignored(reason: Ignored) -> Outcome {
    Outcome::Ignored(reason)
}

fn progress(world: &mut World, step: &Dispatch, worker: &str, delivery: u32, value: Option<&str>) -> Outcome {
    let value = value.map(|v| RawJson::parse(v.as_bytes()).unwrap());
    let body = RecordBody::Progress(Box::new(Progress {
        step: step.step.clone(),
        frame: step.frame,
        worker: worker.to_owned(),
        delivery,
        value,
    }));
    world.append(&key("a"), body);
    world.fold_all();
    last(world)
}

fn lost(world: &mut World, step: &Dispatch, generation: u32) -> Outcome {
    let body = RecordBody::Lost {
        frame: step.frame,
        step: step.step.clone(),
        generation,
    };
    world.append(&key("a"), body);
    world.fold_all();
    last(world)
}

fn answer(world: &mut World, step: &Dispatch, generation: u32) -> Outcome {
    let outcome = StepOutcome::Output(RawJson::parse(br#"{"ok":true}"#).unwrap());
    let step = Dispatch {
        generation,
        ..step.clone()
    };
    world.result(&key("a"), &step, outcome);
    world.fold_all();
    last(world)
}

#[test]
fn a_dispatch_says_it_all() {
    let (world, step) = waiting(STEP);
    assert_eq!(step.function, "noop:1.0.0");
    assert_eq!(step.task, "/do/0/s");
    assert_eq!(step.queue.as_deref(), Some("gpu"));
    assert_eq!((step.attempt, step.generation), (1, 0));
    assert_eq!(step.input.text(), r#"{"n":1}"#);
    assert_eq!(step.definition, "default/flow@1.0.0");
    assert!(step.traceparent.is_some());
    assert_eq!(step.step, format!("{}.1", step.key));
    assert!(step.key.starts_with("default/a:"));
    assert_eq!(world.instance("a").open_steps(), [step.frame]);
}

#[test]
fn only_the_first_result_counts() {
    let (mut world, step) = waiting(STEP);
    assert_eq!(answer(&mut world, &step, 0), Outcome::Applied);
    let before = world.dump("a");
    assert_eq!(answer(&mut world, &step, 0), ignored(Ignored::Ended));
    assert_eq!(world.dump("a"), before);

    let two = "do: [{s: {call: 'noop:1.0.0@default'}}, {t: {call: 'noop:1.0.0@default'}}]";
    let (mut world, step) = waiting(two);
    answer(&mut world, &step, 0);
    let before = world.dump("a");
    assert_eq!(answer(&mut world, &step, 0), ignored(Ignored::StaleStep));
    let next = world.dispatched[1].clone();
    let wrong = Dispatch {
        step: format!("{}x", next.step),
        ..next.clone()
    };
    assert_eq!(answer(&mut world, &wrong, 0), ignored(Ignored::StaleStep));
    assert_eq!(
        answer(&mut world, &next, 1),
        ignored(Ignored::StaleStep),
        "a generation that never was"
    );
    assert_eq!(world.dump("a"), before);
}

#[test]
fn progress_is_kept_and_takeovers_are_traced() {
    let (mut world, step) = waiting(STEP);
    assert_eq!(progress(&mut world, &step, "w1", 1, Some("1")), Outcome::Applied);
    assert_eq!(progress(&mut world, &step, "w1", 1, Some("2")), Outcome::Applied);
    let before = world.dump("a");
    assert_eq!(progress(&mut world, &step, "w1", 1, None), Outcome::Applied);
    assert_eq!(world.dump("a"), before, "nothing new");
    assert_eq!(progress(&mut world, &step, "w2", 2, None), Outcome::Applied);
    assert_eq!(
        progress(&mut world, &step, "w1", 1, Some("9")),
        ignored(Ignored::StaleStep),
        "the one before"
    );
    let waiting = world.view("a").waiting_for;
    assert_eq!(
        (waiting[0].kind, waiting[0].worker.as_deref()),
        (WaitingKind::Step, Some("w2"))
    );
    assert_eq!(
        (waiting[0].task.as_str(), waiting[0].function.as_deref()),
        ("/do/0/s", Some("noop:1.0.0"))
    );
    let plan = millrace_engine::Definitions::plan(&world.library, world.instance("a").definition()).unwrap();
    let again = world.instance("a").step(&plan, step.frame).unwrap();
    assert_eq!(
        again,
        Dispatch {
            progress: Some(RawJson::parse(b"2").unwrap()),
            ..step.clone()
        }
    );
    answer(&mut world, &step, 0);
    let trace = world.trace("a");
    let kinds: Vec<&str> = trace.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "instance.started",
            "task.started",
            "task.takenOver",
            "task.completed",
            "instance.completed"
        ]
    );
    let done = &trace[3];
    assert_eq!(
        (&done["worker"], &done["delivery"], &done["durationMs"]),
        (&json!("w1"), &json!(1), &json!(7))
    );
    assert_eq!(
        (&done["attempt"], &done["startedAt"], &done["n"]),
        (&json!(1), &json!(START_MS), &json!(4))
    );
}

#[test]
fn progress_goes_to_the_next_attempt() {
    let body = "
do:
- o:
    try:
    - i: {try: [{s: {call: 'noop:1.0.0@default'}}], catch: {errors: {with: {status: 404}}}}
    catch: {retry: {delay: PT1S}}
";
    let (mut world, step) = waiting(body);
    progress(&mut world, &step, "w1", 1, Some(r#"{"done":3}"#));
    world.result(
        &key("a"),
        &step,
        StepOutcome::Error(Problem::new(ErrorKind::Runtime, "no")),
    );
    world.worker =
        Box::new(|step| Answer::Output(json!({"from": step.progress.as_ref().map(RawJson::text)})));
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"from": r#"{"done":3}"#}));
}

#[test]
fn a_lost_step_is_dispatched_again() {
    let (mut world, step) = waiting(STEP);
    progress(&mut world, &step, "w1", 3, Some("5"));
    assert_eq!(lost(&mut world, &step, 1), ignored(Ignored::StaleStep));
    assert_eq!(lost(&mut world, &step, 0), Outcome::Applied);
    assert_eq!(lost(&mut world, &step, 0), ignored(Ignored::StaleStep));
    let again = world.dispatched[1].clone();
    assert_eq!((again.step.as_str(), again.generation), (step.step.as_str(), 1));
    assert_eq!(again.progress.as_ref().map(RawJson::text), Some("5"));
    // the lost one turns up after all: it is the same step
    assert_eq!(answer(&mut world, &step, 0), Outcome::Applied);
    world.queue.clear();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"ok": true}));
}

#[test]
fn answers_that_cannot_be_used_fail_the_task() {
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let large = format!("\"{}\"", "x".repeat(limits::PAYLOAD_BYTES_MAX));
    for (answer, text) in [(deep, "cannot be used"), (large, "too large")] {
        let mut world = World::with(STEP);
        world.worker = Box::new(move |_| Answer::Raw(answer.clone()));
        world.start("a", json!({}));
        world.run();
        world.assert_clean();
        let problem = world.error("a");
        assert_eq!(
            (problem.status, problem.standard()),
            (500, Some(ErrorKind::Runtime))
        );
        assert!(problem.detail.as_ref().unwrap().contains(text), "{problem}");
    }
    let (mut world, step) = waiting(STEP);
    world.result(&key("a"), &step, StepOutcome::Cancelled);
    world.run();
    assert_eq!(world.error("a").status, 500);
}

#[test]
fn a_worker_that_gives_up_at_the_deadline_leaves_the_error_to_the_timer() {
    let around = "do: [{l: {do: [{t: {try: [{s: {call: 'noop:1.0.0@default'}}], catch: {}}}], timeout: {after: PT10S}}}]";
    let outcomes = [
        StepOutcome::Cancelled,
        StepOutcome::Error(Problem::new(ErrorKind::Timeout, "no answer")),
    ];
    for outcome in outcomes {
        let (mut world, step) = waiting(around);
        world.run_until(START_MS + 9_500);
        world.result(&key("a"), &step, outcome.clone());
        world.run_until(START_MS + 9_900);
        assert_eq!(world.status("a"), Status::Running);
        world.run();
        world.assert_clean();
        let problem = world.error("a");
        assert_eq!(
            (problem.status, problem.instance.as_deref()),
            (408, Some("/do/0/l"))
        );
        // Long before the deadline it is an error of the step, which the `try` around it catches.
        let (mut world, step) = waiting(around);
        world.result(&key("a"), &step, outcome);
        world.run();
        assert_eq!(world.output("a"), json!({"n": 1}));
    }
}

#[test]
fn a_workers_error_is_at_the_task_and_bounded() {
    let mut world = World::with(STEP);
    world.worker = Box::new(|_| {
        let problem = Problem::new(ErrorKind::Communication, "ä".repeat(100_000));
        Answer::Error(Problem {
            instance: Some("/forged".into()),
            ..problem
        })
    });
    world.start("a", json!({}));
    world.run();
    let problem = world.error("a");
    assert_eq!(problem.instance.as_deref(), Some("/do/0/s"));
    assert!(problem.detail.unwrap().len() < 9000);
}

#[test]
fn sizes_are_bounded_with_both_numbers_named() {
    let double = "do: [{s: {set: {a: '${ .a + .a }'}}}]";
    let context = "do: [{s: {set: {n: 1}, export: {as: '${ $workflow.input.a + $workflow.input.a }'}}}]";
    let call = "do: [{s: {call: 'noop:1.0.0@default', with: {a: '${ .a + .a }'}}}]";
    let output = "output: {as: '${ .a + .a }'}\ndo: []";
    for body in [double, context, call, output] {
        let mut world = World::with(body);
        world.start("a", json!({"a": "x".repeat(limits::PAYLOAD_BYTES_MAX / 2 + 1)}));
        world.run();
        world.assert_clean();
        let problem = world.error("a");
        assert_eq!(problem.standard(), Some(ErrorKind::Runtime), "{problem}");
        let detail = problem.detail.unwrap();
        assert!(
            detail.contains(&limits::PAYLOAD_BYTES_MAX.to_string()),
            "{detail}"
        );
    }
}

#[test]
fn values_do_not_grow_too_deep() {
    let body = "do: [{s: {set: {a: '${ . }'}, then: s}}]";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let problem = world.error("a");
    assert!(problem.detail.as_ref().unwrap().contains("100"), "{problem}");
}

#[test]
fn results_carry_no_token_into_the_state() {
    let (mut world, step) = waiting(STEP);
    let body = RecordBody::Result(Box::new(StepResult {
        step: step.step,
        frame: step.frame,
        generation: 0,
        worker: "w".into(),
        delivery: 1,
        duration_ms: 1,
        outcome: StepOutcome::Output(RawJson::null()),
        token: "secret-token".into(),
    }));
    world.append(&key("a"), body);
    world.fold_all();
    assert!(!world.dump("a").contains("secret-token"));
}

#[test]
fn input_and_progress_fit_into_one_message() {
    let (mut world, step) =
        waiting("do: [{s: {call: 'noop:1.0.0@default', with: {x: '${ \"x\" * 500000 }'}}}]");
    progress(&mut world, &step, "w1", 1, Some("1"));
    let large = format!("\"{}\"", "y".repeat(300_000));
    assert_eq!(
        progress(&mut world, &step, "w1", 1, Some(&large)),
        Outcome::Applied
    );
    let plan = millrace_engine::Definitions::plan(&world.library, world.instance("a").definition()).unwrap();
    let kept = world.instance("a").step(&plan, step.frame).unwrap().progress;
    assert_eq!(kept.as_ref().map(RawJson::text), Some("1"));
    assert!(world.events("a").contains(&"task.progressRefused s".to_owned()));
}
