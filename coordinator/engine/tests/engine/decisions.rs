//! The decisions where the specification is silent (research/dsl.md 3), one test each.

use serde_json::json;

use crate::world::{START_MS, World, run, run_to_fault};

#[test]
fn d1_the_context_begins_empty() {
    assert_eq!(
        run("do: [{s: {set: '${ [$context, $input] }'}}]", json!({"a": 1})),
        json!([{}, {"a": 1}])
    );
}

#[test]
fn d4_and_d5_outputs_and_truth_of_jq() {
    let body = "do: [{s: {set: {none: '${ empty }', one: '${ 1 }', many: '${ 1, 2 }'}}}]";
    assert_eq!(
        run(body, json!({})),
        json!({"none": null, "one": 1, "many": [1, 2]})
    );
    for (value, taken) in [
        (json!(0), true),
        (json!(""), true),
        (json!([]), true),
        (json!(null), false),
        (json!(false), false),
    ] {
        let output = run("do: [{s: {if: .v, set: {taken: true}}}]", json!({"v": value}));
        assert_eq!(output.get("taken").is_some(), taken, "{value}");
    }
}

#[test]
fn d8_output_in_output_as_is_the_raw_output() {
    let body = "do: [{s: {set: {n: 1}, output: {as: '${ {n: ($output.n + 1)} }'}}}]";
    assert_eq!(run(body, json!({})), json!({"n": 2}));
}

#[test]
fn d9_branches_have_their_own_context() {
    let body = "
do:
- a: {set: {n: 0}, export: {as: '${ {keep: 1, change: 1, drop: 1} }'}}
- f:
    fork:
      branches:
      - x: {do: [{x1: {set: {n: 1}, export: {as: '${ $context + {change: 2, x: 1} }'}}}, {w: {wait: PT2S}}, {x2: {set: '${ $context }'}}]}
      - y: {do: [{y1: {call: 'noop:1.0.0@default', export: {as: '${ $context + {change: 3, y: 1} | del(.drop) }'}}}, {y2: {set: '${ $context }'}}]}
      - z: {set: '${ $context }', export: {as: '${ $context + {z: 1} }'}}
- r: {set: '${ {branches: ., context: $context} }'}
";
    let output = run(body, json!({}));
    assert_eq!(
        output["branches"][0],
        json!({"keep": 1, "change": 2, "drop": 1, "x": 1})
    );
    assert_eq!(output["branches"][1], json!({"keep": 1, "change": 3, "y": 1}));
    assert_eq!(output["branches"][2], json!({"keep": 1, "change": 1, "drop": 1}));
    assert_eq!(
        output["context"],
        json!({"keep": 1, "change": 3, "x": 1, "y": 1, "z": 1})
    );
}

#[test]
fn d9_only_the_winners_context_counts() {
    let body = "
do:
- f:
    fork:
      compete: true
      branches:
      - x: {do: [{x1: {set: {n: 1}, export: {as: '${ {x: 1} }'}}}, {w: {wait: PT2S}}]}
      - y: {do: [{y1: {set: {n: 1}, export: {as: '${ {y: 1} }'}}}, {w: {wait: PT1S}}]}
- r: {set: '${ $context }'}
";
    assert_eq!(run(body, json!({})), json!({"y": 1}));
}

#[test]
fn d10_the_first_error_takes_the_others_down() {
    let body = "
do:
- t:
    try:
    - f:
        fork:
          branches:
          - a: {call: 'silent:1.0.0@default'}
          - b: {do: [{w: {wait: PT1S}}, {r: {raise: {error: {type: 'https://example.com/x', status: 409}}}}]}
          - c: {wait: PT5S}
    catch: {do: [{h: {set: {caught: '${ $error.status }'}}}]}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"caught": 409}));
    assert_eq!(world.now_ms, START_MS + 1000);
    assert_eq!(world.cancelled_steps.len(), 1);
}

