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

/// Up to the moment when the first compensation is under way.
fn at_first_compensation(body: &str) -> World {
    let mut world = World::with(&format!("{USES}{body}"));
    world.split = Split::Reload;
    world.worker = worker(&["x"], &[]);
    world.start("a", json!({}));
    world.fold_all();
    while undone(&world).is_empty() {
        world.answer_one();
        world.fold_all();
    }
    world
}

#[test]
fn a_suspension_between_compensations_changes_nothing() {
    let body = tried(&steps(&["a", "b", "x"]), "{errors: {with: {status: 404}}}", "");
    let mut world = at_first_compensation(&body);
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

/// `do` as in [`worker`], but the steps of the list fail once only, in the order of their calls.
fn fails_at(calls: &[(&str, usize)]) -> Worker {
    let mut calls: Vec<(String, usize)> = calls.iter().map(|(n, at)| ((*n).to_owned(), *at)).collect();
    let mut seen: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    Box::new(move |step| {
        let input: Value = step.input.decode().unwrap();
        if !step.function.starts_with("do") {
            return Answer::Output(json!({"undone": input["output"]["done"]}));
        }
        let name = input["step"].as_str().unwrap().to_owned();
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        let at = *count;
        if let Some(found) = calls.iter().position(|c| *c == (name.clone(), at)) {
            calls.remove(found);
            return Answer::Error(Problem::new(ErrorKind::Communication, "cannot"));
        }
        Answer::Output(json!({"done": name}))
    })
}

fn run_with(body: &str, worker: Worker) -> World {
    let mut world = World::with(&format!("{USES}{body}"));
    world.split = Split::Reload;
    world.worker = worker;
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    world
}

/// Keys of the calls of `do` for this step, in order.
fn keys(world: &World, name: &str) -> Vec<String> {
    let of_step = world.dispatched.iter().filter(|d| {
        let input: Value = d.input.decode().unwrap();
        d.function.starts_with("do") && input["step"] == name
    });
    of_step.map(|d| d.key.clone()).collect()
}

const RETRY: &str = "catch: {retry: {delay: PT1S, limit: {attempt: {count: 3}}}}";

/// A plain step `k` and a saga of `inside` in a `try` that repeats both.
fn retried(inside: &str, saga: &str, after: &str) -> String {
    format!(
        "do: [{{m: {{try: [{{k: {{call: 'do:1.0.0@default', with: {{step: k}}}}}}, {{s: {{try: [{inside}], {saga}, metadata: {{millrace: {{saga: true}}}}}}}}{after}], {RETRY}}}}}]"
    )
}

/// An idempotent receiver would answer from memory, though the effect is gone.
#[test]
fn what_is_repeated_after_an_undo_has_other_keys() {
    let again = "{h: {raise: {error: {type: 'https://e.x/y', status: 400}}}}";
    let own = "idempotencyKey: '\"own-\" + .done', ";
    let own = step("a", "").replace("{millrace: {", &format!("{{millrace: {{{own}"));
    for (inside, saga) in [
        (
            steps(&["a", "x"]),
            "catch: {errors: {with: {status: 404}}}".to_owned(),
        ),
        (steps(&["a", "x"]), format!("catch: {{do: [{again}]}}")),
        (
            format!("{own}, {}", step("x", "")),
            "catch: {errors: {with: {status: 404}}}".to_owned(),
        ),
    ] {
        let world = run_with(&retried(&inside, &saga, ""), fails_at(&[("x", 1)]));
        assert_eq!(undone(&world), ["a"], "{saga}");
        let a = keys(&world, "a");
        assert_eq!(a.len(), 2, "{saga}");
        assert_ne!(a[0], a[1], "{inside} {saga}");
        let k = keys(&world, "k");
        assert_eq!((k.len(), &k[0]), (2, &k[1]), "nobody has undone it");
    }
    // The saga itself fails: its timeout.
    let slow = format!("{}, {{w: {{wait: PT1H}}}}", step("a", ""));
    let body = retried(&slow, "timeout: {after: PT1M}, catch: {}", "");
    let world = run_with(&body, fails_at(&[]));
    let a = keys(&world, "a");
    assert_eq!((undone(&world).len(), a.len()), (4, 4), "each was undone");
    assert_eq!(a.iter().collect::<std::collections::BTreeSet<_>>().len(), a.len());
}

#[test]
fn a_retry_by_hand_after_a_saga_timed_out_has_other_keys() {
    let body = format!(
        "do: [{{y: {{timeout: {{after: PT1M}}, try: [{}, {{w: {{wait: PT1H}}}}], catch: {{}}, metadata: {{millrace: {{saga: true}}}}}}}}]",
        step("a", "")
    );
    let mut world = run_with(&body, fails_at(&[]));
    world.control("a", ControlKind::Retry);
    world.run();
    let keys = keys(&world, "a");
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1]);
    assert_eq!(undone(&world), ["a", "a"]);
}

