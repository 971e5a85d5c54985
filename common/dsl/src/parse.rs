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
mod flow;
mod keys;
mod nesting;
mod node;
mod run;
mod schedule;
mod scope;
mod shape;
mod source;
mod task;
mod uses;
mod yaml;

use std::sync::Arc;

use millrace_common::limits;

use self::core::Parser;
pub use self::keys::closest;
use self::source::Source;
use crate::model::Document;
use crate::{Diagnostic, Severity, Span, Value};

/// A definition that passed every check.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The typed tree.
    pub document: Arc<Document>,
    /// What the author probably meant differently, in order of the text.
    pub warnings: Vec<Diagnostic>,
}

/// Parses a definition in YAML 1.2 or JSON and checks it.
///
/// # Errors
/// Every fault of the text, warnings included, in order of the text.
pub fn parse(source: &str) -> Result<Parsed, Vec<Diagnostic>> {
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
    let mut parser = Parser::new(&source, &root, faults);
    let document = parser.document(&root);
    let faults = in_order(parser.faults);
    match document {
        Some(document) if faults.iter().all(|f| f.severity == Severity::Warning) => Ok(Parsed {
            document: Arc::new(document),
            warnings: faults,
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

fn in_order(mut faults: Vec<Diagnostic>) -> Vec<Diagnostic> {
    faults.sort_by(|a, b| (a.span, &a.message).cmp(&(b.span, &b.message)));
    faults.dedup_by(|a, b| a.span == b.span && a.message == b.message);
    faults
}
