//! Sagas: completed tasks are undone in reverse order when the scope around them fails for good.

use millrace_common::{ControlKind, ErrorKind, Problem};
use serde_json::{Value, json};

use crate::world::{Answer, Split, Worker, World};

const USES: &str = "
use:
  functions:
    undo: {call: 'undo:1.0.0@default'}
";

fn step(name: &str, more: &str) -> String {
    format!(
        "{{{name}: {{call: 'do:1.0.0@default', with: {{step: {name}}}, {more}metadata: {{millrace: {{compensateWith: undo}}}}}}}}"
    )
}

fn steps(names: &[&str]) -> String {
    let tasks: Vec<String> = names.iter().map(|n| step(n, "")).collect();
    tasks.join(", ")
}

/// `do` gives `{done: step}`, and fails for the steps that are listed; `undo` fails for those of the second list.
fn worker(fails: &[&str], stuck: &[&str]) -> Worker {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let (fails, stuck) = (owned(fails), owned(stuck));
    Box::new(move |step| {
        let input: Value = step.input.decode().unwrap();
        let name = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        match step.function.split(':').next().unwrap() {
            "do" if fails.contains(&name(&input["step"])) => {
                Answer::Error(Problem::new(ErrorKind::Communication, "cannot"))
            }
            "do" => Answer::Output(json!({"done": input["step"]})),
            "undo" if stuck.contains(&name(&input["output"]["done"])) => {
                Answer::Error(Problem::new(ErrorKind::Runtime, "cannot undo"))
            }
            _ => Answer::Output(json!({"undone": input["output"]["done"]})),
        }
    })
}

fn finished(body: &str, fails: &[&str], stuck: &[&str]) -> World {
    let mut world = World::with(&format!("{USES}{body}"));
    world.split = Split::Reload;
    world.worker = worker(fails, stuck);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    world
}

/// What was undone, in order, by the inputs of the compensations.
fn undone(world: &World) -> Vec<String> {
    let of_undo = world.dispatched.iter().filter(|d| d.function.starts_with("undo"));
    of_undo
        .map(|d| {
            let input: Value = d.input.decode().unwrap();
            input["output"]["done"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn a_document_undoes_in_reverse_order_before_it_faults() {
    let body = format!("do: [{}]", steps(&["a", "b", "c", "d", "e", "f"]));
    let head = body;
    let mut world = World::new();
    world.define_text(&format!(
        "document: {{dsl: '1.0.3', namespace: default, name: flow, version: '1.0.0', metadata: {{millrace: {{saga: true}}}}}}\n{USES}{head}\n"
    ));
    world.split = Split::Reload;
    world.worker = worker(&["e"], &[]);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(undone(&world), ["d", "c", "b", "a"]);
    let problem = world.error("a");
    assert_eq!(
        (problem.status, problem.instance.as_deref()),
        (500, Some("/do/4/e"))
    );
    let compensations = world.view("a").compensations.unwrap();
    assert_eq!((compensations.completed, compensations.failed), (4, 0));
    let first: Value = world
        .dispatched
        .iter()
        .find(|d| d.function.starts_with("undo"))
        .unwrap()
        .input
        .decode()
        .unwrap();
    assert_eq!(first, json!({"input": {"done": "c"}, "output": {"done": "d"}}));
    let told: Vec<String> = world
        .events("a")
        .into_iter()
        .filter(|e| e.contains("ompensat"))
        .collect();
    assert_eq!(
        told,
        [
            "instance.compensating",
            "task.compensated d",
            "task.compensated c",
            "task.compensated b",
            "task.compensated a"
        ]
    );

    world.worker = worker(&[], &[]);
    let before = world.dispatched.len();
    world.control("a", ControlKind::Retry);
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"done": "f"}));
    let keys: std::collections::BTreeSet<&String> = world.dispatched.iter().map(|d| &d.key).collect();
    assert_eq!(world.dispatched.len() - before, 6, "an undone run begins anew");
    assert_eq!(keys.len(), world.dispatched.len(), "under keys of its own");
    assert_eq!(world.view("a").compensations, None);
}

fn tried(inside: &str, catch: &str, after: &str) -> String {
    format!("do: [{{y: {{try: [{inside}], catch: {catch}, metadata: {{millrace: {{saga: true}}}}}}}}{after}]")
}

#[test]
fn a_try_undoes_before_its_handler() {
    let body = tried(
        &steps(&["a", "b", "x"]),
        "{do: [{h: {call: 'do:1.0.0@default', with: {step: handled}}}]}",
        "",
    );
    let mut world = finished(&body, &["x"], &[]);
    assert_eq!(world.output("a"), json!({"done": "handled"}));
    let functions: Vec<String> = world
        .dispatched
        .iter()
        .map(|d| d.function.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(functions, ["do", "do", "do", "undo", "undo", "do"]);
    assert_eq!(undone(&world), ["b", "a"]);
}

#[test]
fn an_error_that_is_not_caught_undoes_too() {
    let body = tried(&steps(&["a", "x"]), "{errors: {with: {status: 404}}}", "");
    let mut world = finished(&body, &["x"], &[]);
    assert_eq!(undone(&world), ["a"]);
    assert_eq!(world.error("a").instance.as_deref(), Some("/do/0/y/try/1/x"));
    world.worker = worker(&[], &[]);
    world.control("a", ControlKind::Retry);
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"done": "x"}));
    assert_eq!(
        world
            .dispatched
            .iter()
            .filter(|d| d.function.starts_with("do"))
            .count(),
        4
    );
}

