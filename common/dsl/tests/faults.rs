//! Invalid definitions, and what is said about them: place, message and hint of every fault.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use millrace_common::limits;
use millrace_dsl::{Diagnostic, Severity, parse};

/// First line of the definitions below, so that they start at line 2.
const HEAD: &str = "document: { dsl: 1.0.3, namespace: test, name: test, version: 1.0.0 }\n";

fn faults(source: &str) -> Vec<Diagnostic> {
    match parse(source) {
        Ok(parsed) => parsed.warnings,
        Err(faults) => faults,
    }
}

/// `line:column: error: message | hint`
fn line(fault: &Diagnostic) -> String {
    match &fault.hint {
        Some(hint) => format!("{fault} | {hint}"),
        None => fault.to_string(),
    }
}

/// Checks cases that are separated by lines of `===`: YAML, then `---` and how the lines of the faults start, one for
/// each fault.
fn check(prefix: &str, cases: &str) {
    let mut failed = String::new();
    let mut count = 0;
    for case in cases.split("\n===\n") {
        let (source, expected) = case.split_once("\n---\n").expect("a case has a `---` line");
        let source = source.trim_start_matches('\n');
        let found: Vec<String> = faults(&format!("{prefix}{source}")).iter().map(line).collect();
        let expected: Vec<&str> = expected.lines().filter(|l| !l.is_empty()).collect();
        let same =
            found.len() == expected.len() && found.iter().zip(&expected).all(|(f, e)| f.starts_with(e));
        if !same {
            failed += &format!(
                "{source}\n--- found\n{}\n--- expected\n{}\n\n",
                found.join("\n"),
                expected.join("\n")
            );
        }
        count += 1;
    }
    assert!(failed.is_empty(), "{failed}");
    assert!(count > 0);
}

#[test]
fn yaml() {
    check("", include_str!("faults/yaml.txt"));
}

#[test]
fn schedules() {
    check("", include_str!("faults/schedule.txt"));
}

#[test]
fn head() {
    check("", include_str!("faults/head.txt"));
}

#[test]
fn tasks() {
    check(HEAD, include_str!("faults/tasks.txt"));
}

#[test]
fn flow() {
    check(HEAD, include_str!("faults/flow.txt"));
}

#[test]
fn expressions() {
    check(HEAD, include_str!("faults/expressions.txt"));
}

#[test]
fn calls() {
    check(HEAD, include_str!("faults/calls.txt"));
}

#[test]
fn errors() {
    check(HEAD, include_str!("faults/errors.txt"));
}

#[test]
fn events() {
    check(HEAD, include_str!("faults/events.txt"));
}

#[test]
fn data() {
    check(HEAD, include_str!("faults/data.txt"));
}

#[test]
fn reuse() {
    check(HEAD, include_str!("faults/use.txt"));
}

#[test]
fn pointers_name_the_node() {
    let found = faults(&format!(
        "{HEAD}do:\n- a/b:\n    set: {{ x: '${{ $nope }}' }}\n    thn: end\n"
    ));
    let pointers: Vec<&str> = found.iter().map(|f| f.pointer.as_str()).collect();
    assert_eq!(pointers, ["/do/0/a~1b/set/x", "/do/0/a~1b/thn"]);
}

#[test]
fn warnings_do_not_refuse() {
    let parsed = parse(&format!("{HEAD}do:\n- a:\n    set: {{ x: .y }}\n")).unwrap();
    assert_eq!(parsed.warnings.len(), 1);
    assert_eq!(parsed.warnings[0].severity, Severity::Warning);
}

#[test]
fn many_warnings_do_not_hide_an_error() {
    let tasks: String = (0..600)
        .map(|i| format!("- t{i}: {{ set: {{ x: .y }} }}\n"))
        .collect();
    let found = faults(&format!("{HEAD}do:\n{tasks}- last: {{ call: htpp }}\n"));
    assert_eq!(found.len(), 501);
    assert_eq!(found[500].severity, Severity::Error);
}

#[test]
fn a_definition_has_a_size() {
    let source = format!("{HEAD}do: []\n# {}", "y".repeat(limits::DEFINITION_BYTES_MAX));
    let found = faults(&source);
    let (length, max) = (source.len(), limits::DEFINITION_BYTES_MAX);
    assert_eq!(
        found[0].message,
        format!("the definition has {length} bytes, at most {max} are allowed")
    );
}

