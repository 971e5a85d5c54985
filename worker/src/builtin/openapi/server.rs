//! Where an operation is served.

use reqwest::Url;
use serde_json::Value;

use super::document::{Version, configuration};
use super::operation::Operation;
use crate::Failure;

/// The address that paths go behind.
///
/// # Errors
/// `configuration` when the document names none that can be called.
pub(super) fn base(operation: &Operation<'_>) -> Result<Url, Failure> {
    let url = match operation.document.version {
        Version::V2 => host(operation),
        Version::V3 => server(operation),
    }?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(configuration(format!(
            "{}: `{other}` is not served over http or https; the document must name a server",
            operation.document
        ))),
    }
}

/// Swagger 2.0: `schemes`, `host` and `basePath`, or those of the document's own address.
fn host(operation: &Operation<'_>) -> Result<Url, Failure> {
    let (document, own) = (operation.document, &operation.document.address);
    let text = |key: &str| document.root.get(key).and_then(Value::as_str);
    let schemes = operation.types("schemes");
    let scheme = match schemes.as_slice() {
        [] => own.scheme(),
        schemes if schemes.contains(&own.scheme()) => own.scheme(),
        schemes if schemes.contains(&"https") => "https",
        [first, ..] => first,
    };
    let authority = match text("host") {
        Some(host) => host.to_owned(),
        None => own.authority().to_owned(),
    };
    let path = text("basePath").unwrap_or("/");
    let address = format!("{scheme}://{authority}/{}", path.trim_start_matches('/'));
    Url::parse(&address)
        .map_err(|e| configuration(format!("{document}: its host `{address}` is not a URL: {e}")))
}

/// OpenAPI 3: the first server of the operation, the path, or the document; relative ones belong to the document's
/// address.
fn server(operation: &Operation<'_>) -> Result<Url, Failure> {
    let document = operation.document;
    let first = |owner: &'_ Value| owner.get("servers").and_then(|s| s.get(0)).cloned();
    let found = first(operation.value)
        .or_else(|| first(operation.item))
        .or_else(|| first(&document.root));
    let address = found
        .as_ref()
        .map_or_else(|| Ok("/".to_owned()), |server| expanded(operation, server))?;
    document
        .address
        .join(&address)
        .map_err(|e| configuration(format!("{document}: its server `{address}` is not a URL: {e}")))
}

/// Variables take their defaults.
fn expanded(operation: &Operation<'_>, server: &Value) -> Result<String, Failure> {
    let mut url = server
        .get("url")
        .and_then(Value::as_str)
        .unwrap_or("/")
        .to_owned();
    let variables = server.get("variables").and_then(Value::as_object);
    for (name, variable) in variables.into_iter().flatten() {
        let default = variable
            .get("default")
            .and_then(Value::as_str)
            .unwrap_or_default();
        url = url.replace(&format!("{{{name}}}"), default);
    }
    if url.contains('{') {
        let document = operation.document;
        return Err(configuration(format!(
            "{document}: a variable of its server `{url}` has no default"
        )));
    }
    Ok(url)
}