#[test]
fn a_retry_undoes_nothing_until_it_gives_up_and_each_task_counts_once() {
    let retry = "{retry: {delay: PT1S, limit: {attempt: {count: 2}}}, do: [{h: {set: {ok: 1}}}]}";
    let world = finished(&tried(&steps(&["a", "b", "x"]), retry, ""), &["x"], &[]);
    assert_eq!(undone(&world), ["b", "a"]);
    assert_eq!(
        world
            .dispatched
            .iter()
            .filter(|d| d.function.starts_with("do"))
            .count(),
        9
    );
}

#[test]
fn what_completed_outside_or_without_compensation_stays() {
    let inside = format!(
        "{}, {{p: {{call: 'do:1.0.0@default', with: {{step: p}}}}}}, {}",
        step("a", ""),
        step("x", "")
    );
    let world = finished(&tried(&inside, "{}", ""), &["x"], &[]);
    assert_eq!(undone(&world), ["a"]);
    let world = finished(
        &tried(
            &steps(&["a", "b"]),
            "{}",
            ", {z: {raise: {error: {type: 'https://e.x/y', status: 400}}}}",
        ),
        &[],
        &[],
    );
    assert!(undone(&world).is_empty(), "the saga was over");
}

#[test]
fn a_failing_compensation_marks_the_instance_and_the_others_go_on() {
    let body = tried(
        &steps(&["a", "b", "c", "x"]),
        "{errors: {with: {status: 404}}}",
        "",
    );
    let mut world = finished(&body, &["x"], &["b"]);
    assert_eq!(undone(&world), ["c", "b", "a"]);
    assert_eq!(
        world.error("a").detail.as_deref(),
        Some("cannot"),
        "the first error stays"
    );
    let compensations = world.view("a").compensations.unwrap();
    assert_eq!((compensations.completed, compensations.failed), (2, 1));
    assert!(
        world
            .events("a")
            .contains(&"task.compensationFailed b".to_owned())
    );
}

#[test]
fn a_compensation_has_retries_of_its_own() {
    let uses = "
use:
  functions:
    undo:
      try: [{u: {call: 'flaky:1.0.0@default', with: {failures: 2}}}]
      catch: {retry: {delay: PT1S, limit: {attempt: {count: 3}}}}
";
    let mut world = World::with(&format!(
        "{uses}{}",
        tried(
            "{a: {set: {done: a}, metadata: {millrace: {compensateWith: undo}}}}, {x: {raise: {error: {type: 'https://e.x/y', status: 400}}}}",
            "{}",
            ""
        )
    ));
    world.split = Split::Reload;
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(world.dispatched.len(), 3);
    let compensations = world.view("a").compensations.unwrap();
    assert_eq!((compensations.completed, compensations.failed), (1, 0));
}

