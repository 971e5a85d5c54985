//! From the text of a definition to the typed tree, or to every fault of the text at once.
//!
//! The text becomes a tree of nodes with places (`yaml`); a hand-written parser that looks at the deciding key first
//! (`task`: the keyword, `call`: its value) turns that into [`crate::model`] and checks on the way all that can be
//! known before an instance starts: names, references, variables, expressions, durations, schemas, reachability.

mod authentication;
mod call;
mod core;
mod data;
mod document;
mod env;
mod errors;
mod events;
mod external;
mod flow;
mod keys;
mod loose;
mod nesting;
mod node;
mod run;
mod schedule;
mod scope;
mod settings;
mod shape;
mod source;
mod task;
mod uses;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_common::limits;

use self::core::Parser;
pub use self::keys::closest;
use self::source::Source;
use crate::model::{Document, Extra};
use crate::{Diagnostic, Severity, Span, Value};

/// A definition that passed every check.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The typed tree.
    pub document: Arc<Document>,
    /// What the author probably meant differently, in order of the text.
    pub warnings: Vec<Diagnostic>,
    /// Documents that it refers to and that were not given: without them it is not checked to the end, and cannot run.
    pub missing: Vec<External>,
}

/// Documents that a definition refers to, by address: fetched when it is deployed, and kept with it.
pub type Resources = BTreeMap<String, String>;

/// A reference to a document elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Its address, `http` or `https`.
    pub url: String,
    /// JSON Pointer of the place.
    pub pointer: String,
    /// The place.
    pub span: Span,
}

/// Parses a definition in YAML 1.2 or JSON and checks it.
///
/// # Errors
/// Every fault of the text, warnings included, in order of the text.
pub fn parse(source: &str) -> Result<Parsed, Vec<Diagnostic>> {
    parse_with(source, &Resources::new())
}

/// As [`parse`], with the documents that the definition refers to.
///
/// # Errors
/// Those of [`parse`]; a fault of such a document is one of the place that refers to it.
pub fn parse_with(source: &str, resources: &Resources) -> Result<Parsed, Vec<Diagnostic>> {
    if source.len() > limits::DEFINITION_BYTES_MAX {
        let (found, max) = (source.len(), limits::DEFINITION_BYTES_MAX);
        let message = format!("the definition has {found} bytes, at most {max} are allowed");
        return Err(vec![Diagnostic::error("", Span { line: 1, column: 1 }, message)]);
    }
    let source = Source::new(source);
    let mut faults = Vec::new();
    let root = match yaml::read(&source, &mut faults) {
        Ok(root) => root,
        Err(fatal) => {
            faults.push(*fatal);
            return Err(in_order(faults));
        }
    };
    let mut parser = Parser::new(&source, &root, faults, resources);
    let document = parser.document(&root);
    let mut missing = std::mem::take(&mut parser.missing);
    missing.sort_by(|a, b| (a.span, &a.url).cmp(&(b.span, &b.url)));
    missing.dedup();
    let faults = in_order(parser.faults);
    match document {
        Some(document) if faults.iter().all(|f| f.severity == Severity::Warning) => Ok(Parsed {
            document: Arc::new(document),
            warnings: faults,
            missing,
        }),
        _ => Err(faults),
    }
}

/// Reads any text in YAML 1.2 or JSON as data, within the bounds of definitions but for their length.
///
/// # Errors
/// The first fault of the text: syntax, duplicate keys, depth, aliases that stand for too much.
pub fn data(source: &str) -> Result<Value, Diagnostic> {
    let source = Source::new(source);
    let mut faults = Vec::new();
    let root = yaml::read(&source, &mut faults).map_err(|fatal| *fatal)?;
    let fault = in_order(faults)
        .into_iter()
        .find(|f| f.severity == Severity::Error);
    fault.map_or(Ok(root.value), Err)
}

/// What a document uses that this build does not execute yet: parsed and checked, but refused at deployment.
pub fn unsupported(document: &Document) -> Vec<Diagnostic> {
    let pending = document.constructs.iter().filter(|c| !c.feature.is_executed());
    in_order(
        pending
            .map(|c| {
                let message = format!("{} is not supported yet", c.feature);
                Diagnostic::error(c.pointer.as_str(), c.span, message)
            })
            .collect(),
    )
}

/// What other runtimes of the language would ignore or not know, and what they do then: remarks for who wants to run the
/// definition elsewhere.
pub fn portability(document: &Document) -> Vec<Diagnostic> {
    let remark = |extra: &Extra| {
        let message = format!("{} is known to millrace only", extra.what);
        Diagnostic::warning(extra.pointer.as_str(), extra.span, message).hint(extra.elsewhere)
    };
    in_order(document.extras.iter().map(remark).collect())
}

fn in_order(mut faults: Vec<Diagnostic>) -> Vec<Diagnostic> {
    faults.sort_by(|a, b| (a.span, &a.message).cmp(&(b.span, &b.message)));
    faults.dedup_by(|a, b| a.span == b.span && a.message == b.message);
    faults
}
