//! URI templates (RFC 6570, simple expansion only).

use millrace_common::{ErrorKind, Problem};

use crate::Value;

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriTemplate {
    source: String,
}

impl UriTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// Byte offset and what is wrong there.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        Ok(Self {
            source: text.to_owned(),
        })
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Fills the template from the top-level members of an object.
    ///
    /// # Errors
    /// An `expression` problem when a value is not a scalar.
    pub fn expand(&self, input: &Value) -> Result<String, Problem> {
        let _ = input;
        Err(Problem::new(ErrorKind::Expression, "not available yet"))
    }
}