#[test]
fn a_task_that_completes_in_two_attempts_around_its_saga_is_undone_once() {
    let inner = format!(
        "{{s: {{try: [{}], catch: {{}}, metadata: {{millrace: {{saga: true}}}}}}}}",
        steps(&["a", "b"])
    );
    let m = format!("{{m: {{try: [{inner}, {}], {RETRY}}}}}", step("y", ""));
    let body = tried(&format!("{m}, {}", step("x", "")), "{}", "");
    let world = run_with(&body, fails_at(&[("y", 1), ("y", 2), ("x", 1)]));
    assert_eq!(undone(&world), ["y", "b", "a"]);
    let a = keys(&world, "a");
    assert_eq!(a.len(), 3);
    assert!(a.iter().all(|k| *k == a[0]), "it was never undone in between");
}

#[test]
fn a_saga_undoes_also_what_its_run_in_an_earlier_attempt_did() {
    let after = ", {y: {call: 'do:1.0.0@default', with: {step: y}}}";
    let body = retried(
        &steps(&["a", "b"]),
        "catch: {errors: {with: {status: 404}}}",
        after,
    );
    let world = run_with(&body, fails_at(&[("y", 1), ("b", 2)]));
    assert_eq!(undone(&world), ["a", "b"], "b is what the first attempt did");
    for name in ["a", "b"] {
        let keys = keys(&world, name);
        assert_eq!((keys.len(), &keys[0]), (3, &keys[1]), "{name}");
        assert_ne!(keys[1], keys[2], "{name}");
    }
}

#[test]
fn an_error_that_is_not_retried_stays_one_while_a_saga_undoes() {
    let no = "nonRetryable: [communication], ";
    let listed = |text: &str| text.replace("{millrace: {", &format!("{{millrace: {{{no}"));
    let not = "catch: {errors: {with: {status: 404}}}";
    let inside = format!("{}, {}", step("a", ""), listed(&step("x", "")));
    let mut world = run_with(&retried(&inside, not, ""), fails_at(&[("x", 1)]));
    assert_eq!((undone(&world).len(), keys(&world, "x").len()), (1, 1));
    assert_eq!(world.error("a").detail.as_deref(), Some("cannot"));
    // The other way round: what a compensation fails with says nothing about the error of the saga.
    let uses = "use: {functions: {undo: {call: 'undo:1.0.0@default', metadata: {millrace: {nonRetryable: [communication]}}}}}\n";
    let body = retried(&steps(&["a", "x"]), not, "");
    let mut world = World::with(&format!("{uses}{body}"));
    world.split = Split::Reload;
    let mut inner = fails_at(&[("x", 1)]);
    world.worker = Box::new(move |step| match step.function.starts_with("undo") {
        true => Answer::Error(Problem::new(ErrorKind::Communication, "stuck")),
        false => inner(step),
    });
    world.start("a", json!({}));
    world.run();
    assert_eq!(keys(&world, "x").len(), 2);
    assert_eq!(world.output("a"), json!({"done": "x"}));
}

#[test]
fn a_competing_fork_fails_with_what_its_first_branch_said_of_retries() {
    let branch = |n: &str, list: &str, wait: &str| {
        format!(
            "{{{n}: {{do: [{{w: {{wait: {wait}}}}}, {{{n}: {{call: 'do:1.0.0@default', with: {{step: {n}}}, metadata: {{millrace: {{nonRetryable: [{list}]}}}}}}}}]}}}}"
        )
    };
    for (first, second, calls) in [("communication", "timeout", 1), ("timeout", "communication", 4)] {
        let branches = format!("{}, {}", branch("p", first, "PT1S"), branch("q", second, "PT2S"));
        let body = format!(
            "do: [{{m: {{try: [{{f: {{fork: {{compete: true, branches: [{branches}]}}}}}}], {RETRY}}}}}]"
        );
        let world = run_with(&body, worker(&["p", "q"], &[]));
        assert_eq!(keys(&world, "p").len(), calls, "{first}");
    }
}

