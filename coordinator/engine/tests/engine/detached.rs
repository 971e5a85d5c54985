//! `await: false` of a process: handed over once, never waited for, never called off.

use millrace_common::{ControlKind, ErrorKind, Problem, StepOutcome, limits};
use millrace_engine::{Ignored, Outcome, Status};
use serde_json::{Value, json};

use crate::world::{START_MS, World, key};

const FLOW: &str = "do:
- p:
    input: { from: '${ {name: .name} }' }
    run: { shell: { command: 'echo $1', arguments: ['${ .name }'] }, await: false }
    timeout: { after: PT5M }
- last: { set: { of: '${ .name }', whole: '${ . }' } }
";

/// One whose process nobody has taken yet.
fn handed(flow: &str) -> World {
    let mut world = World::with(flow);
    world.start("a", json!({"name": "x", "other": 1}));
    world.fold_all();
    world
}

fn end(world: &mut World, outcome: StepOutcome) -> Outcome {
    let (instance, step) = world.queue[0].clone();
    world.result(&instance, &step, outcome);
    world.fold_all();
    *world.outcomes.last().unwrap()
}

fn problem() -> StepOutcome {
    StepOutcome::Error(Problem::new(ErrorKind::Runtime, "exit code 1"))
}

fn output() -> StepOutcome {
    StepOutcome::Output(millrace_common::RawJson::null())
}

fn last(world: &mut World) -> Value {
    world.trace("a").pop().unwrap()
}

#[test]
fn the_task_is_done_with_its_transformed_input_when_the_step_is_handed_over() {
    let mut world = handed(FLOW);
    assert_eq!(world.output("a"), json!({"of": "x", "whole": {"name": "x"}}));
    let step = world.dispatched[0].clone();
    assert_eq!(
        (step.function.as_str(), step.task.as_str()),
        ("run:shell", "/do/0/p")
    );
    assert_eq!(step.step, format!("{}.1", step.key));
    let input: Value = step.input.decode().unwrap();
    assert_eq!(
        input,
        json!({"process": {"command": "echo $1", "arguments": ["x"]}, "await": false, "return": "stdout"})
    );
    assert!(step.frame >= limits::DETACHED_FRAMES);
    // Nothing in the state knows of it: the outbox alone holds it until the queue does.
    world.assert_clean();
    assert_eq!(
        world.events("a"),
        [
            "instance.started",
            "task.detached p",
            "task.completed p",
            "task.completed last",
            "instance.completed"
        ]
    );
}

#[test]
fn its_end_is_told_in_the_trace_also_after_the_end_of_the_instance() {
    let mut world = handed(FLOW);
    assert_eq!(end(&mut world, output()), Outcome::Applied);
    let entry = last(&mut world);
    assert_eq!(entry["type"], "task.detachedCompleted");
    assert_eq!(
        (&entry["task"], &entry["worker"]),
        (&json!("/do/0/p"), &json!("w1"))
    );
    assert_eq!(world.status("a"), Status::Completed);
    world.assert_clean();
    let mut world = handed(FLOW);
    assert_eq!(end(&mut world, problem()), Outcome::Applied);
    let entry = last(&mut world);
    assert_eq!(entry["type"], "task.detachedFaulted");
    assert_eq!(entry["error"]["detail"], "exit code 1");
    world.assert_clean();
}

#[test]
fn its_end_is_told_once_however_often_it_is_reported() {
    let mut world = handed(FLOW);
    assert_eq!(end(&mut world, output()), Outcome::Applied);
    let before = world.dump("a");
    for again in [output(), problem()] {
        assert_eq!(end(&mut world, again), Outcome::Ignored(Ignored::StaleStep));
    }
    assert_eq!(world.dump("a"), before);
}

#[test]
fn ends_are_awaited_of_the_newest_only() {
    let count = limits::DETACHED_STEPS_MAX + 1;
    let mut world = handed(&format!(
        "do: [{{l: {{for: {{in: '${{ [range({count})] }}'}}, do: [{{p: {{run: {{shell: {{command: x}}, await: false}}}}}}]}}}}]"
    ));
    world.fold_all();
    assert_eq!(world.queue.len(), count);
    assert_eq!(end(&mut world, output()), Outcome::Ignored(Ignored::StaleStep));
    world.queue.remove(0);
    assert_eq!(end(&mut world, output()), Outcome::Applied);
}

#[test]
fn its_failure_reaches_no_catch() {
    let mut world = handed(
        "do:
- t:
    try: [{ p: { run: { shell: { command: x }, await: false } } }, { w: { wait: PT1H } }]
    catch: { do: [{ caught: { set: { caught: true } } }] }
",
    );
    assert_eq!(end(&mut world, problem()), Outcome::Applied);
    world.queue.clear();
    world.run();
    assert_eq!(world.output("a"), json!({"name": "x", "other": 1}));
}

#[test]
fn neither_cancel_nor_fault_calls_it_off() {
    let mut world = handed(
        "do: [{ p: { run: { script: { language: js, code: x }, await: false } } }, { w: { wait: PT1H } }]",
    );
    world.control("a", ControlKind::Cancel);
    assert_eq!(world.status("a"), Status::Cancelled);
    let raised = "do: [{ p: { run: { container: { image: x }, await: false } } }, { r: { raise: { error: { type: 'https://x.y/z', status: 400 } } } }]";
    let faulted = handed(raised);
    assert_eq!(faulted.status("a"), Status::Faulted);
    for world in [world, faulted] {
        assert_eq!((world.queue.len(), world.cancelled_steps.len()), (1, 0));
        world.assert_clean();
    }
}

#[test]
fn only_its_own_timeout_bounds_it() {
    let world = handed(FLOW);
    assert_eq!(world.dispatched[0].deadline_ms, Some(START_MS + 300_000));
    let world =
        handed("timeout: { after: PT1M }\ndo: [{ p: { run: { shell: { command: x }, await: false } } }]");
    assert_eq!(world.dispatched[0].deadline_ms, None);
}

#[test]
fn each_iteration_and_attempt_hands_over_its_own() {
    let world = handed(
        "do: [{ f: { for: { in: '[1, 2, 3]' }, do: [{ p: { run: { shell: { command: x }, await: false } } }] } }]",
    );
    let mut steps: Vec<_> = world.dispatched.iter().map(|d| d.step.clone()).collect();
    steps.sort();
    steps.dedup();
    assert_eq!(steps.len(), 3);
}

#[test]
fn a_result_of_a_task_that_does_not_exist_is_ignored() {
    let mut world = handed(FLOW);
    let mut step = world.dispatched[0].clone();
    step.frame = u32::MAX;
    world.result(&key("a"), &step, output());
    world.fold_all();
    assert_eq!(
        *world.outcomes.last().unwrap(),
        Outcome::Ignored(Ignored::StaleStep)
    );
}
