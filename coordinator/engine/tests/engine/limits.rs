//! Every bound, reached.

use millrace_common::limits::{
    ACTIVATION_TASKS_MAX, INSTANCE_FRAMES_MAX, PAYLOAD_BYTES_MAX, RETRY_ATTEMPTS_MAX, TRACE_ENTRIES_MAX,
};
use millrace_common::{ControlKind, ErrorKind, RecordBody};
use millrace_engine::Status;
use serde_json::json;

use crate::world::{Split, World, key, run};

#[test]
fn a_long_activation_goes_on_in_pieces() {
    let n = ACTIVATION_TASKS_MAX * 3 + 7;
    let body = "
do:
- s: {set: {n: '${ .n + 1 }', max: '${ .max }'}}
- t: {switch: [{again: {when: '.n < .max', then: s}}]}
";
    let mut world = World::with(body);
    world.start("a", json!({"n": 0, "max": n}));
    world.run();
    assert_eq!(world.output("a"), json!({"n": n, "max": n}));
    let pieces = world
        .history
        .iter()
        .filter(|r| matches!(r.body, RecordBody::Continue { .. }))
        .count();
    assert_eq!(pieces, 6);
}

#[test]
fn a_large_fork_begins_in_pieces() {
    let branches: Vec<String> = (0..2500)
        .map(|n| format!("{{b{n}: {{call: 'noop:1.0.0@default'}}}}"))
        .collect();
    let mut world = World::with(&format!(
        "do: [{{f: {{fork: {{branches: [{}]}}}}}}]",
        branches.join(", ")
    ));
    world.split = Split::Every;
    world.start("a", json!({}));
    let record = world.log.pop_front().unwrap();
    world.fold(record);
    assert_eq!(world.dispatched.len(), ACTIVATION_TASKS_MAX as usize - 1);
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a").as_array().unwrap().len(), 2500);
}

#[test]
fn too_many_active_tasks_fault_the_task_that_exceeds() {
    let branches = |n: usize, task: &str| {
        (0..n)
            .map(|i| format!("{{b{i}: {task}}}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let many = branches(300, "{wait: PT1S}");
    let calls = branches(300, "{call: many}");
    let body = format!(
        "use: {{functions: {{many: {{fork: {{branches: [{many}]}}}}}}}}\ndo: [{{f: {{fork: {{branches: [{calls}]}}}}}}]"
    );
    let mut world = World::with(&body);
    world.split = Split::Every;
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let problem = world.error("a");
    let text = problem.detail.clone().unwrap();
    assert_eq!(problem.standard(), Some(ErrorKind::Runtime));
    assert_eq!(
        text.matches(&INSTANCE_FRAMES_MAX.to_string()).count(),
        2,
        "{text}"
    );
}

#[test]
fn retries_without_limit_end_somewhere() {
    let body = "
do:
- t:
    try: [{r: {raise: {error: {type: 'https://example.com/x', status: 409, detail: no}}}}]
    catch: {retry: {}, do: [{h: {set: {detail: '${ $error.detail }'}}}]}
";
    let mut world = World::with(body);
    world.split = Split::Every;
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let text = world.output("a")["detail"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with("no (gave up after") && text.contains(&RETRY_ATTEMPTS_MAX.to_string()),
        "{text}"
    );
}

#[test]
fn the_trace_keeps_the_newest_entries() {
    let body = "do: [{l: {for: {in: '${ [range(40000)] }'}, do: [{s: {set: {n: '${ $item }'}}}]}}]";
    let mut world = World::with(body);
    world.split = Split::Every;
    world.start("a", json!({}));
    world.run();
    let trace = world.trace("a");
    assert_eq!(trace.len() as u64, TRACE_ENTRIES_MAX);
    assert_eq!(trace.last().unwrap()["type"], "instance.completed");
    assert_eq!(trace.last().unwrap()["n"], 40_003);
}

#[test]
fn a_record_for_an_instance_without_definition_sets_it_aside() {
    let mut world = World::with("do: [{w: {wait: PT1S}}]");
    world.start("a", json!({"n": 1}));
    world.fold_all();
    let library = std::mem::take(&mut world.library);
    let fields = world.instances[&key("a")].fields.clone();
    world.instances.get_mut(&key("a")).unwrap().live =
        Some(millrace_engine::Instance::load(key("a"), fields).unwrap());
    world.timers.clear();
    let timer = millrace_common::TimerId { frame: 1, number: 1 };
    world.append(&key("a"), RecordBody::Timer { timer });
    world.fold_all();
    assert_eq!(world.status("a"), Status::Suspended);
    assert!(
        world
            .instance("a")
            .quarantined()
            .unwrap()
            .contains("default/flow@1.0.0")
    );
    world.library = library;
    world.control("a", ControlKind::Resume);
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"n": 1}));
}

#[test]
fn lists_nest_deeply() {
    let mut list = "[{s: {set: {n: '${ .n + 1 }'}}}]".to_owned();
    for _ in 0..30 {
        list = format!("[{{d: {{do: {list}}}}}]");
    }
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    let done = thread
        .spawn(move || run(&format!("do: {list}"), json!({"n": 1})))
        .unwrap();
    assert_eq!(done.join().unwrap(), json!({"n": 2}));
}

#[test]
fn long_expressions_count_as_many_tasks() {
    let body = "do: [{l: {for: {in: '${ [range(20)] }'}, do: [{s: {set: {n: '${ reduce range(100000) as $x (0; . + $x) }'}}}]}}]";
    let mut world = World::with(body);
    world.split = Split::Every;
    world.start("a", json!({}));
    world.run();
    assert_eq!(world.output("a"), json!({"n": 4_999_950_000_u64}));
    let pieces = world
        .history
        .iter()
        .filter(|r| matches!(r.body, RecordBody::Continue { .. }))
        .count();
    assert!((1..=20).contains(&pieces), "{pieces}");
}

#[test]
fn branches_may_not_join_into_a_context_too_large() {
    let branch = |n: usize| {
        format!("{{b{n}: {{set: {{n: 1}}, export: {{as: '${{ {{b{n}: $workflow.input.text}} }}'}}}}}}")
    };
    let branches: Vec<String> = (0..3).map(branch).collect();
    let body = format!("do: [{{f: {{fork: {{branches: [{}]}}}}}}]", branches.join(", "));
    let problem = crate::world::run_to_fault(&body, json!({"text": "x".repeat(PAYLOAD_BYTES_MAX / 2)}));
    assert_eq!(
        (problem.standard(), problem.instance.as_deref()),
        (Some(ErrorKind::Runtime), Some("/do/0/f"))
    );
    assert!(problem.detail.unwrap().contains(&PAYLOAD_BYTES_MAX.to_string()));
}