#[test]
fn a_task_that_an_extension_answered_for_is_not_undone() {
    for (when, expected) in [("true", vec![]), ("false", vec!["a"])] {
        let extension = format!(
            "  extensions: [{{e: {{extend: call, when: '$task.name == \"a\" and {when}', before: [{{i: {{set: {{done: cached}}, then: exit}}}}]}}}}]\n"
        );
        let body = tried(&steps(&["a", "x"]), "{}", "");
        let world = run_with(&format!("{extension}{body}"), fails_at(&[("x", 1)]));
        assert_eq!(undone(&world), expected, "{when}");
    }
}

#[test]
fn a_compensation_that_is_called_off_shows() {
    let body = tried(&steps(&["a", "b", "x"]), "{}", "");
    let mut world = at_first_compensation(&body);
    world.control("a", ControlKind::Cancel);
    world.assert_clean();
    let compensations = world.view("a").compensations.unwrap();
    assert_eq!((compensations.completed, compensations.failed), (0, 2));
    let entries = world.trace("a");
    let told = entries
        .iter()
        .find(|e| e["type"] == "task.compensationCancelled")
        .unwrap();
    assert_eq!(told["detail"], "called off; 2 completed tasks are not undone");
}

#[test]
fn a_compensation_that_is_called_off_is_left_to_the_saga_around_it() {
    let undo = "use: {functions: {undo: {do: [{w: {wait: PT1M}}, {u: {call: 'undo:1.0.0@default', with: {output: '${ .output }'}}}]}}}\n";
    let inner = format!(
        "{{s: {{try: [{}], catch: {{}}, metadata: {{millrace: {{saga: true}}}}}}}}",
        steps(&["a", "b", "x"])
    );
    let m = format!(
        "{{m: {{try: [{inner}], catch: {{retry: {{limit: {{attempt: {{count: 1, duration: PT90S}}}}}}}}}}}}"
    );
    let body = tried(&format!("{m}, {}", step("z", "")), "{}", "");
    let mut world = World::with(&format!("{undo}{body}"));
    world.split = Split::Reload;
    world.worker = fails_at(&[("x", 1), ("z", 1)]);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(
        undone(&world),
        ["b", "x", "b", "a", "a"],
        "the newest of the first run, all of the second, the rest of the first"
    );
    let a = keys(&world, "a");
    assert_ne!(a[0], a[1]);
    assert!(
        world
            .trace("a")
            .iter()
            .any(|e| e["detail"] == "called off; 1 completed tasks are left to the saga around it")
    );
}

#[test]
fn the_sagas_of_an_instance_remember_so_many_tasks_together() {
    let half = millrace_common::limits::SAGA_TASKS_MAX / 2;
    let saga = |name: &str, count: usize| {
        format!(
            "{{{name}: {{try: [{{l: {{for: {{in: '${{ [range({count})] }}'}}, do: [{{t: {{set: {{n: 1}}, metadata: {{millrace: {{compensateWith: undo}}}}}}}}]}}}}], catch: {{errors: {{with: {{status: 404}}}}}}, metadata: {{millrace: {{saga: true}}}}}}}}"
        )
    };
    let undo = "use: {functions: {undo: {set: {n: 0}}}}\n";
    let run = |second: usize| {
        let inside = format!("{}, {}", saga("p", half), saga("q", second));
        let mut world = World::with(&format!(
            "{undo}{}",
            tried(&inside, "{errors: {with: {status: 404}}}", "")
        ));
        world.split = Split::Random;
        world.start("a", json!({}));
        world.run();
        world.assert_clean();
        world
    };
    run(half).output("a");
    let problem = run(half + 1).error("a");
    assert!(problem.detail.unwrap().contains("10001 completed tasks"));
}
