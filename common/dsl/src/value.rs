//! The data that flows through a workflow. It is jaq's own value, so that expressions need no conversion:
//! cloning is O(1) (shared arrays and objects), objects keep insertion order, integers stay exact.
//!
//! One canonical form, so that equal data has one text and one hash:
//! - a number without fraction below 2^53 is an integer (`1.0`, `1e0` and `-0` become `1`, `1` and `0`);
//! - larger integers stay exact up to the range of a double, all other numbers are doubles;
//! - NaN and the infinities, which JSON does not have, are written as `null`, as jq does;
//! - texts are UTF-8, keys are texts, members keep their order; of two equal keys the last value counts.

use std::fmt::{self, Write};

use jaq_json::{Map, Num, Val};
use millrace_common::{ErrorKind, Problem, RawJson, limits};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// See the module.
pub type Value = Val;

/// Bytes of a text that weigh as much as one more node (see [`size_bounded`]).
pub const TEXT_BYTES_PER_NODE: usize = 16;

/// Above this, a double no longer holds every integer, so it is not read as one.
const INTEGRAL_MAX: f64 = 9_007_199_254_740_992.0;

/// Digits from which an integer may not fit 64 bits and is read by the slower, exact way.
const LONG_INTEGER_DIGITS: usize = 19;

/// A value that is larger than allowed when written out as a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// More nodes than this.
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
    let mut reader = serde_json::Deserializer::from_str(json);
    let read = Node { depth: 0 }
        .deserialize(&mut reader)
        .and_then(|v| reader.end().map(|()| v));
    let value = read.map_err(|e| Problem::new(ErrorKind::Validation, format!("invalid JSON: {e}")))?;
    if !has_long_integer(json) {
        return Ok(value);
    }
    // serde_json has just proved that the text is strict JSON of a bounded depth, which this reader does not.
    Ok(jaq_json::read::parse_single(json.as_bytes()).map_or(value, canonical))
}

/// Parses a raw JSON text; see [`parse`].
///
/// # Errors
/// As [`parse`].
pub fn from_raw(raw: &RawJson) -> Result<Value, Problem> {
    parse(raw.text())
}

/// Canonical compact JSON; see [`to_json_string`].
pub fn to_raw(v: &Value) -> RawJson {
    // The fallback cannot happen: the writer below writes nothing but JSON.
    RawJson::parse(to_json_string(v).as_bytes()).unwrap_or_else(|_| RawJson::null())
}

/// Canonical compact JSON, members in insertion order. A key that is not a text (no parser and no expression
/// makes one) is written as the text of its JSON.
pub fn to_json_string(v: &Value) -> String {
    let mut out = String::new();
    // Only a bounded writer can be full.
    let _ = write_json(v, usize::MAX, &mut out);
    out
}

/// The beginning of the value's JSON, for messages: at most about `bytes` bytes, then `…`.
pub fn excerpt(v: &Value, bytes: usize) -> String {
    let mut out = String::new();
    if write_json(v, bytes, &mut out).is_err() {
        out.truncate(out.floor_char_boundary(bytes));
        out.push('…');
    }
    out
}

