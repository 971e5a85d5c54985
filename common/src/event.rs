//! Events: CloudEvents 1.0, checked once where they come in (HTTP, NATS, `emit`), and carried as the JSON text they were.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::hash::StableHash;
use crate::limits;
use crate::{RawJson, json_depth};

/// An event that keeps the rules of CloudEvents 1.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    /// `id`: with the source, unique for each distinct event.
    pub id: String,
    /// `source`.
    pub source: String,
    /// `type`.
    pub kind: String,
    /// The whole event in JSON.
    pub raw: RawJson,
}

/// What a sender can do about a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The event breaks a rule of CloudEvents or a bound that is not of its size: write it otherwise.
    Invalid,
    /// The event has too many bytes: send less.
    TooLarge,
}

/// Why something is not an event. The same bytes fail again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Of what kind it is.
    pub kind: FaultKind,
    /// The attribute that is wrong; `None`: the event as a whole.
    pub attribute: Option<String>,
    /// What is wrong with it.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attribute {
            Some(name) => write!(f, "attribute `{name}` {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// An attribute that is wrong.
    pub fn of(attribute: &str, text: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Invalid,
            attribute: Some(attribute.to_owned()),
            text: text.into(),
        }
    }

    fn whole(text: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Invalid,
            attribute: None,
            text: text.into(),
        }
    }
}

impl CloudEvent {
    /// Reads an event in structured JSON mode.
    ///
    /// # Errors
    /// [`Fault`] with the first attribute that is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, Fault> {
        if json.len() > limits::EVENT_BYTES_MAX {
            return Err(too_large(json.len()));
        }
        check_depth(json)?;
        let raw = RawJson::parse(json).map_err(|e| Fault::whole(format!("the event is not JSON: {e}")))?;
        Self::from_raw(raw)
    }

    /// As [`Self::parse`], of a text that is JSON already.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn from_raw(raw: RawJson) -> Result<Self, Fault> {
        if raw.len() > limits::EVENT_BYTES_MAX {
            return Err(too_large(raw.len()));
        }
        check_depth(raw.text().as_bytes())?;
        let Ok(Value::Object(members)) = raw.decode::<Value>() else {
            return Err(Fault::whole("the event is not a JSON object"));
        };
        let mut seen = Members::default();
        serde::de::Deserializer::deserialize_map(
            &mut serde_json::Deserializer::from_str(raw.text()),
            &mut seen,
        )
        .map_err(|e| Fault::whole(format!("the event is not JSON: {e}")))?;
        if let Some(twice) = seen.twice {
            return Err(Fault::of(&twice, "is there more than once"));
        }
        check(&members)?;
        let text = |name: &str| {
            members
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Ok(Self {
            id: text("id"),
            source: text("source"),
            kind: text("type"),
            raw,
        })
    }

    /// Reads a batch: a JSON array of events.
    ///
    /// # Errors
    /// The place in the batch, if it is about one event, and the fault.
    pub fn batch(json: &[u8]) -> Result<Vec<Self>, (Option<usize>, Fault)> {
        check_depth(json).map_err(|fault| (None, fault))?;
        let items: Vec<RawJson> = serde_json::from_slice(json)
            .map_err(|e| (None, Fault::whole(format!("the batch is not a JSON array: {e}"))))?;
        if items.len() > limits::EVENT_BATCH_MAX {
            let (n, max) = (items.len(), limits::EVENT_BATCH_MAX);
            let text = format!("the batch has {n} events, at most {max} are allowed");
            return Err((None, Fault::whole(text)));
        }
        let one = |(at, raw)| Self::from_raw(raw).map_err(|fault| (Some(at), fault));
        items.into_iter().enumerate().map(one).collect()
    }

    /// Reads an event in binary mode: its attributes, without the prefix that the protocol gives them, and its data.
    /// Data that is JSON by its content type becomes JSON; other data a text when it is one, else base64.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn binary(
        attributes: impl IntoIterator<Item = (String, String)>,
        content_type: Option<&str>,
        data: &[u8],
    ) -> Result<Self, Fault> {
        if data.len() > limits::EVENT_BYTES_MAX {
            return Err(too_large(data.len()));
        }
        let mut members: Map<String, Value> = Map::new();
        for (name, text) in attributes {
            if members.insert(name.clone(), text.into()).is_some() {
                return Err(Fault::of(&name, "is there more than once"));
            }
        }
        if let Some(content_type) = content_type {
            members.insert("datacontenttype".to_owned(), content_type.into());
        }
        let mut text = serde_json::to_string(&members).map_err(|e| Fault::whole(e.to_string()))?;
        if !data.is_empty() {
            let member = binary_data(content_type, data)?;
            text.pop();
            text.push_str(if members.is_empty() { "" } else { "," });
            text.push_str(&member);
            text.push('}');
        }
        Self::parse(text.as_bytes())
    }

    /// Id under which the stream drops repeats: derived from source and id, 32 hexadecimal digits.
    pub fn message_id(&self) -> String {
        let one = StableHash::new().part(&self.source).part(&self.id).finish();
        // The second half reads the parts the other way round, so that both do not collide together.
        let other = StableHash::new()
            .part(&self.id)
            .number(one)
            .part(&self.source)
            .finish();
        format!("{one:016x}{other:016x}")
    }

    /// Tells events apart within one listening task.
    pub fn fingerprint(&self) -> u64 {
        StableHash::new().part(&self.source).part(&self.id).finish()
    }
}

