//! From a definition's text to what can run, or to every fault of the text.

use std::sync::Arc;

use millrace_common::DefinitionRef;
use millrace_dsl::model::Document;
use millrace_dsl::{Diagnostic, External, Parsed, Resources, Severity, value};

/// A text that may be deployed.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    /// The tree.
    pub document: Arc<Document>,
    /// Which exact version it is.
    pub reference: DefinitionRef,
    /// Remarks.
    pub warnings: Vec<Diagnostic>,
    /// What it refers to and was not given: it cannot run without.
    pub missing: Vec<External>,
}

/// Parses and checks a text; refuses what this build cannot run.
pub(super) fn accept(text: &str, resources: &Resources) -> Result<Accepted, Vec<Diagnostic>> {
    let Parsed {
        document,
        mut warnings,
        missing,
    } = millrace_dsl::parse_with(text, resources)?;
    warnings.extend(millrace_dsl::unsupported(&document));
    if warnings.iter().any(|d| d.severity == Severity::Error) {
        return Err(warnings);
    }
    let Document {
        namespace,
        name,
        version,
        ..
    } = &*document;
    let reference = DefinitionRef {
        namespace: namespace.clone(),
        name: name.clone(),
        version: version.clone(),
    };
    Ok(Accepted {
        document,
        reference,
        warnings,
        missing,
    })
}

/// The same on a thread that may block: the largest text takes half a second, and the caller's thread serves others.
pub(super) async fn accept_aside(text: &str, resources: &Resources) -> Result<Accepted, Vec<Diagnostic>> {
    let (text, resources) = (text.to_owned(), resources.clone());
    match tokio::task::spawn_blocking(move || accept(&text, &resources)).await {
        Ok(accepted) => accepted,
        // It cannot be aborted, so it panicked: that panic is the caller's.
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// True when a text is the same document: equal as JSON, whatever its order of keys, layout and comments.
pub(super) fn same(document: &Document, other: &str) -> bool {
    millrace_dsl::parse(other)
        .is_ok_and(|other| value::to_serde(&document.source) == value::to_serde(&other.document.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "document: {dsl: 1.0.3, namespace: default, name: hello, version: 1.0.0}\ndo:\n  - a: {set: {x: 1, y: 2}}\n";

    #[test]
    fn layout_comments_and_order_of_keys_do_not_matter() {
        let hello = accept(HELLO, &Resources::new()).unwrap();
        assert_eq!(hello.reference.to_string(), "default/hello@1.0.0");
        let other = "# the same\ndo: [{a: {set: {y: 2, x: 1}}}]\ndocument:\n  name: hello\n  namespace: default\n  version: 1.0.0\n  dsl: 1.0.3\n";
        assert!(same(&hello.document, other));
        assert!(!same(&hello.document, &HELLO.replace("x: 1", "x: 2")));
    }

    #[test]
    fn what_cannot_run_yet_is_refused() {
        let text = HELLO.replace("do:\n", "schedule: {on: {one: {with: {type: c}}}}\ndo:\n");
        let faults = accept(&text, &Resources::new()).unwrap_err();
        assert!(
            faults.iter().any(|d| d.message.contains("not supported yet")),
            "{faults:?}"
        );
    }
}
