//! Every construct of the language.

use serde_json::json;

use crate::world::{World, run, run_to_fault};

#[test]
fn a_sequence_of_steps() {
    let body = "
do:
- a: {call: 'noop:1.0.0@default', with: {x: '${ .x + 1 }'}}
- b: {call: 'noop:1.0.0@default', with: {x: '${ .x + 1 }'}}
- c: {set: {y: '${ .x }'}}
";
    let mut world = World::with(body);
    world.start("a", json!({"x": 1}));
    world.run();
    assert_eq!(world.output("a"), json!({"y": 3}));
    world.assert_clean();
    assert_eq!(world.dispatched[0].function, "noop:1.0.0");
    assert_eq!(world.started("a"), ["a", "b", "c"]);
    println!("{}", world.dump("a"));
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
";
    assert_eq!(
        run(body, json!({"n": 0})),
        json!([{"n": 1}, {"n": 2}, {"n": 0}, {"n": 4}])
    );
}

#[test]
fn retries_until_it_works() {
    let body = "
do:
- t:
    try: [{s: {call: 'flaky:1.0.0@default', with: {failures: 2}}}]
    catch: {retry: {delay: PT1S, limit: {attempt: {count: 3}}}}
";
    assert_eq!(run(body, json!({})), json!({"failures": 2, "attempt": 3}));
    let problem = run_to_fault(&body.replace("failures: 2", "failures: 9"), json!({}));
    assert_eq!(problem.instance.as_deref(), Some("/do/0/t/try/0/s"));
}

#[test]
fn for_goes_through_the_items() {
    let body = "
do:
- l:
    for: {in: '.colors', each: color}
    do:
    - m:
        set:
          processed: '${ { colors: (.processed.colors + [ $color ]), indexes: (.processed.indexes + [ $index ])} }'
";
    let output = run(body, json!({"colors": ["red", "green", "blue"]}));
    assert_eq!(
        output,
        json!({"processed": {"colors": ["red", "green", "blue"], "indexes": [0, 1, 2]}})
    );
}
