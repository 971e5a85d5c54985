//! `emit` and `listen`.

use millrace_common::{ControlKind, RecordBody, StepOutcome};
use millrace_engine::{Ignored, Instance, Outcome, Status, WaitingKind};
use serde_json::{Value, json};

use crate::world::{START_MS, World, key, run_to_fault};

fn sent(world: &World) -> Vec<Value> {
    world.events.iter().map(|e| e.raw.decode().unwrap()).collect()
}

// ---------------------------------------------------------------- emit

#[test]
fn an_emitted_event_is_published_as_it_is_the_output() {
    let mut world = World::with(
        "do: [{e: {emit: {event: {with: {type: a.b, subject: '${ .s }', tenant: 7, data: {n: '${ .n }'}}}}}}]",
    );
    world.start("a", json!({"s": "x", "n": 1.5}));
    world.run();
    world.assert_clean();
    let output = world.output("a");
    assert_eq!(sent(&world), std::slice::from_ref(&output));
    assert_eq!(output["data"], json!({"n": 1.5}));
    assert_eq!(
        (&output["type"], &output["subject"], &output["tenant"]),
        (&json!("a.b"), &json!("x"), &json!(7))
    );
    assert_eq!(world.events[0].kind, "a.b");
}

#[test]
fn each_iteration_emits_its_own_event_and_a_retry_the_same_again() {
    let mut world = World::with(
        "
do:
- loop:
    for: {in: '${ [1, 2] }'}
    do:
    - t:
        try:
        - e: {emit: {event: {with: {type: a, data: '${ $item }'}}}}
        - f: {call: 'flaky:1.0.0@default', with: {failures: 1}}
        catch: {retry: {limit: {attempt: {count: 3}}}}
",
    );
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    assert_eq!(
        sent(&world).iter().map(|e| e["data"].clone()).collect::<Vec<_>>(),
        [json!(1), json!(2)]
    );
}

#[test]
fn what_is_no_event_faults_the_task() {
    for (with, says) in [
        ("{type: '${ null }'}", "`type` is missing"),
        ("{type: t, source: '${ \"a b\" }'}", "`source` is not a URI"),
        ("{type: t, time: '${ \"now\" }'}", "`time` is not a time"),
        ("{type: t, subject: '${ 1 }'}", "`subject` must be a text"),
        ("{type: t, data: '${ \"x\" * 300000 }'}", "at most"),
    ] {
        let body = format!("do: [{{e: {{emit: {{event: {{with: {with}}}}}}}}}]");
        let problem = run_to_fault(&body, json!({}));
        assert!(
            problem.detail.as_deref().unwrap_or_default().contains(says),
            "{with}: {problem}"
        );
        assert_eq!(problem.instance.as_deref(), Some("/do/0/e"));
    }
}

// ---------------------------------------------------------------- listen

fn listening(to: &str) -> World {
    listening_with(to, "")
}

/// One instance `a` that listens; `more` stands beside `listen` or behind the task.
fn listening_with(to: &str, more: &str) -> World {
    let mut world = World::with(&format!("do:\n- l:\n    listen: {{to: {to}}}\n{more}"));
    world.start("a", json!({"order": "o1", "n": 7}));
    world.fold_all();
    assert_eq!(world.status("a"), Status::Waiting);
    assert_eq!(world.instance("a").waiting_for()[0].kind, WaitingKind::Event);
    world
}

fn output_of(mut world: World) -> Value {
    world.run();
    world.assert_clean();
    world.output("a")
}

#[test]
fn one_takes_the_first_event_that_matches() {
    let mut world = listening("{one: {with: {type: t}}}");
    world.publish("1", "other", json!(1));
    assert_eq!(world.status("a"), Status::Waiting);
    world.publish("2", "t", json!({"x": 1}));
    world.publish("3", "t", json!({"x": 2}));
    assert_eq!(output_of(world), json!([{"x": 1}]));
}

