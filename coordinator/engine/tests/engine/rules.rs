//! The rules that are easy to get wrong (research/dsl.md 1.5), one test each.

use serde_json::{Value, json};

use crate::world::{World, run, run_to_fault};

#[test]
fn rule_1_order_of_a_task() {
    let integer = "{format: json, document: {type: object, properties: {n: {type: integer}}}}";
    let task = |parts: &str| format!("do: [{{t: {{{parts} set: {{n: '${{ .n }}', more: 1}}}}}}]");
    // if, then the schema of the raw input, then from
    let skipped = task(&format!("if: .no, input: {{schema: {integer}}},"));
    assert_eq!(run(&skipped, json!({"n": "text"})), json!({"n": "text"}));
    let raw = task(&format!(
        "input: {{schema: {integer}, from: '${{ {{n: \"text\"}} }}'}},"
    ));
    assert_eq!(run(&raw, json!({"n": 1})), json!({"n": "text", "more": 1}));
    let refused = run_to_fault(&raw, json!({"n": "text"}));
    assert_eq!(
        (refused.status, refused.instance.as_deref()),
        (400, Some("/do/0/t"))
    );
    // output.as, then its schema on the transformed output
    let output = task(&format!("output: {{as: '${{ {{n: 2}} }}', schema: {integer}}},"));
    assert_eq!(run(&output, json!({"n": "text"})), json!({"n": 2}));
    let output = task(&format!(
        "output: {{as: '${{ {{n: \"x\"}} }}', schema: {integer}}},"
    ));
    assert_eq!(run_to_fault(&output, json!({"n": 1})).status, 400);
    // export.as on the transformed output, its schema on the new context
    let export = format!(
        "do: [{{t: {{set: {{n: 1}}, output: {{as: '${{ {{n: 2}} }}'}}, export: {{as: '${{ {{n: (.n + 1)}} }}', schema: {integer}}}}}}}, {{u: {{set: '${{ $context }}'}}}}]"
    );
    assert_eq!(run(&export, json!({})), json!({"n": 3}));
    let export = export.replace("(.n + 1)", "\"x\"");
    assert_eq!(
        run_to_fault(&export, json!({})).instance.as_deref(),
        Some("/do/0/t")
    );
}

#[test]
fn rule_1_order_of_a_workflow() {
    let body = "
input: {schema: {format: json, document: {type: object, required: [n]}}, from: '${ {m: .n} }'}
output: {as: '${ {out: .} }', schema: {format: json, document: {type: object, properties: {out: {type: object}}}}}
do: [{t: {set: '${ .m }'}}]
";
    assert_eq!(run(body, json!({"n": {}})), json!({"out": {}}));
    let refused = run_to_fault(body, json!({"m": 1}));
    assert_eq!(
        (refused.status, refused.instance.as_deref()),
        (400, Some("/input"))
    );
    let refused = run_to_fault(body, json!({"n": 1}));
    assert_eq!(
        (refused.status, refused.instance.as_deref()),
        (400, Some("/output"))
    );
}

#[test]
fn rule_2_export_replaces_the_context() {
    let body = "
do:
- a: {set: {n: 1}, export: {as: '${ {a: .n} }'}}
- b: {set: {n: 2}, export: {as: '${ {b: .n} }'}, output: {as: '${ {n: .n, before: $context} }'}}
- c: {set: '${ {before: .before, now: $context} }'}
";
    assert_eq!(run(body, json!({})), json!({"before": {"a": 1}, "now": {"b": 2}}));
}

#[test]
fn rule_3_a_skipped_task_changes_nothing() {
    let body = "
do:
- a:
    if: 'false'
    input: {from: '${ error(\"not evaluated\") }'}
    set: {no: 1}
    output: {as: '${ {no: 2} }'}
    export: {as: '${ {no: 3} }'}
    then: end
- b: {set: '${ {data: ., context: $context} }'}
";
    let mut world = World::with(body);
    world.start("a", json!({"x": 1}));
    world.run();
    assert_eq!(world.output("a"), json!({"data": {"x": 1}, "context": {}}));
    assert!(world.events("a").contains(&"task.skipped a".to_owned()));
}

