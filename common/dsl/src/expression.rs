//! jq expressions: compiled once at deploy time, evaluated within bounds, deterministic.
//!
//! `now` is the record's time; there is no environment, no input, no clock, no randomness.

use millrace_common::Problem;

use crate::{Span, Value};

/// A compiled expression. Cheap to clone; `Send + Sync`.
#[derive(Clone)]
pub struct Expression {
    // opaque
}

/// The variables that are legal at a position, `$` not included, in the order of the values given to
/// [`Expression::evaluate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(pub Vec<String>);

/// Why a text is not a usable expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Byte offset into the expression's source (after `${` was stripped: into the stripped text).
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}