#[test]
fn any_without_until_ends_with_the_first_event() {
    let mut world = listening("{any: [{with: {type: t}}, {with: {type: u}}]}");
    world.publish("1", "u", json!(1));
    assert_eq!(output_of(world), json!([1]));
    let mut world = listening("{any: []}");
    world.publish("1", "whatever", json!(2));
    assert_eq!(output_of(world), json!([2]));
}

#[test]
fn all_takes_one_event_for_each_filter_in_order_of_consumption() {
    let mut world = listening("{all: [{with: {type: t}}, {with: {type: u}}]}");
    world.publish("1", "u", json!("u1"));
    world.publish("2", "u", json!("u2"));
    assert_eq!(world.status("a"), Status::Waiting);
    world.publish("3", "t", json!("t1"));
    assert_eq!(output_of(world), json!(["u1", "t1"]));
}

#[test]
fn an_event_that_fits_two_filters_of_all_counts_for_one() {
    let mut world = listening("{all: [{with: {type: t}}, {with: {source: /test}}]}");
    world.publish("1", "t", json!(1));
    assert_eq!(world.status("a"), Status::Waiting);
    world.publish("2", "t", json!(2));
    assert_eq!(output_of(world), json!([1, 2]));
}

#[test]
fn until_as_an_expression_sees_the_events_so_far() {
    let mut world = listening("{any: [{with: {type: t}}], until: '${ length >= 2 and (map(.) | add) > 2 }'}");
    for n in 1..4 {
        world.publish(&n.to_string(), "t", json!(n));
    }
    assert_eq!(output_of(world), json!([1, 2]));
}

#[test]
fn until_as_a_strategy_is_not_part_of_the_output() {
    let to = "{any: [{with: {type: t}}], until: {all: [{with: {type: stop}}, {with: {type: t, data: '${ . == 9 }'}}]}}";
    let mut world = listening(to);
    world.publish("1", "t", json!(1));
    world.publish("2", "t", json!(9));
    world.publish("3", "t", json!(9));
    world.publish("4", "stop", json!("x"));
    assert_eq!(
        output_of(world),
        json!([1, 9]),
        "the second 9 is taken by `any` again"
    );
}

#[test]
fn attributes_are_equal_or_match_a_pattern_as_a_whole() {
    for (with, event, matches) in [
        ("{type: a.b}", json!({"type": "a.b"}), true),
        ("{type: a.b}", json!({"type": "aXb"}), false),
        ("{type: 'a\\..*'}", json!({"type": "a.b.c"}), true),
        ("{type: 'a|b'}", json!({"type": "ab"}), false),
        ("{type: 'a|b'}", json!({"type": "a|b"}), true),
        ("{type: '(', source: /test}", json!({"type": "("}), true),
        (
            "{type: t, subject: '${ .order }'}",
            json!({"type": "t", "subject": "o1"}),
            true,
        ),
        (
            "{type: t, subject: '${ \".*\" }'}",
            json!({"type": "t", "subject": "o1"}),
            false,
        ),
        ("{type: t, tenant: 7}", json!({"type": "t", "tenant": 7}), true),
        ("{type: t, tenant: 7}", json!({"type": "t"}), false),
        (
            "{data: '${ .n > 1 }'}",
            json!({"type": "t", "data": {"n": 2}}),
            true,
        ),
        (
            "{data: '${ .n > 1 }'}",
            json!({"type": "t", "data": {"n": 1}}),
            false,
        ),
        (
            "{data: '${ .n.m }'}",
            json!({"type": "t", "data": {"n": 1}}),
            false,
        ),
        (
            "{data: '${ .n == $input.n }'}",
            json!({"type": "t", "data": {"n": 7}}),
            true,
        ),
        ("{data: {n: 1}}", json!({"type": "t", "data": {"n": 1}}), true),
        (
            "{data: {n: 1}}",
            json!({"type": "t", "data": {"n": 1, "m": 2}}),
            false,
        ),
        (
            "{data: {n: '${ .n }'}}",
            json!({"type": "t", "data": {"n": 5}}),
            true,
        ),
    ] {
        let mut world = listening(&format!("{{one: {{with: {with}}}}}"));
        let mut event = event;
        event["id"] = json!("1");
        world.publish_with(event.clone());
        let ended = world.status("a") == Status::Completed;
        assert_eq!(ended, matches, "{with} {event}");
    }
}