#[test]
fn d10_competitors_that_fail_drop_out() {
    let raise =
        |status: u16| format!("raise: {{error: {{type: 'https://example.com/x', status: {status}}}}}");
    let body = |last: &str| {
        format!(
            "do: [{{f: {{fork: {{compete: true, branches: [{{a: {{{}}}}}, {{b: {{do: [{{w: {{wait: PT1S}}}}, {{r: {{{}}}}}]}}}}, {{c: {last}}}]}}}}}}]",
            raise(409),
            raise(410)
        )
    };
    assert_eq!(
        run(
            &body("{do: [{w: {wait: PT3S}}, {s: {set: {won: c}}}]}"),
            json!({})
        ),
        json!({"won": "c"})
    );
    let none = body("{call: 'fail:1.0.0@default', with: {status: 411}}");
    assert_eq!(
        run_to_fault(&none, json!({})).status,
        409,
        "the first branch's error"
    );
}

#[test]
fn d11_end_in_a_branch_ends_the_workflow() {
    let body = "
do:
- f:
    fork:
      branches:
      - a: {call: 'silent:1.0.0@default'}
      - b: {do: [{w: {wait: PT1S}}, {s: {set: {ended: b}, then: end}}, {never: {set: {n: 1}}}]}
- never: {set: {n: 2}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"ended": "b"}));
    assert_eq!(world.cancelled_steps.len(), 1);
}

#[test]
fn d12_while_sees_item_index_and_data() {
    let body = "
do:
- l:
    for: {in: '${ [5,6,7] }', each: x, at: i}
    while: '$x < 7 and $i < 5 and (. | length) < 9'
    do: [{s: {set: '${ . + [$x] }'}}]
";
    assert_eq!(run(body, json!([])), json!([5, 6]));
}

#[test]
fn d13_what_for_goes_through() {
    let body = "do: [{l: {for: {in: .items}, do: [{s: {set: {n: '${ $item }'}}}]}}]";
    assert_eq!(run(body, json!({"items": null})), json!({"items": null}));
    assert_eq!(run(body, json!({"items": []})), json!({"items": []}));
    for items in [json!(1), json!("text"), json!({"a": 1})] {
        let problem = run_to_fault(body, json!({"items": items}));
        assert_eq!(
            (problem.status, problem.instance.as_deref()),
            (400, Some("/do/0/l"))
        );
    }
}

/// Runs a `try` around a step that fails `failures` times; gives what came of it and when.
fn retried(failures: u32, catch: &str) -> (World, String) {
    let body = format!(
        "do: [{{t: {{try: [{{s: {{call: 'flaky:1.0.0@default', with: {{failures: {failures}}}}}}}], catch: {catch}}}}}]"
    );
    let mut world = World::with(&body);
    world.start("a", json!({"in": 1}));
    world.run();
    world.assert_clean();
    let status = world.status("a").name().to_owned();
    (world, status)
}

#[test]
fn d15_retry_first_then_the_handler() {
    let policy = "retry: {delay: PT1S, limit: {attempt: {count: 2}}}";
    let (mut world, _) = retried(
        2,
        &format!("{{{policy}, do: [{{h: {{set: {{handled: true}}}}}}]}}"),
    );
    assert_eq!(world.output("a"), json!({"failures": 2, "attempt": 3}));
    let (mut world, _) = retried(
        9,
        &format!("{{{policy}, do: [{{h: {{set: {{handled: true}}}}}}]}}"),
    );
    assert_eq!(world.output("a"), json!({"handled": true}));
    let (_, status) = retried(9, &format!("{{{policy}}}"));
    assert_eq!(status, "faulted");
    let (mut world, _) = retried(
        1,
        "{retry: {when: 'false', delay: PT1S}, do: [{h: {set: {handled: '${ $error.status }'}}}]}",
    );
    assert_eq!(world.output("a"), json!({"handled": 500}));
    let (_, status) = retried(1, "{retry: {exceptWhen: '.status == 500', delay: PT1S}}");
    assert_eq!(status, "faulted");
}

#[test]
fn d15_then_of_catch_when_the_handler_ran() {
    let body = |failures: u32| {
        format!(
            "do: [{{t: {{try: [{{s: {{call: 'flaky:1.0.0@default', with: {{failures: {failures}}}}}}}], catch: {{do: [{{h: {{set: {{n: 1}}}}}}], then: b}}}}}}, {{a: {{set: {{r: a}}, then: end}}}}, {{b: {{set: {{r: b}}}}}}]"
        )
    };
    assert_eq!(run(&body(0), json!({})), json!({"r": "a"}));
    assert_eq!(run(&body(1), json!({})), json!({"r": "b"}));
}

