//! A parallel `for`: a window of iterations, results in order, contexts apart.

use millrace_common::{ControlKind, ErrorKind, Problem, limits};
use serde_json::{Value, json};

use crate::world::{Answer, Order, Split, World, key, run, run_to_fault};

const SETTING: &str = "metadata: {millrace: {for: {mode: parallel, maxConcurrency: 4}}}";

fn body(items: &str, tasks: &str) -> String {
    format!("do: [{{l: {{for: {{in: '${{ {items} }}'}}, do: {tasks}, {SETTING}}}}}]")
}

fn world(body: &str, order: Order, split: Split) -> World {
    let mut world = World::with(body);
    world.order = order;
    world.split = split;
    world.start("a", json!({"n": 1}));
    world
}

#[test]
fn results_stand_in_the_order_of_the_items_whatever_the_order_of_their_ends() {
    let body = body(
        "[range(600)]",
        "[{c: {call: 'noop:1.0.0@default', with: {i: '${ $index }', twice: '${ 2 * $item }', n: '${ .n }'}}}]",
    );
    let expected: Vec<Value> = (0..600)
        .map(|i| json!({"i": i, "twice": 2 * i, "n": 1}))
        .collect();
    for (order, split) in [
        (Order::First, Split::Every),
        (Order::Last, Split::Reload),
        (Order::Random, Split::Random),
    ] {
        let mut world = world(&body, order, split);
        world.run();
        world.assert_clean();
        assert_eq!(world.output("a"), json!(expected));
    }
}

#[test]
fn no_more_than_the_window_runs_at_a_time() {
    let mut world = world(
        &body("[range(50)]", "[{c: {call: 'noop:1.0.0@default'}}]"),
        Order::Random,
        Split::Every,
    );
    world.fold_all();
    let mut most = 0;
    loop {
        most = most.max(world.queue.len());
        if !world.answer_one() {
            break;
        }
        world.fold_all();
    }
    assert_eq!(most, 4);
    assert_eq!(world.output("a").as_array().unwrap().len(), 50);
    world.assert_clean();
}

#[test]
fn iterations_without_steps_need_no_waiting() {
    let found = run(
        &body(
            "[range(2500)]",
            "[{s: {set: {v: '${ $item }'}}}, {t: {set: '${ .v + 1 }'}}]",
        ),
        json!({}),
    );
    assert_eq!(found, json!((1..=2500).collect::<Vec<i32>>()));
}

#[test]
fn no_items_give_no_results() {
    assert_eq!(run(&body("[]", "[]"), json!({"n": 1})), json!([]));
    assert_eq!(run(&body("null", "[]"), json!({"n": 1})), json!([]));
    assert_eq!(
        run(&body("[1, 2]", "[]"), json!({"n": 1})),
        json!([{"n": 1}, {"n": 1}]),
        "an empty body gives the loop's input"
    );
}

#[test]
fn contexts_are_apart_and_merged_in_order() {
    let tasks = "[
        {c: {call: 'noop:1.0.0@default', with: {i: '${ $item }'}, export: {as: '${ $context + {last: .i, (\"k\" + (.i | tostring)): true} }'}}},
        {s: {set: {seen: '${ $context | keys }'}}}]";
    let body = format!(
        "do: [{{x: {{set: {{}}, input: {{from: '.'}}, export: {{as: '${{ {{first: 1}} }}'}}}}}}, {{l: {{for: {{in: '${{ [1, 2, 3] }}'}}, do: {tasks}, {SETTING}}}}}]\noutput: {{as: '${{ {{out: ., context: $context}} }}'}}"
    )
    .replace("set: {}", "set: {y: 1}");
    for order in [Order::First, Order::Last] {
        let mut world = world(&body, order, Split::Reload);
        world.run();
        world.assert_clean();
        let seen = |i: u32| json!({"seen": ["first", format!("k{i}"), "last"]});
        assert_eq!(
            world.output("a"),
            json!({
                "out": [seen(1), seen(2), seen(3)],
                "context": {"first": 1, "last": 3, "k1": true, "k2": true, "k3": true}
            })
        );
    }
}

#[test]
fn exit_ends_an_iteration_and_end_the_workflow() {
    let tasks = "[{s: {switch: [{one: {when: '$item == 1', then: out}}]}}, {t: {set: {i: '${ $item }'}, then: exit}}, {never: {set: {x: 1}}}, {out: {set: {ended: true}, then: end}}]";
    assert_eq!(
        run(&body("[0, 2, 3]", tasks), json!({})),
        json!([{"i": 0}, {"i": 2}, {"i": 3}])
    );
    let mut world = world(
        &body(
            "[0, 1, 2]",
            &tasks.replace(
                "{t: {set: {i: '${ $item }'}, then: exit}}",
                "{t: {call: 'silent:1.0.0@default', then: exit}}",
            ),
        ),
        Order::First,
        Split::Reload,
    );
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"ended": true}));
    assert!(!world.cancelled_steps.is_empty());
}

