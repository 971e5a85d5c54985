//! `use.extensions`: what runs around a task, in which order, and what becomes of its results.

use serde_json::{Value, json};

use crate::world::{Split, World, run, run_to_fault};

/// Runs a definition with every transition stored and loaded again; gives its output and the names of the tasks that
/// completed, in that order.
fn completed(body: &str, input: Value) -> (Value, Vec<String>) {
    let mut world = World::with(body);
    world.split = Split::Reload;
    world.start("a", input);
    world.run();
    world.assert_clean();
    let mut names = Vec::new();
    for event in world.events("a") {
        names.extend(event.strip_prefix("task.completed ").map(str::to_owned));
    }
    (world.output("a"), names)
}

#[test]
fn before_in_order_after_in_reverse_and_their_results_are_dropped() {
    let body = "
use:
  extensions:
  - first: {extend: all, before: [{b1: {set: {lost: 1}}}], after: [{a1: {set: {lost: 2}}}]}
  - second: {extend: call, before: [{b2: {call: 'noop:1.0.0@default', with: {lost: 3}}}], after: [{a2: {set: {lost: 4}}}]}
do:
- t: {call: 'noop:1.0.0@default', with: {n: '${ .n }'}, output: {as: '${ {m: .n} }'}}
";
    let (output, names) = completed(body, json!({"n": 7}));
    assert_eq!(output, json!({"m": 7}));
    assert_eq!(names, ["b1", "b2", "t", "a2", "a1"]);
}

#[test]
fn exit_in_before_skips_the_task_and_gives_its_output() {
    let body = "
use:
  extensions:
  - mock:
      extend: call
      when: $task.call == \"http\" and ($task.with.endpoint | startswith(\"https://mocked\"))
      before:
      - intercept: {set: {status: 200, saw: '${ .n }'}, then: exit}
      - never: {set: {x: 1}}
      after: [{log: {set: {saw: '${ .status }'}}}]
do:
- t: {call: http, with: {method: get, endpoint: 'https://mocked.example/x'}, output: {as: '${ {got: .} }'}}
";
    let (output, names) = completed(body, json!({"n": 7}));
    assert_eq!(output, json!({"got": {"status": 200, "saw": 7}}));
    assert_eq!(names, ["intercept", "log", "t"]);
}

#[test]
fn kinds_are_matched_as_the_language_says() {
    let body = |extend: &str| {
        format!(
            "
use: {{extensions: [{{x: {{extend: {extend}, before: [{{e: {{set: {{x: 1}}}}}}]}}}}]}}
do:
- d: {{do: [{{s: {{set: {{n: 1}}}}}}]}}
- f: {{fork: {{branches: [{{w: {{wait: PT1S}}}}]}}}}
- l: {{for: {{in: '${{ [1] }}'}}, do: []}}
- y: {{try: [], catch: {{}}}}
- c: {{switch: [{{a: {{then: continue}}}}]}}
- n: {{run: {{workflow: {{namespace: default, name: other, version: 1.0.0}}}}}}
- m: {{emit: {{event: {{with: {{type: a, source: 'https://b.c'}}}}}}}}
"
        )
    };
    let count = |extend: &str| {
        let mut world = World::with(&body(extend));
        world.define("other", "do: []");
        world.start("a", json!({}));
        world.run();
        let runs = world.events("a");
        runs.iter().filter(|e| *e == "task.completed e").count()
    };
    let found = [
        "set",
        "do",
        "wait",
        "for",
        "try",
        "switch",
        "run",
        "emit",
        "composite",
        "raise",
        "all",
    ]
    .map(|kind| (kind, if kind == "do" { 0 } else { count(kind) }));
    let expected = [
        ("set", 1),
        ("do", 0),
        ("wait", 1),
        ("for", 1),
        ("try", 1),
        ("switch", 1),
        ("run", 1),
        ("emit", 1),
        ("composite", 2),
        ("raise", 0),
        ("all", 9),
    ];
    assert_eq!(found, expected);
}

