//! Every construct of the language: what it gives for an input.

use serde_json::{Value, json};

use crate::world::{START_MS, World, run, run_to_fault};

/// (what, definition, input, output)
fn table(rows: &[(&str, &str, Value, Value)]) {
    for (what, body, input, output) in rows {
        assert_eq!(run(body, input.clone()), *output, "{what}");
    }
}

#[test]
fn do_and_set() {
    table(&[
        ("an empty workflow", "do: []", json!({"a": 1}), json!({"a": 1})),
        ("an empty list", "do: [{d: {do: []}}]", json!(7), json!(7)),
        (
            "set replaces",
            "do: [{s: {set: {b: '${ .a }'}}}]",
            json!({"a": 1, "c": 2}),
            json!({"b": 1}),
        ),
        (
            "set by one expression",
            "do: [{s: {set: '${ .a }'}}]",
            json!({"a": [1, 2]}),
            json!([1, 2]),
        ),
        (
            "nested lists",
            "do: [{d: {do: [{x: {set: {n: 1}}}, {y: {set: {n: '${ .n + 1 }'}}}]}}]",
            json!({}),
            json!({"n": 2}),
        ),
        (
            "numbers keep their value",
            "do: [{s: {set: {n: '${ .n }'}}}]",
            json!({"n": 9_007_199_254_740_993_i64}),
            json!({"n": 9_007_199_254_740_993_i64}),
        ),
    ]);
}

#[test]
fn switch_takes_the_first_that_holds() {
    let body = "
do:
- s:
    switch:
    - other: {then: c}
    - one: {when: '.n == 1', then: a}
    - small: {when: '.n < 3', then: b}
- a: {set: {r: a}, then: end}
- b: {set: {r: b}, then: end}
- c: {set: {r: c}, then: end}
";
    table(&[
        ("the first", body, json!({"n": 1}), json!({"r": "a"})),
        ("the second", body, json!({"n": 2}), json!({"r": "b"})),
        (
            "the default, wherever it stands",
            body,
            json!({"n": 9}),
            json!({"r": "c"}),
        ),
        (
            "none: the task's own then",
            "do: [{s: {switch: [{x: {when: .no, then: a}}], then: end}}, {a: {set: {r: a}}}]",
            json!({"n": 1}),
            json!({"n": 1}),
        ),
        (
            "none and no then: goes on",
            "do: [{s: {switch: [{x: {when: .no, then: end}}]}}, {a: {set: {r: a}}}]",
            json!({}),
            json!({"r": "a"}),
        ),
    ]);
}

#[test]
fn for_goes_through_the_items() {
    let colors = "
do:
- l:
    for: {in: '.colors', each: color}
    do:
    - m:
        set:
          processed: '${ { colors: (.processed.colors + [ $color ]), indexes: (.processed.indexes + [ $index ])} }'
";
    let sum = |more: &str| {
        format!(
            "do: [{{l: {{for: {{in: '${{ [1,2,3] }}'}}, {more} do: [{{s: {{set: {{n: '${{ .n + $item }}'}}}}}}]}}}}]"
        )
    };
    table(&[
        (
            "the conformance kit's",
            colors,
            json!({"colors": ["red", "green", "blue"]}),
            json!({"processed": {"colors": ["red", "green", "blue"], "indexes": [0, 1, 2]}}),
        ),
        (
            "iterations pass data on",
            &sum(""),
            json!({"n": 10}),
            json!({"n": 16}),
        ),
        (
            "while is checked before",
            &sum("while: '.n < 2',"),
            json!({"n": 0}),
            json!({"n": 3}),
        ),
        (
            "while false at once",
            &sum("while: 'false',"),
            json!({"n": 0}),
            json!({"n": 0}),
        ),
        (
            "names of its variables, nested",
            "do: [{l: {for: {in: '${ [1,2] }', each: a, at: i}, do: [{m: {for: {in: '${ [10,20] }', each: b, at: j}, do: [{s: {set: '${ . + [[$a, $i, $b, $j]] }'}}]}}]}}]",
            json!([]),
            json!([[1, 0, 10, 0], [1, 0, 20, 1], [2, 1, 10, 0], [2, 1, 20, 1]]),
        ),
        (
            "an empty body",
            "do: [{l: {for: {in: '${ [1,2,3] }'}, do: []}}]",
            json!("x"),
            json!("x"),
        ),
    ]);
}

#[test]
fn fork_joins_in_order_of_declaration() {
    let body = "
do:
- f:
    fork:
      branches:
      - a: {set: {n: 1}}
      - b: {call: 'noop:1.0.0@default', with: {n: 2}}
      - c: {wait: PT1S}
      - d: {do: [{e: {set: {n: 4}}}]}
      - f: {fork: {branches: [{x: {set: 1}}, {y: {set: 2}}]}}
";
    let body = body
        .replace("set: 1}", "set: '${ 1 }'}")
        .replace("set: 2}", "set: '${ 2 }'}");
    let output = json!([{"n": 1}, {"n": 2}, {"n": 0}, {"n": 4}, [1, 2]]);
    table(&[("all kinds of branches", &body, json!({"n": 0}), output)]);
}