/// The member that holds binary mode's data, as JSON text.
fn binary_data(content_type: Option<&str>, data: &[u8]) -> Result<String, Fault> {
    let encoded = |name: &str, value: &Value| format!("\"{name}\":{value}");
    if is_json(content_type) {
        let raw = RawJson::parse(data).map_err(|e| Fault::of("data", format!("is not JSON: {e}")))?;
        return Ok(format!("\"data\":{}", raw.text()));
    }
    Ok(match std::str::from_utf8(data) {
        Ok(text) => encoded("data", &text.into()),
        Err(_) => encoded("data_base64", &STANDARD.encode(data).into()),
    })
}

/// True for a content type of JSON; absent means JSON.
pub fn is_json(content_type: Option<&str>) -> bool {
    let Some(text) = content_type else { return true };
    let media = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    media == "application/json" || media == "text/json" || media.ends_with("+json")
}

/// Decodes `data_base64`.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn too_large(bytes: usize) -> Fault {
    let max = limits::EVENT_BYTES_MAX;
    Fault {
        kind: FaultKind::TooLarge,
        ..Fault::whole(format!("the event has {bytes} bytes, at most {max} are allowed"))
    }
}

/// Nesting is bounded before anything is built. A batch adds a level around the event, an event one around its data.
fn check_depth(json: &[u8]) -> Result<(), Fault> {
    let deepest = json_depth(json);
    let max = limits::VALUE_DEPTH_MAX;
    match deepest > max {
        true => Err(Fault::whole(format!(
            "the event is nested {deepest} levels deep, at most {max} are allowed"
        ))),
        false => Ok(()),
    }
}

/// Finds a member that is there twice: serde_json would keep the last one, other readers the first.
#[derive(Default)]
struct Members {
    names: std::collections::HashSet<String>,
    twice: Option<String>,
}

impl<'de> serde::de::Visitor<'de> for &mut Members {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<serde::de::IgnoredAny>()?;
            if !self.names.insert(name.clone()) {
                self.twice.get_or_insert(name);
            }
        }
        Ok(())
    }
}

fn check(members: &Map<String, Value>) -> Result<(), Fault> {
    match members.get("specversion") {
        Some(Value::String(v)) if v == "1.0" => {}
        None | Some(Value::Null) => return Err(Fault::of("specversion", "is missing: it must be `1.0`")),
        Some(other) => {
            return Err(Fault::of(
                "specversion",
                format!("must be `1.0`, not {}", short(other)),
            ));
        }
    }
    for name in ["id", "source", "type"] {
        if matches!(members.get(name), None | Some(Value::Null)) {
            return Err(Fault::of(name, "is missing"));
        }
    }
    for (name, value) in members {
        check_member(name, value)?;
    }
    if members.contains_key("data") && members.contains_key("data_base64") {
        return Err(Fault::of("data_base64", "does not go with `data`"));
    }
    Ok(())
}

fn check_member(name: &str, value: &Value) -> Result<(), Fault> {
    match name {
        "data" | "specversion" => Ok(()),
        "data_base64" => match value.as_str().and_then(decode_base64) {
            Some(_) => Ok(()),
            None => Err(Fault::of(name, "is not base64")),
        },
        "id" | "source" | "type" | "subject" | "datacontenttype" | "dataschema" | "time" => {
            check_text(name, value)
        }
        _ => check_extension(name, value),
    }
}

