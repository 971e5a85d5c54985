//! Laws of the fold, for random definitions under random logs (L1):
//!
//! - **split**: however a log is cut into batches, state, trace and effects are the same;
//! - **reload**: also when the state is written and loaded afresh after each batch;
//! - **refold**: from zero, without a checkpoint on the way, the same bytes;
//! - **repeat**: a record that comes again changes nothing, at once or any time later;
//! - **replay**: any part of the log before a checkpoint, folded over it, changes nothing.
//!
//! Two kinds of records are repeatable by nature, and the position in the log is what keeps them from being folded
//! twice: wishes of operators, and progress, of which the last one counts. Those are repeated at once only, and a retry
//! by hand not at all.
//!
//! `MILLRACE_LAWS_RUNS` says how many cases, `MILLRACE_LAWS_SEED` the first one; a failing case prints its seed, its
//! definition and the shortest log that fails.

use millrace_common::{ControlKind, InstanceKey, RawJson, Record, RecordBody};
use millrace_engine::{Effect, Instance, Outcome, apply};
use serde_json::json;

use crate::world::{Library, Order, Random, Split, Stored, World, document};

const RUNS: u64 = 1_000;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the engine knows no environment, a test that is run again does"
)]
fn the_fold_obeys_its_laws() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|n| n.parse::<u64>().expect("a number"))
    };
    let first = number("MILLRACE_LAWS_SEED").unwrap_or(1);
    let runs = number("MILLRACE_LAWS_RUNS").unwrap_or(RUNS);
    let mut records = 0;
    for seed in first..first + runs {
        let (text, world) = case(seed);
        for key in world.instances.keys() {
            let log = log_of(&world, key);
            records += log.len();
            if let Err(broken) = obeys(&world.library, key, &log, seed) {
                report(&world.library, key, &log, seed, &text, &broken);
            }
        }
    }
    println!(
        "laws: seeds {first} to {}, {records} records, 0 broken",
        first + runs - 1
    );
}

fn log_of(world: &World, key: &InstanceKey) -> Vec<Record> {
    let own = |r: &&Record| r.instance.as_ref() == Some(key);
    world.history.iter().filter(own).cloned().collect()
}

/// Fails with the shortest beginning of the log that breaks a law.
fn report(library: &Library, key: &InstanceKey, log: &[Record], seed: u64, text: &str, broken: &str) -> ! {
    let shortest = (1..log.len()).find_map(|n| Some((n, obeys(library, key, &log[..n], seed).err()?)));
    let (n, broken) = shortest.unwrap_or_else(|| (log.len(), broken.to_owned()));
    let shown: Vec<String> = log[..n].iter().map(|r| format!("  {:?}", r.body)).collect();
    panic!(
        "MILLRACE_LAWS_SEED={seed} MILLRACE_LAWS_RUNS=1: {key}: {broken}\n{text}\nthe first {n} of {} records:\n{}",
        log.len(),
        shown.join("\n")
    );
}

// ---------------------------------------------------------------- the laws

/// What a fold gave: stored fields and trace, and the effects of each record.
#[derive(PartialEq)]
struct Found {
    text: String,
    effects: Vec<String>,
}

fn obeys(library: &Library, key: &InstanceKey, log: &[Record], seed: u64) -> Result<(), String> {
    let mut random = Random(seed ^ 0x1a35);
    let expected = fold(library, key, log, |_| Some(false));
    let same = |law: &str, found: &Found| match first_difference(&expected, found) {
        None => Ok(()),
        Some(difference) => Err(format!("{law}: {difference}")),
    };
    same("refold", &fold(library, key, log, |_| None))?;
    same("reload", &fold(library, key, log, |_| Some(true)))?;
    for _ in 0..2 {
        let cuts: Vec<Option<bool>> = log.iter().map(|_| cut(&mut random)).collect();
        same("split", &fold(library, key, log, |n| cuts[n]))?;
    }
    repeats(library, key, log, &mut random, &expected)?;
    replays(library, key, log, &mut random)
}