#[test]
fn an_inner_saga_that_completed_belongs_to_the_outer_one() {
    let inner = "{i: {try: [INNER], catch: {}, metadata: {millrace: {saga: true}}}}"
        .replace("INNER", &steps(&["b", "c"]));
    let body = tried(
        &format!("{}, {inner}, {}", step("a", ""), step("x", "")),
        "{}",
        "",
    );
    assert_eq!(undone(&finished(&body, &["x"], &[])), ["c", "b", "a"]);
    assert_eq!(undone(&finished(&body, &["c", "x"], &[])), ["b", "a"]);
}

#[test]
fn branches_that_were_called_off_are_undone_with_the_rest() {
    let branch = "{p: {do: [STEPS]}}, {q: {do: [{w: {wait: PT1S}}, X]}}"
        .replace("STEPS", &format!("{}, {{s: {{wait: PT1H}}}}", steps(&["a", "b"])))
        .replace('X', &step("x", ""));
    let body = tried(&format!("{{f: {{fork: {{branches: [{branch}]}}}}}}"), "{}", "");
    let world = finished(&body, &["x"], &[]);
    assert_eq!(undone(&world), ["b", "a"]);
}

#[test]
fn the_timeout_of_a_saga_undoes_and_does_not_cut_its_compensations_short() {
    let uses = "use: {functions: {undo: {do: [{w: {wait: PT10M}}, {u: {call: 'undo:1.0.0@default', with: {output: '${ .output }'}}}]}}}\n";
    let body = format!(
        "do: [{{y: {{timeout: {{after: PT1M}}, try: [{}, {{w: {{wait: PT1H}}}}], catch: {{}}, metadata: {{millrace: {{saga: true}}}}}}}}]",
        step("a", "")
    );
    let mut world = World::with(&format!("{uses}{body}"));
    world.split = Split::Reload;
    world.worker = worker(&[], &[]);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(undone(&world), ["a"]);
    assert_eq!(world.error("a").status, 408);
}

#[test]
fn a_timeout_in_the_delay_before_a_retry_undoes_too() {
    let body = format!(
        "do: [{{y: {{timeout: {{after: PT1M}}, try: [{}], catch: {{retry: {{delay: PT1H, limit: {{attempt: {{count: 2}}}}}}}}, metadata: {{millrace: {{saga: true}}}}}}}}]",
        steps(&["a", "x"])
    );
    let mut world = finished(&body, &["x"], &[]);
    assert_eq!(undone(&world), ["a"]);
    assert_eq!(world.error("a").status, 408);
}

#[test]
fn a_suspension_between_compensations_changes_nothing() {
    let body = tried(&steps(&["a", "b", "x"]), "{errors: {with: {status: 404}}}", "");
    let mut world = World::with(&format!("{USES}{body}"));
    world.split = Split::Reload;
    world.worker = worker(&["x"], &[]);
    world.start("a", json!({}));
    world.fold_all();
    while undone(&world).is_empty() {
        world.answer_one();
        world.fold_all();
    }
    world.control("a", ControlKind::Suspend);
    world.run();
    assert_eq!(undone(&world), ["b"]);
    world.control("a", ControlKind::Resume);
    world.run();
    world.assert_clean();
    assert_eq!(undone(&world), ["b", "a"]);
}

#[test]
fn functions_name_their_compensation_for_all_calls() {
    let body = "
use:
  functions:
    undo: {call: 'undo:1.0.0@default'}
    book: {call: 'do:1.0.0@default', metadata: {millrace: {compensateWith: undo}}}
do:
- y:
    try: [{a: {call: book, with: {step: a}}}, {x: {raise: {error: {type: 'https://e.x/y', status: 400}}}}]
    catch: {}
    metadata: {millrace: {saga: true}}
";
    let mut world = World::with(body);
    world.worker = worker(&[], &[]);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(undone(&world), ["a"]);
}
