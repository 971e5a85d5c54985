//! The document as a whole.

use std::str::FromStr;

use millrace_common::is_label;
use semver::Version;

use super::core::{Fields, Parser};
use super::env::Env;
use super::node::{At, Data, Node};
use super::scope::Position;
use super::settings::Owner;
use super::uses::Kind;
use crate::expression::strip;
use crate::model::{DataIn, DataOut, Document, Feature, Settings, TaskList, Uses};

const KEYS: [&str; 8] = [
    "document", "input", "use", "do", "timeout", "output", "schedule", "evaluate",
];
const HEAD_KEYS: [&str; 8] = [
    "dsl",
    "namespace",
    "name",
    "version",
    "title",
    "summary",
    "tags",
    "metadata",
];
const HEAD: &str = "`document`";

/// Newest version of the language that this parser knows.
const NEWEST: Version = Version::new(1, 0, 3);

#[derive(Default)]
struct Head {
    dsl: String,
    namespace: String,
    name: String,
    version: String,
    title: Option<String>,
    summary: Option<String>,
    settings: Settings,
}

impl<'a> Parser<'a> {
    pub(super) fn document(&mut self, root: &'a Node) -> Option<Document> {
        let at = At::ROOT;
        if root.entries().is_none() {
            self.expected_hint("a workflow definition", root, &at, "it starts with `document:`");
            return None;
        }
        let fields = self.fields(root, &at, "the definition", &KEYS)?;
        let head = self.head(&fields, &at);
        let uses = match fields.get("use") {
            Some(entry) => self.declarations(&entry.node, &at.entry(entry)),
            None => Uses::default(),
        };
        let (input, output) = self.ends(&fields, &at);
        let tasks = self.body(&fields, &at, head.settings.saga);
        let vars = self.vars(Position::WorkflowOutput, &Env::OUTSIDE);
        let timeout = fields
            .get("timeout")
            .and_then(|e| self.timeout(&e.node, &at.entry(e), &vars));
        let schedule = self.scheduling(root, &at);
        let loose = fields
            .get("evaluate")
            .is_some_and(|e| self.evaluate(&e.node, &at.entry(e)));
        self.unused_policies();
        Some(Document {
            dsl: head.dsl,
            namespace: head.namespace,
            name: head.name,
            version: head.version,
            title: head.title,
            summary: head.summary,
            input,
            output,
            uses,
            tasks,
            timeout,
            schedule,
            loose,
            settings: head.settings,
            constructs: std::mem::take(&mut self.constructs),
            functions: std::mem::take(&mut self.functions),
            extras: std::mem::take(&mut self.extras),
            source: root.value.clone(),
        })
    }

    fn body(&mut self, fields: &Fields<'_>, at: &At<'_>, saga: bool) -> TaskList {
        let env = Env { saga, ..Env::OUTSIDE };
        match self.required(fields, at, "the definition", "do") {
            Some(entry) => self.tasks(&entry.node, &at.entry(entry), &env),
            None => TaskList::default(),
        }
    }

    fn ends(&mut self, fields: &Fields<'_>, at: &At<'_>) -> (DataIn, DataOut) {
        let before = self.vars(Position::WorkflowInput, &Env::OUTSIDE);
        let after = self.vars(Position::WorkflowOutput, &Env::OUTSIDE);
        let input = fields
            .get("input")
            .map(|e| self.data_in(&e.node, &at.entry(e), &before));
        let output = fields
            .get("output")
            .map(|e| self.data_out(&e.node, &at.entry(e), "`output`", &after));
        (input.unwrap_or_default(), output.unwrap_or_default())
    }

    fn head(&mut self, fields: &Fields<'_>, at: &At<'_>) -> Head {
        let Some(entry) = self.required(fields, at, "the definition", "document") else {
            return Head::default();
        };
        let at = at.entry(entry);
        let Some(fields) = self.fields(&entry.node, &at, HEAD, &HEAD_KEYS) else {
            return Head::default();
        };
        let mut head = Head {
            dsl: self.dsl(&fields, &at),
            namespace: self.label(&fields, &at, "namespace"),
            name: self.label(&fields, &at, "name"),
            version: self.version(&fields, &at),
            title: self.optional_text(&fields, &at, "title"),
            summary: self.optional_text(&fields, &at, "summary"),
            settings: Settings::default(),
        };
        if let Some(tags) = fields.get("tags") {
            self.map(&tags.node, &at.entry(tags), "an object");
        }
        if let Some(metadata) = fields.get("metadata") {
            head.settings = self.settings(&metadata.node, &at.entry(metadata), Owner::Document);
        }
        head
    }

