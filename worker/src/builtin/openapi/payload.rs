//! The body of a request: which arguments make it, and in which form.

use indexmap::IndexMap;
use millrace_common::RawJson;
use serde_json::Value;

use super::document::Version;
use super::operation::Operation;
use super::{Arguments, invalid};
use crate::Failure;
use crate::builtin::http::body::{self, Encoded, essence, is_json};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";
/// The argument that is the whole body, in 3.x.
const BODY: &str = "body";

/// Takes the arguments that make the body.
///
/// # Errors
/// `validation` when the body is missing or does not fit its form, `configuration` when the document is wrong.
pub(super) fn of(operation: &Operation<'_>, arguments: &mut Arguments) -> Result<Option<Encoded>, Failure> {
    match operation.document.version {
        Version::V2 => swagger(operation, arguments),
        Version::V3 => openapi(operation, arguments),
    }
}

fn swagger(operation: &Operation<'_>, arguments: &mut Arguments) -> Result<Option<Encoded>, Failure> {
    let consumes = operation.types("consumes");
    let mut form: IndexMap<String, RawJson> = IndexMap::new();
    let mut holds_file = false;
    for declared in operation.declared()? {
        let text = |key: &str| declared.get(key).and_then(Value::as_str).unwrap_or_default();
        let required = declared.get("required").and_then(Value::as_bool).unwrap_or(false);
        let name = text("name");
        if !matches!(text("in"), "body" | "formData") {
            continue;
        }
        let Some(value) = arguments.take(name) else {
            if required {
                return Err(invalid(format!(
                    "{operation} needs the parameter `{name}` (in {})",
                    text("in")
                )));
            }
            continue;
        };
        if text("in") == "body" {
            return body::encode(&value, Some(chosen(&consumes).unwrap_or(JSON)));
        }
        holds_file |= text("type") == "file";
        form.insert(name.to_owned(), value);
    }
    if form.is_empty() {
        return Ok(None);
    }
    let only_multipart =
        consumes.iter().any(|t| essence(t) == MULTIPART) && !consumes.iter().any(|t| essence(t) == FORM);
    let content_type = if holds_file || only_multipart {
        MULTIPART
    } else {
        FORM
    };
    body::encode(&RawJson::encode(&form)?, Some(content_type))
}

fn openapi(operation: &Operation<'_>, arguments: &mut Arguments) -> Result<Option<Encoded>, Failure> {
    let Some(declared) = operation.value.get("requestBody") else {
        return Ok(None);
    };
    let declared = operation.document.resolved(declared)?;
    let value = match arguments.take(BODY) {
        Some(body) => Some(body),
        None => rest(arguments)?,
    };
    let Some(value) = value else {
        return match declared.get("required").and_then(Value::as_bool) {
            Some(true) => Err(invalid(format!(
                "{operation} needs a body: the argument `{BODY}`"
            ))),
            Some(false) | None => Ok(None),
        };
    };
    let content = declared.get("content").and_then(Value::as_object);
    let types: Vec<&str> = content
        .into_iter()
        .flat_map(|c| c.keys().map(String::as_str))
        .collect();
    body::encode(&value, Some(chosen(&types).unwrap_or(JSON)))
}

/// An object of all arguments that are left.
fn rest(arguments: &mut Arguments) -> Result<Option<RawJson>, Failure> {
    let left: IndexMap<String, RawJson> = arguments.left().map(|(k, v)| (k.clone(), v.clone())).collect();
    if left.is_empty() {
        return Ok(None);
    }
    left.keys().for_each(|name| arguments.used(name));
    Ok(Some(RawJson::encode(&left)?))
}

/// JSON if the operation takes it, else a form, else the first type that is one.
fn chosen<'t>(types: &[&'t str]) -> Option<&'t str> {
    let first = |accepts: &dyn Fn(&str) -> bool| types.iter().copied().find(|t| accepts(t));
    first(&|t| is_json(t))
        .or_else(|| first(&|t| essence(t) == FORM))
        .or_else(|| first(&|t| essence(t) == MULTIPART))
        .or_else(|| first(&|t| !t.contains('*')))
}
