//! What takes text from outside, as functions of bytes: the fuzzer, the mutator and the replay of the corpus drive the
//! same ones. None of them may panic or take long, whatever the bytes are; what they say about wrong input is for other
//! tests.
#![allow(dead_code, unreachable_pub)]

use millrace_common::CloudEvent;
use millrace_dsl::duration::Duration;
use millrace_dsl::expression::{EvalEnv, Expression, Scope, strip};
use millrace_dsl::uri::UriTemplate;
use millrace_dsl::{Value, value};

/// How the detail of an error ends when the evaluator panicked.
const DEFECT: &str = "please report this expression";

/// What a part does with bytes.
pub type Run = fn(&[u8]);

/// Names of the parts and their functions.
pub const PARTS: [(&str, Run); 5] = [
    ("parse", parse),
    ("expression", expression),
    ("uri", uri),
    ("duration", duration),
    ("event", event),
];

/// Fuel of an evaluation: enough to reach every native filter, little enough for thousands of inputs a second.
const FUEL: u64 = 20_000;

/// A whole definition.
pub fn parse(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(parsed) = millrace_dsl::parse(&text) {
        let _places = millrace_dsl::unsupported(&parsed.document);
    }
}

/// The first line is an expression, the rest JSON that it is evaluated on.
pub fn expression(bytes: &[u8]) {
    let (source, input) = split(bytes);
    let source = strip(&source).map_or(source.as_str(), |(_, inner)| inner);
    let scope = Scope(["context", "input", "item"].map(String::from).to_vec());
    let Ok(expression) = Expression::compile(source, &scope) else {
        return;
    };
    let env = EvalEnv {
        fuel: FUEL,
        ..EvalEnv::at(1_700_000_000_000)
    };
    let mut lookup = |name: &str| (name != "item").then(|| input.clone());
    match expression.evaluate_with(&input, &mut lookup, &env) {
        Ok(found) => drop(value::to_json_string(&found)),
        // A panic inside is caught and becomes an error of the expression. It is a defect all the same.
        Err(problem) => {
            let detail = problem.detail.unwrap_or_default();
            assert!(!detail.ends_with(DEFECT), "{source}");
        }
    }
}

/// The first line is a URI template, the rest JSON that it is filled from.
pub fn uri(bytes: &[u8]) {
    let (source, input) = split(bytes);
    if let Ok(template) = UriTemplate::parse(&source) {
        let _filled = template.expand(&input);
    }
}

/// A duration as text; and, where it is JSON, as data. What is read can be written and read again.
pub fn duration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(read) = Duration::parse_iso8601(&text) {
        assert_eq!(Duration::parse_iso8601(&read.to_string()), Ok(read), "{text}");
    }
    if let Ok(data) = value::parse(&text) {
        let _read = Duration::from_value(&data);
    }
}

/// An event in structured mode, as a batch, and in binary mode: lines of `attribute: value`, an empty one, and the data.
/// What is read can be read again.
pub fn event(bytes: &[u8]) {
    let again = |event: &CloudEvent| {
        let text = event.raw.text();
        assert_eq!(CloudEvent::parse(text.as_bytes()).as_ref(), Ok(event), "{text}");
        let (id, fingerprint) = (event.message_id(), event.fingerprint());
        assert_eq!(id.len(), 32, "{text}: {fingerprint}");
    };
    CloudEvent::parse(bytes).iter().for_each(again);
    CloudEvent::batch(bytes).iter().flatten().for_each(again);
    let at = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, data) = at.map_or((bytes, &[][..]), |at| (&bytes[..at], &bytes[at + 2..]));
    let head = String::from_utf8_lossy(head);
    let pairs = head.lines().filter_map(|line| line.split_once(": "));
    let (types, attributes): (Vec<_>, Vec<_>) = pairs.partition(|(name, _)| *name == "content-type");
    let attributes = attributes
        .into_iter()
        .map(|(name, text)| (name.to_owned(), text.to_owned()));
    let content_type = types.first().map(|(_, text)| *text);
    CloudEvent::binary(attributes, content_type, data)
        .iter()
        .for_each(again);
}

/// The first line, and the rest as JSON; a small object where the rest is none.
fn split(bytes: &[u8]) -> (String, Value) {
    let text = String::from_utf8_lossy(bytes);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let small = || value::parse(r#"{"a":{"b":[1,"x",null]},"id":7,"t":"2026-01-01T00:00:00Z"}"#);
    let input = value::parse(rest).or_else(|_| small()).unwrap_or_default();
    (first.to_owned(), input)
}
