//! What holds for every history: seeded, so that a failure can be repeated.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_common::{
    ChildOutcome, ControlKind, ErrorKind, Problem, Progress, RawJson, Record, RecordBody, StepOutcome,
    StepResult, TimerId,
};
use millrace_engine::{Instance, Outcome, apply};
use serde_json::{Value, json};

use crate::world::{Order, Random, Split, World, document, key};

/// A definition that uses everything, with choices by chance.
fn definition(random: &mut Random, depth: usize) -> String {
    let extensions = extensions(random);
    format!(
        "{extensions}timeout: {{after: PT2H}}\ndo: {}",
        list(random, depth, 0)
    )
}

fn extensions(random: &mut Random) -> String {
    let extension = |n: usize, random: &mut Random| {
        let kinds = ["all", "call", "composite", "try", "for", "wait", "set", "raise"];
        let extend = kinds[random.below(kinds.len())];
        let when = ["", "when: '${ $task.call == null }', "][random.below(2)];
        let exit = ["", ", {x: {if: '(.n? // 1) > 2', set: {n: 0}, then: exit}}"][random.below(2)];
        let (before, after) = (task(random, 0, 0), task(random, 0, 0));
        format!(
            "{{e{n}: {{extend: {extend}, {when}before: [{{b: {before}}}{exit}], after: [{{a: {after}}}]}}}}"
        )
    };
    let extensions = match random.below(3) {
        0 => format!("[{}, {}]", extension(0, random), extension(1, random)),
        _ => "[]".to_owned(),
    };
    format!(
        "use: {{functions: {{undo: {{call: 'noop:1.0.0@default'}}, book: {{call: 'noop:1.0.0@default', metadata: \
         {{millrace: {{compensateWith: undo}}}}}}}}, extensions: {extensions}}}\n"
    )
}

fn list(random: &mut Random, depth: usize, level: usize) -> String {
    let count = 1 + random.below(3);
    let tasks: Vec<String> = (0..count)
        .map(|n| format!("{{t{n}: {}}}", task(random, depth, level)))
        .collect();
    format!("[{}]", tasks.join(", "))
}

fn task(random: &mut Random, depth: usize, level: usize) -> String {
    let leaf = depth == 0;
    let common = match random.below(6) {
        0 => "export: {as: '${ $context + {k: (($context.k // 0) + 1)} }'}, ",
        1 => "input: {from: '${ {n: (.n // 1)} }'}, ",
        2 => "output: {as: '${ {n: ((.n? // 1) | tonumber? // 2)} }'}, ",
        3 => "timeout: {after: PT3M}, ",
        _ => "",
    };
    let list = |random: &mut Random| list(random, depth - 1, level + 1);
    let kind = match random.below(if leaf { 7 } else { 13 }) {
        0 => "set: {n: '${ (.n? // 0) + 1 }'}".to_owned(),
        1 => "call: 'noop:1.0.0@default', with: {n: '${ .n? // 1 }'}".to_owned(),
        2 => "call: 'flaky:1.0.0@default', with: {failures: 1}".to_owned(),
        3 => "wait: PT5S".to_owned(),
        4 => "call: 'echo:1.0.0@default'".to_owned(),
        5 => "if: '(.n? // 1) > 1', raise: {error: {type: 'https://example.com/x', status: 409}}".to_owned(),
        6 => "call: book, with: {n: '${ .n? // 1 }'}".to_owned(),
        7 => format!("do: {}", list(random)),
        8 => {
            let parallel = [
                "",
                ", metadata: {millrace: {for: {mode: parallel, maxConcurrency: 2}}}",
            ];
            format!(
                "for: {{in: '${{ [1,2,3] }}', each: v{level}, at: i{level}}}, do: {}{}",
                list(random),
                parallel[random.below(2)]
            )
        }
        9 | 10 => {
            let branches: Vec<String> = (0..1 + random.below(4))
                .map(|n| format!("{{b{n}: {}}}", task(random, depth - 1, level + 1)))
                .collect();
            let compete = random.below(4) == 0;
            format!(
                "fork: {{compete: {compete}, branches: [{}]}}",
                branches.join(", ")
            )
        }
        _ => {
            let retry = ["", "retry: {delay: PT1S, limit: {attempt: {count: 2}}}, "][random.below(2)];
            let handler = match random.below(2) {
                0 => format!("do: {}", list(random)),
                _ => String::new(),
            };
            let saga = ["", ", metadata: {millrace: {saga: true}}"][random.below(2)];
            format!("try: {}, catch: {{{retry}{handler}}}{saga}", list(random))
        }
    };
    format!("{{{common}{kind}}}")
}