#[test]
fn a_definition_has_a_number_of_tasks() {
    let max = limits::DEFINITION_TASKS_MAX;
    let tasks = |n: usize| {
        (0..n)
            .map(|i| format!("- t{i}: {{ set: {{ x: 1 }} }}\n"))
            .collect::<String>()
    };
    assert!(faults(&format!("{HEAD}do:\n{}", tasks(max))).is_empty());
    let found = faults(&format!("{HEAD}do:\n{}", tasks(max + 2)));
    assert_eq!(found.len(), 1);
    assert_eq!(
        line(&found[0]),
        format!("{}:3: error: a definition has at most {max} tasks", max + 3)
    );
}

#[test]
fn nesting_is_bounded() {
    for deep in [
        "- ".repeat(100_000),
        "[".repeat(100_000),
        "{a: ".repeat(90),
        "? ".repeat(100_000),
    ] {
        let found = faults(&format!("{HEAD}do: {deep}"));
        assert_eq!(found.len(), 1, "{}", found[0]);
    }
    let mut chain = String::from("use:\n  functions:\n");
    for i in 0..200 {
        chain += &format!("    f{i}: {{ call: f{} }}\n", i + 1);
    }
    let found = faults(&format!("{HEAD}{chain}    f200: {{ set: {{ x: 1 }} }}\ndo: []\n"));
    assert!(!found.is_empty());
    assert!(
        found
            .iter()
            .all(|f| f.message == "task lists and functions nest deeper than 64 levels")
    );
}

#[test]
fn deep_definitions_fit_on_a_small_stack() {
    let lists = |inner: &str| format!("{}{inner}{}", "do: [ { t: { ".repeat(27), " } } ]".repeat(27));
    let wide = lists("try: [ { t: { for: { in: .x }, do: [ { t: { call: g } } ] } } ], catch: {}");
    let deep = lists(&format!("set: {}1{}", "{ x: [ ".repeat(5), " ] }".repeat(5)));
    let source = format!(
        "{HEAD}use:\n  functions:\n    f: {{ {wide} }}\n    g: {{ {deep} }}\ndo:\n- a: {{ call: f }}\n"
    );
    let parser = std::thread::Builder::new().stack_size(512 * 1024);
    let found = parser.spawn(move || faults(&source)).unwrap().join().unwrap();
    assert!(found.is_empty(), "{}", line(&found[0]));
}

#[test]
fn aliases_are_bounded() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..10 {
        let items = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb += &format!("a{i}: &a{i} [{items}]\n");
    }
    let found = faults(&bomb);
    assert_eq!(found[0].message, "aliases add more than 50000 values");
}

#[test]
fn hostile_texts_are_refused_quickly() {
    let names: String = (0..9_000)
        .map(|i| format!("    function-{i}: {{ set: {{ x: 1 }} }}\n"))
        .collect();
    let calls: String = (0..9_000)
        .map(|i| format!("- t{i}: {{ call: funktion-{i} }}\n"))
        .collect();
    let texts = [
        (
            "unknown names",
            format!("{HEAD}use:\n  functions:\n{names}do:\n{calls}"),
        ),
        ("nested mappings", "a: ".repeat(150_000)),
        ("escapes", format!("{HEAD}do: \"{}", "\\u0041\n".repeat(60_000))),
        (
            "surrogates",
            format!("{{\"a\": \"{}\"}}", "\\ud83d\\ude00".repeat(40_000)),
        ),
        (
            "duplicates",
            (0..60_000).map(|i| format!("k{}: 1\n", i % 30_000)).collect(),
        ),
        ("digits", format!("{HEAD}do: {}", "9".repeat(500_000))),
        (
            "keys of one task",
            format!(
                "{HEAD}do:\n- a:\n{}",
                (0..50_000).map(|i| format!("    k{i}: 1\n")).collect::<String>()
            ),
        ),
        ("comments", "#\n".repeat(250_000)),
        ("a long line", format!("{HEAD}do: [{}]", "5, ".repeat(200_000))),
    ];
    for (name, text) in texts {
        let started = processor_time();
        faults(&text);
        let (took, size) = (processor_time() - started, text.len());
        assert!(took.as_secs() < 3, "{name}: {took:?} for {size} bytes");
        eprintln!("{name}: {took:?} for {size} bytes");
    }
}

/// What this thread has used of a processor: other than wall time, it does not grow when the machine is busy. The kernel
/// counts it in hundredths of a second.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name before the bracket may hold anything; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
