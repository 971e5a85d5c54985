//! `call:http`: one HTTP request.
//!
//! Input, made by the engine from the definition: `{method, endpoint, headers?, query?, body?, output, redirect,
//! authentication?}`. A status outside 200–299 (200–399 with `redirect: true`, which also follows up to ten redirections)
//! is a `communication` error with that status.

mod body;
mod output;
mod span;

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::{ErrorKind, RawJson, limits};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use self::output::Received;
use self::span::CallSpan;
use crate::{Context, Failure};

/// Time for a call when its task has no deadline.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Redirections followed with `redirect: true`.
const REDIRECTS_MAX: usize = 10;
/// Bytes of an error's body that are shown in its detail.
const DETAIL_BYTES_MAX: usize = 1024;
/// Tells servers that support it which requests are repeats.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What to request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call {
    method: String,
    endpoint: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    query: BTreeMap<String, String>,
    #[serde(default)]
    body: Option<RawJson>,
    #[serde(default)]
    output: Output,
    #[serde(default)]
    redirect: bool,
    #[serde(default)]
    authentication: Option<Authentication>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Output {
    /// The bytes in Base64.
    Raw,
    /// The body as a value.
    #[default]
    Content,
    /// Request, status, headers and body.
    Response,
}

#[derive(Clone, Debug, Deserialize)]
struct Authentication {
    scheme: String,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default, rename = "use")]
    secret: Option<String>,
}

/// A request that can be sent again to where a redirection points.
struct Prepared {
    method: Method,
    url: Url,
    headers: BTreeMap<String, String>,
    authorization: Option<Authentication>,
    body: Option<body::Encoded>,
}

/// The function.
pub(super) async fn call(ctx: Context, call: Call) -> Result<RawJson, Failure> {
    let limit = ctx.remaining().unwrap_or(TIMEOUT);
    let name = format!("{} {}", call.method, shown(&call.endpoint));
    tokio::select! {
        result = tokio::time::timeout(limit, exchange(&ctx, call)) => result.unwrap_or_else(|_elapsed| {
            Err(Failure::new(ErrorKind::Timeout, format!("{name}: no answer within {} ms", limit.as_millis())))
        }),
        () = ctx.cancelled() => Err(Failure::cancelled()),
    }
}

async fn exchange(ctx: &Context, call: Call) -> Result<RawJson, Failure> {
    let (output, redirect) = (call.output, call.redirect);
    let prepared = prepare(ctx, call)?;
    let name = format!("{} {}", prepared.method, shown(prepared.url.as_str()));
    let request = output::Request::of(&prepared);
    let response = send(ctx, prepared, redirect).await?;
    let received = receive(&name, response).await?;
    if is_accepted(received.status, redirect) {
        received.into_output(output, request)
    } else {
        Err(refused(&name, &received))
    }
}

fn prepare(ctx: &Context, call: Call) -> Result<Prepared, Failure> {
    let method = Method::from_bytes(call.method.as_bytes())
        .map_err(|_e| configuration(format!("`{}` is not an HTTP method", call.method)))?;
    let mut url = Url::parse(&call.endpoint)
        .map_err(|e| configuration(format!("`{}` is not a URL: {e}", shown(&call.endpoint))))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(configuration(format!(
            "`{}`: only http and https can be called",
            shown(&call.endpoint)
        )));
    }
    if !call.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&call.query);
    }
    let mut headers: BTreeMap<String, String> = call
        .headers
        .into_iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let body = call
        .body
        .as_ref()
        .map(|b| body::encode(b, headers.get(CONTENT_TYPE.as_str())))
        .transpose()?
        .flatten();
    if let Some(body) = &body {
        headers
            .entry(CONTENT_TYPE.as_str().into())
            .or_insert_with(|| body.content_type.into());
    }
    if !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
        headers
            .entry(IDEMPOTENCY_KEY.into())
            .or_insert_with(|| ctx.idempotency_key().into());
    }
    if let Some(authentication) = &call.authentication {
        authentication.check()?;
    }
    Ok(Prepared {
        method,
        url,
        headers,
        authorization: call.authentication,
        body,
    })
}

impl Authentication {
    fn check(&self) -> Result<(), Failure> {
        if let Some(secret) = &self.secret {
            let text = format!("secret `{secret}` is not available to this worker");
            return Err(Failure::new(ErrorKind::Authorization, text));
        }
        match self.scheme.as_str() {
            "basic" if self.username.is_some() && self.password.is_some() => Ok(()),
            "bearer" if self.token.is_some() => Ok(()),
            "basic" | "bearer" => Err(configuration(format!(
                "`{}` authentication lacks its credentials",
                self.scheme
            ))),
            other => Err(configuration(format!(
                "authentication scheme `{other}` is not supported"
            ))),
        }
    }
}

