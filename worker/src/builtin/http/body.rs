//! A request's body from a value.

use bytes::Bytes;
use millrace_common::{ErrorKind, RawJson};
use serde_json::Value;

use crate::Failure;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";

/// A body ready to be sent.
pub(crate) struct Encoded {
    pub(crate) bytes: Bytes,
    /// Used when the headers name none.
    pub(crate) content_type: String,
}

/// JSON, unless a content type asks for another form: texts go as they are, objects as a form when that is the type.
/// `None` for `null`.
///
/// # Errors
/// `validation` when a form cannot hold the value.
pub(crate) fn encode(body: &RawJson, content_type: Option<&str>) -> Result<Option<Encoded>, Failure> {
    let json = || {
        Ok(Some(encoded(
            Bytes::copy_from_slice(body.text().as_bytes()),
            JSON,
        )))
    };
    if body.text() == "null" {
        return Ok(None);
    }
    let Some(content_type) = content_type.filter(|t| !is_json(t)) else {
        return json();
    };
    match (body.decode::<Value>()?, essence(content_type).as_str()) {
        (Value::String(text), _) => Ok(Some(encoded(text.into(), content_type))),
        (Value::Object(members), FORM) => {
            let pairs = pairs(&members)?;
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(pairs)
                .finish();
            Ok(Some(encoded(form.into(), FORM)))
        }
        (Value::Object(members), MULTIPART) => multipart(&pairs(&members)?).map(Some),
        _ => json(),
    }
}

fn encoded(bytes: Bytes, content_type: &str) -> Encoded {
    Encoded {
        bytes,
        content_type: content_type.into(),
    }
}

/// `application/json` and everything that ends in `+json`.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence == JSON || essence == "text/json" || essence.ends_with("+json")
}

/// The type without parameters, in lower case.
pub(crate) fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Members of a form; a list is a member that is there several times.
fn pairs(members: &serde_json::Map<String, Value>) -> Result<Vec<(String, String)>, Failure> {
    let mut pairs = Vec::with_capacity(members.len());
    for (key, value) in members {
        match value {
            Value::Array(items) => {
                for item in items {
                    pairs.push((key.clone(), scalar(key, item)?));
                }
            }
            _ => pairs.push((key.clone(), scalar(key, value)?)),
        }
    }
    Ok(pairs)
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

fn multipart(pairs: &[(String, String)]) -> Result<Encoded, Failure> {
    let mut boundary = String::from("millrace");
    while pairs.iter().any(|(_, value)| value.contains(&boundary)) {
        boundary += &millrace_runtime::random::nonce();
    }
    let mut body = String::new();
    for (key, value) in pairs {
        if key.contains(['"', '\r', '\n']) {
            let detail = format!(
                "`{}` cannot be the name of a member of a form",
                key.escape_debug()
            );
            return Err(Failure::new(ErrorKind::Validation, detail));
        }
        body += &format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{key}\"\r\n\r\n{value}\r\n");
    }
    body += &format!("--{boundary}--\r\n");
    Ok(Encoded {
        bytes: body.into(),
        content_type: format!("{MULTIPART}; boundary={boundary}"),
    })
}
