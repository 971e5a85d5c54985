//! Damaged definitions: the parser never panics, and what it says has a place in the text.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use millrace_dsl::{Diagnostic, parse};
use serde_json::Value;
use support::{Random, SAMPLE, mutate, show};

const TOKENS: [&str; 30] = [
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "${ .x }",
    "${",
    "|",
    ">-",
    "\n",
    "  ",
    "\t",
    "#",
    "&a ",
    "*a",
    "!x ",
    "? ",
    "---",
    "...",
    "\u{0}",
    "é",
    "😀",
    "do:",
    "then: end",
    "null",
    "-",
    "%YAML 1.2",
];

/// Every fault lies in the text and reads like the others.
fn check(source: &str) {
    let (Ok(faults) | Err(faults)) = parse(source).map(|p| p.warnings);
    let lines: Vec<&str> = source.split('\n').collect();
    for fault in &faults {
        let wrong = complaint(fault, &lines);
        assert!(
            wrong.is_none(),
            "{}: {}\n{source}",
            wrong.unwrap_or_default(),
            show(&faults)
        );
    }
}

fn complaint(fault: &Diagnostic, lines: &[&str]) -> Option<&'static str> {
    let (line, column) = (fault.span.line as usize, fault.span.column as usize);
    let length = lines.get(line.wrapping_sub(1)).map_or(0, |l| l.chars().count());
    let first = fault.message.chars().next();
    match () {
        () if line == 0 || line > lines.len() + 1 => Some("no such line"),
        () if column == 0 || column > length + 1 => Some("no such column"),
        () if first.is_none_or(char::is_uppercase) => Some("starts with a capital"),
        () if fault.message.ends_with('.') => Some("ends with a full stop"),
        () if fault.hint.as_ref().is_some_and(String::is_empty) => Some("an empty hint"),
        () => None,
    }
}

#[test]
fn texts() {
    let mut random = Random(1);
    for _ in 0..600 {
        let mut source: Vec<char> = SAMPLE.chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(source.len());
            let end = (at + random.below(20)).min(source.len());
            match random.below(4) {
                0 => drop(source.drain(at..end)),
                1 => {
                    let token: Vec<char> = random.pick(&TOKENS).chars().collect();
                    source.splice(at..at, token);
                }
                2 => {
                    let copied = source[at..end].to_vec();
                    let to = random.below(source.len());
                    source.splice(to..to, copied);
                }
                _ => source.truncate(source.len() - random.below(source.len() / 8)),
            }
        }
        check(&source.into_iter().collect::<String>());
    }
}

#[test]
fn lines() {
    let mut random = Random(2);
    for _ in 0..600 {
        let mut lines: Vec<String> = SAMPLE.lines().map(str::to_owned).collect();
        for _ in 0..=random.below(4) {
            let at = random.below(lines.len());
            let to = random.below(lines.len());
            match random.below(4) {
                0 => drop(lines.remove(at)),
                1 => lines.swap(at, to),
                2 => lines[at] = format!("{}{}", " ".repeat(random.below(4)), lines[at]),
                _ => lines[at] = lines[at].trim_start_matches(' ').to_owned(),
            }
        }
        check(&lines.join("\n"));
    }
}

#[test]
fn values() {
    let sample = parse(SAMPLE).unwrap_or_else(|f| panic!("{}", show(&f))).document;
    let sample: Value = serde_json::from_str(&millrace_dsl::value::to_json_string(&sample.source)).unwrap();
    let mut random = Random(3);
    for i in 0..900 {
        let mut document = sample.clone();
        for _ in 0..=random.below(3) {
            mutate(&mut document, &mut random);
        }
        check(&if i % 2 == 0 {
            document.to_string()
        } else {
            format!("{document:#}")
        });
    }
}

#[test]
fn the_sample_is_valid() {
    let parsed = parse(SAMPLE).unwrap_or_else(|f| panic!("{}", show(&f)));
    assert!(parsed.warnings.is_empty(), "{}", show(&parsed.warnings));
}
