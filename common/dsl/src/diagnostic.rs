//! Faults of a definition, each with a place and a hint.

use std::fmt;

use serde::Serialize;

/// A place in the source, 1-based; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The definition is accepted; the author probably meant something else.
    Warning,
    /// The definition is refused.
    Error,
}

/// One fault. Serialises to the shape that the API answers with 422.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// JSON Pointer of the node.
    pub pointer: String,
    /// Where.
    #[serde(flatten)]
    pub span: Span,
    /// How bad.
    pub severity: Severity,
    /// What is wrong: lowercase, the value in backticks, no full stop.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A refusal.
    pub fn error(pointer: impl Into<String>, span: Span, message: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            span,
            severity: Severity::Error,
            message: message.into(),
            hint: None,
        }
    }

    /// A remark.
    pub fn warning(pointer: impl Into<String>, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(pointer, span, message)
        }
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    /// `line:column: error: message`; the caller puts the file name in front and the hint on the next line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(
            f,
            "{}:{}: {word}: {}",
            self.span.line, self.span.column, self.message
        )
    }
}
