//! Data on its way through an instance: a value and, once it was needed or when it came so, its JSON text.

use std::fmt::{self, Write as _};
use std::sync::{Arc, OnceLock};

use millrace_common::{ErrorKind, Problem, RawJson, limits};
use millrace_dsl::{Value, value};

/// Shared, immutable. Whether two are the same one (not equal, the same) decides what is stored as "inherited".
#[derive(Clone, Debug)]
pub(crate) struct Data(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    value: Value,
    raw: OnceLock<RawJson>,
}

impl Data {
    pub(crate) fn new(value: Value) -> Self {
        Self(Arc::new(Inner {
            value,
            raw: OnceLock::new(),
        }))
    }

    /// Parses and keeps the text: it is stored and sent on as it came.
    pub(crate) fn parse(raw: RawJson) -> Result<Self, Problem> {
        let value = value::from_raw(&raw)?;
        Ok(Self(Arc::new(Inner {
            value,
            raw: OnceLock::from(raw),
        })))
    }

    pub(crate) fn null() -> Self {
        Self::new(Value::default())
    }

    pub(crate) fn empty_object() -> Self {
        Self::new(value::object([]))
    }

    pub(crate) fn value(&self) -> &Value {
        &self.0.value
    }

    pub(crate) fn raw(&self) -> &RawJson {
        self.0.raw.get_or_init(|| value::to_raw(&self.0.value))
    }

    /// Length of the text, 0 while nobody needed it.
    pub(crate) fn known_bytes(&self) -> usize {
        self.0.raw.get().map_or(0, RawJson::len)
    }

    /// The same one, not merely an equal one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Refuses what is too large or too deep to be stored and sent.
    pub(crate) fn check(&self, what: &str) -> Result<(), Problem> {
        self.check_within(what, limits::PAYLOAD_BYTES_MAX)
    }

    /// As [`Self::check`], with another bound of bytes.
    pub(crate) fn check_within(&self, what: &str, max: usize) -> Result<(), Problem> {
        let exact = match self.0.raw.get() {
            Some(raw) => raw.len(),
            None => match measure(&self.0.value, HUGE_FACTOR * max) {
                Measure::AtMost(n) if n <= max => return Ok(()),
                Measure::AtMost(_) => self.raw().len(),
                Measure::TooDeep => return Err(too_deep(what)),
                Measure::Huge => {
                    return Err(too_large(what, &format!("more than {}", HUGE_FACTOR * max), max));
                }
            },
        };
        if exact > max {
            Err(too_large(what, &exact.to_string(), max))
        } else {
            Ok(())
        }
    }
}

/// The problem of a payload above its bound; names both sizes.
fn too_large(what: &str, size: &str, max: usize) -> Problem {
    Problem::new(
        ErrorKind::Runtime,
        format!("{what} is too large: {size} bytes of JSON, at most {max} are allowed"),
    )
}

fn too_deep(what: &str) -> Problem {
    let max = limits::VALUE_DEPTH_MAX;
    Problem::new(
        ErrorKind::Runtime,
        format!("{what} is nested deeper than the {max} levels that are allowed"),
    )
}

/// Above this many times the bound the exact size is not computed any more: shared parts can make a value
/// astronomically large when it is written out.
const HUGE_FACTOR: usize = 8;

enum Measure {
    /// An upper bound of the JSON text's bytes, near the truth.
    AtMost(usize),
    TooDeep,
    Huge,
}

fn measure(v: &Value, huge: usize) -> Measure {
    let mut bytes = 0;
    match walk(v, 0, huge, &mut bytes) {
        Ok(()) => Measure::AtMost(bytes),
        Err(stop) => stop,
    }
}

fn walk(v: &Value, depth: usize, huge: usize, bytes: &mut usize) -> Result<(), Measure> {
    if *bytes > huge {
        return Err(Measure::Huge);
    }
    if depth > limits::VALUE_DEPTH_MAX {
        return Err(Measure::TooDeep);
    }
    match v {
        Value::Null | Value::Bool(_) => *bytes += 5,
        Value::Num(n) => *bytes += shown_bytes(n),
        Value::BStr(s) | Value::TStr(s) => *bytes += text_bytes(s),
        Value::Arr(items) => {
            *bytes += 2 + items.len();
            items.iter().try_for_each(|v| walk(v, depth + 1, huge, bytes))?;
        }
        Value::Obj(members) => {
            *bytes += 2 + 2 * members.len();
            members.iter().try_for_each(|(k, v)| {
                walk(k, depth, huge, bytes)?;
                walk(v, depth + 1, huge, bytes)
            })?;
        }
    }
    Ok(())
}

/// Length of the text that a value is shown as, without building it.
fn shown_bytes(shown: &impl fmt::Display) -> usize {
    struct Counter(usize);
    impl fmt::Write for Counter {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            self.0 += s.len();
            Ok(())
        }
    }
    let mut counter = Counter(0);
    match write!(counter, "{shown}") {
        Ok(()) | Err(fmt::Error) => counter.0,
    }
}

/// Exact for what serde_json writes: quotes, two bytes for the short escapes, six for other control characters.
fn text_bytes(s: &[u8]) -> usize {
    let escaped = |b: &u8| match b {
        b'"' | b'\\' => 1,
        b if *b < 0x20 => 5,
        _ => 0,
    };
    2 + s.len() + s.iter().map(escaped).sum::<usize>()
}
