//! What is requested, and how it is sent.

use std::collections::BTreeMap;

use millrace_common::RawJson;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, PROXY_AUTHORIZATION};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::output::Output;
use super::{body, configuration, shown};
use crate::builtin::authenticate::Policy;
use crate::egress::Http;
use crate::{Context, Failure};

/// Tells servers that support it which requests are repeats.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Input of `call:http`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Call {
    pub(super) method: String,
    pub(super) endpoint: String,
    #[serde(default, deserialize_with = "texts")]
    headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "texts")]
    query: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<RawJson>,
    #[serde(default)]
    output: Output,
    #[serde(default)]
    redirect: bool,
    #[serde(default)]
    authentication: Option<Policy>,
}

/// A request, and what is wanted of its response.
pub(crate) struct Exchange {
    pub(crate) prepared: Prepared,
    pub(crate) output: Output,
    /// Follow redirections, and accept statuses up to 399.
    pub(crate) redirect: bool,
}

/// A request that can be sent again, also to where a redirection points.
pub(crate) struct Prepared {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) policy: Option<Policy>,
    pub(crate) body: Option<body::Encoded>,
}

/// An object of texts: numbers and booleans become texts, `null` is left out. The engine did that already, except for
/// what was filled in from secrets.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let members = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let text = |(key, value)| match value {
        Value::String(text) => Some(Ok((key, text))),
        Value::Number(_) | Value::Bool(_) => Some(Ok((key, value.to_string()))),
        Value::Null => None,
        Value::Array(_) | Value::Object(_) => {
            Some(Err(serde::de::Error::custom(format!("`{key}` must be a text"))))
        }
    };
    members.into_iter().filter_map(text).collect()
}

impl Call {
    /// # Errors
    /// `configuration` for a method or URL that is none, `validation` for a body that cannot be encoded.
    pub(super) fn prepare(self, ctx: &Context) -> Result<Exchange, Failure> {
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_e| configuration(format!("`{}` is not an HTTP method", self.method)))?;
        let mut url = parse_url(&self.endpoint)?;
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
        let mut prepared = Prepared {
            method,
            url,
            headers: self.headers.into_iter().map(lower).collect(),
            policy: self.authentication,
            body: None,
        };
        if let Some(body) = &self.body {
            let content_type = prepared.headers.get(CONTENT_TYPE.as_str());
            let body = body::encode(body, content_type.map(String::as_str))?;
            prepared.set_body(body);
        }
        prepared.set_idempotency_key(ctx);
        Ok(Exchange {
            prepared,
            output: self.output,
            redirect: self.redirect,
        })
    }
}

/// # Errors
/// `configuration` when the text is no http or https URL.
pub(crate) fn parse_url(text: &str) -> Result<Url, Failure> {
    let url = Url::parse(text).map_err(|e| configuration(format!("`{}` is not a URL: {e}", shown(text))))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err(configuration(format!(
            "`{}`: only http and https can be called",
            shown(text)
        ))),
    }
}

impl Prepared {
    /// For messages: without what may be secret.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, shown(self.url.as_str()))
    }

    /// With this body; its type is the one of the headers, if they name one.
    pub(crate) fn set_body(&mut self, body: Option<body::Encoded>) {
        if let Some(body) = &body {
            let boundary_is_ours = body.content_type.starts_with("multipart/");
            let content_type = self.headers.entry(CONTENT_TYPE.as_str().into());
            if boundary_is_ours {
                content_type.insert_entry(body.content_type.clone());
            } else {
                content_type.or_insert_with(|| body.content_type.clone());
            }
        }
        self.body = body;
    }

    /// Not for methods that are repeatable as such.
    pub(crate) fn set_idempotency_key(&mut self, ctx: &Context) {
        if !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            let key = self.headers.entry(IDEMPOTENCY_KEY.into());
            key.or_insert_with(|| ctx.idempotency_key().into());
        }
    }

    /// The request without its authentication, which replaces an `authorization` header.
    pub(super) fn build(&self, http: Http<'_>) -> RequestBuilder {
        let mut request = http.request_to(self.method.clone(), self.url.clone());
        let replaced = self.policy.is_some().then(|| AUTHORIZATION.as_str());
        for (name, value) in self
            .headers
            .iter()
            .filter(|(name, _)| Some(name.as_str()) != replaced)
        {
            request = request.header(name, value);
        }
        if let Some(body) = &self.body {
            request = request.body(body.bytes.clone());
        }
        request
    }

    /// As browsers do: 303, and 301 or 302 after a POST, become a GET; credentials never leave for another host.
    ///
    /// # Errors
    /// `communication` when the body holds a secret and would go to another host.
    pub(super) fn point_to(&mut self, ctx: &Context, url: Url, status: StatusCode) -> Result<(), Failure> {
        let becomes_get = status == StatusCode::SEE_OTHER && self.method != Method::HEAD
            || matches!(status.as_u16(), 301 | 302) && self.method == Method::POST;
        if becomes_get {
            self.method = Method::GET;
            self.body = None;
            self.headers.remove(CONTENT_TYPE.as_str());
            self.headers.remove(IDEMPOTENCY_KEY);
        }
        if url.origin() != self.url.origin() {
            self.leave_secrets(ctx, &url, status)?;
        }
        self.url = url;
        Ok(())
    }

    fn leave_secrets(&mut self, ctx: &Context, to: &Url, status: StatusCode) -> Result<(), Failure> {
        let body = self.body.as_ref().map(|b| String::from_utf8_lossy(&b.bytes));
        if body.is_some_and(|body| ctx.knows_as_secret(&body)) {
            let detail = format!(
                "{} was redirected to another host, `{}`, and its body holds a secret, which is not sent there; if it may \
                 be, call that address itself",
                self.name(),
                shown(to.as_str())
            );
            return Err(Failure::communication(status.as_u16(), detail));
        }
        self.policy = None;
        let credentials = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE];
        self.headers.retain(|name, value| {
            !credentials.iter().any(|c| c.as_str() == name) && !ctx.knows_as_secret(value)
        });
        Ok(())
    }
}
