//! Durations of the language: ISO 8601 texts and objects of parts, in whole milliseconds.
//!
//! Years and months have no fixed length, so they are refused; a week is seven days, a day 24 hours.

use std::fmt;

use jaq_json::{Num, Val};

use crate::{Value, value};

/// A length of time in whole milliseconds, never negative, at most [`Duration::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Duration(pub u64);

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Keys of the object form and their milliseconds.
const PARTS: [(&str, u64); 5] = [
    ("days", DAY),
    ("hours", HOUR),
    ("minutes", MINUTE),
    ("seconds", SECOND),
    ("milliseconds", 1),
];

/// Digits of a fraction that are read: more cannot make a millisecond.
const FRACTION_DIGITS: usize = 12;

impl Duration {
    /// Ten years of 365 days: longer ones are refused, because they are mistakes.
    pub const MAX: Self = Self(10 * 365 * DAY);

    /// From milliseconds.
    ///
    /// # Errors
    /// When it is longer than [`Self::MAX`].
    pub fn from_millis(ms: u64) -> Result<Self, String> {
        match Self(ms) {
            duration if duration <= Self::MAX => Ok(duration),
            _ => Err(too_long()),
        }
    }

    /// Parses `P1DT2H3M4.5S` or `P2W`. The last part may have a fraction; milliseconds are rounded down.
    ///
    /// # Errors
    /// What is wrong, as a sentence without full stop.
    pub fn parse_iso8601(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "`{}` is not an ISO 8601 duration such as `PT1H30M`: {why}",
                short(text)
            )
        };
        let rest = text
            .strip_prefix('P')
            .ok_or_else(|| wrong("it does not start with `P`"))?;
        let (date, time) = match rest.split_once('T') {
            Some((_, "")) => return Err(wrong("nothing follows `T`")),
            Some((date, time)) => (date, time),
            None => (rest, ""),
        };
        if date.is_empty() && time.is_empty() {
            return Err(wrong("nothing follows `P`"));
        }
        let weeks = date.ends_with('W');
        let units: &[(char, u64)] = if weeks { &[('W', 7 * DAY)] } else { &[('D', DAY)] };
        if weeks && !time.is_empty() {
            return Err(wrong("weeks stand alone"));
        }
        let date_ms = read(date, units, time.is_empty()).map_err(|e| wrong(&e))?;
        let time_ms =
            read(time, &[('H', HOUR), ('M', MINUTE), ('S', SECOND)], true).map_err(|e| wrong(&e))?;
        date_ms
            .checked_add(time_ms)
            .ok_or_else(too_long)
            .and_then(Self::from_millis)
    }

    /// From `{days, hours, minutes, seconds, milliseconds}`: at least one of them, non-negative integers.
    ///
    /// # Errors
    /// What is wrong, as a sentence without full stop.
    pub fn from_parts(parts: &Value) -> Result<Self, String> {
        let Val::Obj(members) = parts else {
            return Err(not_a_duration(parts));
        };
        if members.is_empty() {
            return Err(
                "a duration needs at least one of days, hours, minutes, seconds and milliseconds".into(),
            );
        }
        let mut total = 0_u64;
        for (key, amount) in members.iter() {
            let name = value::as_str(key).unwrap_or_default();
            let (_, unit) = PARTS.iter().find(|(part, _)| *part == name).ok_or_else(|| {
                format!(
                    "`{}` is not a part of a duration: use {}",
                    short(name),
                    PARTS.map(|(n, _)| n).join(", ")
                )
            })?;
            let amount = count(amount).ok_or_else(|| {
                format!(
                    "`{name}` must be a non-negative integer, not {}",
                    value::excerpt(amount, 40)
                )
            })?;
            total = amount
                .checked_mul(*unit)
                .and_then(|ms| total.checked_add(ms))
                .ok_or_else(too_long)?;
        }
        Self::from_millis(total)
    }

    /// From an ISO 8601 text or an object of parts.
    ///
    /// # Errors
    /// What is wrong, as a sentence without full stop.
    pub fn from_value(v: &Value) -> Result<Self, String> {
        value::as_str(v).map_or_else(|| Self::from_parts(v), Self::parse_iso8601)
    }

    /// The sum; `None` above [`Self::MAX`].
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0
            .checked_add(other.0)
            .and_then(|ms| Self::from_millis(ms).ok())
    }

    /// The multiple; `None` above [`Self::MAX`].
    #[must_use]
    pub fn checked_mul(self, factor: u64) -> Option<Self> {
        self.0
            .checked_mul(factor)
            .and_then(|ms| Self::from_millis(ms).ok())
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

fn not_a_duration(v: &Value) -> String {
    let shown = value::excerpt(v, 40);
    format!(
        "{shown} is not a duration: use an ISO 8601 text such as `PT5M`, or an object such as `{{minutes: 5}}`"
    )
}

fn too_long() -> String {
    "the duration is longer than ten years".into()
}

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(40)]
}