#[test]
fn competing_branches() {
    let wait = "
do:
- f:
    fork:
      compete: true
      branches:
      - slow: {do: [{w: {wait: PT9S}}, {s: {set: {won: slow}}}]}
      - fast: {do: [{w: {wait: PT1S}}, {s: {set: {won: fast}}}]}
      - step: {call: 'silent:1.0.0@default'}
";
    let mut world = World::with(wait);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"won": "fast"}));
    assert_eq!(world.now_ms, START_MS + 1000);
    assert_eq!(world.cancelled_steps.len(), 1);
    let cancelled = world
        .events("a")
        .iter()
        .filter(|e| e.starts_with("task.cancelled"))
        .count();
    assert_eq!(cancelled, 2);
}

#[test]
fn wait_takes_its_time_and_gives_its_input() {
    for (duration, ms) in [
        ("PT1S", 1000),
        ("{seconds: 1, milliseconds: 5}", 1005),
        ("'${ .d }'", 2000),
        ("PT0S", 0),
    ] {
        let mut world = World::with(&format!("do: [{{w: {{wait: {duration}}}}}]"));
        world.start("a", json!({"d": "PT2S"}));
        world.run();
        world.assert_clean();
        assert_eq!(world.output("a"), json!({"d": "PT2S"}), "{duration}");
        assert_eq!(world.now_ms - START_MS, ms, "{duration}");
    }
}

#[test]
fn raise_by_name_and_inline() {
    let named = "
use: {errors: {broke: {type: 'https://example.com/broke', status: 402, title: Broke, detail: '${ \"needs \\(.need)\" }'}}}
do: [{r: {raise: {error: broke}}}]
";
    let problem = run_to_fault(named, json!({"need": 5}));
    assert_eq!(
        (problem.status, problem.detail.as_deref()),
        (402, Some("needs 5"))
    );
    assert_eq!(problem.instance.as_deref(), Some("/do/0/r"));
    let inline =
        "do: [{r: {raise: {error: {type: 'https://example.com/x', status: 400, instance: /elsewhere}}}}]";
    assert_eq!(
        run_to_fault(inline, json!({})).instance.as_deref(),
        Some("/elsewhere")
    );
}

#[test]
fn emit_gives_a_complete_event() {
    let body = "
do:
- e:
    emit: {event: {with: {source: 'https://x.example', type: greeted.v1, data: {hi: '${ .name }'}}}}
";
    let mut world = World::with(body);
    world.start("a", json!({"name": "Jo"}));
    world.run();
    let event = world.output("a");
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["time"], "2026-01-01T00:00:00.000Z");
    assert_eq!(event["source"], "https://x.example");
    assert_eq!(event["data"], json!({"hi": "Jo"}));
    assert!(event["id"].as_str().unwrap().starts_with("default/a:"), "{event}");
}

#[test]
fn calls_of_functions() {
    let inline = "
use:
  functions:
    double: {set: {n: '${ .n * 2 }'}}
    twice: {do: [{a: {call: double, with: {n: '${ .n }'}}}, {b: {call: double, with: {n: '${ .n }'}}}]}
    echo: {call: 'echo:1.2.3@default', with: {got: '${ . }'}}
do:
- t: {call: twice, with: {n: '${ .n + 1 }'}}
";
    table(&[
        ("inline, nested", inline, json!({"n": 1}), json!({"n": 8})),
        (
            "inline, of the fleet",
            &inline.replace("call: twice", "call: echo"),
            json!({"n": 1}),
            json!({"function": "echo:1.2.3", "input": {"got": {"n": 2}}}),
        ),
        (
            "without arguments: the task's input",
            "do: [{c: {input: {from: .in}, call: 'echo:1.0.0@default'}}]",
            json!({"in": [1]}),
            json!({"function": "echo:1.0.0", "input": [1]}),
        ),
        (
            "output.as of the call",
            "do: [{c: {call: 'noop:1.0.0@default', with: {x: 1}, output: {as: .x}}}]",
            json!({}),
            json!(1),
        ),
    ]);
    let mut world = World::with(inline);
    world.start("a", json!({"n": 1}));
    world.run();
    let pointers: Vec<_> = world
        .trace("a")
        .iter()
        .filter_map(|e| e["task"].as_str().map(str::to_owned))
        .collect();
    assert!(
        pointers.contains(&"/use/functions/double".to_owned()),
        "{pointers:?}"
    );
}

#[test]
fn http_calls_are_steps() {
    let body = "
do:
- c:
    call: http
    with:
      method: post
      endpoint:
        uri: https://api.example/pets/{petId}
        authentication: {basic: {username: '${ .user }', password: secret}}
      headers: {X-Trace: '${ .trace }'}
      query: {q: '${ .q }'}
      body: {name: '${ .name }'}
      output: response
";
    let mut world = World::with(body);
    world.start(
        "a",
        json!({"petId": 7, "user": "u", "trace": "t", "q": "x", "name": "Milou"}),
    );
    world.run();
    let step = &world.dispatched[0];
    assert_eq!(step.function, "call:http");
    let input: Value = step.input.decode().unwrap();
    assert_eq!(
        input,
        json!({
            "method": "POST",
            "endpoint": "https://api.example/pets/7",
            "headers": {"X-Trace": "t"},
            "query": {"q": "x"},
            "body": {"name": "Milou"},
            "output": "response",
            "redirect": false,
            "authentication": {"basic": {"username": "u", "password": "secret"}},
        })
    );
}