#[test]
fn what_is_read() {
    let event = json!({"id": "1", "type": "t", "data": {"x": 1.50}});
    for (read, expected) in [
        ("data", json!([{"x": 1.50}])),
        ("raw", json!(["{\"x\":1.5}"])),
        (
            "envelope",
            json!([{"specversion": "1.0", "source": "/test", "id": "1", "type": "t", "data": {"x": 1.50}}]),
        ),
    ] {
        let body = format!("do: [{{l: {{listen: {{to: {{one: {{with: {{type: t}}}}}}, read: {read}}}}}}}]");
        let mut world = World::with(&body);
        world.start("a", json!({}));
        world.fold_all();
        world.publish_with(event.clone());
        assert_eq!(output_of(world), expected, "{read}");
    }
    for (content_type, base64, expected) in [
        ("application/json", "eyJhIjoxfQ==", json!({"a": 1})),
        ("text/plain", "aGk=", json!("hi")),
        ("image/png", "/wA=", json!("/wA=")),
    ] {
        let mut world = listening("{one: {with: {type: t}}}");
        world.publish_with(
            json!({"id": "1", "type": "t", "datacontenttype": content_type, "data_base64": base64}),
        );
        assert_eq!(output_of(world), json!([expected]), "{content_type}");
    }
}

#[test]
fn a_correlation_compares_what_it_finds_with_what_is_expected() {
    let mut world =
        listening("{one: {with: {type: t}, correlate: {o: {from: .data.order, expect: '${ .order }'}}}}");
    let interest = world.listeners.values().next().unwrap().clone();
    let plan = millrace_engine::Definitions::plan(&world.library, world.instance("a").definition()).unwrap();
    let routes = plan.routes(&interest);
    assert_eq!(
        (routes[0].kind.as_deref(), &routes[0].values),
        (Some("t"), &vec!["o1".to_owned()])
    );
    world.publish("1", "t", json!({"order": "o2"}));
    world.publish("2", "t", json!({"order": null}));
    assert_eq!(world.status("a"), Status::Waiting);
    world.publish("3", "t", json!({"order": "o1", "n": 1}));
    assert_eq!(output_of(world), json!([{"order": "o1", "n": 1}]));
}

#[test]
fn a_number_equals_the_text_that_is_expected() {
    let mut world = listening("{one: {with: {type: t}, correlate: {o: {from: .data.n, expect: '7'}}}}");
    world.publish("1", "t", json!({"n": 8}));
    world.publish("2", "t", json!({"n": 7}));
    assert_eq!(output_of(world), json!([{"n": 7}]));
}

#[test]
fn without_expect_the_first_event_fixes_the_key_for_all_filters() {
    let correlate = "correlate: {room: {from: .roomid}}";
    let to = format!("{{all: [{{with: {{type: t}}, {correlate}}}, {{with: {{type: u}}, {correlate}}}]}}");
    let mut world = listening(&to);
    let send = |world: &mut World, id: &str, kind: &str, room: Value| {
        world.publish_with(json!({"id": id, "type": kind, "roomid": room, "data": id}));
    };
    send(&mut world, "1", "t", Value::Null);
    send(&mut world, "2", "t", json!("red"));
    let interest = world.listeners.values().next().unwrap().clone();
    let plan = millrace_engine::Definitions::plan(&world.library, world.instance("a").definition()).unwrap();
    assert_eq!(
        plan.routes(&interest).len(),
        1,
        "the filter that had its event is not filed any more"
    );
    assert_eq!(plan.routes(&interest)[0].values, ["red"]);
    send(&mut world, "3", "u", json!("blue"));
    send(&mut world, "4", "u", json!("red"));
    assert_eq!(output_of(world), json!(["2", "4"]));
}

