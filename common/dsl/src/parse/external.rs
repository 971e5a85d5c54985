//! What a definition refers to elsewhere: functions by address and of catalogs, schemas. Nothing is fetched here: whoever
//! deploys gives the documents, and is told which ones are missing.

use std::sync::Arc;

use millrace_common::limits;

use super::core::Parser;
use super::env::Env;
use super::node::{At, Data, Node, excerpt};
use super::scope::Position;
use super::source::Source;
use super::uses::Kind;
use super::{External, yaml};
use crate::expression::strip;
use crate::model::{Construct, Extra, Feature, FunctionTarget, FunctionUse, Task};
use crate::schema::Schema;
use crate::{Diagnostic, Severity};

/// A function of elsewhere.
pub(super) enum Reading {
    /// Being read: a reference to it closes a circle.
    Begun,
    /// The task, unless it is faulty or missing; and its nesting of lists.
    Done(Option<Arc<Task>>, usize),
}

impl<'a> Parser<'a> {
    /// A function by address, called by `name`.
    pub(super) fn external_function(
        &mut self,
        url: String,
        name: &str,
        node: &Node,
        at: &At<'_>,
        env: &Env<'_>,
    ) -> Option<FunctionTarget> {
        if !self.external.contains_key(&url) {
            let Some(text) = self.fetched(&url, node, at) else {
                return Some(FunctionTarget::Missing(url));
            };
            self.external.insert(url.clone(), Reading::Begun);
            let (task, height) = self.read_external(&url, name, text, node, at, env.depth + 1);
            self.external
                .insert(url.clone(), Reading::Done(task.map(Arc::new), height));
        }
        match self.external.get(&url) {
            Some(Reading::Done(task, height)) => {
                let (task, deepest) = (task.clone(), env.depth + 1 + height);
                self.deepest = self.deepest.max(deepest);
                if deepest > limits::DEFINITION_DEPTH_MAX {
                    let max = limits::DEFINITION_DEPTH_MAX;
                    let text = format!("task lists and functions nest deeper than {max} levels");
                    self.report(at.error_in(node, text));
                    return None;
                }
                task.map(FunctionTarget::Inline)
            }
            Some(Reading::Begun) | None => {
                let text = format!("functions call each other in a circle: the one at `{url}` calls itself");
                self.report(at.error_in(node, text));
                None
            }
        }
    }

    fn read_external(
        &mut self,
        url: &str,
        name: &str,
        text: &'a str,
        node: &Node,
        at: &At<'_>,
        depth: usize,
    ) -> (Option<Task>, usize) {
        let source = Source::new(text);
        let mut faults = Vec::new();
        let root = match yaml::read(&source, &mut faults) {
            Ok(root) => root,
            Err(fatal) => {
                faults.push(*fatal);
                self.external_faults(&format!("the function at `{url}`"), faults, node, at);
                return (None, 0);
            }
        };
        let mut inner = Parser::new(&source, &root, faults, self.resources);
        inner.external = std::mem::take(&mut self.external);
        (inner.tasks, inner.deepest) = (self.tasks, depth);
        let uses = At::ROOT.key("use", at.span);
        let functions = uses.key("functions", at.span);
        let env = Env {
            depth,
            ..Env::OUTSIDE
        };
        let task = inner.task(name, &root, &functions.key(name, at.span), &env);
        self.tasks = inner.tasks;
        self.external = std::mem::take(&mut inner.external);
        // What it needs is needed at the place of the call.
        let (pointer, span) = (at.pointer(), at.span);
        self.missing.extend(inner.missing.drain(..).map(|m| External {
            pointer: pointer.clone(),
            span,
            ..m
        }));
        self.constructs
            .extend(inner.constructs.drain(..).map(|c| Construct {
                pointer: pointer.clone(),
                span,
                ..c
            }));
        self.extras.extend(inner.extras.drain(..).map(|e| Extra {
            pointer: pointer.clone(),
            span,
            ..e
        }));
        self.functions
            .extend(inner.functions.drain(..).map(|f| FunctionUse {
                pointer: pointer.clone(),
                span,
                ..f
            }));
        let height = inner.deepest.saturating_sub(depth);
        let faults = std::mem::take(&mut inner.faults);
        let is_wrong = faults.iter().any(|f| f.severity == Severity::Error);
        self.external_faults(&format!("the function at `{url}`"), faults, node, at);
        (task.filter(|_| !is_wrong), height)
    }

    /// Errors of a document elsewhere are errors of the place that refers to it.
    fn external_faults(&mut self, what: &str, faults: Vec<Diagnostic>, node: &Node, at: &At<'_>) {
        for fault in faults.into_iter().filter(|f| f.severity == Severity::Error) {
            let place = format!("{}:{}", fault.span.line, fault.span.column);
            let message = format!("{what} is wrong at {place}: {}", fault.message);
            let own = at.error_in(node, message);
            self.report(Diagnostic {
                hint: fault.hint,
                ..own
            });
        }
    }