fn check_text(name: &str, value: &Value) -> Result<(), Fault> {
    let text = match value {
        Value::Null => return Ok(()),
        Value::String(text) => text.as_str(),
        other => return Err(Fault::of(name, format!("must be a text, not {}", short(other)))),
    };
    if text.is_empty() {
        return Err(Fault::of(name, "is empty"));
    }
    if text.len() > limits::EVENT_ATTRIBUTE_BYTES_MAX {
        let (n, max) = (text.len(), limits::EVENT_ATTRIBUTE_BYTES_MAX);
        return Err(Fault::of(
            name,
            format!("has {n} bytes, at most {max} are allowed"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::of(
            name,
            format!("has a control character: {}", short(value)),
        ));
    }
    if matches!(name, "source" | "dataschema") && text.contains(char::is_whitespace) {
        return Err(Fault::of(name, format!("is not a URI: {}", short(value))));
    }
    if name == "time" && !is_rfc3339(text) {
        return Err(Fault::of(
            name,
            format!("is not a time as in RFC 3339: {}", short(value)),
        ));
    }
    Ok(())
}

fn check_extension(name: &str, value: &Value) -> Result<(), Fault> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if name.is_empty() || !name.bytes().all(legal) {
        let shown: String = name.chars().take(60).collect();
        return Err(Fault::of(
            &shown,
            "is no attribute: names have lower-case letters and digits only",
        ));
    }
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(n) if n.is_i64() || n.is_u64() => Ok(()),
        Value::String(text) if text.len() <= limits::EVENT_ATTRIBUTE_BYTES_MAX => Ok(()),
        Value::String(text) => {
            let (n, max) = (text.len(), limits::EVENT_ATTRIBUTE_BYTES_MAX);
            Err(Fault::of(
                name,
                format!("has {n} bytes, at most {max} are allowed"),
            ))
        }
        other => Err(Fault::of(
            name,
            format!("must be a text, a boolean or an integer, not {}", short(other)),
        )),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.len() > 100 {
        true => format!("{}…", &text[..text.floor_char_boundary(100)]),
        false => text,
    }
}

/// `2026-01-31T12:00:00Z`, with a fraction or an offset if one likes.
fn is_rfc3339(text: &str) -> bool {
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(digits);
    let at = |place: usize| text.as_bytes().get(place).copied();
    let date = at(4) == Some(b'-') && at(7) == Some(b'-') && matches!(at(10), Some(b'T' | b't'));
    let clock = at(13) == Some(b':') && at(16) == Some(b':');
    let year = number(0..4).is_some();
    let within = |n: Option<u32>, from: u32, to: u32| n.is_some_and(|n| (from..=to).contains(&n));
    let values = within(number(5..7), 1, 12)
        && within(number(8..10), 1, 31)
        && within(number(11..13), 0, 23)
        && within(number(14..16), 0, 59)
        && within(number(17..19), 0, 60);
    date && clock && year && values && text.get(19..).is_some_and(is_offset)
}

fn is_offset(rest: &str) -> bool {
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let end = fraction
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(fraction.len());
            match end {
                0 => return false,
                end => &fraction[end..],
            }
        }
        None => rest,
    };
    if rest.eq_ignore_ascii_case("z") {
        return true;
    }
    let Some(offset) = rest.strip_prefix(['+', '-']) else {
        return false;
    };
    let (hours, minutes) = offset.split_once(':').unwrap_or_default();
    let part = |text: &str, max| text.len() == 2 && digits(text).is_some_and(|n| n <= max);
    part(hours, 23) && part(minutes, 59)
}

fn digits(text: &str) -> Option<u32> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// What the engine looks at besides the attributes: how `data` came.
#[derive(Debug, Default, Deserialize)]
pub struct Payload {
    /// `data`, in JSON.
    #[serde(default)]
    pub data: Option<RawJson>,
    /// `data_base64`.
    #[serde(default)]
    pub data_base64: Option<String>,
    /// `datacontenttype`.
    #[serde(default)]
    pub datacontenttype: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> String {
        CloudEvent::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_good_event_is_kept_as_it_came() {
        let json = r#"{"specversion":"1.0","id":"1","source":"/a","type":"t.u","time":"2026-01-31T12:00:00.5+01:00",
            "tenant":7,"flag":true,"data":{"n":1.50,"big":123456789012345678901234567890}}"#;
        let event = CloudEvent::parse(json.as_bytes()).unwrap();
        assert_eq!(
            (event.id.as_str(), event.source.as_str(), event.kind.as_str()),
            ("1", "/a", "t.u")
        );
        assert!(
            event.raw.text().contains("1.50") && event.raw.text().contains("123456789012345678901234567890")
        );
    }

