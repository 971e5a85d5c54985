//! Expressions with secrets: left to the worker, with what they need.

use millrace_common::{Hole, Late};
use serde_json::{Value, json};

use crate::world::{World, key, run, run_to_fault};

const BODY: &str = "
use: {secrets: [key, other], authentications: {p: {bearer: {token: '${ $secrets.key }'}}}}
do:
- before: {set: {ctx: 1}, export: {as: '${ . }'}}
- c:
    call: http
    with:
      method: get
      endpoint: {uri: 'https://x.y', authentication: {use: p}}
      headers: {X-Key: '${ $secrets.key + .name }', X-Plain: '${ .name }'}
      query: '${ {k: $secrets[.name]} }'
      body: {list: [1, '${ $context.ctx + ($secrets.other | length) }'], text: '${ .text }'}
    input: {from: '${ {name: $workflow.input.name, text: $workflow.input.text} }'}
";

fn hole(at: &str, expression: &str, secrets: &[&str]) -> Hole {
    Hole {
        at: at.into(),
        expression: expression.into(),
        secrets: secrets.iter().map(|s| (*s).to_owned()).collect(),
    }
}

fn dispatched() -> (World, Value, Late) {
    let mut world = World::with(BODY);
    world.start("a", json!({"name": "Milou", "text": "${ $secrets.key }"}));
    world.fold_all();
    let step = world.dispatched[0].clone();
    (world, step.input.decode().unwrap(), step.late.unwrap())
}

#[test]
fn what_uses_secrets_travels_beside_the_input() {
    let (_, input, late) = dispatched();
    let expected = json!({
        "method": "GET", "endpoint": "https://x.y", "headers": {"X-Plain": "Milou"}, "query": {},
        "body": {"list": [1, null], "text": "${ $secrets.key }"},
        "output": "content", "redirect": false, "authentication": {"bearer": {"token": null}},
    });
    assert_eq!(input, expected);
    let holes = [
        hole("/headers/X-Key", " $secrets.key + .name ", &["key"]),
        hole("/query", " {k: $secrets[.name]} ", &["key", "other"]),
        hole(
            "/body/list/1",
            " $context.ctx + ($secrets.other | length) ",
            &["other"],
        ),
        hole("/authentication/bearer/token", " $secrets.key ", &["key"]),
    ];
    assert_eq!(late.holes, holes);
    assert_eq!(late.input.unwrap().decode::<Value>().unwrap()["name"], "Milou");
    let names: Vec<&str> = late.variables.keys().map(String::as_str).collect();
    assert_eq!(
        (names, late.variables["context"].text()),
        (vec!["context"], r#"{"ctx":1}"#)
    );
}

#[test]
fn a_step_read_from_the_store_is_dispatched_the_same() {
    let (mut world, _, late) = dispatched();
    world.dump("a");
    let frame = world.dispatched[0].frame;
    let stored = &world.instances[&key("a")];
    let again = millrace_engine::Instance::load(key("a"), stored.fields.iter()).unwrap();
    let plan = millrace_engine::Definitions::plan(&world.library, again.definition()).unwrap();
    let step = again.step(&plan, frame).unwrap();
    assert_eq!(
        (step.late, step.input),
        (Some(late), world.dispatched[0].input.clone())
    );
}

#[test]
fn only_what_is_needed_is_sent() {
    let body = "
use: {secrets: [key]}
do: [{f: {call: 'silent:1.0.0@default', with: {k: '${ $secrets.key }', n: '${ .n }'}}}]
";
    let mut world = World::with(body);
    world.start("a", json!({"n": 1}));
    world.fold_all();
    let step = world.dispatched[0].clone();
    assert_eq!(step.input.text(), r#"{"k":null,"n":1}"#);
    let late = step.late.unwrap();
    assert!(late.input.is_none() && late.variables.is_empty(), "{late:?}");
    assert_eq!(late.holes, [hole("/k", " $secrets.key ", &["key"])]);
}

#[test]
fn input_and_what_secrets_need_fit_into_one_message() {
    let body = "
use: {secrets: [key]}
do: [{f: {call: 'noop:1.0.0@default', with: {k: '${ $secrets.key + .large }', l: '${ .large }'}}}]
";
    let problem = run_to_fault(body, json!({"large": "x".repeat(500_000)}));
    let detail = problem.detail.unwrap();
    assert!(
        detail.contains("secret expressions") && detail.contains("786432"),
        "{detail}"
    );
}

#[test]
fn descriptors_show_no_credentials() {
    let body = "
use: {authentications: {p: {basic: {username: u, password: hunter2}}}}
do:
- c: {if: 'false', call: http, with: {method: get, endpoint: {uri: 'https://x.y', authentication: {use: p}}}}
- s: {set: {shown: '${ $workflow.definition.use.authentications.p.basic.password }'}}
";
    assert_eq!(run(body, json!({})), json!({"shown": "***"}));
}