#[test]
fn rule_4_input_is_the_tasks_own() {
    let body = "
do:
- a: {set: {n: 1}}
- b: {input: {from: '${ {m: .n} }'}, set: '${ [$input, $workflow.input] }'}
";
    assert_eq!(run(body, json!({"w": 1})), json!([{"m": 1}, {"w": 1}]));
}

#[test]
fn rule_5_composites_are_full_tasks() {
    let body = "
do:
- d:
    input: {from: '${ {n: (.n + 1)} }'}
    do: [{a: {set: {n: '${ .n * 10 }'}}}]
    output: {as: '${ {n: (.n + 5)} }'}
    export: {as: '${ {d: .n} }'}
- e: {set: '${ [.n, $context.d] }'}
";
    assert_eq!(run(body, json!({"n": 1})), json!([25, 25]));
}

#[test]
fn rule_6_exit_and_end() {
    let exit = "
do:
- d:
    do: [{a: {set: {n: 1}, then: exit}}, {b: {set: {n: 2}}}]
    output: {as: '${ {d: .n} }'}
    then: z
- y: {set: {y: 1}}
- z: {set: '${ {z: .d} }'}
";
    assert_eq!(run(exit, json!({})), json!({"z": 1}));
    let iteration = "
do:
- l:
    for: {in: '${ [1,2,3] }'}
    do:
    - s: {switch: [{odd: {when: '$item == 2', then: exit}}]}
    - a: {set: {n: '${ .n + $item }'}}
";
    assert_eq!(run(iteration, json!({"n": 0})), json!({"n": 4}));
    let end = "
output: {as: '${ {w: .} }'}
do:
- d:
    do:
    - l:
        for: {in: '${ [1,2,3] }'}
        do: [{a: {set: {n: '${ $item }'}, then: end}}]
        output: {as: '${ {l: .n} }'}
        export: {as: '${ {seen: .l} }'}
        then: x
    - x: {set: {never: 1}}
    output: {as: '${ {d: .l, context: $context} }'}
- y: {set: {never: 2}}
";
    assert_eq!(
        run(end, json!({})),
        json!({"w": {"d": 1, "context": {"seen": 1}}})
    );
}

#[test]
fn rule_7_a_matched_case_goes_before_then() {
    let body = "
do:
- s: {switch: [{x: {when: .go, then: a}}], then: b}
- a: {set: {r: a}, then: end}
- b: {set: {r: b}, then: end}
";
    assert_eq!(run(body, json!({"go": true})), json!({"r": "a"}));
    assert_eq!(run(body, json!({"go": false})), json!({"r": "b"}));
}

#[test]
fn rule_8_pointers_are_real() {
    let raise = "{raise: {error: {type: 'https://example.com/x', status: 400}}}";
    for (body, pointer) in [
        (format!("do: [{{r: {raise}}}]"), "/do/0/r"),
        (
            format!("do: [{{a: {{set: {{n: 1}}}}}}, {{d: {{do: [{{r: {raise}}}]}}}}]"),
            "/do/1/d/do/0/r",
        ),
        (
            format!("do: [{{t: {{try: [{{r: {raise}}}], catch: {{when: 'false'}}}}}}]"),
            "/do/0/t/try/0/r",
        ),
        (
            format!("do: [{{t: {{try: [{{r: {raise}}}], catch: {{do: [{{h: {raise}}}]}}}}}}]"),
            "/do/0/t/catch/do/0/h",
        ),
        (
            format!("do: [{{f: {{fork: {{branches: [{{a: {{set: {{n: 1}}}}}}, {{b: {raise}}}]}}}}}}]"),
            "/do/0/f/fork/branches/1/b",
        ),
        (
            format!("do: [{{l: {{for: {{in: '${{ [1] }}'}}, do: [{{r: {raise}}}]}}}}]"),
            "/do/0/l/do/0/r",
        ),
        (format!("do: [{{'a/b~c': {raise}}}]"), "/do/0/a~1b~0c"),
        (
            format!("use: {{functions: {{f: {raise}}}}}\ndo: [{{c: {{call: f}}}}]"),
            "/use/functions/f",
        ),
    ] {
        assert_eq!(
            run_to_fault(&body, json!({})).instance.as_deref(),
            Some(pointer),
            "{body}"
        );
    }
}