    fn optional_text(&mut self, fields: &Fields<'_>, at: &At<'_>, key: &str) -> Option<String> {
        let entry = fields.get(key)?;
        self.text(&entry.node, &at.entry(entry), "a text")
            .map(str::to_owned)
    }

    fn dsl(&mut self, fields: &Fields<'_>, at: &At<'_>) -> String {
        let Some((entry, version)) = self.semver(fields, at, "dsl") else {
            return String::new();
        };
        let at = at.entry(entry);
        let supported = format!("this build implements {NEWEST}");
        if version.major != NEWEST.major {
            let fault = at.error_in(
                &entry.node,
                format!("version {version} of the language is not supported"),
            );
            self.report(fault.hint(supported));
        } else if version > NEWEST {
            let message = format!("version {version} of the language is newer than this build knows");
            self.report(at.warning_in(&entry.node, message).hint(supported));
        } else if version < Version::new(NEWEST.major, 0, 0) {
            let message = format!("version {version} is a draft of the language");
            self.report(at.warning_in(&entry.node, message).hint(supported));
        }
        version.to_string()
    }

    fn version(&mut self, fields: &Fields<'_>, at: &At<'_>) -> String {
        self.semver(fields, at, "version")
            .map(|(_, v)| v.to_string())
            .unwrap_or_default()
    }

    fn semver<'n>(
        &mut self,
        fields: &Fields<'n>,
        at: &At<'_>,
        key: &'static str,
    ) -> Option<(&'n super::node::Entry, Version)> {
        let entry = self.required(fields, at, HEAD, key)?;
        let at = at.entry(entry);
        if matches!(entry.node.data, Data::Number) {
            let hint = "write three numbers, such as `1.0.0`";
            self.expected_hint("a semantic version", &entry.node, &at, hint);
            return None;
        }
        let text = self.constant(&entry.node, &at, "a semantic version")?;
        match Version::from_str(text) {
            Ok(version) => Some((entry, version)),
            Err(_) => {
                let fault = at.error_in(&entry.node, format!("`{text}` is not a semantic version"));
                self.report(fault.hint("write three numbers, such as `1.0.0`"));
                None
            }
        }
    }

    fn label(&mut self, fields: &Fields<'_>, at: &At<'_>, key: &'static str) -> String {
        let Some(entry) = self.required(fields, at, HEAD, key) else {
            return String::new();
        };
        self.label_text(&entry.node, &at.entry(entry), key)
            .unwrap_or_default()
    }

    /// An RFC 1123 label.
    pub(super) fn label_text(&mut self, node: &Node, at: &At<'_>, key: &str) -> Option<String> {
        let text = self.constant(node, at, "a name")?;
        if is_label(text) {
            return Some(text.to_owned());
        }
        let fault = at.error_in(node, format!("`{text}` is not a valid {key}"));
        self.report(fault.hint("use 1 to 63 of a-z, 0-9 and -, starting and ending with a letter or digit"));
        None
    }

    /// `evaluate`: true when the mode is loose.
    fn evaluate(&mut self, node: &Node, at: &At<'_>) -> bool {
        let Some(fields) = self.fields(node, at, "`evaluate`", &["language", "mode"]) else {
            return false;
        };
        if let Some(entry) = fields.get("language") {
            let at = at.entry(entry);
            let language = self.constant(&entry.node, &at, "the name of a language");
            if let Some(language) = language.filter(|l| *l != "jq") {
                let fault = at.error_in(
                    &entry.node,
                    format!("expressions in `{language}` are not supported"),
                );
                self.report(fault.hint("write expressions in `jq`"));
            }
        }
        let Some(entry) = fields.get("mode") else {
            return false;
        };
        let at = at.entry(entry);
        let loose = self.word(&entry.node, &at, &["strict", "loose"]) == Some("loose");
        if loose {
            self.note(Feature::LooseMode, &at);
        }
        loose
    }

    /// `timeout`: a name in `use.timeouts`, or inline.
    pub(super) fn timeout(
        &mut self,
        node: &Node,
        at: &At<'_>,
        vars: &super::scope::Vars,
    ) -> Option<crate::model::Timeout> {
        if let Some(text) = node.text()
            && !self.uses.section(Kind::Timeout).contains(text)
            && (text.starts_with('P') || strip(text).is_some())
        {
            let fault = at.error_in(node, format!("unknown timeout `{text}`"));
            let hint = "a text is the name of a timeout in `use.timeouts`; write `timeout: { after: … }`";
            self.report(fault.hint(hint));
            return None;
        }
        self.named_or(Kind::Timeout, node, at, |p, node, at| {
            p.timeout_policy(node, at, vars)
        })
    }
}
