//! A request's body from a value.

use bytes::Bytes;
use millrace_common::{ErrorKind, RawJson};
use serde_json::Value;

use crate::Failure;

/// A body ready to be sent.
pub(super) struct Encoded {
    pub(super) bytes: Bytes,
    /// Used when the definition names none.
    pub(super) content_type: &'static str,
}

/// JSON, unless the definition's content type asks for another form: texts go as they are, objects as a form when that
/// is the type. `None` for `null`.
pub(super) fn encode(body: &RawJson, content_type: Option<&String>) -> Result<Option<Encoded>, Failure> {
    let encoded = |bytes: Bytes| {
        Ok(Some(Encoded {
            bytes,
            content_type: "application/json",
        }))
    };
    let json = || encoded(Bytes::copy_from_slice(body.text().as_bytes()));
    if body.text() == "null" {
        return Ok(None);
    }
    let Some(content_type) = content_type.filter(|t| !is_json(t)) else {
        return json();
    };
    match body.decode::<Value>()? {
        Value::String(text) => encoded(text.into()),
        Value::Object(members) if essence(content_type) == "application/x-www-form-urlencoded" => {
            let pairs = members
                .iter()
                .map(|(key, value)| Ok((key.as_str(), scalar(key, value)?)));
            let pairs = pairs.collect::<Result<Vec<_>, Failure>>()?;
            encoded(
                url::form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(pairs)
                    .finish()
                    .into(),
            )
        }
        _ => json(),
    }
}

/// `application/json` and everything that ends in `+json`.
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

/// The type without parameters, in lower case.
pub(super) fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

fn scalar(key: &str, value: &Value) -> Result<String, Failure> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        Value::Null => Ok(String::new()),
        Value::Array(_) | Value::Object(_) => Err(Failure::new(
            ErrorKind::Validation,
            format!("`{key}` is neither text nor number: a form cannot hold it"),
        )),
    }
}