#[test]
fn the_first_error_cancels_the_others_and_can_be_caught_and_retried() {
    let tasks =
        "[{c: {call: 'fail:1.0.0@default', with: {status: '${ if $item == 2 then 503 else 0 end }'}}}]";
    let fails_at_two = || -> crate::world::Worker {
        let mut fails = 1;
        Box::new(move |step| {
            let input: Value = step.input.decode().unwrap();
            if input["status"] == 503 && fails > 0 {
                fails -= 1;
                return Answer::Error(Problem::new(ErrorKind::Communication, "no"));
            }
            Answer::Output(json!("done"))
        })
    };
    let plain = body("[1, 2, 3]", tasks);
    let mut faulted = world(&plain, Order::First, Split::Reload);
    faulted.worker = fails_at_two();
    faulted.run();
    faulted.assert_clean();
    assert_eq!(faulted.error("a").instance.as_deref(), Some("/do/0/l/do/0/c"));
    faulted.control("a", ControlKind::Retry);
    faulted.run();
    faulted.assert_clean();
    assert_eq!(faulted.output("a"), json!(["done", "done", "done"]));
    let once = |w: &World, n: usize| {
        let keys: Vec<&String> = w.dispatched.iter().map(|d| &d.key).collect();
        assert_eq!(keys.len(), n, "{keys:?}");
    };
    once(&faulted, 5);

    let tried = format!(
        "do: [{{y: {{try: [{}], catch: {{retry: {{delay: PT1S, limit: {{attempt: {{count: 2}}}}}}}}}}}}]",
        &plain["do: [".len()..plain.len() - 1]
    );
    let mut world = world(&tried, Order::Last, Split::Reload);
    world.worker = fails_at_two();
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!(["done", "done", "done"]));
}

#[test]
fn a_timeout_of_the_loop_ends_all_iterations() {
    let body = body("[1, 2, 3]", "[{w: {wait: PT1H}}]")
        .replace(SETTING, &format!("timeout: {{after: PT1M}}, {SETTING}"));
    assert_eq!(run_to_fault(&body, json!({})).status, 408);
}

#[test]
fn results_above_the_bound_fault_the_task_at_the_iteration_that_passes_it() {
    let items = 2 + limits::FOR_RESULTS_BYTES_MAX / 500_000;
    let body = body(
        &format!("[range({})]", items + 20),
        "[{c: {set: {x: '${ \"x\" * 500000 }'}}}]",
    );
    let problem = run_to_fault(&body, json!({}));
    let detail = problem.detail.unwrap();
    assert!(detail.contains("iterations of `for` are too large"), "{detail}");
    assert!(detail.contains("16777216"), "{detail}");
}

#[test]
fn what_one_result_writes_does_not_grow() {
    let body = body(
        "[range(5000)]",
        "[{c: {call: 'noop:1.0.0@default', with: {i: '${ $index }'}}}]",
    );
    let written = |upto: usize, world: &mut World| {
        while world.dispatched.len() < upto {
            world.fold_all();
            world.answer_one();
        }
        world.fold_all();
        world.instances[&key("a")].bytes_written
    };
    let mut world = world(&body, Order::First, Split::Every);
    let (a, b) = (written(500, &mut world), written(1000, &mut world));
    let (c, d) = (written(4000, &mut world), written(4500, &mut world));
    let (early, late) = (b - a, d - c);
    assert!(
        late < early + early / 10,
        "{early} bytes for 500 early ones, {late} for late ones"
    );
    let fields = world.instances[&key("a")].fields.len();
    assert!(fields < 5000 / 256 + 256 + 40, "{fields} fields");
    world.run();
    world.assert_clean();
}

/// Blanks that a worker sent do not count: what is stored has none.
#[test]
fn what_results_count_is_the_same_before_and_after_a_reload() {
    let padded = format!("[{}1]", " ".repeat(700_000));
    let body = body("[range(300)]", "[{c: {call: 'x:1.0.0@default'}}]");
    for split in [Split::Every, Split::Reload] {
        let mut world = World::with(&body);
        world.split = split;
        let padded = padded.clone();
        let mut n = 0;
        world.worker = Box::new(move |_| {
            n += 1;
            match n <= 30 {
                true => Answer::Raw(padded.clone()),
                false => Answer::Output(json!([1])),
            }
        });
        world.start("a", json!({}));
        world.run();
        world.assert_clean();
        assert_eq!(world.output("a"), json!(vec![[1]; 300]));
    }
}
