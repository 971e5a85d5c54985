//! The data that flows through a workflow. It is jaq's own value, so that expressions need no conversion:
//! cloning is O(1) (shared arrays and objects), objects keep insertion order, big integers stay exact.

use jaq_json::{Map, Num, Val};
use millrace_common::{ErrorKind, Problem, RawJson, limits};

/// See the module.
pub type Value = Val;

/// A value that is larger than allowed when written out as a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// More values than this, shared parts counted each time they occur.
    #[error("the value has more than {0} nodes")]
    Nodes(usize),
    /// Nested deeper than this.
    #[error("the value is nested deeper than {0} levels")]
    Depth(usize),
}

/// Parses one JSON text.
///
/// # Errors
/// A `validation` problem with line and column when the text is not JSON or nested deeper than
/// `limits::VALUE_DEPTH_MAX`.
pub fn parse(json: &str) -> Result<Value, Problem> {
    let value: serde_json::Value = serde_json::from_str(json)
        .map_err(|e| Problem::new(ErrorKind::Validation, format!("invalid JSON: {e}")))?;
    let value = from_serde(value);
    size_bounded(&value, usize::MAX, limits::VALUE_DEPTH_MAX)
        .map_err(|e| Problem::new(ErrorKind::Validation, e.to_string()))?;
    Ok(value)
}

/// Parses a raw JSON text; see [`parse`].
///
/// # Errors
/// As [`parse`].
pub fn from_raw(raw: &RawJson) -> Result<Value, Problem> {
    parse(raw.text())
}

/// Canonical compact JSON: see [`to_json_string`].
pub fn to_raw(v: &Value) -> RawJson {
    RawJson::parse(to_json_string(v).as_bytes()).unwrap_or_else(|_| RawJson::null())
}

/// Canonical compact JSON, members in insertion order.
pub fn to_json_string(v: &Value) -> String {
    to_serde(v).to_string()
}

/// Converts to serde_json's value.
pub fn to_serde(v: &Value) -> serde_json::Value {
    match v {
        Val::Null => serde_json::Value::Null,
        Val::Bool(b) => serde_json::Value::Bool(*b),
        Val::Num(n) => serde_json::from_str(&n.to_string()).unwrap_or(serde_json::Value::Null),
        Val::BStr(b) | Val::TStr(b) => serde_json::Value::String(String::from_utf8_lossy(b).into_owned()),
        Val::Arr(a) => a.iter().map(to_serde).collect(),
        Val::Obj(o) => o
            .iter()
            .map(|(k, v)| (key_text(k), to_serde(v)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

fn key_text(key: &Value) -> String {
    as_str(key).map_or_else(|| key.to_string(), str::to_owned)
}

/// Converts from serde_json's value.
pub fn from_serde(v: serde_json::Value) -> Value {
    match v {
        serde_json::Value::Null => Val::Null,
        serde_json::Value::Bool(b) => Val::Bool(b),
        serde_json::Value::Number(n) => Val::Num(
            n.as_i64()
                .map(Num::from_integral)
                .or_else(|| n.as_u64().map(Num::from_integral))
                .unwrap_or_else(|| Num::Float(n.as_f64().unwrap_or(f64::NAN))),
        ),
        serde_json::Value::String(s) => Val::utf8_str(s),
        serde_json::Value::Array(a) => a.into_iter().map(from_serde).collect(),
        serde_json::Value::Object(o) => Val::obj(
            o.into_iter()
                .map(|(k, v)| (Val::utf8_str(k), from_serde(v)))
                .collect(),
        ),
    }
}

/// An object with these members, in this order.
pub fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Val::obj(members.into_iter().map(|(k, v)| (string(k), v)).collect::<Map>())
}

/// A text.
pub fn string(text: impl Into<String>) -> Value {
    Val::utf8_str(text.into())
}

/// An integer.
pub fn number_i64(n: i64) -> Value {
    Val::Num(Num::from_integral(n))
}

/// The text, if it is one.
pub fn as_str(v: &Value) -> Option<&str> {
    match v {
        Val::TStr(b) => std::str::from_utf8(b).ok(),
        _ => None,
    }
}

/// The member of an object; `None` for everything else.
pub fn get<'a>(v: &'a Value, key: &str) -> Option<&'a Value> {
    match v {
        Val::Obj(o) => o.get(&string(key)),
        _ => None,
    }
}

/// jq's truth: everything but `false` and `null`.
pub fn is_truthy(v: &Value) -> bool {
    !matches!(v, Val::Null | Val::Bool(false))
}

/// jq's name of the type: `null`, `boolean`, `number`, `string`, `array` or `object`.
pub fn type_name(v: &Value) -> &'static str {
    match v {
        Val::Null => "null",
        Val::Bool(_) => "boolean",
        Val::Num(_) => "number",
        Val::BStr(_) | Val::TStr(_) => "string",
        Val::Arr(_) => "array",
        Val::Obj(_) => "object",
    }
}

/// Counts the nodes of a value as a tree: parts that are shared in memory count each time they occur. Stops at
/// the bound.
///
/// # Errors
/// [`SizeError`] with the bound that is exceeded.
pub fn size_bounded(v: &Value, max_nodes: usize, max_depth: usize) -> Result<usize, SizeError> {
    let mut nodes = 0;
    count(v, max_nodes, max_depth, 0, &mut nodes)?;
    Ok(nodes)
}

fn count(
    v: &Value,
    max_nodes: usize,
    max_depth: usize,
    depth: usize,
    nodes: &mut usize,
) -> Result<(), SizeError> {
    *nodes += 1;
    if *nodes > max_nodes {
        return Err(SizeError::Nodes(max_nodes));
    }
    let mut child = |v: &Value| match depth < max_depth {
        true => count(v, max_nodes, max_depth, depth + 1, nodes),
        false => Err(SizeError::Depth(max_depth)),
    };
    match v {
        Val::Arr(a) => a.iter().try_for_each(child),
        Val::Obj(o) => o.values().try_for_each(&mut child),
        _ => Ok(()),
    }
}
