//! Large forks and loops cost in proportion; and how long a step takes.

use std::time::Duration;

use serde_json::json;

use crate::world::{Answer, Order, Split, World, key};

struct Cost {
    bytes: usize,
    time: Duration,
}

fn fork(n: usize) -> Cost {
    let branches: String = (0..n)
        .map(|i| format!("      - b{i}: {{call: 'noop:1.0.0@default', with: {{n: {i}}}}}\n"))
        .collect();
    let body = format!("do:\n- f:\n    fork:\n      branches:\n{branches}");
    let mut world = World::with(&body);
    world.split = Split::Every;
    world.order = Order::Last;
    world.worker = Box::new(|step| Answer::Raw(step.input.text().to_owned()));
    world.start("a", json!({}));
    world.run();
    world.assert_clean();
    let output = world.output("a");
    assert_eq!(
        (output[0].clone(), output[n - 1].clone()),
        (json!({"n": 0}), json!({"n": n - 1}))
    );
    Cost {
        bytes: world.instances[&key("a")].bytes_written,
        time: world.engine_time,
    }
}

fn loops(n: usize) -> Cost {
    let body = "do: [{l: {for: {in: '${ [range(.count)] }'}, do: [{s: {call: 'noop:1.0.0@default', with: {n: '${ $item }'}}}]}}]";
    let mut world = World::with(body);
    world.split = Split::Every;
    world.worker = Box::new(|step| Answer::Raw(step.input.text().to_owned()));
    world.start("a", json!({"count": n}));
    world.run();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"n": n - 1}));
    Cost {
        bytes: world.instances[&key("a")].bytes_written,
        time: world.engine_time,
    }
}

fn inline(n: usize) -> Cost {
    let body = "do: [{l: {for: {in: '${ [range(.count)] }'}, do: [{s: {set: {n: '${ $item }'}}}]}}]";
    let mut world = World::with(body);
    world.split = Split::Every;
    world.start("a", json!({"count": n}));
    world.run();
    world.assert_clean();
    Cost {
        bytes: world.instances[&key("a")].bytes_written,
        time: world.engine_time,
    }
}

/// Bytes are exact; time is measured on a busy machine, so the best of a few tries counts.
fn assert_linear(what: &str, run: impl Fn(usize) -> Cost, n: usize) {
    let mut ratio = f64::MAX;
    for _ in 0..6 {
        let (small, large) = (run(n), run(10 * n));
        let bytes = large.bytes as f64 / small.bytes as f64;
        assert!(
            bytes <= 15.0,
            "{what}: {bytes} times the bytes for 10 times the work"
        );
        ratio = ratio.min(large.time.as_secs_f64() / small.time.as_secs_f64());
        println!(
            "{what}: {} bytes, {:?}; x10: {bytes:.1} bytes, {ratio:.1} time",
            large.bytes, large.time
        );
        if ratio <= 15.0 {
            return;
        }
    }
    panic!("{what}: {ratio} times the time for 10 times the work");
}

#[test]
fn a_fork_of_10_000_costs_ten_times_one_of_1_000() {
    assert_linear("fork", fork, 1000);
}

#[test]
fn a_for_of_10_000_costs_ten_times_one_of_1_000() {
    assert_linear("for", loops, 1000);
}

#[test]
fn an_inline_for_of_100_000_costs_ten_times_one_of_10_000() {
    assert_linear("inline for", inline, 10_000);
}

/// `cargo test --release --workspace --test engine speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed() {
    for (what, call) in [
        ("inherited input", "call: 'noop:1.0.0@default'"),
        (
            "with arguments",
            "call: 'noop:1.0.0@default', with: {n: '${ .n + 1 }', text: abc}",
        ),
        (
            "with arguments, output and export",
            "call: 'noop:1.0.0@default', with: {n: '${ .n + 1 }'}, output: {as: '${ {n: .n} }'}, export: {as: '${ $context + {n: .n} }'}",
        ),
    ] {
        let tasks: Vec<String> = (0..10).map(|n| format!("{{t{n}: {{{call}}}}}")).collect();
        let body = format!("do: [{}]", tasks.join(", "));
        let runs = 20_000;
        let mut engine_time = Duration::ZERO;
        let mut bytes = 0;
        for _ in 0..4 {
            let mut world = World::with(&body);
            world.split = Split::Every;
            world.worker = Box::new(|step| Answer::Raw(step.input.text().to_owned()));
            for n in 0..runs / 4 {
                world.start(
                    &format!("run-{n}"),
                    json!({"n": 1, "order": {"id": "12345", "items": [1, 2, 3]}}),
                );
                world.run();
            }
            engine_time += world.engine_time;
            bytes += world.instances.values().map(|s| s.bytes_written).sum::<usize>();
        }
        let steps = runs * 10;
        println!(
            "{what}: {:.2} µs and {} bytes a step (starts and ends included)",
            engine_time.as_secs_f64() * 1e6 / steps as f64,
            bytes / steps
        );
    }
}