#[test]
fn d16_count_is_of_retries() {
    for count in [0, 1, 3] {
        let (world, status) = retried(
            99,
            &format!("{{retry: {{delay: PT1S, limit: {{attempt: {{count: {count}}}}}}}}}"),
        );
        assert_eq!((world.dispatched.len(), status.as_str()), (count + 1, "faulted"));
    }
}

#[test]
fn d17_limits_of_one_attempt_and_of_all() {
    let attempt = "
do:
- t:
    try: [{s: {call: 'silent:1.0.0@default'}}]
    catch: {errors: {with: {status: 408}}, retry: {delay: PT1S, limit: {attempt: {count: 2, duration: PT10S}}}}
";
    let mut world = World::with(attempt);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!((world.dispatched.len(), world.now_ms), (3, START_MS + 32_000));
    let problem = world.error("a");
    assert_eq!(
        (problem.status, problem.instance.as_deref()),
        (408, Some("/do/0/t"))
    );
    let (world, _) = retried(99, "{retry: {delay: PT4S, limit: {duration: PT10S}}}");
    assert_eq!((world.dispatched.len(), world.now_ms), (3, START_MS + 8000));
}

#[test]
fn d18_backoffs() {
    for (policy, times) in [
        ("delay: PT1S, backoff: {constant: {}}", [1000, 2000, 3000]),
        ("delay: PT1S, backoff: {linear: {}}", [1000, 3000, 6000]),
        ("delay: PT1S, backoff: {exponential: {}}", [1000, 3000, 7000]),
        ("backoff: {exponential: {}}", [1000, 3000, 7000]),
        (
            "delay: PT1S, backoff: {exponential: {factor: 3, maxDelay: PT5S}}",
            [1000, 4000, 9000],
        ),
        ("limit: {attempt: {count: 3}}", [0, 0, 0]),
    ] {
        let (mut world, _) = retried(3, &format!("{{retry: {{{policy}}}}}"));
        let retries: Vec<i64> = world
            .trace("a")
            .iter()
            .filter(|e| e["type"] == "task.faulted" && e["name"] == "s")
            .map(|e| e["at"].as_i64().unwrap() - START_MS)
            .collect();
        assert_eq!(retries, [&[0], &times[..2]].concat(), "{policy}");
        assert_eq!(world.now_ms - START_MS, times[2], "{policy}");
    }
}

#[test]
fn d18_jitter_is_the_same_every_time() {
    let end = || {
        retried(3, "{retry: {delay: PT1S, jitter: {from: PT1S, to: PT2S}}}")
            .0
            .now_ms
            - START_MS
    };
    assert_eq!(end(), end());
    assert!((6000..=9000).contains(&end()) && end() != 6000, "{}", end());
}

