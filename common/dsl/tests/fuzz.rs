//! Bytes from outside: the corpus is replayed in every run, and a mutator that knows the languages' words makes more of
//! it. No panic, no hang. `tools/fuzz` runs the mutator for long, and libFuzzer, which adds to the corpus.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;
#[path = "support/surface.rs"]
mod surface;

use std::path::Path;
use std::time::{Duration, Instant};

use millrace_common::event::decode_base64;
use support::Random;

/// Time for one input. Far above what any needs on an idle machine, because the machine may be busy.
const INPUT_TIME_MAX: Duration = Duration::from_secs(20);

/// Inputs that take longer are shown.
const SLOW: Duration = Duration::from_millis(500);

/// Inputs of one part in an ordinary run of the tests.
const INPUTS: u64 = 3_000;

/// Bytes of an input that was mutated: longer ones are cut.
const INPUT_BYTES_MAX: usize = 4_096;

/// Pieces that the languages are made of.
const WORDS: [&str; 96] = [
    "do:\n",
    "- a:\n",
    "    set: ",
    "call: http",
    "with: ",
    "{ ",
    " }",
    "[ ",
    " ]",
    ": ",
    ", ",
    "\n",
    "  ",
    "'",
    "\"",
    "${ ",
    " }",
    "try:",
    "catch:",
    "retry:",
    "for:",
    "in: ",
    "while: ",
    "fork:",
    "branches:",
    "switch:",
    "when: ",
    "then: ",
    "end",
    "exit",
    "raise:",
    "error: ",
    "type: ",
    "status: ",
    "wait: ",
    "PT5S",
    "P1DT2H",
    "P1W",
    "PT",
    "P",
    "T",
    "Y",
    "M",
    "W",
    "D",
    "H",
    "S",
    "1.5",
    ".",
    ".a",
    ".[0]",
    "[]",
    "|",
    "| map(",
    "select(",
    "reduce .[] as $x (",
    "foreach .[] as $x (",
    "; ",
    ")",
    "$context",
    "$input",
    "$x",
    "def f: ",
    "if . then 1 else 2 end",
    "//",
    "?",
    "..",
    "\\(",
    "@base64",
    "test(\"",
    "gsub(\"",
    "splits(\"",
    "range(9)",
    "limit(3; ",
    "repeat(.)",
    "error(",
    "try ",
    "catch ",
    "1e999",
    "-0",
    "nan",
    "infinite",
    "{id}",
    "{",
    "}",
    "%2F",
    "{a,b}",
    "{+a}",
    "&a ",
    "*a",
    "!!str ",
    "|-\n",
    ">-\n",
    "\u{0}",
    "\u{1F600}",
    "\u{FEFF}",
];

/// A file for each input that somebody wrote, and one with a line of base64 for each that libFuzzer found.
fn corpus(part: &str) -> Vec<Vec<u8>> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(all.join(part))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut inputs: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!inputs.is_empty(), "no corpus for {part}");
    let found = std::fs::read_to_string(all.join(format!("{part}.found"))).unwrap();
    inputs.extend(found.lines().map(|line| decode_base64(line).unwrap()));
    inputs
}

/// Runs one input; a panic or a slow end shows what it was.
fn feed(part: &str, run: fn(&[u8]), input: &[u8]) {
    let begun = Instant::now();
    let ended = std::panic::catch_unwind(|| run(input));
    let took = begun.elapsed();
    let shown = || String::from_utf8_lossy(input).into_owned();
    assert!(ended.is_ok(), "{part} panicked on {:?}", shown());
    assert!(took < INPUT_TIME_MAX, "{part} took {took:?} for {:?}", shown());
}

#[test]
fn the_corpus_does_no_harm() {
    for (part, run) in surface::PARTS {
        for input in corpus(part) {
            feed(part, run, &input);
        }
    }
}

/// `MILLRACE_FUZZ_INPUTS` inputs of each part in thousands, `MILLRACE_FUZZ_SEED` the seed of the first run,
/// `MILLRACE_FUZZ_PART` one part alone.
#[test]
fn mutated_inputs_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let inputs = number("MILLRACE_FUZZ_INPUTS").map_or(INPUTS, |thousands| thousands * 1_000);
    let seed = number("MILLRACE_FUZZ_SEED").unwrap_or(1);
    let only = std::env::var("MILLRACE_FUZZ_PART").ok();
    for (part, run) in surface::PARTS {
        if only.as_ref().is_some_and(|only| only != part) {
            continue;
        }
        let seeds = corpus(part);
        let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
        let mut random = Random(seed);
        for _ in 0..inputs {
            let input = mutated(&seeds, &mut random);
            let at = Instant::now();
            feed(part, run, &input);
            let took = at.elapsed();
            if took > slowest && took > SLOW {
                eprintln!("{part}: {took:.1?} for {:?}", String::from_utf8_lossy(&input));
            }
            slowest = slowest.max(took);
        }
        let took = begun.elapsed();
        eprintln!("{part}: {inputs} inputs from seed {seed} in {took:.1?}, the slowest {slowest:.1?}");
    }
}

/// One to eight changes of an input of the corpus: pieces are inserted, removed, repeated, swapped with another input's,
/// and bytes flipped.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.pick(seeds).clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(24)).min(input.len());
        match random.below(7) {
            0 => drop(input.drain(at..end)),
            1 | 2 => drop(input.splice(at..at, random.pick(&WORDS).bytes())),
            3 => {
                let copied = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                drop(input.splice(to..to, copied));
            }
            4 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                let to = (from + random.below(64)).min(other.len());
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            5 if at < input.len() => input[at] ^= 1 << random.below(8),
            6 if at < input.len() => input[at] = *random.pick(b"0123456789-.{}[]()$\"'|,:;#&*?!%@\\ \n\t"),
            _ => input.truncate(input.len() - random.below(input.len() / 4 + 1)),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}