fn count(v: &Value) -> Option<u64> {
    match v {
        Val::Num(Num::Int(n)) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// Reads `1H30M`; only the last part of the whole may have a fraction.
fn read(text: &str, units: &[(char, u64)], last: bool) -> Result<u64, String> {
    let last_unit = units.last().map_or(' ', |(name, _)| *name);
    let (mut rest, mut units, mut total) = (text, units, 0_u64);
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ','))
            .ok_or("a number lacks its unit")?;
        let (number, tail) = rest.split_at(end);
        let unit = tail.chars().next().unwrap_or_default();
        let Some(at) = units.iter().position(|(name, _)| *name == unit) else {
            return Err(misplaced(unit, last_unit == 'S'));
        };
        rest = &tail[unit.len_utf8()..];
        let ms = amount(number, units[at].1, last && rest.is_empty())?;
        total = total.checked_add(ms).ok_or_else(too_long)?;
        units = &units[at + 1..];
    }
    Ok(total)
}

fn misplaced(unit: char, time: bool) -> String {
    match unit {
        'H' | 'M' | 'S' if time => "the order is hours, minutes, seconds, each once".into(),
        'Y' => "years have no fixed length; use days".into(),
        'M' => "months have no fixed length; use days (minutes stand after `T`)".into(),
        'W' => "weeks stand alone".into(),
        'H' | 'S' => format!("`{unit}` stands after `T`"),
        '-' | '+' => "a duration has no sign".into(),
        other => format!("`{other}` is not expected here"),
    }
}

fn amount(number: &str, unit: u64, last: bool) -> Result<u64, String> {
    let (whole, fraction) = number.split_once(['.', ',']).unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains(['.', ',']) {
        return Err(format!("`{}` is not a number", short(number)));
    }
    if whole.len() < number.len() && !last {
        return Err("only the last part may have a fraction".into());
    }
    let whole: u64 = whole.parse().map_err(|_overflow| too_long())?;
    whole
        .checked_mul(unit)
        .and_then(|ms| ms.checked_add(fraction_of(unit, fraction)))
        .ok_or_else(too_long)
}

/// `fraction` (digits after the point) of a unit, rounded down. Twelve digits times a week fit 128 bits.
fn fraction_of(unit: u64, fraction: &str) -> u64 {
    let digits = fraction.bytes().take(FRACTION_DIGITS);
    let (numerator, denominator) = digits.fold((0_u128, 1_u128), |(n, d), digit| {
        (n * 10 + u128::from(digit - b'0'), d * 10)
    });
    u64::try_from(numerator * u128::from(unit) / denominator).unwrap_or(unit)
}

