//! One argument: what is needed of it to write it into a request. Numbers keep their digits.

use indexmap::IndexMap;
use millrace_common::RawJson;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    /// A text, number or boolean.
    Scalar(String),
    /// A list; what is nested deeper is written as JSON.
    Array(Vec<String>),
    /// An object, likewise.
    Object(Vec<(String, String)>),
}

impl Argument {
    pub(super) fn of(value: &RawJson) -> Self {
        if let Ok(items) = value.decode::<Vec<RawJson>>() {
            return Self::Array(items.iter().map(text).collect());
        }
        if let Ok(members) = value.decode::<IndexMap<String, RawJson>>() {
            return Self::Object(members.into_iter().map(|(key, v)| (key, text(&v))).collect());
        }
        Self::Scalar(text(value))
    }
}

/// A text without its quotes; anything else as JSON.
pub(super) fn text(value: &RawJson) -> String {
    value
        .decode::<String>()
        .unwrap_or_else(|_not_text| value.text().to_owned())
}
