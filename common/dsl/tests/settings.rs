//! `metadata.millrace`: the page that describes it, and what is refused where.

use std::collections::BTreeMap;

use millrace_dsl::settings::{Place, SETTINGS};
use millrace_dsl::{Severity, parse, portability, unsupported};

const HEAD: &str = "document: { dsl: 1.0.3, namespace: default, name: a, version: 1.0.0 }\n";

/// Errors and what is not supported, as `line:column message`.
fn refused(source: &str) -> Vec<String> {
    let faults = match parse(source) {
        Ok(parsed) => unsupported(&parsed.document),
        Err(faults) => faults,
    };
    let errors = faults.iter().filter(|f| f.severity == Severity::Error);
    errors
        .map(|f| format!("{}:{} {}", f.span.line, f.span.column, f.message))
        .collect()
}

#[test]
fn the_page_describes_every_key_and_its_place() {
    let page = include_str!("../../../docs/options.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`').to_owned();
        Some((
            name,
            (cells.next()?.to_owned(), line.contains("Not supported yet")),
        ))
    });
    let described: BTreeMap<String, (String, bool)> = rows.collect();
    let place = |p: Place| match p {
        Place::Anywhere => "anywhere",
        Place::Tasks => "tasks",
        Place::For => "`for` tasks",
        Place::Saga => "`try` tasks and the document",
        Place::Document => "the document",
    };
    let known: BTreeMap<String, (String, bool)> = SETTINGS
        .iter()
        .map(|s| {
            let later = s.feature.is_some_and(|f| !f.is_executed());
            (s.name.to_owned(), (place(s.place).to_owned(), later))
        })
        .collect();
    assert_eq!(described, known);
}

#[test]
fn values_are_checked() {
    let rows = [
        ("queue: A b", "`A b` is not a valid queue"),
        (
            "maxDeliveries: 21",
            "expected an integer from 1 to 20, found the number `21`",
        ),
        ("heartbeatTimeout: PT0S", "`heartbeatTimeout` is zero"),
        (
            "scheduleToStartTimeout: '${ .x }'",
            "expected a duration, found an expression",
        ),
        ("idempotencyKey: ''", "the expression is empty"),
        ("nonRetryable: [x]", "`x` is not the type of an error"),
        ("saga: true", "`saga` belongs to a `try` task, or to the document"),
        ("for: {mode: parallel}", "`for` belongs to a `for` task"),
        ("compensateWith: f", "unknown function `f`"),
        ("labels: {gpu: 'yes'}", "`labels` is not supported yet"),
        ("concurrencyKey: .x", "`concurrencyKey` is not supported yet"),
        ("prioritty: 1", "unknown key `prioritty` in `metadata.millrace`"),
    ];
    for (setting, message) in rows {
        let source = format!(
            "{HEAD}do:\n- a: {{ call: 'noop:1.0.0@default', metadata: {{ millrace: {{ {setting} }} }} }}\n"
        );
        let found = refused(&source);
        assert!(
            found.iter().any(|f| f.ends_with(message) && f.starts_with("3:")),
            "{setting}: {found:?}"
        );
    }
}

#[test]
fn keys_of_tasks_are_refused_on_the_document() {
    for key in ["for: {mode: parallel}", "compensateWith: f", "idempotencyKey: .x"] {
        let source = format!(
            "document: {{ dsl: 1.0.3, namespace: default, name: a, version: 1.0.0, metadata: {{ millrace: {{ {key} }} }} }}\ndo: []\n"
        );
        let found = refused(&source);
        assert!(
            found.iter().any(|f| f.contains("belongs to a task")),
            "{key}: {found:?}"
        );
    }
}

#[test]
fn what_others_would_not_know_is_listed_with_its_place() {
    let source = "document: { dsl: 1.0.3, namespace: default, name: a, version: 1.0.0, metadata: { millrace: { saga: true, queue: x } } }
use: { functions: { undo: { set: { x: 1 } } } }
do:
- a:
    call: noop:1.0.0@default
    metadata:
      millrace: { compensateWith: undo, nonRetryable: [ validation ] }
- b:
    try: []
    catch: { retry: { delay: PT1S, backoff: { exponential: { factor: 3 } }, limit: { attempt: { count: 1 } } } }
";
    let parsed = parse(source).unwrap();
    let listed: Vec<String> = portability(&parsed.document)
        .into_iter()
        .map(|f| format!("{}:{} {}", f.span.line, f.span.column, f.message))
        .collect();
    assert_eq!(
        listed,
        [
            "1:94 `metadata.millrace.saga` is known to millrace only",
            "5:5 the function `noop:1.0.0` of the fleet is known to millrace only",
            "7:19 `metadata.millrace.compensateWith` is known to millrace only",
            "7:41 `metadata.millrace.nonRetryable` is known to millrace only",
            "10:62 `factor` of `exponential` is known to millrace only",
        ]
    );
}
