//! What moves data and time: `input`, `output`, `export`, schemas, durations, timeouts.

use std::sync::Arc;

use super::core::Parser;
use super::node::{At, Data, Node};
use super::scope::Vars;
use crate::duration::Duration;
use crate::expression::strip;
use crate::model::{DataIn, DataOut, DurationValue, Timeout};
use crate::schema::Schema;
use crate::{Diagnostic, Span};

const DURATION_KEYS: [&str; 5] = ["days", "hours", "minutes", "seconds", "milliseconds"];
const DURATION_HINT: &str = "durations look like `PT30S`, `P1DT2H` or `{ minutes: 5 }`";

impl Parser<'_> {
    pub(super) fn data_in(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> DataIn {
        let Some(fields) = self.fields(node, at, "`input`", &["schema", "from"]) else {
            return DataIn::default();
        };
        DataIn {
            schema: fields
                .get("schema")
                .and_then(|e| self.schema(&e.node, &at.entry(e))),
            from: fields
                .get("from")
                .and_then(|e| self.transform(&e.node, &at.entry(e), vars)),
        }
    }

    /// `output` and `export`.
    pub(super) fn data_out(&mut self, node: &Node, at: &At<'_>, what: &str, vars: &Vars) -> DataOut {
        let Some(fields) = self.fields(node, at, what, &["schema", "as"]) else {
            return DataOut::default();
        };
        DataOut {
            schema: fields
                .get("schema")
                .and_then(|e| self.schema(&e.node, &at.entry(e))),
            transform: fields
                .get("as")
                .and_then(|e| self.transform(&e.node, &at.entry(e), vars)),
        }
    }

    fn schema(&mut self, node: &Node, at: &At<'_>) -> Option<Arc<Schema>> {
        let fields = self.fields(node, at, "`schema`", &["format", "document", "resource"])?;
        let format = match fields.get("format") {
            Some(e) => self.constant(&e.node, &at.entry(e), "a format such as `json`")?,
            None => "json",
        };
        let (document, resource) = (fields.get("document"), fields.get("resource"));
        let Some(document) = document else {
            match resource {
                Some(entry) => return self.schema_resource(&entry.node, &at.entry(entry), format),
                None if fields.has_unknown() => {}
                None => self.report(at.error("`schema` needs `document` or `resource`")),
            }
            return None;
        };
        if let Some(resource) = resource {
            let fault = at
                .entry(resource)
                .error("`schema` has both `document` and `resource`");
            self.report(fault.hint("keep one of them"));
            return None;
        }
        let (here, at) = (at, at.entry(document));
        match Schema::compile(&document.node.value, format) {
            Ok(schema) => Some(Arc::new(schema)),
            Err(reason) => {
                match fields.get("format").filter(|_| reason.contains("schema format")) {
                    Some(format) => self.report(here.entry(format).error_in(&format.node, reason)),
                    None => self.invalid_schema(&document.node, &at, &reason),
                }
                None
            }
        }
    }

    /// `reason` starts with the JSON Pointer of the place within the document, if it is about one.
    fn invalid_schema(&mut self, document: &Node, at: &At<'_>, reason: &str) {
        let (pointer, message) = match reason.split_once(": ") {
            Some((pointer, message)) if pointer.starts_with('/') => (pointer, message),
            _ => ("", reason),
        };
        let span = if pointer.is_empty() {
            at.span
        } else {
            locate(document, pointer).unwrap_or(at.span)
        };
        let place = at.pointer() + pointer;
        self.report(Diagnostic::error(
            place,
            span,
            format!("invalid schema: {message}"),
        ));
    }

    pub(super) fn timeout_policy(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Timeout> {
        let fields = self.fields(node, at, "`timeout`", &["after"])?;
        let after = self.required(&fields, at, "`timeout`", "after")?;
        Some(Timeout {
            after: self.duration(&after.node, &at.entry(after), vars)?,
        })
    }

    /// A duration: ISO 8601, an object of parts, or an expression.
    pub(super) fn duration(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<DurationValue> {
        match &node.data {
            Data::Text(_) => {
                let text = node.text()?;
                if let Some(inner) = strip(text) {
                    return self.compile(node, at, inner, vars).map(DurationValue::Computed);
                }
                self.fixed(Duration::parse_iso8601(text), node, at)
            }
            Data::Object(_) => self.duration_parts(node, at),
            _ => {
                self.expected_hint("a duration", node, at, DURATION_HINT);
                None
            }
        }
    }

    fn duration_parts(&mut self, node: &Node, at: &At<'_>) -> Option<DurationValue> {
        let fields = self.fields(node, at, "a duration", &DURATION_KEYS)?;
        if fields.is_empty() {
            self.report(at.error_in(node, "the duration is empty").hint(DURATION_HINT));
            return None;
        }
        let mut valid = true;
        for key in DURATION_KEYS {
            if let Some(entry) = fields.get(key) {
                valid &= self.integer(&entry.node, &at.entry(entry), 0, i64::MAX).is_some();
            }
        }
        let known = node
            .entries()?
            .iter()
            .all(|e| DURATION_KEYS.contains(&e.key.as_str()));
        match valid && known {
            true => self.fixed(Duration::from_parts(&node.value), node, at),
            false => None,
        }
    }

    fn fixed(
        &mut self,
        duration: Result<Duration, String>,
        node: &Node,
        at: &At<'_>,
    ) -> Option<DurationValue> {
        match duration {
            Ok(duration) => Some(DurationValue::Fixed(duration)),
            Err(reason) => {
                self.report(at.error_in(node, reason).hint(DURATION_HINT));
                None
            }
        }
    }
}

/// Where the value of a JSON Pointer stands.
fn locate(root: &Node, pointer: &str) -> Option<Span> {
    let mut node = root;
    for step in pointer.split('/').skip(1) {
        let key = step.replace("~1", "/").replace("~0", "~");
        node = match &node.data {
            Data::Array(items) => items.get(key.parse::<usize>().ok()?)?,
            _ => &node.get(&key)?.node,
        };
    }
    Some(node.span)
}