#[test]
fn http_endpoint_by_expression_and_bearer() {
    let body = "
do:
- c:
    call: http
    with: {method: get, endpoint: {uri: '${ .url }', authentication: {bearer: {token: '${ .t }'}}}}
";
    let mut world = World::with(body);
    world.start("a", json!({"url": "https://x.example/a", "t": "abc"}));
    world.run();
    let input: Value = world.dispatched[0].input.decode().unwrap();
    assert_eq!(input["endpoint"], "https://x.example/a");
    assert_eq!(input["authentication"], json!({"bearer": {"token": "abc"}}));
    let problem = run_to_fault(body, json!({"url": 5}));
    assert_eq!(problem.status, 400);
}

#[test]
fn variables_are_there_and_as_specified() {
    let body = "
do:
- first: {set: {n: 1}, export: {as: '${ {seen: .n} }'}}
- second:
    input: {from: '${ {from: .n} }'}
    set:
      context: '${ $context }'
      input: '${ $input }'
      task: '${ [$task.name, $task.reference, $task.definition.set.input, $task.input, $task.startedAt] }'
      workflow: '${ [$workflow.id, $workflow.definition.document.name, $workflow.input, $workflow.startedAt.epoch.milliseconds] }'
      runtime: '${ [$runtime.name, ($runtime.version | type), $runtime.metadata] }'
    output: {as: '${ . + {raw: ($task.output == .), out: ($output == .)} }'}
";
    let output = run(body, json!({"w": 1}));
    assert_eq!(output["context"], json!({"seen": 1}));
    assert_eq!(output["input"], json!({"from": 1}));
    let at = json!({"iso8601": "2026-01-01T00:00:00.000Z", "epoch": {"seconds": START_MS / 1000, "milliseconds": START_MS}});
    assert_eq!(
        output["task"],
        json!(["second", "/do/1/second", "${ $input }", {"n": 1}, at])
    );
    assert_eq!(output["workflow"], json!(["a", "flow", {"w": 1}, START_MS]));
    assert_eq!(output["runtime"], json!(["millrace", "string", {}]));
    assert_eq!((&output["raw"], &output["out"]), (&json!(true), &json!(true)));
}

#[test]
fn timeouts_of_tasks_and_workflow() {
    let task = "do: [{s: {call: 'silent:1.0.0@default', timeout: {after: PT5S}}}]";
    let mut world = World::with(task);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let problem = world.error("a");
    assert_eq!(
        (problem.status, problem.instance.as_deref()),
        (408, Some("/do/0/s"))
    );
    assert_eq!(world.now_ms, START_MS + 5000);
    assert_eq!(world.dispatched[0].deadline_ms, Some(START_MS + 5000));
    assert_eq!(world.cancelled_steps, [world.dispatched[0].step.clone()]);

    let whole = "
timeout: {after: PT3S}
do: [{f: {fork: {branches: [{a: {wait: PT9S}}, {b: {call: 'silent:1.0.0@default', timeout: {after: PT8S}}}]}}}]
";
    let mut world = World::with(whole);
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(world.error("a").status, 408);
    assert_eq!(world.now_ms, START_MS + 3000);
    assert_eq!(world.dispatched[0].deadline_ms, Some(START_MS + 3000));

    let composite = "
do:
- t:
    try: [{d: {do: [{w: {wait: PT9S}}], timeout: {after: PT1S}}}]
    catch: {errors: {with: {status: 408}}, do: [{h: {set: {caught: '${ $error.instance }'}}}]}
";
    assert_eq!(run(composite, json!({})), json!({"caught": "/do/0/t/try/0/d"}));
}

#[test]
fn what_is_not_supported_says_so() {
    let problem = run_to_fault("do: [{l: {call: 'https://x.test/f.yaml'}}]", json!({}));
    assert_eq!(problem.status, 400);
    assert_eq!(
        problem.detail.as_deref(),
        Some("a function that was not fetched (`https://x.test/f.yaml`) is not supported by this build")
    );
}

#[test]
fn tasks_run_in_the_order_of_the_flow() {
    let body = "
do:
- setRed: {set: {colors: '${ .colors + [ \"red\" ] }'}, then: setGreen}
- setBlue: {set: {colors: '${ .colors + [ \"blue\" ] }'}, then: end}
- setGreen: {set: {colors: '${ .colors + [ \"green\" ] }'}, then: setBlue}
";
    let mut world = World::with(body);
    world.start("a", json!(null));
    world.run();
    assert_eq!(world.output("a"), json!({"colors": ["red", "green", "blue"]}));
    assert_eq!(world.started("a"), ["setRed", "setGreen", "setBlue"]);
}