/// Sends, and follows redirections if asked to.
async fn send(ctx: &Context, mut prepared: Prepared, redirect: bool) -> Result<Response, Failure> {
    for _ in 0..REDIRECTS_MAX {
        let response = send_once(ctx, &prepared).await?;
        match next_hop(&prepared.url, &response).filter(|_| redirect) {
            Some(url) => prepared.point_to(url, response.status()),
            None => return Ok(response),
        }
    }
    send_once(ctx, &prepared).await
}

async fn send_once(ctx: &Context, prepared: &Prepared) -> Result<Response, Failure> {
    let span = CallSpan::begin(ctx);
    let mut request = ctx
        .http_under(span.as_ref().map(CallSpan::context))
        .request_to(prepared.method.clone(), prepared.url.clone());
    for (name, value) in &prepared.headers {
        request = request.header(name, value);
    }
    match &prepared.authorization {
        Some(Authentication {
            username: Some(username),
            password,
            ..
        }) => {
            request = request.basic_auth(username, password.as_ref());
        }
        Some(Authentication {
            token: Some(token), ..
        }) => request = request.bearer_auth(token),
        _ => {}
    }
    if let Some(body) = &prepared.body {
        request = request.body(body.bytes.clone());
    }
    let name = || format!("{} {}", prepared.method, shown(prepared.url.as_str()));
    let result = request.send().await.map_err(|e| failed(&name(), e));
    if let Some(span) = span {
        let status = result.as_ref().map(|r| r.status().as_u16());
        span.end(ctx.tracer(), &prepared.method, &prepared.url, status);
    }
    result
}

fn next_hop(from: &Url, response: &Response) -> Option<Url> {
    let is_redirection = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response
        .headers()
        .get(LOCATION)
        .filter(|_| is_redirection)?
        .to_str()
        .ok()?;
    from.join(location)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
}

impl Prepared {
    /// As browsers do: 303, and 301 or 302 after a POST, become a GET; credentials never leave for another host.
    fn point_to(&mut self, url: Url, status: StatusCode) {
        let becomes_get = status == StatusCode::SEE_OTHER && self.method != Method::HEAD
            || matches!(status.as_u16(), 301 | 302) && self.method == Method::POST;
        if becomes_get {
            self.method = Method::GET;
            self.body = None;
            self.headers.remove(CONTENT_TYPE.as_str());
        }
        if url.origin() != self.url.origin() {
            self.authorization = None;
            self.headers.remove(AUTHORIZATION.as_str());
            self.headers.remove(COOKIE.as_str());
        }
        self.url = url;
    }
}

/// Reads the body up to the bound of a step's output.
async fn receive(name: &str, mut response: Response) -> Result<Received, Failure> {
    let status = response.status();
    let headers = output::headers(response.headers());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| failed(name, e))? {
        body.extend_from_slice(&chunk);
        if body.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(Failure::runtime(format!(
                "{name}: the response is larger than {} bytes, the bound of a task's output",
                limits::PAYLOAD_BYTES_MAX
            )));
        }
    }
    Ok(Received {
        status,
        headers,
        body,
    })
}

fn is_accepted(status: StatusCode, redirect: bool) -> bool {
    status.is_success() || redirect && status.is_redirection()
}

fn refused(name: &str, received: &Received) -> Failure {
    let body =
        String::from_utf8_lossy(&received.body[..received.body.len().min(DETAIL_BYTES_MAX)]).into_owned();
    let rest = if received.body.len() > DETAIL_BYTES_MAX {
        "…"
    } else {
        ""
    };
    let separator = if body.trim().is_empty() { "" } else { ": " };
    let detail = format!(
        "{name} answered {}{separator}{}{rest}",
        received.status,
        body.trim()
    );
    Failure::communication(received.status.as_u16(), detail)
}

fn failed(name: &str, error: reqwest::Error) -> Failure {
    if error.is_builder() {
        return configuration(format!("{name}: {:#}", anyhow::Error::from(error.without_url())));
    }
    let kind = if error.is_timeout() {
        ErrorKind::Timeout
    } else {
        ErrorKind::Communication
    };
    Failure::new(
        kind,
        format!("{name}: {:#}", anyhow::Error::from(error.without_url())),
    )
}

fn configuration(detail: String) -> Failure {
    Failure::new(ErrorKind::Configuration, detail)
}

/// A URL without password and query: either may hold secrets.
fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Only fails for URLs that cannot hold credentials.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.into()
        }
        Err(_not_a_url) => url.into(),
    }
}

#[cfg(test)]
mod tests;