    /// The text of a document elsewhere; notes that it is missing otherwise.
    fn fetched(&mut self, url: &str, node: &Node, at: &At<'_>) -> Option<&'a str> {
        let found = self.resources.get(url);
        if found.is_none() {
            self.missing.push(External {
                url: url.to_owned(),
                pointer: at.pointer(),
                span: at.on(node).span,
            });
        }
        found.map(String::as_str)
    }

    /// An address that is known when the definition is deployed, as the document itself has it: repositories on the web
    /// have a page for people at the address that people use.
    pub(super) fn address(&mut self, text: &str, node: &Node, at: &At<'_>) -> Option<String> {
        let is_web = text.starts_with("http://") || text.starts_with("https://");
        if strip(text).is_none() && is_web && !text.contains(|c: char| c.is_whitespace() || "{}".contains(c))
        {
            return Some(raw_address(text));
        }
        let message = format!("`{}` is not an address to fetch a document from", excerpt(text));
        let hint =
            "write a constant `http` or `https` URL: it is fetched once, when the definition is deployed";
        self.report(at.error_in(node, message).hint(hint));
        None
    }

    /// The address of an endpoint, whose document is fetched when the definition is deployed.
    fn endpoint_address(&mut self, node: &Node, at: &At<'_>) -> Option<String> {
        let (uri, at) = match node.get("uri") {
            Some(entry) => (&entry.node, at.entry(entry)),
            None => (node, *at),
        };
        let text = uri.text()?;
        if let Some(entry) = node.get("authentication") {
            let message = "documents that are fetched at deployment cannot have an `authentication` yet";
            self.report(at.sibling(entry).error(message));
            return None;
        }
        self.address(text, uri, &at)
    }

    /// Where the functions of a declared catalog are.
    pub(super) fn catalog_base(&mut self, catalog: &str) -> Option<String> {
        let entry = *self.uses.section(Kind::Catalog).entries.get(catalog)?;
        let base = self.declared(Kind::Catalog, entry, |p, at| {
            let endpoint = entry.node.get("endpoint")?;
            p.endpoint_address(&endpoint.node, &at.entry(endpoint))
        })?;
        Some(base.trim_end_matches('/').to_owned())
    }

    /// `schema.resource`.
    pub(super) fn schema_resource(&mut self, node: &Node, at: &At<'_>, format: &str) -> Option<Arc<Schema>> {
        self.note(Feature::SchemaResource, at);
        let vars = self.vars(Position::Schedule, &Env::OUTSIDE);
        self.resource(node, at, &vars)?;
        let entry = node.get("endpoint")?;
        let url = self.endpoint_address(&entry.node, &at.entry(entry))?;
        let text = self.fetched(&url, node, at)?;
        let (source, mut faults) = (Source::new(text), Vec::new());
        let what = format!("the schema at `{url}`");
        let root = match yaml::read(&source, &mut faults) {
            Ok(root) => root,
            Err(fatal) => {
                self.external_faults(&what, vec![*fatal], node, at);
                return None;
            }
        };
        if matches!(root.data, Data::Null) {
            self.report(at.error_in(node, format!("{what} is empty")));
            return None;
        }
        match Schema::compile(&root.value, format) {
            Ok(schema) => Some(Arc::new(schema)),
            Err(reason) => {
                self.report(at.error_in(node, format!("{what} is invalid: {reason}")));
                None
            }
        }
    }
}

/// The machine-readable form of a document in a repository on GitHub or GitLab; other addresses stay as they are.
fn raw_address(url: &str) -> String {
    const PAGES: [&str; 2] = ["https://github.com/", "https://www.github.com/"];
    if let Some((project, path)) = url.split_once("/-/tree/").or_else(|| url.split_once("/-/blob/")) {
        return format!("{project}/-/raw/{path}");
    }
    let Some(rest) = PAGES.iter().find_map(|p| url.strip_prefix(p)) else {
        return url.to_owned();
    };
    let mut parts = rest.trim_end_matches('/').splitn(4, '/');
    let (Some(owner), Some(repository)) = (parts.next(), parts.next()) else {
        return url.to_owned();
    };
    let reference = match (parts.next(), parts.next()) {
        (Some("tree" | "blob" | "raw"), Some(path)) => path,
        (None, None) => "HEAD",
        (Some(_) | None, _) => return url.to_owned(),
    };
    format!("https://raw.githubusercontent.com/{owner}/{repository}/{reference}")
}

#[cfg(test)]
mod tests {
    use super::raw_address;

    #[test]
    fn pages_of_repositories_become_raw_documents() {
        let rows = [
            (
                "https://github.com/o/r/tree/main",
                "https://raw.githubusercontent.com/o/r/main",
            ),
            (
                "https://github.com/o/r/tree/main/sub/dir",
                "https://raw.githubusercontent.com/o/r/main/sub/dir",
            ),
            (
                "https://github.com/o/r",
                "https://raw.githubusercontent.com/o/r/HEAD",
            ),
            (
                "https://github.com/o/r/blob/v1/functions/f/1.0.0/function.yaml",
                "https://raw.githubusercontent.com/o/r/v1/functions/f/1.0.0/function.yaml",
            ),
            (
                "https://gitlab.com/g/s/r/-/tree/main",
                "https://gitlab.com/g/s/r/-/raw/main",
            ),
            (
                "https://git.example/g/r/-/blob/main/f.yaml",
                "https://git.example/g/r/-/raw/main/f.yaml",
            ),
            ("https://example.com/catalog", "https://example.com/catalog"),
        ];
        for (page, raw) in rows {
            assert_eq!(raw_address(page), raw);
        }
    }
}
