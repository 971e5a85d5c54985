//! `emit` and `listen`.

use regex::RegexBuilder;

use super::core::{Fields, Parser};
use super::env::Env;
use super::keys::closest;
use super::node::{At, Data, Entry, Node};
use super::scope::{Position, Vars};
use crate::expression::strip;
use crate::model::{Consumption, Correlation, Emit, EventFilter, EventRead, Feature, Listen, Until};
use crate::template::Template;

const ATTRIBUTES: [&str; 8] = [
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
];
/// Patterns that are looked at in one definition, and compiled size of one: a check that only warns may not take long.
const PATTERNS_MAX: usize = 200;
/// See [`PATTERNS_MAX`].
const PATTERN_BYTES_MAX: usize = 256 * 1024;

const STRATEGIES: [&str; 3] = ["all", "any", "one"];

impl Parser<'_> {
    pub(super) fn emit(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Emit> {
        let fields = self.fields(node, at, "`emit`", &["event"])?;
        let event = self.required(&fields, at, "`emit`", "event")?;
        let at = at.entry(event);
        let fields = self.fields(&event.node, &at, "`event`", &["with"])?;
        let with = self.required(&fields, &at, "`event`", "with")?;
        let at = at.entry(with);
        let entries = with.node.entries().or_else(|| {
            self.expected("an object of event attributes", &with.node, &at);
            None
        })?;
        if with.node.get("type").is_none() {
            self.report(
                at.error("missing key `type` in `with`")
                    .hint("every event has a type"),
            );
        }
        let mut members = Vec::new();
        for entry in entries {
            members.push((entry.key.clone(), self.attribute(entry, &at.entry(entry), vars)));
        }
        Some(Emit {
            with: Template::object(members),
        })
    }

    /// An attribute of an event. All but `data` are texts; extension attributes may be numbers and booleans too.
    fn attribute(&mut self, entry: &Entry, at: &At<'_>, vars: &Vars) -> Template {
        self.check_attribute(entry, at);
        let known = ATTRIBUTES.contains(&entry.key.as_str());
        match (entry.key.as_str(), &entry.node.data) {
            ("data", _) => self.template(&entry.node, at, vars),
            (_, Data::Number | Data::Bool(_)) if !known => Template::Literal(entry.node.value.clone()),
            ("source" | "dataschema", _) => {
                self.check_uri(&entry.node, at);
                self.text_template(&entry.node, at, vars, true)
            }
            _ => self.text_template(&entry.node, at, vars, true),
        }
    }

    fn check_attribute(&mut self, entry: &Entry, at: &At<'_>) {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if entry.key.is_empty() || !entry.key.chars().all(legal) {
            let fault = at.error(format!("`{}` is not the name of an event attribute", entry.key));
            self.report(match closest(&entry.key, ATTRIBUTES) {
                Some(name) => fault.hint(format!("did you mean `{name}`?")),
                None => fault.hint("names of extension attributes have lower-case letters and digits only"),
            });
        }
    }

    // listen

    pub(super) fn listen(
        &mut self,
        node: &Node,
        task: &Fields<'_>,
        at: &At<'_>,
        env: &Env<'_>,
    ) -> Option<Listen> {
        let here = at.entry(task.get("listen")?);
        self.note(Feature::Listen, &here);
        let fields = self.fields(node, &here, "`listen`", &["to", "read"])?;
        let vars = self.vars(Position::Definition, env);
        let to = self
            .required(&fields, &here, "`listen`", "to")
            .and_then(|e| self.consumption(&e.node, &here.entry(e), &vars, true));
        let read = fields
            .get("read")
            .and_then(|e| self.read(&e.node, &here.entry(e)));
        let foreach = task
            .get("foreach")
            .and_then(|e| self.foreach(&e.node, &at.entry(e), env));
        Some(Listen {
            to: to?,
            read: read.unwrap_or_default(),
            foreach,
        })
    }

    pub(super) fn read(&mut self, node: &Node, at: &At<'_>) -> Option<EventRead> {
        Some(match self.word(node, at, &["data", "envelope", "raw"])? {
            "envelope" => EventRead::Envelope,
            "raw" => EventRead::Raw,
            _ => EventRead::Data,
        })
    }

    /// A consumption strategy; `until` is not allowed within another `until`.
    pub(super) fn consumption(
        &mut self,
        node: &Node,
        at: &At<'_>,
        vars: &Vars,
        until: bool,
    ) -> Option<Consumption> {
        let keys: &[&'static str] = if until {
            &["all", "any", "one", "until"]
        } else {
            &STRATEGIES
        };
        let fields = self.fields(node, at, "a consumption strategy", keys)?;
        let entry = self.exactly_one(&fields, at, "a consumption strategy", &STRATEGIES)?;
        let (inner, stop) = (at.entry(entry), fields.get("until"));
        if let (Some(stop), true) = (stop, entry.key != "any") {
            let fault = at
                .entry(stop)
                .error(format!("`until` does not go with `{}`", entry.key));
            self.report(fault.hint("it ends `any`"));
        }
        match entry.key.as_str() {
            "one" => self.event_filter(&entry.node, &inner, vars).map(Consumption::One),
            "all" => {
                if entry.node.items().is_some_and(<[Node]>::is_empty) {
                    self.report(inner.error("`all` lists no event"));
                }
                Some(Consumption::All(self.event_filters(&entry.node, &inner, vars)))
            }
            _ => {
                let filters = self.event_filters(&entry.node, &inner, vars);
                let until = stop.and_then(|e| self.until(&e.node, &at.entry(e), vars));
                Some(Consumption::Any { filters, until })
            }
        }
    }

    fn until(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Until> {
        match node.data {
            Data::Object(_) => self
                .consumption(node, at, vars, false)
                .map(|c| Until::Consumed(Box::new(c))),
            _ => self.expression(node, at, vars).map(Until::Condition),
        }
    }

    fn event_filters(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Vec<EventFilter> {
        let items = self.list(node, at, "a list of event filters").iter().enumerate();
        items
            .filter_map(|(i, n)| self.event_filter(n, &at.index(i, n), vars))
            .collect()
    }

    fn event_filter(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<EventFilter> {
        let fields = self.fields(node, at, "an event filter", &["with", "correlate"])?;
        let correlate = match fields.get("correlate") {
            Some(entry) => self.correlations(&entry.node, &at.entry(entry), vars),
            None => Vec::new(),
        };
        let with = self.required(&fields, at, "an event filter", "with")?;
        let at = at.entry(with);
        let entries = self.map(&with.node, &at, "an object of event attributes");
        if with.node.entries().is_some_and(<[Entry]>::is_empty) {
            self.report(
                at.error("`with` names no attribute")
                    .hint("`any: []` matches every event"),
            );
        }
        let mut attributes = Vec::new();
        for entry in entries {
            let at = at.entry(entry);
            self.check_pattern(entry, &at);
            attributes.push((entry.key.clone(), self.attribute(entry, &at, vars)));
        }
        Some(EventFilter {
            with: attributes,
            correlate,
        })
    }

    /// Texts of a filter are compared, and matched as a regular expression.
    fn check_pattern(&mut self, entry: &Entry, at: &At<'_>) {
        let text = entry
            .node
            .text()
            .filter(|t| strip(t).is_none())
            .unwrap_or_default();
        let special = |c: char| {
            matches!(
                c,
                '\\' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|'
            )
        };
        if entry.key == "data" || !text.contains(special) || self.patterns >= PATTERNS_MAX {
            return;
        }
        self.patterns += 1;
        let pattern = RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(PATTERN_BYTES_MAX)
            .build();
        if pattern.is_err() {
            let text = super::node::excerpt(text);
            let message = format!("`{text}` is not a regular expression, it only matches itself");
            self.report(at.warning_in(&entry.node, message));
        }
    }

    fn correlations(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Vec<Correlation> {
        let mut correlations = Vec::new();
        for entry in self.map(node, at, "an object of correlations") {
            let at = at.entry(entry);
            correlations.extend(self.correlation(entry, &at, vars));
        }
        correlations
    }

    fn correlation(&mut self, entry: &Entry, at: &At<'_>, vars: &Vars) -> Option<Correlation> {
        let fields = self.fields(&entry.node, at, "a correlation", &["from", "expect"])?;
        let from = self
            .required(&fields, at, "a correlation", "from")
            .and_then(|e| self.expression(&e.node, &at.entry(e), vars));
        let expect = fields
            .get("expect")
            .map(|e| self.text_template(&e.node, &at.entry(e), vars, true));
        Some(Correlation {
            name: entry.key.clone(),
            from: from?,
            expect,
        })
    }
}