/// Runs a definition with wishes of operators strewn in.
fn world(seed: u64, split: Split, wishes: bool) -> World {
    let mut random = Random(seed);
    let text = definition(&mut random, 3);
    let mut world = World::new();
    world.define_text(&document("flow", &text));
    world.split = split;
    world.random = Random(seed ^ 0xabcd);
    world.order = Order::First;
    world.start("a", json!({"n": random.below(3)}));
    if wishes {
        for _ in 0..random.below(6) {
            for _ in 0..random.below(8) {
                world.fold_all();
                world.answer_one();
            }
            let now = world.now_ms + random.below(20_000) as i64;
            world.run_until(now);
            let wish = [
                ControlKind::Suspend,
                ControlKind::Resume,
                ControlKind::Retry,
                ControlKind::Resume,
            ];
            world.control("a", wish[random.below(4)]);
        }
        world.control("a", ControlKind::Resume);
    }
    world.run();
    world
}

/// Folds a history again; gives the stored fields and trace.
fn refold(world: &World, history: &[Record], mut at: impl FnMut(&mut Option<Instance>, usize)) -> String {
    let mut live = None;
    for (n, record) in history.iter().enumerate() {
        apply(&world.library, &mut live, record);
        at(&mut live, n);
    }
    let mut stored = crate::world::Stored {
        live,
        ..crate::world::Stored::default()
    };
    stored.flush();
    stored.text()
}

#[test]
fn everything_comes_to_an_end_and_leaves_nothing() {
    for seed in 0..400 {
        let world = world(seed, Split::Reload, false);
        world.assert_clean();
    }
}

#[test]
fn with_operators_too() {
    for seed in 0..300 {
        let world = world(seed, Split::Reload, true);
        world.assert_clean();
    }
}

#[test]
fn the_same_log_gives_the_same_bytes_however_it_is_split() {
    for seed in 0..200 {
        let mut whole = world(seed, Split::Every, seed % 2 == 0);
        let expected = whole.dump("a");
        let mut again = world(seed, Split::Reload, seed % 2 == 0);
        assert_eq!(again.dump("a"), expected, "seed {seed}");
        let history: Vec<Record> = whole
            .history
            .iter()
            .filter(|r| r.instance.as_ref() == Some(&key("a")))
            .cloned()
            .collect();
        // never stored before the end
        assert_eq!(refold(&whole, &history, |_, _| {}), expected, "seed {seed}");
        // stored and loaded by chance
        let mut random = Random(seed);
        let mut store = crate::world::Stored::default();
        let fields = refold(&whole, &history, |live, n| {
            if random.below(3) > 0 && n + 1 < history.len() {
                return;
            }
            store.live = live.take();
            store.flush();
            *live = Some(Instance::load(key("a"), store.fields.clone()).unwrap());
        });
        drop(fields);
        assert_eq!(store.text(), expected, "seed {seed}");
    }
}

#[test]
fn records_that_come_again_change_nothing() {
    for seed in 0..150 {
        let mut found = world(seed, Split::Every, seed % 2 == 0);
        let history: Vec<Record> = found
            .history
            .iter()
            .filter(|r| r.instance.as_ref() == Some(&key("a")))
            .cloned()
            .collect();
        let mut random = Random(seed);
        let mut store = crate::world::Stored::default();
        let mut live = None;
        for (n, record) in history.iter().enumerate() {
            apply(&found.library, &mut live, record);
            let old = &history[random.below(n + 1)];
            if matches!(old.body, RecordBody::Control { .. }) {
                continue;
            }
            store.live = live.take();
            store.flush();
            let before = store.text();
            let outcome = apply(&found.library, &mut store.live, old).outcome;
            store.flush();
            assert!(matches!(outcome, Outcome::Ignored(_)), "seed {seed}: {old:?}");
            assert_eq!(store.text(), before, "seed {seed}: {old:?}");
            live = store.live.take();
        }
        store.live = live;
        store.flush();
        assert_eq!(store.text(), found.dump("a"));
    }
}