#[test]
fn a_key_is_fixed_for_one_listening_only() {
    let body = "
do:
- loop:
    for: {in: '${ [1, 2] }'}
    do:
    - l:
        listen: {to: {all: [{with: {type: t}, correlate: {k: {from: .data}}}, {with: {type: u}, correlate: {k: {from: .data}}}]}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.fold_all();
    for (id, kind, data) in [
        ("1", "t", 1),
        ("2", "u", 1),
        ("3", "t", 2),
        ("4", "u", 1),
        ("5", "u", 2),
    ] {
        world.publish(id, kind, json!(data));
    }
    assert_eq!(output_of(world), json!([2, 2]));
}

#[test]
fn a_repeat_of_an_event_is_consumed_once() {
    let mut world = listening("{any: [{with: {type: t}}], until: '${ length == 2 }'}");
    world.publish("1", "t", json!(1));
    let again = world.events[0].clone();
    let listener = world.listeners.keys().next().unwrap().1;
    world.append(
        &key("a"),
        RecordBody::Event {
            frame: listener,
            event: again.raw.clone(),
        },
    );
    world.fold_all();
    assert_eq!(
        *world.outcomes.last().unwrap(),
        Outcome::Ignored(Ignored::StaleEvent)
    );
    world.publish("2", "t", json!(2));
    assert_eq!(world.status("a"), Status::Completed);
    world.append(
        &key("a"),
        RecordBody::Event {
            frame: listener,
            event: again.raw,
        },
    );
    world.fold_all();
    assert_eq!(*world.outcomes.last().unwrap(), Outcome::Ignored(Ignored::Ended));
    assert_eq!(output_of(world), json!([1, 2]));
}

#[test]
fn foreach_works_on_one_event_after_the_other() {
    let more = "    foreach:
      item: event
      at: i
      do:
      - s: {call: 'echo:1.0.0@default', with: {e: '${ $event }', i: '${ $i }'}}
      output: {as: '${ .input }'}
      export: {as: '${ {last: $output.i} }'}
- after: {set: {list: '${ . }', context: '${ $context }'}}
";
    let mut world = listening_with(
        "{any: [{with: {type: t}}], until: {one: {with: {type: stop}}}}",
        more,
    );
    for n in 1..4 {
        world.publish(&n.to_string(), "t", json!(n));
    }
    assert_eq!(world.dispatched.len(), 1, "the others wait for the first one");
    world.publish("9", "stop", json!(0));
    let expected =
        json!({"list": [{"e": 1, "i": 0}, {"e": 2, "i": 1}, {"e": 3, "i": 2}], "context": {"last": 2}});
    assert_eq!(output_of(world), expected);
}

#[test]
fn until_is_asked_after_each_iteration_of_foreach() {
    let more = "    foreach: {output: {as: '${ $item * 10 }'}}\n";
    let mut world = listening_with("{any: [{with: {type: t}}], until: '${ add >= 30 }'}", more);
    for n in 1..4 {
        world.publish(&n.to_string(), "t", json!(n));
    }
    assert_eq!(output_of(world), json!([10, 20]));
}

#[test]
fn end_in_foreach_ends_the_workflow_with_what_there_is() {
    let more = "    foreach:
      do:
      - d: {switch: [{big: {when: '${ $item > 1 }', then: end}}, {else: {then: exit}}]}
- never: {set: {n: 1}}
";
    let mut world = listening_with("{any: [{with: {type: t}}], until: '${ false }'}", more);
    for n in 1..4 {
        world.publish(&n.to_string(), "t", json!(n));
    }
    assert_eq!(output_of(world), json!([1, 2]));
}

#[test]
fn an_error_in_foreach_is_caught_outside_and_the_listening_ends() {
    let body = "
do:
- t:
    try:
    - l:
        listen: {to: {any: [{with: {type: t}}], until: '${ false }'}}
        foreach: {do: [{f: {raise: {error: {type: 'https://x.test/e', status: 500}}}}]}
    catch: {do: [{c: {set: {caught: '${ $error.instance }'}}}]}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.fold_all();
    world.publish("1", "t", json!(1));
    assert_eq!(
        output_of(world),
        json!({"caught": "/do/0/t/try/0/l/foreach/do/0/f"})
    );
}

#[test]
fn a_branch_that_lost_in_its_foreach_listens_no_more() {
    let mut world = World::with(
        "
do:
- f:
    fork:
      compete: true
      branches:
      - l: {listen: {to: {all: [{with: {type: t}}, {with: {type: u}}]}}, foreach: {do: [{x: {raise: {error: {type: 'https://e.x/y', status: 400}}}}]}}
      - w: {wait: PT1M}
",
    );
    world.start("a", json!({}));
    world.fold_all();
    world.publish("1", "t", json!(1));
    assert!(world.listeners.is_empty());
    world.run();
    world.assert_clean();
    assert_eq!(world.status("a"), Status::Completed);
}

#[test]
fn a_timeout_and_a_cancel_end_the_listening() {
    let mut world = listening_with("{one: {with: {type: t}}}", "    timeout: {after: PT5S}\n");
    world.run();
    world.assert_clean();
    assert_eq!(world.error("a").status, 408);
    let mut world = listening("{one: {with: {type: t}}}");
    world.control("a", ControlKind::Cancel);
    world.assert_clean();
    assert_eq!(world.status("a"), Status::Cancelled);
}

#[test]
fn a_retry_listens_anew() {
    let body = "
do:
- t:
    try:
    - l: {listen: {to: {one: {with: {type: t}}}}}
    - f: {call: 'flaky:1.0.0@default', with: {failures: 1}}
    catch: {retry: {limit: {attempt: {count: 3}}}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    world.fold_all();
    world.publish("1", "t", json!(1));
    world.run();
    assert_eq!(world.status("a"), Status::Waiting);
    world.publish("2", "t", json!(2));
    world.run();
    world.assert_clean();
}

#[test]
fn a_suspended_instance_keeps_events() {
    let mut world = listening("{any: [{with: {type: t}}], until: '${ length == 3 }'}");
    world.control("a", ControlKind::Suspend);
    for n in 1..5 {
        world.publish(&n.to_string(), "t", json!(n));
    }
    assert_eq!(world.status("a"), Status::Suspended);
    world.control("a", ControlKind::Resume);
    assert_eq!(output_of(world), json!([1, 2, 3]));
}

#[test]
fn a_listening_that_ends_during_a_suspension_goes_on_after_it() {
    for until in ["{one: {with: {type: stop}}}", "{any: [{with: {type: stop}}]}"] {
        let mut world = listening(&format!("{{any: [{{with: {{type: t}}}}], until: {until}}}"));
        world.publish("1", "t", json!(1));
        world.control("a", ControlKind::Suspend);
        world.publish("2", "stop", json!(0));
        world.control("a", ControlKind::Resume);
        assert_eq!(output_of(world), json!([1]), "{until}");
    }
}

#[test]
fn the_tasks_of_foreach_do_not_write_the_events_again() {
    let more = "    foreach: {item: event, do: [{w: {wait: PT1S}}, {s: {set: {n: 1}}}, {x: {wait: PT1S}}, {y: {wait: PT1S}}]}
";
    let mut world = listening_with("{any: [{with: {type: t}}], until: '${ length == 1 }'}", more);
    world.publish("1", "t", json!("x".repeat(100_000)));
    let before = world.instances[&key("a")].bytes_written;
    world.run_until(START_MS + 2_500);
    let written = world.instances[&key("a")].bytes_written - before;
    assert!(written < 5_000, "{written}");
    assert_eq!(output_of(world), json!([{"n": 1}]));
}

/// What earlier builds wrote: the events in the field in which the data of the list is now.
#[test]
fn a_listening_of_an_earlier_build_goes_on() {
    let more = "    foreach: {item: event, do: [{w: {wait: PT1S}}, {s: {set: {n: '${ $event }'}}}, {x: {wait: PT1S}}]}
";
    let mut world = listening_with("{any: [{with: {type: t}}], until: '${ length == 2 }'}", more);
    world.publish("1", "t", json!(1));
    world.publish("2", "t", json!(2));
    world.run_until(START_MS + 1_500);
    let stored = world.instances.get_mut(&key("a")).unwrap();
    stored.flush();
    let mut held: Value = serde_json::from_slice(&stored.fields.remove("q1").unwrap()).unwrap();
    let data = stored.fields.remove("v1").unwrap();
    held["d"] = serde_json::from_slice(&data).unwrap();
    stored.fields.insert("v1".into(), held.to_string().into());
    stored.live = Some(Instance::load(key("a"), stored.fields.clone()).unwrap());
    assert_eq!(output_of(world), json!([{"n": 1}, {"n": 2}]));
}

#[test]
fn an_operators_retry_keeps_what_was_consumed() {
    let more = "    foreach: {do: [{s: {call: 'fails:1.0.0@default', with: {e: '${ $item }'}}}]}\n";
    let mut world = listening_with("{all: [{with: {type: t}}, {with: {type: u}}]}", more);
    world.worker = Box::new(|_| crate::world::Answer::Silent);
    world.publish("1", "t", json!("t"));
    let step = world.dispatched.last().unwrap().clone();
    let problem = millrace_common::Problem::new(millrace_common::ErrorKind::Communication, "down");
    world.result(&key("a"), &step, StepOutcome::Error(problem));
    world.fold_all();
    assert_eq!(world.status("a"), Status::Faulted);
    assert!(world.listeners.is_empty());
    world.control("a", ControlKind::Retry);
    assert_eq!(world.listeners.len(), 1);
    world.worker = crate::world::default_worker();
    let again = world.dispatched.last().unwrap().clone();
    assert_eq!((again.key == step.key, again.attempt), (true, 2));
    world.publish("2", "u", json!("u"));
    let output = output_of(world);
    assert_eq!(output[0]["input"]["e"], "t");
    assert_eq!(output[1]["input"]["e"], "u");
}

#[test]
fn what_a_listening_holds_is_bounded() {
    let mut world = listening("{any: [{with: {type: t}}], until: '${ false }'}");
    let max = millrace_common::limits::LISTEN_EVENTS_MAX;
    for n in 0..=max {
        world.publish(&n.to_string(), "t", json!(n));
    }
    assert!(
        world
            .error("a")
            .detail
            .unwrap()
            .contains("at most 1000 are allowed")
    );
    let mut world = listening("{any: [{with: {type: t}}], until: '${ false }'}");
    for n in 0..4 {
        world.publish(&n.to_string(), "t", json!("x".repeat(250_000)));
    }
    assert!(world.error("a").detail.unwrap().contains("bytes of events"));
    world.assert_clean();
}

#[test]
fn an_event_that_is_emitted_beside_a_listening_reaches_it() {
    let body = "
do:
- f:
    fork:
      branches:
      - e: {emit: {event: {with: {type: t, data: 1}}}}
      - l: {listen: {to: {one: {with: {type: t}}}}}
";
    let mut world = World::with(body);
    world.start("a", json!({}));
    let output = output_of(world);
    assert_eq!(output[1], json!([1]));
}

#[test]
fn a_filter_that_remembers_too_much_is_refused() {
    let body = "
do:
- s: {set: {x: '${ [range(30000)] }'}}
- l: {listen: {to: {one: {with: {data: '${ . == $input.x }'}}}}}
";
    let problem = run_to_fault(body, json!({}));
    assert!(problem.detail.unwrap().contains("`correlate` and `expect`"));
}

#[test]
fn time_passes_while_it_listens() {
    let mut world = listening_with("{one: {with: {type: t}}}", "    timeout: {after: PT5S}\n");
    world.run_until(START_MS + 4_000);
    world.publish("1", "t", json!(1));
    assert_eq!(output_of(world), json!([1]));
}
