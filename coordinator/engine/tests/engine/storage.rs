//! What is stored, and how it is read again.

use bytes::Bytes;
use millrace_common::{ControlKind, RawJson, StepOutcome};
use millrace_engine::view::SUMMARY_FIELDS;
use millrace_engine::{Instance, InstanceView, LoadError, Status};
use serde_json::json;

use crate::world::{START_MS, Split, World, key};

#[test]
fn a_step_writes_only_what_changed() {
    let body = "do: [{a: {call: 'noop:1.0.0@default'}}, {b: {call: 'noop:1.0.0@default'}}]";
    let mut world = World::with(body);
    world.start("a", json!({"large": "x".repeat(10_000)}));
    world.fold_all();
    let stored = &world.instances[&key("a")];
    let names: Vec<&str> = stored.fields.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["f0", "f1", "h", "i", "in"],
        "arguments that are the input are stored nowhere else"
    );
    let before = stored.bytes_written;
    let step = world.queue.remove(0).1;
    world.result(
        &key("a"),
        &step,
        StepOutcome::Output(RawJson::parse(b"{\"small\":1}").unwrap()),
    );
    world.fold_all();
    let written = world.instances[&key("a")].bytes_written - before;
    assert!(written < 700, "{written}");
}

#[test]
fn large_data_is_written_once() {
    let body = "
do:
- l:
    input: {from: '${ .large }'}
    for: {in: '${ [range(50)] }'}
    do: [{w: {wait: PT1S}}]
";
    let mut world = World::with(body);
    world.start("a", json!({"large": "x".repeat(10_000)}));
    world.run();
    world.assert_clean();
    let written = world.instances[&key("a")].bytes_written;
    assert!(written < 75_000, "{written}");
}

#[test]
fn branches_inherit_the_forks_input() {
    let body = "
do:
- f:
    fork:
      branches:
      - a: {call: 'silent:1.0.0@default'}
      - b: {do: [{w: {wait: PT1S}}]}
      - c: {wait: PT0S}
";
    let mut world = World::with(body);
    world.start("a", json!({"large": "x".repeat(10_000)}));
    world.run_until(START_MS + 2000);
    assert_eq!(
        world.dump("a").matches("xxxxxxxxxx").count(),
        1000,
        "the input alone"
    );
}

#[test]
fn an_ended_instance_keeps_its_result_alone() {
    let body = "do: [{s: {call: 'noop:1.0.0@default', with: {n: 1}, export: {as: '${ {c: 1} }'}}}]";
    for split in [Split::Every, Split::Reload] {
        let mut world = World::with(body);
        world.split = split;
        world.start("a", json!({}));
        world.run();
        let names: Vec<_> = world.instances[&key("a")].fields.keys().cloned().collect();
        assert_eq!(names, ["h", "i", "in", "out"]);
    }
}

#[test]
fn the_summary_needs_two_fields() {
    let mut world = World::with("do: [{w: {wait: PT1S}}]");
    world.start("a", json!({}));
    world.run();
    world.dump("a");
    let fields = &world.instances[&key("a")].fields;
    let [identity, header] = SUMMARY_FIELDS.map(|name| fields[name].clone());
    let view = InstanceView::summary(&key("a"), &identity, &header).unwrap();
    assert_eq!(
        (view.status, view.definition.name.as_str()),
        (Status::Completed, "flow")
    );
    assert_eq!(view.ended_at.as_deref(), Some("2026-01-01T00:00:01.000Z"));
}

#[test]
fn what_is_no_instance_is_refused_with_the_field() {
    let mut world = World::with("do: [{w: {wait: PT1S}}]");
    world.start("a", json!({}));
    world.fold_all();
    let good = world.instances[&key("a")].fields.clone();
    let with = |name: &str, bytes: &'static [u8]| {
        let mut fields = good.clone();
        fields.insert(name.to_owned(), Bytes::from_static(bytes));
        Instance::load(key("a"), fields).unwrap_err().to_string()
    };
    let without = |name: &str| {
        let mut fields = good.clone();
        fields.remove(name);
        Instance::load(key("a"), fields).unwrap_err().to_string()
    };
    assert_eq!(without("h"), "stored instance has no field `h`");
    assert_eq!(without("i"), "stored instance has no field `i`");
    assert_eq!(
        without("f0"),
        "cannot decode field `f1` of a stored instance: parent 0 is missing"
    );
    assert!(with("f1", b"{}").starts_with("cannot decode field `f1`"));
    assert!(with("h", br#"{"v":99,"new":1}"#).contains("version 99"));
    assert!(with("zz", b"1").contains("`zz`"));
    assert!(with("in", b"{").contains("`in`"));
    assert!(matches!(
        Instance::load::<String, Bytes>(key("a"), []),
        Err(LoadError::Missing("i"))
    ));
    assert!(Instance::load(key("a"), good).is_ok());
}

/// What is written today must be readable for ever: this is one of everything.
#[test]
fn golden() {
    let body = "
do:
- first: {set: {n: 1}, export: {as: '${ {c: 1} }'}}
- f:
    timeout: {after: PT1H}
    fork:
      branches:
      - step: {call: 'silent:1.0.0@default', with: {n: 2}}
      - loop: {input: {from: '${ {m: .n} }'}, for: {in: '${ [1,2] }'}, do: [{w: {wait: PT1S}}]}
      - retry: {try: [{x: {call: 'fail:1.0.0@default'}}], catch: {retry: {delay: PT1M}}}
      - done: {set: {d: 1}, export: {as: '${ {own: 1} }'}}
      - child: {run: {workflow: {namespace: default, name: child, version: '1.0.0'}}}
      - inline: {call: fn, with: {a: 1}}
use: {functions: {fn: {wait: PT5S}}}
";
    let mut world = World::with(body);
    world.define("child", "do: [{w: {wait: PT9S}}]");
    world.start("a", json!({"in": 1}));
    world.run_until(START_MS);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engine/golden.txt");
    let fields: String = world.instances[&key("a")]
        .fields
        .iter()
        .map(|(name, bytes)| format!("{name} {}\n", String::from_utf8_lossy(bytes)))
        .collect();
    if std::env::var_os("MILLRACE_WRITE_GOLDEN").is_some() {
        std::fs::write(path, &fields).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(
        fields, golden,
        "the stored form changed: old instances must still load"
    );
    let read = golden.lines().map(|line| line.split_once(' ').unwrap());
    world.instances.get_mut(&key("a")).unwrap().live = Some(Instance::load(key("a"), read).unwrap());
    world.control("a", ControlKind::Cancel);
    world.run();
    world.assert_clean();
}

#[test]
fn memory_is_estimated() {
    let mut world = World::with("do: [{s: {call: 'silent:1.0.0@default', with: {big: '${ .x }'}}}]");
    world.start("a", json!({"x": "x".repeat(50_000)}));
    world.fold_all();
    let estimate = world.instance("a").approx_bytes();
    assert!((200_000..1_000_000).contains(&estimate), "{estimate}");
    world.control("a", ControlKind::Cancel);
    assert!(world.instance("a").approx_bytes() < estimate);
}