/// Nothing, the end of a batch, or the end of a batch and a reload.
fn cut(random: &mut Random) -> Option<bool> {
    [None, None, Some(false), Some(true)][random.below(4)]
}

fn first_difference(expected: &Found, found: &Found) -> Option<String> {
    let lines = |a: &str, b: &str| {
        let (mut a, mut b) = (a.lines(), b.lines());
        loop {
            match (a.next(), b.next()) {
                (None, None) => return None,
                (a, b) if a != b => return Some(format!("expected {a:?}, found {b:?}")),
                _ => {}
            }
        }
    };
    let pairs = || expected.effects.iter().zip(&found.effects).enumerate();
    let effect = pairs().find(|(_, (a, b))| a != b);
    effect
        .map(|(n, (a, b))| format!("effects of record {n}: expected {a}, found {b}"))
        .or_else(|| lines(&expected.text, &found.text))
}

/// Folds a log; after each record `cut` says whether a batch ends, and whether the state is loaded afresh then.
fn fold(library: &Library, key: &InstanceKey, log: &[Record], cut: impl Fn(usize) -> Option<bool>) -> Found {
    let mut stored = Stored::default();
    let mut effects = Vec::new();
    for (n, record) in log.iter().enumerate() {
        let transition = apply(library, &mut stored.live, record);
        effects.push(format!("{:?}", transition.effects));
        match cut(n) {
            None => {}
            Some(false) => stored.flush(),
            Some(true) => reload(key, &mut stored),
        }
    }
    stored.flush();
    Found {
        text: stored.text(),
        effects,
    }
}

fn reload(key: &InstanceKey, stored: &mut Stored) {
    stored.flush();
    if stored.live.is_some() {
        stored.live = Some(Instance::load(key.clone(), stored.fields.clone()).unwrap());
    }
}

fn repeats(
    library: &Library,
    key: &InstanceKey,
    log: &[Record],
    random: &mut Random,
    expected: &Found,
) -> Result<(), String> {
    let mut stored = Stored::default();
    for (n, record) in log.iter().enumerate() {
        apply(library, &mut stored.live, record);
        let is_retry = matches!(
            record.body,
            RecordBody::Control {
                action: ControlKind::Retry,
                ..
            }
        );
        if !is_retry {
            repeat(library, &mut stored, record).map_err(|e| format!("repeat: record {n} at once: {e}"))?;
        }
        let old = random.below(n + 1);
        if is_once(&log[old]) {
            repeat(library, &mut stored, &log[old])
                .map_err(|e| format!("repeat: record {old} after record {n}: {e}"))?;
        }
        if random.below(4) == 0 {
            reload(key, &mut stored);
        }
    }
    stored.flush();
    let lost = stored.text() != expected.text;
    (!lost)
        .then_some(())
        .ok_or_else(|| "repeat: the end is another one".to_owned())
}

/// True for a record that changes nothing when it comes a second time, whenever that is.
fn is_once(record: &Record) -> bool {
    !matches!(record.body, RecordBody::Control { .. } | RecordBody::Progress(_))
}

fn repeat(library: &Library, stored: &mut Stored, record: &Record) -> Result<(), String> {
    stored.flush();
    let before = stored.text();
    let transition = apply(library, &mut stored.live, record);
    stored.flush();
    let quiet = transition.effects.iter().all(is_answer);
    let named =
        matches!(transition.outcome, Outcome::Ignored(_)) || matches!(record.body, RecordBody::Progress(_));
    match (named, quiet, stored.text() == before) {
        (true, true, true) => Ok(()),
        (false, ..) => Err(format!("{:?} was applied again", record.body)),
        (_, false, _) => Err(format!(
            "{:?} has effects again: {:?}",
            record.body, transition.effects
        )),
        (.., false) => Err(format!("{:?} changed the state again", record.body)),
    }
}

/// Answers may be given again: to whoever asks, and to a parent that starts its child again.
fn is_answer(effect: &Effect) -> bool {
    match effect {
        Effect::Reply { .. } => true,
        Effect::Send { id, .. } => id == "ended" || id.starts_with("refused:"),
        _ => false,
    }
}

