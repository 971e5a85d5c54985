//! The parser's state, and what every construct needs: faults, keys, texts, expressions, templates.

use std::collections::HashMap;

use millrace_common::limits;

use super::external::Reading;
use super::keys::{closest, suggest};
use super::nesting;
use super::node::{At, Data, Entry, Node, excerpt};
use super::scope::{self, Position, Vars};
use super::source::Source;
use super::uses::Index;
use super::{External, Resources};
use crate::expression::{CompileError, Expression, strip};
use crate::model::{Construct, Extra, Feature, FunctionUse};
use crate::secret::LATE_VARIABLES;
use crate::template::Template;
use crate::{Diagnostic, Severity, Value, secret};

/// Errors, and warnings, kept of one document. A text that is no definition at all could have one for every line.
pub(super) const FAULTS_MAX: usize = 500;

pub(super) struct Parser<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) faults: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    pub(super) uses: Index<'a>,
    head: &'a Value,
    /// `evaluate.mode: loose`: every text may be an expression.
    loose: bool,
    /// What the document uses of the language that a build may not execute yet.
    pub(super) constructs: Vec<Construct>,
    /// Calls of functions of the fleet.
    pub(super) functions: Vec<FunctionUse>,
    /// What only this engine knows.
    pub(super) extras: Vec<Extra>,
    /// Documents of elsewhere, by address.
    pub(super) resources: &'a Resources,
    /// What was looked for there in vain.
    pub(super) missing: Vec<External>,
    /// Functions of elsewhere, by address.
    pub(super) external: HashMap<String, Reading>,
    /// Tasks seen so far.
    pub(super) tasks: usize,
    /// Patterns of event filters looked at so far.
    pub(super) patterns: usize,
    /// Deepest task list seen since it was last set.
    pub(super) deepest: usize,
    /// By source: what came of it under which variables.
    compiled: HashMap<String, Vec<Compiled>>,
}

struct Compiled {
    vars: Vars,
    result: Result<Expression, CompileError>,
}

/// Members of a closed object.
pub(super) struct Fields<'n> {
    entries: &'n [Entry],
    /// Legal keys that an unknown key was probably meant to be: not reported as missing as well.
    guessed: Vec<&'static str>,
    unknown: bool,
}

