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

fn computed(expression: &str) -> String {
    format!("do: [{{c: {{call: a2a, with: {{method: tasks/list, server: '${{ {expression} }}'}}}}}}]")
}

#[test]
fn data_cannot_stand_for_an_endpoint() {
    let policy = json!({"uri": "https://evil", "authentication": {"bearer": {"use": "any"}}});
    for (expression, data) in [
        (".x", policy.clone()),
        (".x", json!(["https://evil", policy["authentication"]])),
        (".x # as it is", json!(null)),
        (".x[]", json!(["https://a", "https://b"])),
        ("empty", json!(null)),
    ] {
        let problem = run_to_fault(&computed(expression), json!({ "x": data }));
        let detail = problem.detail.unwrap();
        assert!(
            detail.contains("a computed URI must be one text"),
            "{expression}: {detail}"
        );
    }
    let mut world = World::with(&computed(".x"));
    world.start("a", json!({"x": "https://x.y"}));
    world.fold_all();
    let step = &world.dispatched[0];
    assert_eq!(step.input.decode::<Value>().unwrap()["server"], "https://x.y");
    assert_eq!(step.late, None);
}

#[test]
fn a_step_names_the_secrets_that_policies_of_the_definition_name() {
    let policies = |body: &str, input: Value| {
        let mut world = World::with(body);
        world.start("a", input);
        world.fold_all();
        world.dispatched[0].late.clone().map(|late| late.policies)
    };
    let http = "
use: {secrets: [key, other]}
do: [{c: {call: http, with: {method: get, endpoint: {uri: 'https://x.y', authentication: {bearer: {use: key}}}}}}]
";
    assert_eq!(policies(http, json!({})), Some(vec!["key".to_owned()]));
    let by_name = "
use: {secrets: [key, other], authentications: {p: {bearer: {use: other}}}}
do:
- c:
    call: a2a
    with:
      method: tasks/list
      server: {uri: '${ .x }', authentication: {use: p}}
      parameters: '${ .y }'
";
    let data = json!({"x": "https://x.y", "y": {"authentication": {"bearer": {"use": "key"}}}});
    assert_eq!(policies(by_name, data), Some(vec!["other".to_owned()]));
}

#[test]
fn the_name_of_a_secret_is_no_expression_in_loose_mode() {
    let body = "
evaluate: {mode: loose}
use: {secrets: [first, other]}
do: [{c: {call: a2a, with: {method: tasks/list, server: {uri: 'https://x.y', authentication: {bearer: {use: first}}}}}}]
";
    let mut world = World::with(body);
    world.start("a", json!(["other"]));
    world.fold_all();
    let input: Value = world.dispatched[0].input.decode().unwrap();
    assert_eq!(input["server"]["authentication"]["bearer"]["use"], "first");
}