    #[test]
    fn every_fault_names_its_attribute() {
        for (json, says) in [
            ("[]", "the event is not a JSON object"),
            ("{", "the event is not JSON"),
            (r#"{"id":"1"}"#, "`specversion` is missing"),
            (
                r#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#,
                "`specversion` must be `1.0`",
            ),
            (
                r#"{"specversion":"1.0","source":"s","type":"t"}"#,
                "`id` is missing",
            ),
            (
                r#"{"specversion":"1.0","id":"","source":"s","type":"t"}"#,
                "`id` is empty",
            ),
            (
                r#"{"specversion":"1.0","id":1,"source":"s","type":"t"}"#,
                "`id` must be a text",
            ),
            (
                r#"{"specversion":"1.0","id":"1","id":"2","source":"s","type":"t"}"#,
                "`id` is there more than once",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"a b","type":"t"}"#,
                "`source` is not a URI",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"t","time":"today"}"#,
                "`time` is not a time",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"t","time":"2026-13-01T00:00:00Z"}"#,
                "`time`",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"t","Bad_Name":"x"}"#,
                "`Bad_Name` is no attribute",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"t","ext":{}}"#,
                "`ext` must be a text",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"?"}"#,
                "is not base64",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":"AA=="}"#,
                "does not go with",
            ),
        ] {
            assert!(fault(json).contains(says), "{json}: {}", fault(json));
        }
        let deep = format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data":{}1{}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        );
        assert!(fault(&deep).contains("levels deep"), "{}", fault(&deep));
        let large = format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data":"{}"}}"#,
            "x".repeat(limits::EVENT_BYTES_MAX)
        );
        assert!(fault(&large).contains("at most"), "{}", fault(&large));
    }

    #[test]
    fn batches_say_which_event_is_wrong() {
        let good = r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#;
        assert_eq!(
            CloudEvent::batch(format!("[{good},{good}]").as_bytes())
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            CloudEvent::batch(format!("[{good},{{}}]").as_bytes())
                .unwrap_err()
                .0,
            Some(1)
        );
        let many = vec![good; limits::EVENT_BATCH_MAX + 1].join(",");
        let (at, fault) = CloudEvent::batch(format!("[{many}]").as_bytes()).unwrap_err();
        assert!(at.is_none() && fault.text.contains("at most"), "{fault}");
    }

    #[test]
    fn binary_mode_becomes_json() {
        let attributes = || {
            [
                ("specversion", "1.0"),
                ("id", "1"),
                ("source", "s"),
                ("type", "t"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
        };
        let data = |content_type, bytes: &[u8]| {
            let event = CloudEvent::binary(attributes(), content_type, bytes).unwrap();
            event.raw.decode::<Value>().unwrap()
        };
        assert_eq!(data(Some("application/json"), br#"{"n":1}"#)["data"]["n"], 1);
        assert_eq!(
            data(Some("application/vnd.x+json; charset=utf-8"), b"[1]")["data"][0],
            1
        );
        assert_eq!(data(Some("text/plain"), b"hello")["data"], "hello");
        assert_eq!(data(Some("image/png"), &[0xff, 0])["data_base64"], "/wA=");
        assert_eq!(data(None, b"").get("data"), None);
        assert!(
            CloudEvent::binary(attributes(), None, b"{")
                .unwrap_err()
                .to_string()
                .contains("`data` is not JSON")
        );
    }

    #[test]
    fn ids_for_repeats_depend_on_source_and_id() {
        let event = |source: &str, id: &str| CloudEvent {
            id: id.to_owned(),
            source: source.to_owned(),
            kind: "t".to_owned(),
            raw: RawJson::null(),
        };
        assert_eq!(event("a", "b").message_id(), event("a", "b").message_id());
        assert_ne!(event("a", "b").message_id(), event("b", "a").message_id());
        assert_ne!(event("a", "b").message_id(), event("ab", "").message_id());
        assert_eq!(event("a", "b").message_id().len(), 32);
    }
}