#[test]
fn forks_do_not_depend_on_the_order_of_results() {
    let body = "
do:
- f:
    fork:
      branches:
      - a: {do: [{a1: {call: 'noop:1.0.0@default', with: {n: 1}, export: {as: '${ $context + {a: 1, x: 1} }'}}}, {a2: {call: 'noop:1.0.0@default', with: {n: '${ .n + 10 }'}}}]}
      - b: {call: 'noop:1.0.0@default', with: {n: 2}, export: {as: '${ $context + {b: 1, x: 2} }'}}
      - c: {for: {in: '${ [1,2,3] }'}, do: [{s: {call: 'noop:1.0.0@default', with: {n: '${ $item }'}}}]}
      - d: {try: [{t: {call: 'flaky:1.0.0@default', with: {failures: 2}}}], catch: {retry: {delay: PT1S}}}
      - e: {fork: {branches: [{x: {call: 'noop:1.0.0@default', with: {n: 5}}}, {y: {call: 'noop:1.0.0@default', with: {n: 6}}}]}}
- r: {set: '${ {out: ., context: $context} }'}
";
    let run = |order: Order, seed: u64| {
        let mut world = World::with(body);
        (world.order, world.random) = (order, Random(seed));
        world.start("a", json!({}));
        world.run();
        world.assert_clean();
        let mut steps: Vec<String> = world.dispatched.iter().map(|d| d.step.clone()).collect();
        steps.sort();
        (world.output("a"), steps)
    };
    let expected = run(Order::First, 0);
    assert_eq!(expected.0["context"], json!({"a": 1, "x": 2, "b": 1}));
    assert_eq!(run(Order::Last, 0), expected);
    for seed in 0..50 {
        assert_eq!(run(Order::Random, seed), expected, "seed {seed}");
    }
}

/// A record that fits nothing, or nearly.
fn garbage(random: &mut Random, world: &World) -> RecordBody {
    let frame = random.below(12) as u32;
    let known = world.dispatched.get(random.below(world.dispatched.len()));
    let step = match (random.below(2), known) {
        (0, Some(d)) => d.step.clone(),
        _ => format!("default/a:{:016x}.{}", random.next(), random.below(3)),
    };
    let raw = RawJson::encode(&match random.below(4) {
        0 => Value::Null,
        1 => json!({"n": "text", "failures": [1]}),
        2 => json!([[[[]]]]),
        _ => json!(1e300),
    })
    .unwrap();
    let problem = Problem {
        instance: Some("/x".into()),
        ..Problem::new(ErrorKind::Timeout, "\u{0}\"")
    };
    match random.below(8) {
        0 | 1 => RecordBody::Result(Box::new(StepResult {
            step,
            frame: known.map_or(frame, |d| d.frame),
            generation: random.below(2) as u32,
            worker: String::new(),
            delivery: 0,
            duration_ms: u64::MAX,
            outcome: match random.below(3) {
                0 => StepOutcome::Output(raw),
                1 => StepOutcome::Error(problem),
                _ => StepOutcome::Cancelled,
            },
            token: String::new(),
        })),
        2 => RecordBody::Progress(Box::new(Progress {
            step,
            frame: known.map_or(frame, |d| d.frame),
            worker: "w".into(),
            delivery: u32::MAX,
            value: Some(raw),
        })),
        3 => RecordBody::Timer {
            timer: TimerId {
                frame,
                number: random.below(9) as u32,
            },
        },
        4 => RecordBody::Continue {
            number: random.below(4) as u64,
        },
        5 => RecordBody::Lost {
            frame: known.map_or(frame, |d| d.frame),
            step,
            generation: random.below(3) as u32,
        },
        6 => RecordBody::ChildEnded {
            frame,
            child: key("x"),
            outcome: ChildOutcome::Faulted(problem),
        },
        _ => {
            let wish = [
                ControlKind::Cancel,
                ControlKind::Suspend,
                ControlKind::Resume,
                ControlKind::Retry,
            ];
            RecordBody::Control {
                action: wish[random.below(4)],
                reason: None,
                reply: None,
            }
        }
    }
}

#[test]
fn garbage_never_panics_and_never_breaks_the_state() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let text = definition(&mut random, 3);
        let mut world = World::new();
        world.define_text(&document("flow", &text));
        world.split = Split::Reload;
        world.start("a", json!({"n": random.below(3)}));
        world.fold_all();
        for _ in 0..60 {
            let now = random.below(30_000) as i64;
            world.now_ms += if random.below(4) == 0 { now } else { 0 };
            let body = garbage(&mut random, &world);
            world.append(&key("a"), body);
            world.fold_all();
            if random.below(3) == 0 {
                world.answer_one();
            }
        }
        world.control("a", ControlKind::Resume);
        world.run();
        world.assert_clean();
    }
}

#[test]
fn times_at_the_edges_do_not_matter() {
    for now in [i64::MIN, -1, 0, i64::MAX] {
        let mut world =
            World::with("do: [{t: {try: [{w: {wait: P9D}}], catch: {}, timeout: {after: P99D}}}]");
        world.now_ms = now;
        world.start("a", json!({}));
        world.fold_all();
        world.control("a", ControlKind::Cancel);
        world.assert_clean();
    }
}

#[test]
fn stored_fields_in_any_order_load_the_same() {
    let mut world = world(3, Split::Reload, false);
    let fields: BTreeMap<String, Bytes> = world.instances[&key("a")].fields.clone();
    let backwards: Vec<(String, Bytes)> = fields.into_iter().rev().collect();
    assert!(Instance::load(key("a"), backwards).is_ok());
    world.dump("a");
}
