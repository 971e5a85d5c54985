//! From a definition's text to what can run, or to every fault of the text.

use std::sync::Arc;

use millrace_common::{DefinitionRef, limits};
use millrace_dsl::model::Document;
use millrace_dsl::{Diagnostic, Severity, Span, value};

/// A text that may be deployed.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// The tree.
    pub document: Arc<Document>,
    /// Which exact version it is.
    pub reference: DefinitionRef,
    /// Remarks.
    pub warnings: Vec<Diagnostic>,
}

/// Parses and checks a text.
pub(super) fn accept(text: &str) -> Result<Accepted, Vec<Diagnostic>> {
    if text.len() > limits::DEFINITION_BYTES_MAX {
        let message = format!("the definition has {} bytes, more than {}", text.len(), limits::DEFINITION_BYTES_MAX);
        return Err(vec![Diagnostic::error("", Span { line: 1, column: 1 }, message)]);
    }
    let document = millrace_dsl::parse(text)?;
    let (errors, warnings): (Vec<_>, Vec<_>) =
        millrace_dsl::unsupported(&document).into_iter().partition(|d| d.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(errors);
    }
    let reference = DefinitionRef {
        namespace: document.namespace.clone(),
        name: document.name.clone(),
        version: document.version.clone(),
    };
    Ok(Accepted { document: Arc::new(document), reference, warnings })
}

/// True when two texts are the same document: equal as JSON, whatever their order of keys, layout and comments.
pub(super) fn same(document: &Document, other: &str) -> bool {
    millrace_dsl::parse(other)
        .is_ok_and(|other| value::to_serde(&document.source) == value::to_serde(&other.source))
}
