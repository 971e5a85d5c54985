//! Child instances.

use millrace_common::{ChildOutcome, ControlKind, InstanceKey, ParentLink, PartitionId, RawJson, RecordBody};
use millrace_engine::{Ignored, Outcome, Status, WaitingKind};
use serde_json::json;

use crate::world::{START_MS, World, key};

fn parent(run: &str) -> World {
    let mut world = World::with(&format!("do: [{{r: {{run: {run}}}}}]"));
    world.define("child", "do: [{w: {wait: PT5S}}, {s: {set: {n: '${ .n + 1 }'}}}]");
    world.define(
        "broken",
        "do: [{r: {raise: {error: {type: 'https://example.com/x', status: 409, detail: d}}}}]",
    );
    world
}

fn child(world: &World) -> InstanceKey {
    world.instances.keys().find(|k| k.id() != "a").unwrap().clone()
}

const AWAITED: &str =
    "{workflow: {namespace: default, name: child, version: '1.0.0', input: {n: '${ .n }'}}}";

#[test]
fn the_childs_output_is_the_tasks() {
    let mut world = parent(AWAITED);
    world.start("a", json!({"n": 1}));
    world.run_until(START_MS);
    assert_eq!(world.status("a"), Status::Waiting);
    let waiting = world.view("a").waiting_for;
    assert_eq!(
        (waiting[0].kind, waiting[0].child.as_deref()),
        (WaitingKind::Child, Some(child(&world).as_str()))
    );
    let id = child(&world).id().to_owned();
    assert!(id.starts_with("a:"), "{id}");
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"n": 2}));
    assert_eq!(world.output(&id), json!({"n": 2}));
}

#[test]
fn a_child_without_await_is_on_its_own() {
    let run = "{await: false, workflow: {namespace: default, name: child, version: '1.0.0', input: {n: '${ .n }'}}}";
    let mut world = parent(run);
    world.start("a", json!({"n": 1}));
    world.run_until(START_MS);
    assert_eq!(world.output("a"), json!({"n": 1}));
    assert_eq!(
        world.instances[&child(&world)].live.as_ref().unwrap().status(),
        Status::Waiting
    );
    world.run();
    world.assert_clean();
}

#[test]
fn a_childs_error_is_the_tasks() {
    let mut world = parent("{workflow: {namespace: default, name: broken, version: '1.0.0'}}");
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let problem = world.error("a");
    assert_eq!(
        (problem.status, problem.instance.as_deref()),
        (409, Some("/do/0/r"))
    );
    assert!(problem.detail.unwrap().contains("/do/0/r"));
}

#[test]
fn an_unknown_definition_is_a_configuration_error() {
    let mut world = parent("{workflow: {namespace: default, name: none, version: '1.0.0'}}");
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(world.error("a").status, 400);
}

#[test]
fn cancel_reaches_the_child() {
    let mut world = parent(AWAITED);
    world.start("a", json!({"n": 1}));
    world.run_until(START_MS);
    world.control("a", ControlKind::Cancel);
    world.run();
    world.assert_clean();
    assert_eq!(world.status("a"), Status::Cancelled);
    let id = child(&world).id().to_owned();
    assert_eq!(world.status(&id), Status::Cancelled);
}

#[test]
fn a_cancelled_child_is_an_error_of_the_task() {
    let mut world = parent(AWAITED);
    world.start("a", json!({"n": 1}));
    world.run_until(START_MS);
    let id = child(&world).id().to_owned();
    world.control(&id, ControlKind::Cancel);
    world.run();
    world.assert_clean();
    assert!(world.error("a").detail.unwrap().ends_with("was cancelled"));
}

#[test]
fn a_retry_starts_another_child() {
    let body = "
do:
- t:
    try: [{r: {run: {workflow: {namespace: default, name: broken, version: '1.0.0'}}}}]
    catch: {retry: {delay: PT1S, limit: {attempt: {count: 1}}}}
";
    let mut world = World::with(body);
    world.define(
        "broken",
        "do: [{r: {raise: {error: {type: 'https://example.com/x', status: 409, detail: d}}}}]",
    );
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(world.instances.len(), 3);
}

#[test]
fn records_that_come_twice_change_nothing() {
    let mut world = parent(AWAITED);
    world.start("a", json!({"n": 1}));
    world.run();
    let output = world.dump("a");
    for record in world.history.clone() {
        let outcome = world.fold(record.clone()).outcome;
        assert!(matches!(outcome, Outcome::Ignored(_)), "{record:?}");
    }
    // a start that comes again makes the ended child answer again; nobody waits for that
    world.fold_all();
    assert_eq!(*world.outcomes.last().unwrap(), Outcome::Ignored(Ignored::Ended));
    assert_eq!(world.dump("a"), output);
}

#[test]
fn a_taken_id_fails_the_task() {
    let mut world = parent(AWAITED);
    world.start("a", json!({"n": 1}));
    world.run_until(START_MS);
    let taken = child(&world);
    let mut other = parent(AWAITED);
    let start = other.start_record("default/child@1.0.0", &json!({"n": 7}), None);
    other.append(&taken, start);
    other.fold_all();
    other.start("a", json!({"n": 1}));
    other.run();
    let problem = other.error("a");
    assert_eq!(problem.status, 400);
    assert!(problem.detail.unwrap().contains("taken"));
}

#[test]
fn a_foreign_child_is_stale() {
    let mut world = parent(AWAITED);
    world.start("a", json!({"n": 1}));
    world.run_until(START_MS);
    let before = world.dump("a");
    for (frame, child) in [(1, key("other")), (9, child(&world))] {
        let outcome = ChildOutcome::Completed(RawJson::null());
        world.append(
            &key("a"),
            RecordBody::ChildEnded {
                frame,
                child,
                outcome,
            },
        );
        world.fold_all();
        assert_eq!(
            *world.outcomes.last().unwrap(),
            Outcome::Ignored(Ignored::StaleChild)
        );
    }
    assert_eq!(world.dump("a"), before);
}

#[test]
fn a_child_tells_its_parent_whatever_happens() {
    let mut world = World::new();
    let parent = ParentLink {
        instance: key("p"),
        partition: PartitionId(0),
        frame: 3,
        awaited: true,
    };
    let start = world.start_record("default/none@1.0.0", &json!({}), Some(parent));
    world.append(&key("c"), start);
    let record = world.log.pop_front().unwrap();
    let transition = world.fold(record);
    assert!(
        transition
            .effects
            .iter()
            .any(|e| matches!(e, millrace_engine::Effect::Send { id, .. } if id == "ended"))
    );
    assert_eq!(world.status("c"), Status::Faulted);
}