#[test]
fn rule_9_what_is_caught() {
    let caught = |catch: &str| {
        let body = format!(
            "do: [{{t: {{try: [{{r: {{raise: {{error: {{type: 'https://example.com/x', status: 409, title: T, detail: D}}}}}}}}], catch: {catch}}}}}]"
        );
        let mut world = World::with(&body);
        world.start("a", json!({"in": 1}));
        world.run();
        world.assert_clean();
        world.status("a").name().to_owned()
    };
    for (catch, expected) in [
        ("{}", "completed"),
        (
            "{errors: {with: {status: 409, type: 'https://example.com/x', title: T, detail: D, instance: /do/0/t/try/0/r}}}",
            "completed",
        ),
        ("{errors: {with: {status: 410}}}", "faulted"),
        ("{errors: {with: {status: 409, title: Other}}}", "faulted"),
        ("{when: '.status == 409'}", "completed"),
        ("{when: '$error.title == \"T\"'}", "completed"),
        ("{as: e, when: '$e.detail == \"X\"'}", "faulted"),
        ("{exceptWhen: '.status == 409'}", "faulted"),
        ("{when: 'true', exceptWhen: 'false'}", "completed"),
    ] {
        assert_eq!(caught(catch), expected, "{catch}");
    }
    let handler_raises = "
do:
- t:
    try: [{r: {raise: {error: {type: 'https://example.com/x', status: 409}}}}]
    catch: {do: [{h: {raise: {error: {type: 'https://example.com/y', status: 410}}}}]}
";
    assert_eq!(run_to_fault(handler_raises, json!({})).status, 410);
}

#[test]
fn rule_9_standard_errors_by_short_name() {
    for uri in [
        "https://serverlessworkflow.io/spec/1.0.0/errors/communication",
        "https://serverlessworkflow.io/dsl/errors/types/communication",
        "https://open-workflow-specification.org/dsl/errors/types/communication",
    ] {
        let body = format!(
            "do: [{{t: {{try: [{{s: {{call: 'fail:1.0.0@default', with: {{status: 404}}}}}}], catch: {{errors: {{with: {{type: '{uri}', status: 404}}}}, as: err, do: [{{h: {{set: {{error: '${{ $err }}'}}}}}}]}}}}}}]"
        );
        let output = run(&body, json!({}));
        assert_eq!(output["error"]["instance"], "/do/0/t/try/0/s");
        assert!(output["error"]["title"].is_string() && output["error"]["type"].is_string());
    }
}

#[test]
fn rule_10_a_timeout_is_caught_outside_only() {
    let own = "
do:
- t:
    try: [{w: {wait: PT9S}}]
    catch: {do: [{h: {set: {caught: inner}}}]}
    timeout: {after: PT1S}
";
    let problem = run_to_fault(own, json!({}));
    assert_eq!(
        (problem.status, problem.instance.as_deref()),
        (408, Some("/do/0/t"))
    );
    let outer = format!(
        "do: [{{o: {{try: {}, catch: {{do: [{{h: {{set: {{caught: outer}}}}}}]}}}}}}]",
        "[{t: {try: [{w: {wait: PT9S}}], catch: {do: [{h: {set: {caught: inner}}}]}, timeout: {after: PT1S}}}]"
    );
    assert_eq!(run(&outer, json!({})), json!({"caught": "outer"}));
}

#[test]
fn rule_11_only_whole_texts_are_expressions() {
    let body = "
do:
- s:
    set: {a: '${ .x }', b: 'text ${ .x }', c: .x, '${ .x }': 1, d: {e: ['${ .x }', .x]}}
";
    let output = run(body, json!({"x": 1}));
    assert_eq!(
        output,
        json!({"a": 1, "b": "text ${ .x }", "c": ".x", "${ .x }": 1, "d": {"e": [1, ".x"]}})
    );
    // data is never evaluated
    assert_eq!(
        run("do: [{s: {set: {a: '${ .x }'}}}]", json!({"x": "${ .y }"})),
        json!({"a": "${ .y }"})
    );
}

#[test]
fn rule_12_wrong_examples_are_literals() {
    let output: Value = run("do: [{s: {set: {error: $error}}}]", json!({}));
    assert_eq!(output, json!({"error": "$error"}));
}
