//! Large forks and loops cost in proportion; and how long a step takes.

use std::time::{Duration, Instant};

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
    let start = Instant::now();
    world.start("a", json!({}));
    world.run();
    let time = start.elapsed();
    world.assert_clean();
    let output = world.output("a");
    assert_eq!(
        (output[0].clone(), output[n - 1].clone()),
        (json!({"n": 0}), json!({"n": n - 1}))
    );
    Cost {
        bytes: world.instances[&key("a")].bytes_written,
        time,
    }
}

fn loops(n: usize) -> Cost {
    let body = "do: [{l: {for: {in: '${ [range(.count)] }'}, do: [{s: {call: 'noop:1.0.0@default', with: {n: '${ $item }'}}}]}}]";
    let mut world = World::with(body);
    world.split = Split::Every;
    world.worker = Box::new(|step| Answer::Raw(step.input.text().to_owned()));
    let start = Instant::now();
    world.start("a", json!({"count": n}));
    world.run();
    let time = start.elapsed();
    world.assert_clean();
    assert_eq!(world.output("a"), json!({"n": n - 1}));
    Cost {
        bytes: world.instances[&key("a")].bytes_written,
        time,
    }
}

fn inline(n: usize) -> Cost {
    let body = "do: [{l: {for: {in: '${ [range(.count)] }'}, do: [{s: {set: {n: '${ $item }'}}}]}}]";
    let mut world = World::with(body);
    world.split = Split::Every;
    let start = Instant::now();
    world.start("a", json!({"count": n}));
    world.run();
    let time = start.elapsed();
    world.assert_clean();
    Cost {
        bytes: world.instances[&key("a")].bytes_written,
        time,
    }
}

fn assert_linear(what: &str, small: &Cost, large: &Cost) {
    let (bytes, time) = (
        large.bytes as f64 / small.bytes as f64,
        large.time.as_secs_f64() / small.time.as_secs_f64(),
    );
    println!(
        "{what}: {} bytes, {:?}; x10: {bytes:.1} bytes, {time:.1} time",
        large.bytes, large.time
    );
    assert!(
        bytes <= 15.0,
        "{what}: {bytes} times the bytes for 10 times the work"
    );
    assert!(
        time <= 15.0 || large.time < Duration::from_secs(1),
        "{what}: {time} times the time for 10 times the work"
    );
}

#[test]
fn a_fork_of_10_000_costs_ten_times_one_of_1_000() {
    assert_linear("fork", &fork(1000), &fork(10_000));
}

#[test]
fn a_for_of_10_000_costs_ten_times_one_of_1_000() {
    assert_linear("for", &loops(1000), &loops(10_000));
}

#[test]
fn an_inline_for_of_100_000_costs_ten_times_one_of_10_000() {
    assert_linear("inline for", &inline(10_000), &inline(100_000));
}
