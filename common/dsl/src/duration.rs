//! Durations of the language.

use std::fmt;

use crate::Value;

/// A length of time in whole milliseconds, never negative, at most [`Duration::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Duration(pub u64);

impl Duration {
    /// Ten years of 365 days: longer ones are refused.
    pub const MAX: Self = Self(10 * 365 * 86_400_000);

    /// Parses `P1DT2H3M4.5S` or `P2W`.
    ///
    /// # Errors
    /// What is wrong, as a sentence without full stop.
    pub fn parse_iso8601(text: &str) -> Result<Self, String> {
        Err(format!("`{text}` is not a duration"))
    }

    /// From `{days, hours, minutes, seconds, milliseconds}`.
    ///
    /// # Errors
    /// What is wrong, as a sentence without full stop.
    pub fn from_parts(parts: &Value) -> Result<Self, String> {
        Err(format!("`{parts}` is not a duration"))
    }

    /// From an ISO 8601 text or an object of parts.
    ///
    /// # Errors
    /// What is wrong, as a sentence without full stop.
    pub fn from_value(v: &Value) -> Result<Self, String> {
        match v {
            Value::TStr(_) => Self::parse_iso8601(crate::value::as_str(v).unwrap_or_default()),
            _ => Self::from_parts(v),
        }
    }

    /// The sum; `None` above [`Self::MAX`].
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self).filter(|d| *d <= Self::MAX)
    }

    /// The multiple; `None` above [`Self::MAX`].
    pub fn checked_mul(self, factor: u64) -> Option<Self> {
        self.0.checked_mul(factor).map(Self).filter(|d| *d <= Self::MAX)
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PT{}.{:03}S", self.0 / 1000, self.0 % 1000)
    }
}
