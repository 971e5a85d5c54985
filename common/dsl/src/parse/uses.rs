//! `use`: what is declared there, and finding it from its references.
//!
//! A reusable policy is read again at every reference, because the variables that its expressions may use are those
//! of the place that refers to it. Equal faults of several references are reported once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexSet;
use millrace_common::limits;

use super::core::Parser;
use super::env::Env;
use super::node::{At, Entry, Node};
use super::scope::{Locals, Position};
use crate::model::{Extension, Feature, FunctionTarget, Task, Uses};
use crate::{Span, model};

const KEYS: [&str; 8] = [
    "authentications",
    "catalogs",
    "errors",
    "extensions",
    "functions",
    "retries",
    "secrets",
    "timeouts",
];

/// Kinds of task that an extension can extend.
const EXTENDABLE: [&str; 12] = [
    "call",
    "composite",
    "emit",
    "for",
    "listen",
    "raise",
    "run",
    "set",
    "switch",
    "try",
    "wait",
    "all",
];

/// One map of `use`.
#[derive(Debug, Default)]
pub(super) struct Section<'a> {
    span: Span,
    pub(super) entries: HashMap<&'a str, &'a Entry>,
    order: Vec<&'a str>,
}

impl<'a> Section<'a> {
    fn new(entry: Option<&'a Entry>) -> Self {
        let Some(entry) = entry else {
            return Self::default();
        };
        let entries = entry.node.entries().unwrap_or_default();
        Self {
            span: entry.span,
            entries: entries.iter().map(|e| (e.key.as_str(), e)).collect(),
            order: entries.iter().map(|e| e.key.as_str()).collect(),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}

/// A section of `use` by what its entries are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Authentication,
    Catalog,
    Error,
    Function,
    Retry,
    Timeout,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Authentication,
        Self::Catalog,
        Self::Error,
        Self::Function,
        Self::Retry,
        Self::Timeout,
    ];

    const fn section(self) -> &'static str {
        match self {
            Self::Authentication => "authentications",
            Self::Catalog => "catalogs",
            Self::Error => "errors",
            Self::Function => "functions",
            Self::Retry => "retries",
            Self::Timeout => "timeouts",
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Catalog => "catalog",
            Self::Error => "error",
            Self::Function => "function",
            Self::Retry => "retry policy",
            Self::Timeout => "timeout",
        }
    }
}

enum Function {
    /// Being read: a reference to it closes a circle.
    Reading,
    Read(Option<Arc<Task>>, usize),
}

/// Everything that is declared in `use`.
pub(super) struct Index<'a> {
    span: Span,
    sections: [Section<'a>; 6],
    pub(super) secrets: IndexSet<&'a str>,
    referred: HashSet<(Kind, &'a str)>,
    functions: HashMap<&'a str, Function>,
    /// Functions being read, outermost first.
    reading: Vec<&'a str>,
}

impl<'a> Index<'a> {
    pub(super) fn new(root: &'a Node) -> Self {
        let uses = root.get("use");
        let section = |kind: Kind| Section::new(uses.and_then(|u| u.node.get(kind.section())));
        let secrets = uses
            .and_then(|u| u.node.get("secrets"))
            .and_then(|s| s.node.items());
        Self {
            span: uses.map(|u| u.span).unwrap_or_default(),
            sections: Kind::ALL.map(section),
            secrets: secrets
                .unwrap_or_default()
                .iter()
                .filter_map(Node::text)
                .collect(),
            referred: HashSet::new(),
            functions: HashMap::new(),
            reading: Vec::new(),
        }
    }

    pub(super) fn section(&self, kind: Kind) -> &Section<'a> {
        &self.sections[kind as usize]
    }

    pub(super) fn names(&self, kind: Kind) -> &[&'a str] {
        &self.section(kind).order
    }
}