/// Converts to serde_json's value. Integers beyond 64 bits become doubles there.
pub fn to_serde(v: &Value) -> serde_json::Value {
    match v {
        Val::Null => serde_json::Value::Null,
        Val::Bool(b) => serde_json::Value::Bool(*b),
        Val::Num(n) => number_to_serde(n),
        Val::BStr(b) | Val::TStr(b) => serde_json::Value::String(String::from_utf8_lossy(b).into_owned()),
        Val::Arr(a) => a.iter().map(to_serde).collect(),
        Val::Obj(o) => o
            .iter()
            .map(|(k, v)| (key_text(k), to_serde(v)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

/// Converts from serde_json's value.
pub fn from_serde(v: serde_json::Value) -> Value {
    match v {
        serde_json::Value::Null => Val::Null,
        serde_json::Value::Bool(b) => Val::Bool(b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => number_i64(i),
            (None, Some(u)) => Val::Num(Num::from_integral(u)),
            (None, None) => number_f64(n.as_f64().unwrap_or(f64::NAN)),
        },
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

/// A number in canonical form: an integer when it has no fraction (see the module).
#[expect(
    clippy::cast_possible_truncation,
    reason = "an integral double below 2^53 fits"
)]
pub fn number_f64(n: f64) -> Value {
    let integral = n.abs() < INTEGRAL_MAX && n.fract() == 0.0;
    Val::Num(if integral {
        Num::Int(n as isize)
    } else {
        Num::Float(n)
    })
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

/// Counts the nodes of a value as a tree: what is shared in memory counts each time it occurs. Texts and keys
/// count one node more for every [`TEXT_BYTES_PER_NODE`] bytes, so that the count also bounds the size of the
/// value's JSON. Scalars have depth 0. Stops at the bound.
///
/// # Errors
/// [`SizeError`] with the bound that is exceeded.
pub fn size_bounded(v: &Value, max_nodes: usize, max_depth: usize) -> Result<usize, SizeError> {
    measure(v, max_nodes, max_depth).map(|size| size.nodes)
}

/// Nodes and depth of a value; see [`size_bounded`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) depth: usize,
}

/// As [`size_bounded`], with the depth found.
pub(crate) fn measure(v: &Value, max_nodes: usize, max_depth: usize) -> Result<Size, SizeError> {
    let mut size = Size::default();
    count(
        v,
        Size {
            nodes: max_nodes,
            depth: max_depth,
        },
        0,
        &mut size,
    )?;
    Ok(size)
}

/// Nodes of a text.
pub(crate) const fn text_nodes(bytes: usize) -> usize {
    1 + bytes / TEXT_BYTES_PER_NODE
}

fn count(v: &Value, max: Size, depth: usize, size: &mut Size) -> Result<(), SizeError> {
    size.nodes += match v {
        Val::TStr(b) | Val::BStr(b) => text_nodes(b.len()),
        Val::Obj(o) => 1 + o.keys().map(key_nodes).sum::<usize>(),
        _ => 1,
    };
    size.depth = size.depth.max(depth);
    if size.nodes > max.nodes {
        return Err(SizeError::Nodes(max.nodes));
    }
    let mut child = |v: &Value| match depth < max.depth {
        true => count(v, max, depth + 1, size),
        false => Err(SizeError::Depth(max.depth)),
    };
    match v {
        Val::Arr(a) => a.iter().try_for_each(child),
        Val::Obj(o) => o.values().try_for_each(&mut child),
        _ => Ok(()),
    }
}

/// What a key adds to its object.
pub(crate) fn key_nodes(key: &Value) -> usize {
    match key {
        Val::TStr(b) | Val::BStr(b) => b.len() / TEXT_BYTES_PER_NODE,
        _ => 0,
    }
}

fn key_text(key: &Value) -> String {
    as_str(key).map_or_else(|| to_json_string(key), str::to_owned)
}

/// The writer reached its bound.
pub(crate) struct Full;

impl From<fmt::Error> for Full {
    fn from(_: fmt::Error) -> Self {
        Self
    }
}

/// Appends canonical JSON until the text has more than `max` bytes.
pub(crate) fn write_json(v: &Value, max: usize, out: &mut String) -> Result<(), Full> {
    match v {
        Val::Null => out.push_str("null"),
        Val::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Val::Num(n) => write_number(n, out)?,
        Val::BStr(b) | Val::TStr(b) => write_text(&String::from_utf8_lossy(b), max, out),
        Val::Arr(a) => {
            out.push('[');
            for (i, item) in a.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_json(item, max, out)?;
            }
            out.push(']');
        }
        Val::Obj(o) => {
            out.push('{');
            for (i, (key, item)) in o.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                match as_str(key) {
                    Some(text) => write_text(text, max, out),
                    None => write_text(&key_text(key), max, out),
                }
                out.push(':');
                write_json(item, max, out)?;
            }
            out.push('}');
        }
    }
    if out.len() > max { Err(Full) } else { Ok(()) }
}

fn write_number(n: &Num, out: &mut String) -> fmt::Result {
    match n {
        Num::Int(i) => write!(out, "{i}"),
        Num::BigInt(i) => write!(out, "{i}"),
        Num::Float(_) | Num::Dec(_) => write!(out, "{}", number_to_serde(n)),
    }
}

fn write_text(text: &str, max: usize, out: &mut String) {
    out.push('"');
    let mut rest = text;
    // A text that is too long is not even looked at as a whole.
    if rest.len() > max.saturating_sub(out.len()) {
        rest = &rest[..rest.ceil_char_boundary(max.saturating_sub(out.len()) + 1)];
    }
    while let Some(at) = rest.bytes().position(|b| b < 0x20 || matches!(b, b'"' | b'\\')) {
        out.push_str(&rest[..at]);
        write_escape(rest.as_bytes()[at], out);
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

fn write_escape(byte: u8, out: &mut String) {
    match byte {
        b'"' => out.push_str("\\\""),
        b'\\' => out.push_str("\\\\"),
        b'\n' => out.push_str("\\n"),
        b'\r' => out.push_str("\\r"),
        b'\t' => out.push_str("\\t"),
        0x08 => out.push_str("\\b"),
        0x0c => out.push_str("\\f"),
        other => out.push_str(&format!("\\u{other:04x}")),
    }
}

fn number_to_serde(n: &Num) -> serde_json::Value {
    match n {
        Num::Int(i) => (*i).into(),
        Num::BigInt(i) => u64::try_from(&**i).map_or_else(|_| double_to_serde(n), serde_json::Value::from),
        Num::Float(_) | Num::Dec(_) => double_to_serde(n),
    }
}

fn double_to_serde(n: &Num) -> serde_json::Value {
    match number_f64(jaq_std::ValT::as_f64(&Val::Num(n.clone())).unwrap_or(f64::NAN)) {
        Val::Num(Num::Float(f)) => {
            serde_json::Number::from_f64(f).map_or(serde_json::Value::Null, Into::into)
        }
        Val::Num(Num::Int(i)) => i.into(),
        _ => serde_json::Value::Null,
    }
}

/// True when the text has a run of digits that may be an integer beyond 64 bits.
fn has_long_integer(json: &str) -> bool {
    let mut run = 0;
    json.bytes().any(|b| {
        run = if b.is_ascii_digit() { run + 1 } else { 0 };
        run > LONG_INTEGER_DIGITS
    })
}

/// Puts the numbers of a freshly read tree into canonical form.
fn canonical(v: Value) -> Value {
    match v {
        Val::Num(n @ Num::Dec(_)) => number_f64(jaq_std::ValT::as_f64(&Val::Num(n)).unwrap_or(f64::NAN)),
        Val::Arr(a) => a.iter().cloned().map(canonical).collect(),
        Val::Obj(o) => Val::obj(o.iter().map(|(k, v)| (k.clone(), canonical(v.clone()))).collect()),
        other => other,
    }
}

/// Reads one node of JSON at a depth.
struct Node {
    depth: usize,
}

impl Node {
    fn child<E: serde::de::Error>(&self) -> Result<Self, E> {
        match self.depth < limits::VALUE_DEPTH_MAX {
            true => Ok(Self {
                depth: self.depth + 1,
            }),
            false => Err(E::custom(SizeError::Depth(limits::VALUE_DEPTH_MAX))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Val::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Val::Bool(b))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(number_i64(n))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Val::Num(Num::from_integral(n)))
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Value, E> {
        Ok(number_f64(n))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(string(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(string(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self.child().map_err(A::Error::custom::<A::Error>)?)? {
            all.push(item);
        }
        Ok(all.into_iter().collect())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::default();
        while let Some(key) = members.next_key::<String>()? {
            all.insert(string(key), members.next_value_seed(self.child()?)?);
        }
        Ok(Val::obj(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(json: &str) -> String {
        to_json_string(&parse(json).unwrap())
    }

    #[test]
    fn json_round_trips_in_canonical_form() {
        for (json, canonical) in [
            ("null", "null"),
            (" [ 1 , 2.50 , -0 , -0.0 , 1.0 , 1e3 ] ", "[1,2.5,0,0,1,1000]"),
            (
                r#"{"b":1,"a":{"c":[]},"":false}"#,
                r#"{"b":1,"a":{"c":[]},"":false}"#,
            ),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
            (
                r#""a\"\\\/\b\f\n\r\t\u0001\u00e9\ud83d\ude00""#,
                "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001é😀\"",
            ),
            (
                "[9223372036854775807,-9223372036854775808]",
                "[9223372036854775807,-9223372036854775808]",
            ),
            (
                "[18446744073709551615,1e19,1e-7]",
                "[18446744073709551615,1e+19,1e-7]",
            ),
            ("9007199254740993", "9007199254740993"),
            ("0.1", "0.1"),
        ] {
            assert_eq!(round(json), canonical, "{json}");
            assert_eq!(round(canonical), canonical, "{json}");
        }
    }

    #[test]
    fn integers_beyond_64_bits_stay_exact() {
        let long = "123456789012345678901234567890";
        assert_eq!(
            round(&format!("[{long},-{long},1.5,\"{long}\"]")),
            format!("[{long},-{long},1.5,\"{long}\"]")
        );
        assert_eq!(round("12345678901234567890123.0"), "1.2345678901234568e+22");
        assert_eq!(
            round("00000000000000000000".replace('0', "1").as_str()),
            "11111111111111111111"
        );
    }

    #[test]
    fn invalid_json_is_refused_with_its_place() {
        let detail = |json: &str| parse(json).unwrap_err().detail.unwrap();
        assert!(
            detail("{\n \"a\": x}").contains("line 2 column 7"),
            "{}",
            detail("{\n \"a\": x}")
        );
        for bad in [
            "",
            "1 2",
            "[1,]",
            "{a:1}",
            "NaN",
            "'a'",
            "01",
            "+1",
            "1e999",
            "# c\n1",
            "[1] x",
            "\"\\ud800\"",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("1 2").unwrap_err().standard(), Some(ErrorKind::Validation));
    }

    #[test]
    fn depth_is_bounded_on_the_way_in() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&nested(limits::VALUE_DEPTH_MAX)).is_ok());
        let refused = parse(&nested(limits::VALUE_DEPTH_MAX + 2))
            .unwrap_err()
            .detail
            .unwrap();
        assert!(
            refused.contains("deeper than 100 levels") && refused.contains("column"),
            "{refused}"
        );
        assert!(parse(&nested(100_000)).is_err());
        assert!(parse(&"{\"a\":".repeat(100_000)).is_err());
    }

    #[test]
    fn what_json_lacks_is_written_as_null_and_keys_as_text() {
        let odd = Val::obj(
            [(number_i64(1), Val::Num(Num::Float(f64::NAN)))]
                .into_iter()
                .collect(),
        );
        assert_eq!(to_json_string(&odd), r#"{"1":null}"#);
        assert_eq!(to_raw(&odd).text(), r#"{"1":null}"#);
        assert_eq!(to_json_string(&number_f64(f64::INFINITY)), "null");
        assert_eq!(to_json_string(&Val::Num(Num::Float(5.0))), "5");
        assert_eq!(to_json_string(&Val::utf8_str(vec![b'a', 0xff])), "\"a\u{fffd}\"");
    }

    #[test]
    fn serde_conversion_is_the_same_data() {
        let json = r#"{"a":[1,-2,2.5,"x",null,true,18446744073709551615]}"#;
        let value = parse(json).unwrap();
        assert_eq!(to_serde(&value).to_string(), json);
        assert_eq!(to_json_string(&from_serde(to_serde(&value))), json);
        assert_eq!(
            from_raw(&RawJson::parse(json.as_bytes()).unwrap()).unwrap(),
            value
        );
    }

    #[test]
    fn shared_parts_count_each_time() {
        let mut v = number_i64(1);
        for _ in 0..60 {
            v = [v.clone(), v].into_iter().collect();
        }
        assert_eq!(size_bounded(&v, 1000, 100), Err(SizeError::Nodes(1000)));
        assert_eq!(size_bounded(&v, usize::MAX, 5), Err(SizeError::Depth(5)));
        let small = parse(r#"[1,{"a":[]},"0123456789abcdef"]"#).unwrap();
        assert_eq!(size_bounded(&small, 6, 2), Ok(6));
        assert_eq!(measure(&small, 100, 100).unwrap().depth, 2);
    }

    #[test]
    fn excerpts_are_short_and_cut_between_characters() {
        let long = string("é".repeat(1_000_000));
        let text = excerpt(&long, 10);
        assert!(text.len() < 20 && text.ends_with('…'), "{text}");
        assert_eq!(excerpt(&number_i64(5), 10), "5");
        let array: Value = (0..100_000).map(number_i64).collect();
        assert!(excerpt(&array, 20).len() < 30);
    }

    #[test]
    fn helpers_see_types_and_truth() {
        let v = object([("a", number_i64(1)), ("b", string("x"))]);
        assert_eq!(get(&v, "b").and_then(as_str), Some("x"));
        assert_eq!(get(&string("a"), "a"), None);
        let truths = ["null", "false", "0", "\"\"", "[]"].map(|t| is_truthy(&parse(t).unwrap()));
        assert_eq!(truths, [false, false, true, true, true]);
        let names = ["null", "true", "1", "\"\"", "[]", "{}"].map(|t| type_name(&parse(t).unwrap()));
        assert_eq!(names, ["null", "boolean", "number", "string", "array", "object"]);
    }
}
