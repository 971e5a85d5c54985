//! YAML 1.2 as JSON, for files of expectations. Apart from the product's own reader on purpose: a test should not trust
//! what it tests.

use anyhow::{Context, bail};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

enum Open {
    Array(Vec<Value>),
    Object(Map<String, Value>, Option<String>),
}

/// Reads one document. No anchors, no tags.
///
/// # Errors
/// When the text is not YAML, or uses more of it than tests need.
pub fn read(text: &str) -> anyhow::Result<Value> {
    let mut events = Parser::new_from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    while let Some(event) = events.next_event() {
        let (event, span) = event.map_err(|e| anyhow::anyhow!("{e}"))?;
        let value = match event {
            Event::SequenceStart(..) => {
                open.push(Open::Array(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Object(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop().context("an end without a start")? {
                Open::Array(items) => Value::Array(items),
                Open::Object(members, _) => Value::Object(members),
            },
            Event::Scalar(text, style, ..) => {
                if let Some(Open::Object(_, key @ None)) = open.last_mut() {
                    *key = Some(text.into_owned());
                    continue;
                }
                scalar(&text, style)
            }
            Event::Alias(_) => bail!("line {}: no aliases here", span.start.line()),
            _ => continue,
        };
        match open.last_mut() {
            None => root = Some(value),
            Some(Open::Array(items)) => items.push(value),
            Some(Open::Object(members, key)) => {
                let key = key.take().context("a value without a key")?;
                members.insert(key, value);
            }
        }
    }
    Ok(root.unwrap_or(Value::Null))
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => true.into(),
        "false" => false.into(),
        _ => number(text).unwrap_or_else(|| text.into()),
    }
}

fn number(text: &str) -> Option<Value> {
    text.parse::<i64>().map(Value::from).ok().or_else(|| {
        let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
        let float: f64 = text.parse().ok().filter(|_| is_number)?;
        serde_json::Number::from_f64(float).map(Value::Number)
    })
}

/// Equality of JSON where `1` is `1.0`: YAML and jq may write the same number in two ways.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}

/// Whether `all` holds everything of `part`: members of objects, equal other values.
pub fn holds(all: &Value, part: &Value) -> bool {
    match (all, part) {
        (Value::Object(all), Value::Object(part)) => part
            .iter()
            .all(|(k, v)| all.get(k).is_some_and(|found| holds(found, v))),
        _ => same(all, part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_what_the_files_use() {
        let text = "a: [ 1, -2.5, 'x', true, ~ ]\nb:\n  on: no\n  t: |\n    two\n    lines\n? c\n: {}\n";
        let expected =
            json!({"a": [1, -2.5, "x", true, null], "b": {"on": "no", "t": "two\nlines\n"}, "c": {}});
        assert_eq!(read(text).unwrap(), expected);
        assert_eq!(read("1\n").unwrap(), json!(1));
        assert_eq!(read("").unwrap(), json!(null));
    }

    #[test]
    fn numbers_are_compared_by_value_and_objects_without_order() {
        assert!(same(&json!({"a": 1, "b": [2]}), &json!({"b": [2.0], "a": 1.0})));
        assert!(!same(&json!({"a": 1}), &json!({"a": 1, "b": null})));
        assert!(holds(
            &json!({"a": {"x": 1, "y": 2}, "b": 3}),
            &json!({"a": {"x": 1}})
        ));
        assert!(!holds(&json!({"a": [1, 2]}), &json!({"a": [1]})));
    }
}