fn replays(library: &Library, key: &InstanceKey, log: &[Record], random: &mut Random) -> Result<(), String> {
    for _ in 0..2 {
        let end = 1 + random.below(log.len());
        let from = random.below(end);
        let mut stored = Stored::default();
        for record in &log[..end] {
            apply(library, &mut stored.live, record);
        }
        reload(key, &mut stored);
        for (n, record) in log[from..end].iter().enumerate().filter(|(_, r)| is_once(r)) {
            repeat(library, &mut stored, record)
                .map_err(|e| format!("replay: records {from} to {end}, at {}: {e}", from + n))?;
        }
    }
    Ok(())
}

// ---------------------------------------------------------------- cases

/// A random definition, run to its end among events, repeats, losses and wishes of operators.
fn case(seed: u64) -> (String, World) {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let text = document("flow", &definition(&mut random));
    let told = Told(seed, &text);
    let mut world = World::new();
    world.define_text(&text);
    // Leaves alone: a child has no children.
    let list = list(&mut random, 0, 1);
    world.define("child", &format!("{USES}timeout: {{after: PT20M}}\ndo: {list}"));
    world.split = Split::Every;
    world.random = Random(seed ^ 0xabcd);
    world.order = Order::Random;
    world.start("a", json!({"n": random.below(3)}));
    for n in 0..40 {
        disturb(&mut world, &mut random, n);
    }
    world.control("a", ControlKind::Resume);
    world.run();
    world.assert_clean();
    drop(told);
    (text, world)
}

/// Tells which case it was when a run of it panics.
struct Told<'a>(u64, &'a str);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("MILLRACE_LAWS_SEED={} MILLRACE_LAWS_RUNS=1\n{}", self.0, self.1);
        }
    }
}

fn disturb(world: &mut World, random: &mut Random, n: usize) {
    match random.below(12) {
        0 | 1 => {
            let kind = format!("e{}", random.below(3));
            world.publish(&n.to_string(), &kind, json!({"n": n}));
        }
        2 => report_progress(world, random),
        3 => lose(world, random),
        4 => {
            let past = world.history.get(random.below(world.history.len())).cloned();
            if let Some(record) = past.filter(is_once) {
                world.append(&record.instance.unwrap(), record.body);
            }
        }
        5 => {
            let now = world.now_ms + random.below(90_000) as i64;
            world.run_until(now);
        }
        6 => {
            let wish = [
                ControlKind::Suspend,
                ControlKind::Resume,
                ControlKind::Resume,
                ControlKind::Retry,
            ];
            world.control("a", wish[random.below(4)]);
        }
        7 if random.below(12) == 0 => world.control("a", ControlKind::Cancel),
        _ => {
            world.fold_all();
            world.answer_one();
        }
    }
    world.fold_all();
}

fn report_progress(world: &mut World, random: &mut Random) {
    let Some((instance, step)) = world.queue.get(random.below(world.queue.len())).cloned() else {
        return;
    };
    world.progress(&instance, &step);
    if random.below(2) == 0
        && let Some(Record {
            body: RecordBody::Progress(progress),
            ..
        }) = world.log.back_mut()
    {
        progress.value = Some(RawJson::encode(&json!({"done": random.below(9)})).unwrap());
    }
}

fn lose(world: &mut World, random: &mut Random) {
    let at = random.below(world.outbox.len());
    let Some(((instance, frame), step)) = world.outbox.iter().nth(at) else {
        return;
    };
    let body = RecordBody::Lost {
        frame: *frame,
        step: step.step.clone(),
        generation: step.generation,
    };
    world.append(&instance.clone(), body);
}

const USES: &str = "use: {functions: {undo: {call: 'noop:1.0.0@default'}, book: {call: 'noop:1.0.0@default', metadata: \
                    {millrace: {compensateWith: undo}}}}}\n";

fn definition(random: &mut Random) -> String {
    let saga = ["", "metadata: {millrace: {saga: true}}, "][random.below(2)];
    let list = list(random, 3, 0);
    format!(
        "{USES}timeout: {{after: PT3H}}\ndo: [{{all: {{{saga}try: {list}, catch: {{errors: {{with: {{status: 418}}}}}}}}}}]"
    )
}