#[test]
fn d19_retries_begin_with_the_same_input_and_keep_the_context() {
    let body = "
do:
- t:
    input: {from: '${ {n: .n} }'}
    try:
    - a: {set: {n: '${ .n + 1 }'}, export: {as: '${ {runs: (($context.runs // 0) + 1)} }'}}
    - s: {call: 'flaky:1.0.0@default', with: {failures: 2, n: '${ .n }'}}
    catch: {retry: {delay: PT1S}}
- r: {set: '${ $context }'}
";
    let mut world = World::with(body);
    world.start("a", json!({"n": 1, "x": 1}));
    world.run();
    assert_eq!(world.output("a"), json!({"runs": 3}));
    let inputs: Vec<_> = world
        .dispatched
        .iter()
        .map(|d| d.input.text().to_owned())
        .collect();
    assert_eq!(inputs, vec![r#"{"failures":2,"n":2}"#; 3]);
    let attempts: Vec<_> = world
        .dispatched
        .iter()
        .map(|d| (d.key.clone(), d.attempt))
        .collect();
    let key = &world.dispatched[0].key;
    assert_eq!(attempts, [(key.clone(), 1), (key.clone(), 2), (key.clone(), 3)]);
}

#[test]
fn d20_a_catch_that_does_nothing_gives_the_input() {
    let body = "
do:
- t:
    input: {from: '${ {in: .n} }'}
    try: [{a: {set: {n: 9}}}, {r: {raise: {error: {type: 'https://example.com/x', status: 409}}}}]
    catch: {}
";
    assert_eq!(run(body, json!({"n": 1})), json!({"in": 1}));
}

#[test]
fn d21_the_error_is_the_input_of_conditions() {
    let body = "
do:
- t:
    try: [{r: {raise: {error: {type: 'https://example.com/x', status: 409, detail: d}}}}]
    catch: {as: e, when: '.detail == \"d\" and $e.detail == \"d\" and $input.n == 1'}
";
    assert_eq!(run(body, json!({"n": 1})), json!({"n": 1}));
}

#[test]
fn d22_detail_or_details() {
    for name in ["detail", "details"] {
        let body = format!(
            "do: [{{t: {{try: [{{r: {{raise: {{error: {{type: 'https://example.com/x', status: 409, detail: d}}}}}}}}], catch: {{errors: {{with: {{{name}: d}}}}}}}}}}]"
        );
        assert_eq!(run(&body, json!({})), json!({}));
    }
}

#[test]
fn d23_variables_shadow_and_end_with_their_construct() {
    let body = "
do:
- l:
    for: {in: '${ [1] }'}
    do:
    - m: {for: {in: '${ [2] }'}, do: [{s: {set: '${ . + [$item] }'}}]}
    - n: {set: '${ . + [$item] }'}
";
    assert_eq!(run(body, json!([])), json!([2, 1]));
}

#[test]
fn d35_latest_is_resolved_when_the_task_begins() {
    let mut world =
        World::with("do: [{r: {run: {workflow: {namespace: default, name: child, version: latest}}}}]");
    for (version, n) in [("1.0.0", 1), ("1.2.0", 2)] {
        world.define_text(&format!(
            "document: {{dsl: '1.0.3', namespace: default, name: child, version: '{version}'}}\ndo: [{{s: {{set: {{n: {n}}}}}}}]"
        ));
    }
    world.start("a", json!({}));
    world.run();
    assert_eq!(world.output("a"), json!({"n": 2}));
    let problem = run_to_fault(
        "do: [{r: {run: {workflow: {namespace: default, name: none, version: latest}}}}]",
        json!({}),
    );
    assert_eq!(
        (problem.status, problem.instance.as_deref()),
        (400, Some("/do/0/r"))
    );
}

#[test]
fn an_error_of_a_condition_is_the_trys_own() {
    let body = "
do:
- t:
    try: [{r: {raise: {error: {type: 'https://example.com/x', status: 409}}}}]
    catch: {when: 'error(\"no\")'}
";
    let problem = run_to_fault(body, json!({}));
    assert_eq!(
        (problem.status, problem.instance.as_deref()),
        (400, Some("/do/0/t"))
    );
}

#[test]
fn nested_retries_number_their_attempts_without_gaps_or_repeats() {
    let body = "
do:
- o:
    try:
    - i:
        try: [{s: {call: 'fail:1.0.0@default'}}]
        catch: {retry: {delay: PT1S, limit: {attempt: {count: 1}}}}
    catch: {retry: {delay: PT1S, limit: {attempt: {count: 2}}}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let attempts: Vec<u32> = world.dispatched.iter().map(|d| d.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6]);
    let keys: std::collections::BTreeSet<_> = world.dispatched.iter().map(|d| &d.key).collect();
    assert_eq!(keys.len(), 1);
}

#[test]
fn iterations_and_loops_have_their_own_keys() {
    let body = "
do:
- l: {for: {in: '${ [1,2,3] }'}, do: [{s: {call: 'noop:1.0.0@default', with: {n: '${ $item }'}}}]}
- again: {call: 'noop:1.0.0@default', with: {n: '${ .n + 1 }'}}
- back: {switch: [{more: {when: '.n < 6', then: again}}]}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.run();
    assert_eq!(world.output("a"), json!({"n": 6}));
    let keys: std::collections::BTreeSet<_> = world.dispatched.iter().map(|d| &d.key).collect();
    assert_eq!((keys.len(), world.dispatched.len()), (6, 6));
    assert!(world.dispatched.iter().all(|d| d.attempt == 1));
}
