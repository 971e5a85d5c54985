//! `metadata.millrace`: which of several settings counts, and what steps carry of them.

use millrace_common::{ErrorKind, Problem, limits};
use serde_json::json;

use crate::world::{Answer, Split, World, run_to_fault};

fn head(settings: &str) -> String {
    format!(
        "document: {{dsl: '1.0.3', namespace: default, name: flow, version: '1.0.0', metadata: {{millrace: {settings}}}}}\n"
    )
}

#[test]
fn the_task_goes_before_the_function_and_that_before_the_document() {
    let mut world = World::new();
    world.define_text(&format!(
        "{}
use:
  functions:
    own: {{call: 'noop:1.0.0@default', metadata: {{millrace: {{queue: function, maxDeliveries: 3}}}}}}
    plain: {{call: 'noop:1.0.0@default'}}
    chain: {{call: own}}
  extensions: [{{x: {{extend: call, when: '$task.name == \"e\"', before: [{{b: {{call: 'noop:1.0.0@default'}}}}]}}}}]
do:
- a: {{call: own, metadata: {{millrace: {{queue: task}}}}}}
- b: {{call: own}}
- c: {{call: plain}}
- d: {{call: chain, metadata: {{millrace: {{queue: outer}}}}}}
- e: {{call: 'noop:1.0.0@default', metadata: {{millrace: {{queue: extended}}}}}}
",
        head("{queue: document, maxDeliveries: 7, heartbeatTimeout: PT3S}")
    ));
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let found: Vec<(Option<&str>, Option<u32>)> = world
        .dispatched
        .iter()
        .map(|d| (d.queue.as_deref(), d.max_deliveries))
        .collect();
    assert_eq!(
        found,
        [
            (Some("task"), Some(3)),
            (Some("function"), Some(3)),
            (Some("document"), Some(7)),
            (Some("outer"), Some(3)),
            (Some("document"), Some(7)),
            (Some("extended"), Some(7)),
        ]
    );
    assert!(world.dispatched.iter().all(|d| d.heartbeat_ms == Some(3000)));
}

#[test]
fn an_idempotency_key_is_computed_from_the_input_and_stays_over_retries() {
    let body = "
use: {functions: {f: {call: 'flaky:1.0.0@default', with: {failures: 1}}}}
do:
- y:
    try: [{a: {call: f, with: {}, metadata: {millrace: {idempotencyKey: '\"order-\" + .id'}}}}]
    catch: {retry: {delay: PT1S, limit: {attempt: {count: 1}}}}
";
    let mut world = World::with(body);
    world.split = Split::Reload;
    world.start("a", json!({"id": "7"}));
    world.run();
    world.assert_clean();
    let keys: Vec<&str> = world.dispatched.iter().map(|d| d.key.as_str()).collect();
    assert_eq!(keys, ["order-7", "order-7"]);
    assert_ne!(world.dispatched[0].step, world.dispatched[1].step);
    let problem = run_to_fault(&body.replace("\"order-\" + .id", "\"a b\""), json!({}));
    assert_eq!(problem.standard(), Some(ErrorKind::Expression));
}

#[test]
fn errors_that_are_listed_are_not_retried() {
    let body = "
do:
- y:
    try: [{a: {call: 'x:1.0.0@default', metadata: {millrace: {nonRetryable: [validation, 'https://example.com/no']}}}}]
    catch: {retry: {delay: PT1S, limit: {attempt: {count: 3}}}}
";
    let runs = |kind: &'static str| {
        let mut world = World::with(body);
        world.worker = Box::new(move |_| {
            Answer::Error(Problem {
                kind: kind.to_owned(),
                ..Problem::new(ErrorKind::Runtime, "no")
            })
        });
        world.start("a", json!({}));
        world.run();
        world.dispatched.len()
    };
    assert_eq!(runs(ErrorKind::Validation.uri()), 1);
    assert_eq!(
        runs("https://serverlessworkflow.io/dsl/errors/types/validation"),
        1
    );
    assert_eq!(runs("https://example.com/no"), 1);
    assert_eq!(runs(ErrorKind::Runtime.uri()), 4);
}

#[test]
fn a_step_that_no_worker_begins_in_time_fails() {
    let body =
        "do: [{a: {call: 'silent:1.0.0@default', metadata: {millrace: {scheduleToStartTimeout: PT10S}}}}]";
    let mut world = World::with(body);
    world.split = Split::Reload;
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let begun = crate::world::START_MS;
    assert_eq!(world.dispatched[0].start_by_ms, Some(begun + 10_000));
    assert_eq!(world.dispatched[0].deadline_ms, None);
    let problem = world.error("a");
    assert_eq!(problem.status, 408);
    assert!(problem.detail.unwrap().contains("10000 ms"));
    assert_eq!(world.now_ms, begun + 10_000 + limits::START_REPORT_MS);
}

#[test]
fn a_step_that_was_heard_of_may_take_its_time() {
    let body = "do: [{a: {call: 'silent:1.0.0@default', timeout: {after: PT1H}, metadata: {millrace: {scheduleToStartTimeout: PT10S}}}}]";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.fold_all();
    let step = world.dispatched[0].clone();
    world.progress(&crate::world::key("a"), &step);
    world.run();
    world.assert_clean();
    assert_eq!(world.now_ms, crate::world::START_MS + 3_600_000);
}