impl<'n> Fields<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|e| e.key == key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// True when an unknown key was reported, and with it the legal ones.
    pub(super) fn has_unknown(&self) -> bool {
        self.unknown
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<'a> Parser<'a> {
    pub(super) fn new(
        source: &'a Source<'a>,
        root: &'a Node,
        faults: Vec<Diagnostic>,
        resources: &'a Resources,
    ) -> Self {
        Self {
            source,
            errors: faults.len(),
            warnings: 0,
            faults,
            uses: Index::new(root),
            head: root.get("document").map_or(&Value::Null, |e| &e.node.value),
            loose: is_loose(root),
            constructs: Vec::new(),
            functions: Vec::new(),
            extras: Vec::new(),
            resources,
            missing: Vec::new(),
            external: HashMap::new(),
            tasks: 0,
            patterns: 0,
            deepest: 0,
            compiled: HashMap::new(),
        }
    }

    /// `document` as data.
    pub(super) fn head_of_document(&self) -> &Value {
        self.head
    }

    pub(super) fn report(&mut self, fault: Diagnostic) {
        let kept = match fault.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if *kept < FAULTS_MAX {
            *kept += 1;
            self.faults.push(fault);
        }
    }

    /// True when no more errors are kept: hints need not be looked for.
    pub(super) fn is_full(&self) -> bool {
        self.errors >= FAULTS_MAX
    }

    /// As [`suggest`], while it can still matter.
    pub(super) fn suggest<'c>(
        &self,
        typed: &str,
        names: impl IntoIterator<Item = &'c str> + Clone,
        what: &str,
    ) -> String {
        if self.is_full() {
            String::new()
        } else {
            suggest(typed, names, what)
        }
    }

    pub(super) fn note(&mut self, feature: Feature, at: &At<'_>) {
        self.constructs.push(Construct {
            feature,
            pointer: at.pointer(),
            span: at.span,
        });
    }

    // Objects

    pub(super) fn expected(&mut self, what: &str, node: &Node, at: &At<'_>) {
        self.report(at.error_in(node, format!("expected {what}, found {}", node.describe())));
    }

    pub(super) fn expected_hint(&mut self, what: &str, node: &Node, at: &At<'_>, hint: &str) {
        let message = format!("expected {what}, found {}", node.describe());
        self.report(at.error_in(node, message).hint(hint));
    }

    /// The members of an object that may have these keys only. `what` names it in messages.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        at: &At<'_>,
        what: &str,
        keys: &[&'static str],
    ) -> Option<Fields<'n>> {
        let Some(entries) = node.entries() else {
            let hint = format!("its keys are {}", keys.join(", "));
            self.expected_hint("an object", node, at, &hint);
            return None;
        };
        let mut fields = Fields {
            entries,
            guessed: Vec::new(),
            unknown: false,
        };
        for entry in entries.iter().filter(|e| !keys.contains(&e.key.as_str())) {
            fields.unknown = true;
            let free = keys.iter().copied().filter(|k| !fields.has(k));
            fields
                .guessed
                .extend(self.unknown_key(entry, at, what, free, keys));
        }
        Some(fields)
    }

    fn unknown_key(
        &mut self,
        entry: &Entry,
        at: &At<'_>,
        what: &str,
        free: impl Iterator<Item = &'static str>,
        keys: &[&'static str],
    ) -> Option<&'static str> {
        if self.is_full() {
            return None;
        }
        let key = entry.key.as_str();
        let (guess, hint) = match (nesting::advice(what, key), closest(key, free)) {
            (Some(advice), _) => (Some(advice.leads), format!("`{key}` belongs {}", advice.place)),
            (None, Some(close)) => (Some(close), format!("did you mean `{close}`?")),
            (None, None) if key == "<<" => (
                None,
                "merge keys are not part of YAML 1.2; repeat the members".into(),
            ),
            (None, None) => (None, format!("legal keys: {}", keys.join(", "))),
        };
        let fault = at.entry(entry).error(format!("unknown key `{key}` in {what}"));
        self.report(fault.hint(hint));
        guess
    }

    /// A member that must be there.
    pub(super) fn required<'n>(
        &mut self,
        fields: &Fields<'n>,
        at: &At<'_>,
        what: &str,
        key: &'static str,
    ) -> Option<&'n Entry> {
        let found = fields.get(key);
        if found.is_none() && !fields.guessed.contains(&key) {
            self.report(at.error(format!("missing key `{key}` in {what}")));
        }
        found
    }

    /// An object with free keys.
    pub(super) fn map<'n>(&mut self, node: &'n Node, at: &At<'_>, what: &str) -> &'n [Entry] {
        node.entries().unwrap_or_else(|| {
            self.expected(what, node, at);
            &[]
        })
    }

    pub(super) fn list<'n>(&mut self, node: &'n Node, at: &At<'_>, what: &str) -> &'n [Node] {
        node.items().unwrap_or_else(|| {
            self.expected(what, node, at);
            &[]
        })
    }

    // Scalars

    pub(super) fn text<'n>(&mut self, node: &'n Node, at: &At<'_>, what: &str) -> Option<&'n str> {
        let text = node.text();
        if text.is_none() {
            match node.data {
                Data::Number | Data::Bool(_) => self.expected_hint(what, node, at, "put it in quotes"),
                _ => self.expected(what, node, at),
            }
        }
        text
    }

    /// A text that is not empty and no expression.
    pub(super) fn constant<'n>(&mut self, node: &'n Node, at: &At<'_>, what: &str) -> Option<&'n str> {
        let text = self.text(node, at, what)?;
        if strip(text).is_some() {
            self.report(at.error_in(node, format!("expected {what}, found an expression")));
            return None;
        }
        if text.trim().is_empty() {
            self.report(at.error_in(node, format!("expected {what}, found an empty text")));
            return None;
        }
        Some(text)
    }

    pub(super) fn boolean(&mut self, node: &Node, at: &At<'_>) -> Option<bool> {
        match node.data {
            Data::Bool(b) => Some(b),
            _ => {
                self.expected("`true` or `false`", node, at);
                None
            }
        }
    }

    /// An integer within bounds.
    pub(super) fn integer(&mut self, node: &Node, at: &At<'_>, min: i64, max: i64) -> Option<i64> {
        let found = node.integer().filter(|n| (min..=max).contains(n));
        if found.is_none() {
            let what = match max {
                i64::MAX => format!("an integer from {min}"),
                _ => format!("an integer from {min} to {max}"),
            };
            self.expected(&what, node, at);
        }
        found
    }

    /// One of some words.
    pub(super) fn word(&mut self, node: &Node, at: &At<'_>, words: &[&'static str]) -> Option<&'static str> {
        let text = self.text(node, at, &format!("one of {}", words.join(", ")))?;
        let found = words.iter().find(|w| **w == text);
        if found.is_none() {
            let hint = self.suggest(text, words.iter().copied(), "legal values");
            let message = format!("`{}` is not a legal value of `{}`", excerpt(text), at.name());
            self.report(at.error_in(node, message).hint(hint));
        }
        found.copied()
    }

    // Expressions

    /// A position that is always an expression, with or without `${ }`.
    pub(super) fn expression(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Expression> {
        let Some(text) = node.text() else {
            let hint = "write a text, such as `'${ .ready }'`";
            self.expected_hint("an expression", node, at, hint);
            return None;
        };
        let (offset, source) = strip(text).unwrap_or((0, text));
        self.compile(node, at, (offset, source), vars)
    }

    /// Compiles an expression that stands in a text at some offset.
    pub(super) fn compile(
        &mut self,
        node: &Node,
        at: &At<'_>,
        (offset, source): (usize, &str),
        vars: &Vars,
    ) -> Option<Expression> {
        if source.trim().is_empty() {
            self.report(
                at.error_in(node, "the expression is empty")
                    .hint("`.` is the whole value"),
            );
            return None;
        }
        if source.len() > limits::EXPRESSION_BYTES_MAX {
            let max = limits::EXPRESSION_BYTES_MAX;
            self.report(at.error_in(node, format!("the expression is longer than {max} bytes")));
            return None;
        }
        match self.compiled(source, vars) {
            Ok(expression) => {
                self.check_variables(&expression, node, at, offset, vars);
                Some(expression)
            }
            Err(error) => {
                let span = self.source.place(node, offset + error.offset);
                let hint = scope::hint(source, &error, vars, offset).or(error.hint);
                let fault = Diagnostic::error(at.pointer(), span, error.message);
                self.report(Diagnostic { hint, ..fault });
                None
            }
        }
    }

    /// Compiles, or finds what was compiled before: reusable policies stand at many places.
    pub(super) fn compiled(&mut self, source: &str, vars: &Vars) -> Result<Expression, CompileError> {
        let known = self
            .compiled
            .get(source)
            .and_then(|all| all.iter().find(|c| c.vars.scope == vars.scope));
        if let Some(known) = known {
            return known.result.clone();
        }
        let result = Expression::compile(source, &vars.scope);
        self.compiled
            .entry(source.to_owned())
            .or_default()
            .push(Compiled {
                vars: vars.clone(),
                result: result.clone(),
            });
        result
    }

    /// `offset`: where the expression starts in its text.
    pub(super) fn check_variables(
        &mut self,
        expression: &Expression,
        node: &Node,
        at: &At<'_>,
        offset: usize,
        vars: &Vars,
    ) {
        let uses = |name: &str| expression.variables().iter().any(|v| v == name);
        if vars.position == Position::TaskOutput && uses("output") {
            let fault = at.warning_in(node, "`$output` in `output.as` is the raw output");
            self.report(fault.hint("it is the same as `.`, and other runtimes do not have it"));
        }
        // Only calls have an authorization; in the body of another task it is `null`, and no secret.
        let is_null = |late: &str| late == "authorization" && vars.position == Position::Definition;
        let mut late = LATE_VARIABLES.into_iter();
        if !vars.late
            && let Some(late) = late.find(|v| uses(v) && !is_null(v))
        {
            let message = format!("`${late}` cannot be used here: what it is used for would be stored");
            let hint = "use it in `with` of a call, or in environment, arguments or stdin of a process";
            self.report(at.error_in(node, message).hint(hint));
        }
        if uses("secrets") {
            self.note(Feature::Secrets, &at.on(node));
            self.check_secret_names(expression.source(), node, at, offset);
        }
    }

    fn check_secret_names(&mut self, source: &str, node: &Node, at: &At<'_>, offset: usize) {
        for (start, name) in secret::named(source) {
            if !self.uses.secrets.contains(name) {
                let hint = self.suggest(
                    name,
                    self.uses.secrets.iter().copied(),
                    "secrets in `use.secrets`",
                );
                let span = self.source.place(node, offset + start);
                let fault = Diagnostic::error(at.pointer(), span, format!("unknown secret `{name}`"));
                self.report(fault.hint(hint));
            }
        }
    }

    // Templates

    /// Any value; texts that are `${ … }` as a whole are expressions.
    pub(super) fn template(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Template {
        match &node.data {
            Data::Text(_) => self.text_template(node, at, vars, true),
            Data::Array(items) => {
                let item = |(i, n): (usize, &Node)| self.template(n, &at.index(i, n), vars);
                Template::array(items.iter().enumerate().map(item).collect())
            }
            Data::Object(entries) => Template::object(
                entries
                    .iter()
                    .map(|e| (e.key.clone(), self.template(&e.node, &at.entry(e), vars)))
                    .collect(),
            ),
            Data::Null | Data::Bool(_) | Data::Number => Template::Literal(node.value.clone()),
        }
    }

    /// A text or an expression. `remarks`: say so when the text looks like an expression.
    pub(super) fn text_template(&mut self, node: &Node, at: &At<'_>, vars: &Vars, remarks: bool) -> Template {
        let Some(text) = self.text(node, at, "a text") else {
            return Template::Literal(Value::Null);
        };
        if let Some(inner) = strip(text) {
            return match self.compile(node, at, inner, vars) {
                Some(expression) => Template::Expression(expression),
                None => Template::Literal(Value::Null),
            };
        }
        match (remarks, self.loose) {
            (true, true) => return self.loose_template(node, text, at, vars),
            (true, false) => self.remark(node, text, at, vars),
            (false, _) => {}
        }
        Template::Literal(node.value.clone())
    }

    /// Literal texts that were probably meant as expressions.
    fn remark(&mut self, node: &Node, text: &str, at: &At<'_>, vars: &Vars) {
        if text.trim_start().starts_with("${") && !text.contains('}') {
            let fault = at.warning_in(node, "`${` is never closed, the text is taken as it is");
            self.report(fault.hint("add the closing `}`"));
        } else if text.contains("${") {
            let fault = at.warning_in(node, "`${ }` within a text is not evaluated");
            self.report(fault.hint("make the whole text one expression: `${ \"Hi \\(.name)\" }`"));
        } else if scope::looks_bare(text, vars) && self.compiled(text, vars).is_ok() {
            let message = format!("`{}` is taken as a text", excerpt(text));
            let hint = format!("write `${{ {} }}` to evaluate it", text.trim());
            self.report(at.warning_in(node, message).hint(hint));
        }
    }

    /// `input.from`, `output.as`, `export.as`: an expression or an object with expressions.
    pub(super) fn transform(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Template> {
        match node.data {
            Data::Text(_) => self.expression(node, at, vars).map(Template::Expression),
            Data::Object(_) => Some(self.template(node, at, vars)),
            _ => {
                self.expected("an expression or an object", node, at);
                None
            }
        }
    }

    /// An address: not empty, without white space.
    pub(super) fn check_uri(&mut self, node: &Node, at: &At<'_>) {
        let Some(text) = node.text().filter(|t| strip(t).is_none()) else {
            return;
        };
        if text.is_empty() || text.contains(char::is_whitespace) {
            self.report(at.error_in(node, format!("`{}` is not a URI", excerpt(text))));
        }
    }
}

fn is_loose(root: &Node) -> bool {
    let mode = root.get("evaluate").and_then(|e| e.node.get("mode"));
    mode.and_then(|e| e.node.text()) == Some("loose")
}