impl fmt::Display for Duration {
    /// ISO 8601: `P1DT2H0.5S`, `PT0S`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0 / DAY, self.0 % DAY);
        let (hours, minutes, seconds, ms) = (
            rest / HOUR,
            rest % HOUR / MINUTE,
            rest % MINUTE / SECOND,
            rest % SECOND,
        );
        f.write_str("P")?;
        if days > 0 {
            write!(f, "{days}D")?;
        }
        if rest == 0 {
            return f.write_str(if days > 0 { "" } else { "T0S" });
        }
        f.write_str("T")?;
        if hours > 0 {
            write!(f, "{hours}H")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}M")?;
        }
        match (seconds, ms) {
            (0, 0) => Ok(()),
            (seconds, 0) => write!(f, "{seconds}S"),
            (seconds, ms) => {
                let fraction = format!("{ms:03}");
                write!(f, "{seconds}.{}S", fraction.trim_end_matches('0'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        Duration::parse_iso8601(text).unwrap().0
    }

    #[test]
    fn texts_of_iso_8601_are_read() {
        for (text, expected) in [
            ("PT0S", 0),
            ("PT5M", 5 * MINUTE),
            ("P2W", 14 * DAY),
            ("P1D", DAY),
            ("P1DT2H3M4.5S", DAY + 2 * HOUR + 3 * MINUTE + 4500),
            ("PT0.001S", 1),
            ("PT0.0019S", 1),
            ("PT1.5H", 90 * MINUTE),
            ("P0.5D", 12 * HOUR),
            ("PT36H", 36 * HOUR),
            ("P1.5W", 10 * DAY + 12 * HOUR),
            ("PT1H1S", HOUR + 1000),
        ] {
            assert_eq!(ms(text), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        for (text, reason) in [
            ("", "start with `P`"),
            ("5m", "start with `P`"),
            ("P", "nothing follows `P`"),
            ("PT", "nothing follows `T`"),
            ("P1DT", "nothing follows `T`"),
            ("P1Y", "years"),
            ("P1M", "months"),
            ("P1Y2M", "years"),
            ("PT5", "lacks its unit"),
            ("P5H", "after `T`"),
            ("PT1S1M", "the order is"),
            ("PT1H1H", "the order is"),
            ("PT1.5H2M", "only the last part"),
            ("P1.5DT2M", "only the last part"),
            ("P1WT1H", "weeks stand alone"),
            ("P1D2W", "not expected"),
            ("PT-5S", "no sign"),
            ("-PT5S", "start with `P`"),
            ("PT.5S", "is not a number"),
            ("PT1.S", "is not a number"),
            ("PT1.2.3S", "is not a number"),
            ("PT5é", "not expected"),
            ("P3651D", "longer than ten years"),
            ("PT99999999999999999999999S", "longer than ten years"),
            ("PT18446744073709551615H", "longer than ten years"),
        ] {
            let refused = Duration::parse_iso8601(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }

    #[test]
    fn objects_of_parts_are_read() {
        let from = |json: &str| Duration::from_value(&value::parse(json).unwrap());
        let all = r#"{"days":1,"hours":2,"minutes":3,"seconds":4,"milliseconds":5}"#;
        assert_eq!(from(all), Ok(Duration(DAY + 2 * HOUR + 3 * MINUTE + 4005)));
        assert_eq!(from(r#"{"seconds":0}"#), Ok(Duration(0)));
        assert_eq!(from(r#"{"seconds":1.0}"#), Ok(Duration(1000)));
        assert_eq!(from(r#""PT1S""#), Ok(Duration(1000)));
        for (json, reason) in [
            ("{}", "at least one"),
            (r#"{"weeks":1}"#, "`weeks` is not a part"),
            (r#"{"seconds":-1}"#, "non-negative"),
            (r#"{"seconds":1.5}"#, "integer"),
            (r#"{"seconds":"1"}"#, "integer"),
            (r#"{"days":4000}"#, "ten years"),
            (r#"{"days":9223372036854775807}"#, "ten years"),
            (r#"{"days":99999999999999999999}"#, "integer"),
            ("5", "is not a duration"),
            ("null", "is not a duration"),
        ] {
            let refused = from(json).unwrap_err();
            assert!(refused.contains(reason), "{json}: {refused}");
        }
    }

    #[test]
    fn text_round_trips() {
        for text in [
            "PT0S",
            "PT5M",
            "P1D",
            "P1DT2H3M4.5S",
            "PT0.001S",
            "P14D",
            "PT1H1S",
            "PT0.12S",
        ] {
            assert_eq!(Duration(ms(text)).to_string(), text);
        }
    }

    #[test]
    fn arithmetic_is_checked() {
        assert_eq!(Duration(1).checked_add(Duration(2)), Some(Duration(3)));
        assert_eq!(Duration::MAX.checked_add(Duration(1)), None);
        assert_eq!(Duration(u64::MAX).checked_add(Duration(1)), None);
        assert_eq!(Duration(DAY).checked_mul(3650), Some(Duration::MAX));
        assert_eq!(Duration(DAY).checked_mul(3651), None);
        assert_eq!(Duration(DAY).checked_mul(u64::MAX), None);
    }
}
