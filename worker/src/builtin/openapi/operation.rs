//! An operation of a document.

use std::fmt;

use reqwest::Method;
use serde_json::Value;

use super::document::{Document, Version, configuration};
use super::parameter::Parameter;
use crate::Failure;
use crate::builtin::http::body::is_json;

const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];
/// Ids shown when one is not found.
const SHOWN_MAX: usize = 20;

/// See the module.
pub(super) struct Operation<'d> {
    pub(super) document: &'d Document,
    pub(super) id: &'d str,
    pub(super) path: &'d str,
    method: &'static str,
    /// What all operations of the path share.
    pub(super) item: &'d Value,
    pub(super) value: &'d Value,
}

impl<'d> Operation<'d> {
    /// # Errors
    /// `configuration` when the document has no such operation; the ids that it has are named.
    pub(super) fn find(document: &'d Document, id: &str) -> Result<Self, Failure> {
        let mut known = Vec::new();
        let paths = document.root.get("paths").and_then(Value::as_object);
        for (path, item) in paths.into_iter().flatten() {
            let item = document.resolved(item)?;
            for method in METHODS {
                let Some(value) = item.get(method) else { continue };
                match value.get("operationId").and_then(Value::as_str) {
                    Some(found) if found == id => {
                        return Ok(Self {
                            document,
                            id: found,
                            path,
                            method,
                            item,
                            value,
                        });
                    }
                    found => known.extend(found),
                }
            }
        }
        let more = if known.len() > SHOWN_MAX { ", …" } else { "" };
        known.truncate(SHOWN_MAX);
        let has = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        Err(configuration(format!(
            "{document} has no operation `{id}`; it has {has}{more}"
        )))
    }

    pub(super) fn method(&self) -> Method {
        // The eight names are methods.
        Method::from_bytes(self.method.to_ascii_uppercase().as_bytes()).unwrap_or(Method::GET)
    }

    /// Parameters that go into address, headers and cookies: those of the path, replaced by the operation's own.
    ///
    /// # Errors
    /// `configuration` when the document is wrong.
    pub(super) fn parameters(&self) -> Result<Vec<Parameter<'d>>, Failure> {
        let mut all: Vec<Parameter<'d>> = Vec::new();
        for value in self.declared()? {
            if let Some(parameter) = Parameter::read(self.document.version, value) {
                all.retain(|p| (p.name, p.place) != (parameter.name, parameter.place));
                all.push(parameter);
            }
        }
        Ok(all)
    }

    /// All parameters as they are declared, references resolved.
    pub(super) fn declared(&self) -> Result<Vec<&'d Value>, Failure> {
        let of = |owner: &'d Value| {
            owner
                .get("parameters")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        };
        of(self.item)
            .chain(of(self.value))
            .map(|p| self.document.resolved(p))
            .collect()
    }

    /// Media types named by the operation or, in 2.0, for all.
    pub(super) fn types(&self, key: &str) -> Vec<&'d str> {
        let list = self.value.get(key).or_else(|| self.document.root.get(key));
        list.and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// Value of `accept`: JSON if the operation can answer with it, as only that is decoded; else what it can.
    pub(super) fn accepts(&self) -> Option<String> {
        let mut types = match self.document.version {
            Version::V2 => self.types("produces"),
            Version::V3 => self.answers(),
        };
        types.sort_by_key(|t| !is_json(t));
        types.dedup();
        match types.first() {
            Some(first) if is_json(first) => Some((*first).to_owned()),
            Some(_) => Some(types.join(", ")),
            None => None,
        }
    }

    /// Types of successful responses, in 3.x. A reference that leads nowhere only leaves the header out.
    fn answers(&self) -> Vec<&'d str> {
        let responses = self.value.get("responses").and_then(Value::as_object);
        let good = responses
            .into_iter()
            .flatten()
            .filter(|(code, _)| code.starts_with('2') || *code == "default");
        let resolved = good.filter_map(|(_, response)| self.document.resolved(response).ok());
        let content = resolved.filter_map(|response| response.get("content")?.as_object());
        content
            .flat_map(|content| content.keys().map(String::as_str))
            .collect()
    }
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation `{}`", self.id)
    }
}
