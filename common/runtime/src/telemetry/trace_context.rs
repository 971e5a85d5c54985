//! Identity of a span on its way between processes: W3C Trace Context, header `traceparent`.

use std::fmt;
use std::str::FromStr;

use millrace_common::hash::StableHash;

/// Sixteen bytes, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

/// Eight bytes, never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A trace id that follows from what it names: the same parts give the same id in every process.
pub fn trace_id_of(parts: &[&str]) -> TraceId {
    let high = u128::from(hash(parts, 1));
    TraceId(((high << 64) | u128::from(hash(parts, 2))).max(1))
}

/// A span id that follows from what it names.
pub fn span_id_of(parts: &[&str]) -> SpanId {
    SpanId(hash(parts, 3).max(1))
}

fn hash(parts: &[&str], seed: u64) -> u64 {
    parts
        .iter()
        .fold(StableHash::new().number(seed), |h, part| h.part(part))
        .finish()
}

/// A span as others refer to it. Parses from and prints as a `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span in it.
    pub span_id: SpanId,
    /// Whether spans of the trace are recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Header under which it travels, in HTTP and NATS alike.
    pub const HEADER: &'static str = "traceparent";
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

/// The text is not a `traceparent` as W3C defines it; receivers then start a new trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct MalformedTraceparent;

impl FromStr for TraceContext {
    type Err = MalformedTraceparent;

    fn from_str(text: &str) -> Result<Self, MalformedTraceparent> {
        parse(text).ok_or(MalformedTraceparent)
    }
}

fn parse(text: &str) -> Option<TraceContext> {
    let mut parts = text.trim().split('-');
    let version = hex(parts.next()?, 2)?;
    let trace_id = hex(parts.next()?, 32)?;
    let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
    let flags = hex(parts.next()?, 2)?;
    // Version 00 ends here; later ones may add fields. ff is forbidden.
    let is_complete = version > 0 || parts.next().is_none();
    let is_valid = is_complete && version != 0xff && trace_id != 0 && span_id != 0;
    is_valid.then_some(TraceContext {
        trace_id: TraceId(trace_id),
        span_id: SpanId(span_id),
        sampled: flags & 1 == 1,
    })
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_lower_hex = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_lower_hex
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparents_round_trip() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: TraceContext = text.parse().unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), text);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more";
        assert!(!later.parse::<TraceContext>().unwrap().sampled);
    }

    #[test]
    fn malformed_traceparents_are_refused() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for bad in [
            "",
            "00",
            zero_trace.as_str(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<TraceContext>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_follow_from_their_parts_and_never_change() {
        assert_eq!(span_id_of(&["a", "b"]), span_id_of(&["a", "b"]));
        assert_ne!(span_id_of(&["a", "b"]), span_id_of(&["ab"]));
        assert_ne!(trace_id_of(&["a"]), trace_id_of(&["b"]));
        assert_eq!(span_id_of(&["default/a", "1"]).to_string().len(), 16);
    }
}