impl<'a> Parser<'a> {
    /// Finds what a name refers to, or reports the names that exist.
    pub(super) fn find(&mut self, kind: Kind, name: &str, node: &Node, at: &At<'_>) -> Option<&'a Entry> {
        let found = self.uses.section(kind).entries.get(name).copied();
        if let Some(entry) = found {
            self.uses.referred.insert((kind, &entry.key));
        } else {
            let what = format!("names in `use.{}`", kind.section());
            let hint = self.suggest(name, self.uses.names(kind).iter().copied(), &what);
            let message = format!("unknown {} `{name}`", kind.noun());
            self.report(at.error_in(node, message).hint(hint));
        }
        found
    }

    /// Reads a declared entry at its own place in the document.
    pub(super) fn declared<R>(
        &mut self,
        kind: Kind,
        entry: &Entry,
        read: impl FnOnce(&mut Self, &At<'_>) -> R,
    ) -> R {
        let uses = At::ROOT.key("use", self.uses.span);
        let section = uses.key(kind.section(), self.uses.section(kind).span);
        read(self, &section.entry(entry))
    }

    /// A name in `use` or an inline definition; `read` reads either.
    pub(super) fn named_or<R>(
        &mut self,
        kind: Kind,
        node: &Node,
        at: &At<'_>,
        read: impl FnOnce(&mut Self, &Node, &At<'_>) -> Option<R>,
    ) -> Option<R> {
        match node.text() {
            Some(name) => {
                let entry = self.find(kind, name, node, at)?;
                self.declared(kind, entry, |p, at| read(p, &entry.node, at))
            }
            None => read(self, node, at),
        }
    }

    /// `use`, all but the policies.
    pub(super) fn declarations(&mut self, node: &'a Node, at: &At<'_>) -> Uses {
        let Some(fields) = self.fields(node, at, "`use`", &KEYS) else {
            return Uses::default();
        };
        for kind in Kind::ALL {
            if let Some(entry) = fields.get(kind.section()) {
                self.map(
                    &entry.node,
                    &at.entry(entry),
                    "an object of names and definitions",
                );
            }
        }
        if let Some(entry) = fields.get("secrets") {
            self.secrets(&entry.node, &at.entry(entry));
        }
        self.functions();
        Uses {
            extensions: match fields.get("extensions") {
                Some(entry) => self.extensions(&entry.node, &at.entry(entry)),
                None => Vec::new(),
            },
            secrets: self.uses.secrets.iter().map(|s| (*s).to_owned()).collect(),
            catalogs: self.catalogs(),
        }
    }

    /// The policies that nothing refers to; the others were checked where they are used.
    pub(super) fn unused_policies(&mut self) {
        let locals = Locals {
            outer: None,
            names: &["error"],
        };
        let env = Env {
            locals: Some(&locals),
            ..Env::OUTSIDE
        };
        let vars = self.vars(Position::Definition, &env);
        for kind in [Kind::Authentication, Kind::Error, Kind::Retry, Kind::Timeout] {
            for entry in self.entries(kind) {
                if self.uses.referred.contains(&(kind, entry.key.as_str())) {
                    continue;
                }
                self.declared(kind, entry, |p, at| match kind {
                    Kind::Authentication => _ = p.policy(&entry.node, at, &vars.filled_in_late()),
                    Kind::Error => _ = p.error_template(&entry.node, at, &vars),
                    Kind::Retry => _ = p.retry_policy(&entry.node, at, &env),
                    _ => _ = p.timeout_policy(&entry.node, at, &vars),
                });
            }
        }
    }

    fn entries(&self, kind: Kind) -> Vec<&'a Entry> {
        let section = self.uses.section(kind);
        section
            .order
            .iter()
            .filter_map(|name| section.entries.get(name).copied())
            .collect()
    }

    fn catalogs(&mut self) -> Vec<(String, model::Endpoint)> {
        let vars = self.vars(Position::Schedule, &Env::OUTSIDE);
        let mut catalogs = Vec::new();
        for entry in self.entries(Kind::Catalog) {
            let endpoint = self.declared(Kind::Catalog, entry, |p, at| {
                let fields = p.fields(&entry.node, at, "a catalog", &["endpoint"])?;
                let endpoint = p.required(&fields, at, "a catalog", "endpoint")?;
                p.endpoint(&endpoint.node, &at.entry(endpoint), &vars)
            });
            catalogs.extend(endpoint.map(|e| (entry.key.clone(), e)));
        }
        catalogs
    }

    fn secrets(&mut self, node: &Node, at: &At<'_>) {
        let mut seen = HashSet::new();
        for (i, item) in self.list(node, at, "a list of names").iter().enumerate() {
            let at = at.index(i, item);
            let name = self.constant(item, &at, "the name of a secret");
            if let Some(name) = name.filter(|name| !seen.insert(*name)) {
                self.report(at.warning(format!("`{name}` is listed twice")));
            }
        }
    }

    // Functions

    fn functions(&mut self) {
        for name in self.uses.names(Kind::Function).to_vec() {
            if BUILT_IN.contains(&name) {
                let entry = self.uses.section(Kind::Function).entries.get(name).copied();
                if let Some(entry) = entry {
                    let message = format!("`{name}` cannot be the name of a function");
                    let hint = format!("`call: {name}` is built in; choose another name");
                    self.declared(Kind::Function, entry, |p, at| {
                        p.report(at.error(message).hint(hint))
                    });
                }
            }
            self.read_function(name, 0);
        }
    }

    /// The task that a function stands for; `None` when it is faulty. `node` is the reference.
    pub(super) fn function(
        &mut self,
        name: &str,
        node: &Node,
        at: &At<'_>,
        env: &Env<'_>,
    ) -> Option<FunctionTarget> {
        let name = *self.uses.section(Kind::Function).entries.get_key_value(name)?.0;
        if matches!(self.uses.functions.get(name), Some(Function::Reading)) {
            let first = self
                .uses
                .reading
                .iter()
                .position(|n| *n == name)
                .unwrap_or_default();
            let circle = [&self.uses.reading[first..], &[name]].concat().join(" → ");
            let fault = at.error_in(node, format!("functions call each other in a circle: {circle}"));
            self.report(fault);
            return None;
        }
        let (task, height) = self.read_function(name, env.depth + 1);
        let deepest = env.depth + 1 + height;
        self.deepest = self.deepest.max(deepest);
        if deepest > limits::DEFINITION_DEPTH_MAX {
            let max = limits::DEFINITION_DEPTH_MAX;
            self.report(at.error_in(
                node,
                format!("task lists and functions nest deeper than {max} levels"),
            ));
            return None;
        }
        task.map(FunctionTarget::Inline)
    }

    /// Reads a function once. Gives its nesting of lists too.
    fn read_function(&mut self, name: &'a str, depth: usize) -> (Option<Arc<Task>>, usize) {
        if let Some(Function::Read(task, height)) = self.uses.functions.get(name) {
            return (task.clone(), *height);
        }
        let Some(entry) = self.uses.section(Kind::Function).entries.get(name).copied() else {
            return (None, 0);
        };
        self.uses.functions.insert(name, Function::Reading);
        self.uses.reading.push(name);
        let outer = std::mem::replace(&mut self.deepest, depth);
        let env = Env {
            depth,
            ..Env::OUTSIDE
        };
        let task = self.declared(Kind::Function, entry, |p, at| p.task(name, &entry.node, at, &env));
        let height = self.deepest.saturating_sub(depth);
        self.deepest = self.deepest.max(outer);
        self.uses.reading.pop();
        let task = task.map(Arc::new);
        self.uses
            .functions
            .insert(name, Function::Read(task.clone(), height));
        (task, height)
    }

    // Extensions

    fn extensions(&mut self, node: &Node, at: &At<'_>) -> Vec<Extension> {
        let mut extensions = Vec::new();
        for (i, item) in self.list(node, at, "a list of extensions").iter().enumerate() {
            let at = at.index(i, item);
            let hint = "write `- name: { extend: all, … }`";
            let Some(entry) = self.single(item, &at, "extension", hint) else {
                continue;
            };
            let at = at.entry(entry);
            self.note(Feature::Extension, &at);
            extensions.extend(self.extension(entry, &at));
        }
        extensions
    }

    fn extension(&mut self, entry: &Entry, at: &At<'_>) -> Option<Extension> {
        let fields = self.fields(
            &entry.node,
            at,
            "an extension",
            &["extend", "when", "before", "after"],
        )?;
        let env = Env::OUTSIDE;
        let extend = self
            .required(&fields, at, "an extension", "extend")
            .and_then(|e| self.word(&e.node, &at.entry(e), &EXTENDABLE));
        let vars = self.vars(Position::Definition, &env);
        let when = fields
            .get("when")
            .and_then(|e| self.expression(&e.node, &at.entry(e), &vars));
        let before = fields
            .get("before")
            .map(|e| self.tasks(&e.node, &at.entry(e), &env));
        let after = fields
            .get("after")
            .map(|e| self.tasks(&e.node, &at.entry(e), &env));
        if before.is_none() && after.is_none() {
            self.report(at.warning("the extension has neither `before` nor `after`"));
        }
        Some(Extension {
            name: entry.key.clone(),
            extend: extend?.to_owned(),
            when,
            before,
            after,
        })
    }
}

/// Calls that the language brings.
pub(super) const BUILT_IN: [&str; 6] = ["http", "grpc", "openapi", "asyncapi", "mcp", "a2a"];