#[test]
fn no_extension_applies_inside_of_extensions_nor_below() {
    let body = "
use:
  functions: {log: {set: {logged: true}}}
  extensions: [{x: {extend: all, before: [{d: {do: [{c: {call: log}}]}}]}}]
do:
- t: {call: log}
";
    let (output, names) = completed(body, json!({}));
    assert_eq!(output, json!({"logged": true}));
    let expected = ["log", "c", "d", "log", "c", "d", "log", "t"];
    assert_eq!(
        names, expected,
        "around the call, and around the function that it calls"
    );
}

#[test]
fn when_sees_the_transformed_input_and_decides_alone() {
    let body = "
use:
  extensions:
  - yes: {extend: set, when: '.n == 1 and $task.name == \"t\" and $input.n == 1', before: [{y: {set: {x: 1}, export: {as: '${ {y: true} }'}}}]}
  - no: {extend: set, when: .nothing, before: [{z: {set: {x: 1}, export: {as: '${ {z: true} }'}}}]}
do:
- t: {input: {from: '${ {n: .m} }'}, set: '${ {seen: $context, raw: $task.input.m} }'}
";
    assert_eq!(run(body, json!({"m": 1})), json!({"seen": {"y": true}, "raw": 1}));
}

#[test]
fn an_error_of_an_extension_is_the_tasks() {
    let body = |inner: &str| {
        format!(
            "
use:
  errors: {{e: {{type: 'https://example.com/x', status: 409}}}}
  extensions: [{{x: {{extend: {inner}, before: [{{b: {{raise: {{error: e}}}}}}]}}}}]
do:
- y: {{try: [{{t: {{set: {{n: 1}}}}}}], catch: {{do: [{{w: {{wait: PT1S}}}}]}}}}
"
        )
    };
    assert_eq!(run(&body("set"), json!({"a": 1})), json!({"a": 1}));
    let problem = run_to_fault(&body("try"), json!({}));
    assert_eq!(
        problem.instance.as_deref(),
        Some("/use/extensions/0/x/before/0/b"),
        "the extensions of a `try` are around it, so it does not catch their errors"
    );
}

#[test]
fn the_timeout_of_a_task_covers_its_extensions() {
    let body = "
use: {extensions: [{x: {extend: set, before: [{w: {wait: PT1M}}]}}]}
do: [{t: {set: {n: 1}, timeout: {after: PT10S}}}]
";
    let problem = run_to_fault(body, json!({}));
    assert_eq!(problem.status, 408);
    assert_eq!(problem.instance.as_deref(), Some("/do/0/t"));
}

#[test]
fn after_sees_the_raw_output_and_end_in_it_ends_the_workflow() {
    let body = "
use:
  extensions:
  - x: {extend: call, after: [{a: {set: '${ {raw: .} }', export: {as: '${ . }'}, then: end}}]}
do:
- t: {call: 'noop:1.0.0@default', with: {n: 1}, output: {as: '${ {out: .n} }'}}
- never: {set: {x: 1}}
output: {as: '${ {last: ., seen: $context} }'}
";
    assert_eq!(
        run(body, json!({})),
        json!({"last": {"out": 1}, "seen": {"raw": {"n": 1}}})
    );
}

#[test]
fn where_a_task_goes_is_kept_over_its_extensions() {
    let body = "
use: {extensions: [{x: {extend: switch, before: [{b: {wait: PT1S}}], after: [{a: {wait: PT1S}}]}}]}
do:
- s: {switch: [{c: {when: .go, then: far}}]}
- near: {set: {r: near}, then: end}
- far: {set: {r: far}}
";
    let (output, _) = completed(body, json!({"go": true}));
    assert_eq!(output, json!({"r": "far"}));
}

#[test]
fn branches_keep_their_contexts_apart_with_extensions_too() {
    let body = "
use: {extensions: [{x: {extend: all, before: [{b: {set: {x: 1}, export: {as: '${ $context + {seen: true} }'}}}]}}]}
do:
- f:
    fork:
      branches:
      - a: {call: 'noop:1.0.0@default', with: {n: 1}, export: {as: '${ $context + {a: .n} }'}}
      - c: {set: {n: 2}, export: {as: '${ $context + {c: .n} }'}}
output: {as: '${ {out: ., context: $context} }'}
";
    let (output, _) = completed(body, json!({}));
    assert_eq!(
        output,
        json!({"out": [{"n": 1}, {"n": 2}], "context": {"seen": true, "a": 1, "c": 2}})
    );
}
