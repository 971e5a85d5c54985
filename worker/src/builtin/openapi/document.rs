//! OpenAPI documents: fetched, parsed, and kept for a while.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_common::{ErrorKind, limits, percent};
use millrace_dsl::value;
use reqwest::{Method, Url};
use serde_json::Value;

use super::Endpoint;
use crate::builtin::http::{self, Prepared, shown};
use crate::builtin::resource;
use crate::{Context, Failure};

/// How long a document is used before it is fetched again.
const AGE_MAX: Duration = Duration::from_secs(300);
/// For messages.
const WHAT: &str = "OpenAPI document";
/// References followed from one to the next; more is a circle.
const REFERENCES_MAX: usize = 32;

/// Which language a document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0, 3.1.
    V3,
}

/// A parsed document.
#[derive(Debug)]
pub(crate) struct Document {
    pub(super) root: Value,
    pub(super) version: Version,
    /// Where it came from: addresses in it are relative to this one.
    pub(super) address: Url,
}

/// Documents of a worker. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents(Arc<Mutex<HashMap<u64, Kept>>>);

#[derive(Debug)]
struct Kept {
    document: Arc<Document>,
    fetched: Instant,
    used: Instant,
    bytes: usize,
}

impl Documents {
    /// The document at an address.
    ///
    /// # Errors
    /// `configuration` when it is none or may not be read, `communication` when it cannot be fetched.
    pub(super) async fn get(&self, ctx: &Context, endpoint: &Endpoint) -> Result<Arc<Document>, Failure> {
        let key = key(endpoint);
        if let Some(known) = self.known(key) {
            return Ok(known);
        }
        let address = address(endpoint, WHAT)?;
        let text = fetch_text(ctx, endpoint, WHAT).await?;
        let document = Arc::new(Document::parse(&text, address)?);
        self.keep(key, document.clone(), text.len());
        Ok(document)
    }

    fn known(&self, key: u64) -> Option<Arc<Document>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.get_mut(&key).filter(|k| k.fetched.elapsed() < AGE_MAX)?;
        kept.used = Instant::now();
        Some(kept.document.clone())
    }

    fn keep(&self, key: u64, document: Arc<Document>, bytes: usize) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let kept = Kept {
            document,
            fetched: now,
            used: now,
            bytes,
        };
        all.insert(key, kept);
        let is_too_much = |all: &HashMap<u64, Kept>| {
            let bytes: usize = all.values().map(|k| k.bytes).sum();
            all.len() > limits::DOCUMENTS_MAX || bytes > limits::DOCUMENTS_BYTES_MAX && all.len() > 1
        };
        while is_too_much(&all) {
            let oldest = all.iter().min_by_key(|(_, k)| k.used).map(|(key, _)| *key);
            oldest.and_then(|oldest| all.remove(&oldest));
        }
    }
}

/// Documents behind an authentication are not for others.
fn key(endpoint: &Endpoint) -> u64 {
    let mut hasher = DefaultHasher::new();
    endpoint.uri().hash(&mut hasher);
    if let Some(policy) = endpoint.policy() {
        policy.hash(&mut hasher);
    }
    hasher.finish()
}

fn address(endpoint: &Endpoint, what: &str) -> Result<Url, Failure> {
    let uri = endpoint.uri();
    Url::parse(uri).map_err(|e| configuration(format!("the address of {what}, `{}`: {e}", shown(uri))))
}

/// The text at an address: over HTTP, or of a file where the worker may read files. `what` is for messages.
///
/// # Errors
/// `configuration` when it may not be read or is no text, `communication` when it cannot be fetched.
pub(crate) async fn fetch_text(ctx: &Context, endpoint: &Endpoint, what: &str) -> Result<String, Failure> {
    let address = address(endpoint, what)?;
    match address.scheme() {
        "file" => Ok(resource::load(ctx, what, address, None).await?.text),
        _ => download(ctx, address, endpoint, what).await,
    }
}

async fn download(ctx: &Context, url: Url, endpoint: &Endpoint, what: &str) -> Result<String, Failure> {
    let prepared = Prepared {
        method: Method::GET,
        url: http::parse_url(url.as_str())?,
        headers: [(
            "accept".to_owned(),
            "application/json, application/yaml, */*".to_owned(),
        )]
        .into(),
        policy: endpoint.policy().cloned(),
        body: None,
    };
    let name = format!("{what} {}", shown(url.as_str()));
    let body = http::fetch(ctx, &name, prepared, limits::DOCUMENT_BYTES_MAX).await?;
    String::from_utf8(body).map_err(|_e| configuration(format!("{name} is not text in UTF-8")))
}

impl Document {
    /// # Errors
    /// `configuration` when the text is not such a document.
    pub(super) fn parse(text: &str, address: Url) -> Result<Self, Failure> {
        let place = shown(address.as_str());
        let root = match serde_json::from_str(text) {
            Ok(root) => root,
            Err(_not_json) => {
                let data = millrace_dsl::data(text)
                    .map_err(|e| configuration(format!("{place} is neither JSON nor YAML: {e}")))?;
                value::to_serde(&data)
            }
        };
        let says = |key: &str| {
            root.get(key)
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
        };
        let version = match (says("swagger"), says("openapi")) {
            (Some(v), _) if v.starts_with("2.") || v == "2" => Version::V2,
            (None, Some(v)) if v.starts_with("3.") => Version::V3,
            (Some(v), _) | (None, Some(v)) => {
                return Err(configuration(format!(
                    "{place} is of OpenAPI version {v}; 2.0, 3.0 and 3.1 are known"
                )));
            }
            (None, None) => {
                return Err(configuration(format!(
                    "{place} is not an OpenAPI document: it has no `openapi` member"
                )));
            }
        };
        Ok(Self {
            root,
            version,
            address,
        })
    }

    /// The object itself, or what its `$ref` points to.
    ///
    /// # Errors
    /// `configuration` when it points to nothing, into another document, or in a circle.
    pub(super) fn resolved<'d>(&'d self, mut object: &'d Value) -> Result<&'d Value, Failure> {
        for _ in 0..REFERENCES_MAX {
            let Some(reference) = object.get("$ref").and_then(Value::as_str) else {
                return Ok(object);
            };
            let Some(pointer) = reference.strip_prefix('#') else {
                let text =
                    "points into another document, which is not followed: bundle the documents into one";
                return Err(configuration(format!("{self}: `{reference}` {text}")));
            };
            let pointer = percent::decoded_text(pointer);
            let found = self.root.pointer(&pointer);
            object =
                found.ok_or_else(|| configuration(format!("{self}: `{reference}` points to nothing")))?;
        }
        Err(configuration(format!("{self}: references form a circle")))
    }
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown(self.address.as_str()))
    }
}

pub(super) fn configuration(detail: String) -> Failure {
    Failure::new(ErrorKind::Configuration, detail)
}
