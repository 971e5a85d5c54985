//! The parser and the official JSON Schema accept the same definitions, but for a written list of differences.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/nodes.rs"]
mod nodes;
mod support;

use std::collections::HashSet;

use jsonschema::Validator;
use millrace_dsl::{Diagnostic, Severity, parse};
use nodes::{every_change, pointers, shape};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};
use support::{Random, SAMPLE, files, mutate, show, specification};

/// Faults of definitions that the schema accepts: fragments of pointer and message. Everything else that we refuse
/// and the schema accepts fails the test.
const STRICTER: &[(&str, &str)] = &[
    // The root object is open in the schema; a mistyped key would be ignored.
    ("", "in the definition"),
    // Objects that the schema forgot to close.
    ("/with", "in `with` of `call: mcp`"),
    ("/transport", "in `transport`"),
    ("/correlate", "in a correlation"),
    ("", "in an authentication policy"),
    ("/errors", "in `errors`"),
    ("/with", "in `with`"),
    ("/stdio", "in `stdio`"),
    ("/backoff", "in `exponential`"),
    ("/event", "in `event`"),
    ("/oauth2/endpoints", "in `endpoints`"),
    ("/request", "in `request`"),
    // Ours alone.
    ("/metadata/millrace", ""),
    ("/backoff/exponential/", ""),
    // Holes of the schema.
    ("/schedule", "`schedule` is empty"),
    ("/schedule/every", "must be longer"),
    ("/jitter", "ends before it starts"),
    ("/with", "needs one of agentCard, server"),
    ("/all", "lists no event"),
    ("/branches", "is empty"),
    ("", "second default case"),
    ("", "expected an integer from"),
    ("/duration", "the duration"),
    // Names: RFC 1123 labels have lower case letters only.
    ("", "is not a valid name"),
    ("", "is not a valid namespace"),
    ("", "expected a name, found"),
    // Words and texts with a meaning.
    ("", "is not a cron expression"),
    ("", "expected a cron expression"),
    ("", "is not a semantic version"),
    ("", "expected a version"),
    ("", "expected a format"),
    ("/format", "the schema format"),
    ("/document", "invalid schema"),
    ("", "is not an HTTP method"),
    ("", "is not the name of a"),
    ("", "cannot be the name of a variable"),
    ("", "have the same name"),
    ("", "duplicate task name"),
    ("", "expected the name of a"),
    ("/then", "expected `continue`"),
    ("", "is not a URI"),
    ("/language", "are not supported"),
    ("/language", "unknown script language"),
    // Attributes of events and environments are scalars.
    ("/with/", "expected a text, found"),
    ("/environment/", "expected a text, found"),
    ("/ports/", "expected a text, found"),
    ("/volumes/", "expected a text, found"),
    // Fetched once, at deploy: nothing is computed then.
    ("", "is not an address to fetch a document from"),
    // References.
    ("", "unknown authentication"),
    ("", "unknown call"),
    ("", "unknown catalog"),
    ("", "unknown error"),
    ("", "unknown retry policy"),
    ("", "unknown secret"),
    ("", "unknown timeout"),
    ("", "unknown task"),
    ("", "cannot go to"),
    ("", "does not say which version"),
    // Expressions compile.
    ("", "the expression is empty"),
    ("", "unknown function"),
    ("", "unknown variable"),
    ("", "unexpected"),
];

/// Places of a mutated document that the schema refuses and the parser accepts.
const LOOSER: &[&str] = &[
    // Items of an inline collection may be any value, not only objects.
    "/for/in",
    // The host may be an expression.
    "/with/service/host",
    // So may the authority.
    "/authority",
    // Empty parameters do no harm.
    "/a2a/with/parameters",
];

/// YAML → JSON, as far as the schema's file needs it.
fn json(text: &str) -> Value {
    let mut stack: Vec<(Value, Option<String>)> = Vec::new();
    let mut root = Value::Null;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let done = match event.unwrap().0 {
            Event::SequenceStart(..) => {
                stack.push((Value::Array(Vec::new()), None));
                continue;
            }
            Event::MappingStart(..) => {
                stack.push((Value::Object(Map::new()), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => stack.pop().unwrap().0,
            Event::Scalar(text, ScalarStyle::Plain, ..) => match serde_json::from_str(&text) {
                Ok(value @ (Value::Bool(_) | Value::Number(_) | Value::Null)) => value,
                _ => Value::String(text.into_owned()),
            },
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            _ => continue,
        };
        match stack.last_mut() {
            None => root = done,
            Some((Value::Array(items), _)) => items.push(done),
            Some((Value::Object(members), key)) => match key.take() {
                Some(key) => _ = members.insert(key, done),
                None => *key = Some(done.as_str().map_or_else(|| done.to_string(), str::to_owned)),
            },
            Some(_) => unreachable!(),
        }
    }
    root
}

fn accepted_by_us(document: &Value) -> Result<(), Vec<Diagnostic>> {
    parse(&document.to_string()).map(drop).map_err(|faults| {
        faults
            .into_iter()
            .filter(|f| f.severity == Severity::Error)
            .collect()
    })
}

/// What is wrong with the verdicts on a document, if they differ in a way that is not listed.
fn difference(schema: &Validator, document: &Value, place: &str) -> Option<String> {
    let theirs = schema.is_valid(document);
    let Err(faults) = accepted_by_us(document) else {
        let listed = theirs || LOOSER.iter().any(|l| place.contains(l));
        return (!listed).then(|| format!("only the schema refuses {place} {document}"));
    };
    let listed = |f: &Diagnostic| {
        STRICTER
            .iter()
            .any(|(pointer, message)| f.pointer.contains(pointer) && f.message.contains(message))
    };
    let unlisted: Vec<Diagnostic> = faults.into_iter().filter(|f| !listed(f)).collect();
    match theirs && !unlisted.is_empty() {
        true => Some(format!("only we refuse {document}\n{}", show(&unlisted))),
        false => None,
    }
}

/// The official schema, our sample and the examples of the specification.
fn material() -> Option<(Validator, Vec<Value>)> {
    let spec = specification()?;
    let read = |path: &std::path::Path| json(&std::fs::read_to_string(path).unwrap());
    let schema = jsonschema::validator_for(&read(&spec.join("schema/workflow.yaml"))).unwrap();
    let mut documents = vec![json(SAMPLE)];
    documents.extend(files(spec.join("examples"), "yaml").iter().map(|f| read(f)));
    for document in &documents {
        assert!(schema.is_valid(document), "{document}");
    }
    Some((schema, documents))
}

/// Every node of every document is deleted, duplicated, renamed, and replaced by a value of each other type; nodes at the
/// same place of different documents count once.
#[test]
fn same_as_the_official_schema_for_every_node() {
    let Some((schema, documents)) = material() else {
        return;
    };
    let (mut seen, mut differences, mut count) = (HashSet::new(), Vec::new(), 0);
    for document in &documents {
        for pointer in pointers(document) {
            if !seen.insert(shape(document, &pointer)) {
                continue;
            }
            for changed in every_change(document, &pointer) {
                count += 1;
                differences.extend(difference(&schema, &changed, &pointer));
            }
        }
    }
    eprintln!("{count} documents compared");
    assert!(count > 5_000, "only {count} documents were made");
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn same_as_the_official_schema_for_random_changes() {
    let Some((schema, documents)) = material() else {
        return;
    };
    let (mut random, mut differences) = (Random(7), Vec::new());
    for i in 0..6_000 {
        let mut document = documents[i % documents.len()].clone();
        let place = mutate(&mut document, &mut random);
        differences.extend(difference(&schema, &document, &place));
    }
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
}