fn list(random: &mut Random, depth: usize, level: usize) -> String {
    let tasks: Vec<String> = (0..1 + random.below(3))
        .map(|n| format!("{{t{n}: {}}}", task(random, depth, level)))
        .collect();
    format!("[{}]", tasks.join(", "))
}

fn task(random: &mut Random, depth: usize, level: usize) -> String {
    let common = match random.below(8) {
        0 => "export: {as: '${ $context + {k: (($context.k // 0) + 1)} }'}, ",
        1 => "input: {from: '${ {n: 1} }'}, ",
        2 => "timeout: {after: PT2M}, ",
        _ => "",
    };
    let kind = match random.below(if depth == 0 { 9 } else { 16 }) {
        0 => "call: book, with: {n: 1}".to_owned(),
        1 => "call: 'noop:1.0.0@default', with: {n: '${ .n? // 1 }'}".to_owned(),
        2 => "call: 'flaky:1.0.0@default', with: {failures: 1}".to_owned(),
        3 => format!("wait: PT{}S", 1 + random.below(40)),
        4 => "if: '(.n? // 1) > 1', raise: {error: {type: 'https://example.com/x', status: 409}}".to_owned(),
        5 => "run: {shell: {command: x}, await: false}".to_owned(),
        // Of a type that no listening takes without end.
        6 => "emit: {event: {with: {type: e0, data: {n: 1}}}}".to_owned(),
        7 => return listen(random, depth, level),
        8 if level > 0 || depth > 1 => "set: {n: '${ (.n? // 0) + 1 }'}".to_owned(),
        8 => "call: 'fail:1.0.0@default', with: {status: 503}".to_owned(),
        9 => format!("do: {}", list(random, depth - 1, level + 1)),
        10 => {
            let mode = [
                "",
                ", metadata: {millrace: {for: {mode: parallel, maxConcurrency: 2}}}",
            ][random.below(2)];
            let list = list(random, depth - 1, level + 1);
            format!("for: {{in: '${{ [1,2,3] }}', each: v{level}, at: i{level}}}, do: {list}{mode}")
        }
        11 | 12 => {
            let branches: Vec<String> = (0..1 + random.below(3))
                .map(|n| format!("{{b{n}: {}}}", task(random, depth - 1, level + 1)))
                .collect();
            let compete = random.below(3) == 0;
            format!(
                "fork: {{compete: {compete}, branches: [{}]}}",
                branches.join(", ")
            )
        }
        13 => {
            let awaited = random.below(4) > 0;
            format!(
                "run: {{workflow: {{namespace: default, name: child, version: '1.0.0', input: {{n: 1}}}}, await: {awaited}}}"
            )
        }
        _ => {
            let retry = ["", "retry: {delay: PT1S, limit: {attempt: {count: 2}}}, "][random.below(2)];
            let handler = match random.below(3) {
                0 => format!("do: {}", list(random, depth - 1, level + 1)),
                _ => String::new(),
            };
            let saga = ["", ", metadata: {millrace: {saga: true}}"][random.below(2)];
            let list = list(random, depth - 1, level + 1);
            format!("try: {list}, catch: {{{retry}{handler}}}{saga}")
        }
    };
    format!("{{{common}{kind}}}")
}

fn listen(random: &mut Random, depth: usize, level: usize) -> String {
    let to = match random.below(4) {
        0 => "one: {with: {type: e0}}",
        1 => "all: [{with: {type: e0}}, {with: {type: e1}}]",
        2 => "any: [{with: {type: e0}}, {with: {type: e1}}], until: '${ length >= 2 }'",
        _ => "any: [{with: {type: e1}}], until: {one: {with: {type: e2}}}",
    };
    let foreach = match random.below(2) {
        0 if depth > 0 => format!(
            ", foreach: {{item: x{level}, at: y{level}, do: {}}}",
            list(random, depth - 1, level + 1)
        ),
        _ => String::new(),
    };
    format!("{{timeout: {{after: PT4M}}, listen: {{to: {{{to}}}}}{foreach}}}")
}
