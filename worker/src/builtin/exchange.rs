//! One HTTP request of a call that is not `call: http`: with a span of its own, and answers read within bounds.

use bytes::Bytes;
use millrace_common::ErrorKind;
use reqwest::{Method, RequestBuilder, Response, Url};

use super::authenticate::{self, Policy};
use super::http::shown;
use super::http::span::CallSpan;
use crate::{Context, Failure};

/// Bytes of an error's body that are shown in its detail.
const DETAIL_BYTES_MAX: usize = 1024;
/// Bytes of an error's body that are read.
const READ_BYTES_MAX: usize = 16 * 1024;

/// Which protocol a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// HTTP/1.1, or what TLS agrees on.
    Any,
    /// HTTP/2 from the first byte on, as gRPC needs it.
    Http2,
}

/// Sends a request and waits for the head of the answer. `failed` makes the failure of a request that gets none.
pub(super) async fn send(
    ctx: &Context,
    (method, url): (Method, &Url),
    wire: Wire,
    policy: Option<&Policy>,
    prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    failed: impl Fn(String) -> Failure,
) -> Result<Response, Failure> {
    let span = CallSpan::begin(ctx);
    let http = ctx.http_under(span.as_ref().map(CallSpan::context));
    let make = || {
        prepare(match wire {
            Wire::Any => http.request_to(method.clone(), url.clone()),
            Wire::Http2 => http.http2_request_to(method.clone(), url.clone()),
        })
    };
    let broken = |e: reqwest::Error| {
        let kind = e.is_timeout().then_some(ErrorKind::Timeout);
        let error = anyhow::Error::from(e.without_url());
        let text = format!("{method} {}: {error:#}", shown(url.as_str()));
        match kind {
            Some(kind) => Failure::new(kind, text),
            None => failed(text),
        }
    };
    let result = authenticate::send(ctx, policy, make, broken).await;
    if let Some(span) = span {
        let status = result.as_ref().map(|r| r.status().as_u16());
        span.end(ctx, (&method, url), status);
    }
    result
}

/// A failure of what the definition asks for.
pub(super) fn configuration(detail: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::Configuration, detail)
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// It is too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The connection broke.
    #[error("the answer broke off: {0:#}")]
    Broken(anyhow::Error),
}

/// Reads a body to its end.
pub(super) async fn body(response: &mut Response, bytes_max: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = chunk(response).await? {
        body.extend_from_slice(&chunk);
        if body.len() > bytes_max {
            return Err(BodyError::TooLarge(bytes_max));
        }
    }
    Ok(body)
}

/// The next piece of a body.
pub(super) async fn chunk(response: &mut Response) -> Result<Option<Bytes>, BodyError> {
    let chunk = response.chunk().await;
    chunk.map_err(|e| BodyError::Broken(anyhow::Error::from(e.without_url())))
}

/// Says that a request was refused: status, and the beginning of the body.
pub(super) async fn refusal(ctx: &Context, name: &str, mut response: Response) -> String {
    let status = response.status();
    let mut body = Vec::new();
    while body.len() < READ_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            // The body is only there to explain: without it, the status has to do.
            Ok(None) | Err(_) => break,
        }
    }
    let text = excerpt(ctx, &String::from_utf8_lossy(&body), DETAIL_BYTES_MAX);
    let separator = if text.is_empty() { "" } else { ": " };
    format!("{name} answered {status}{separator}{text}")
}

/// The beginning of a text of another party. What is secret is masked before the text is cut: half a secret would not be
/// recognised.
pub(super) fn excerpt(ctx: &Context, text: &str, bytes_max: usize) -> String {
    let text = ctx.mask().text(text);
    let text = text.trim();
    match text.len() > bytes_max {
        true => format!("{}…", &text[..text.floor_char_boundary(bytes_max)]),
        false => text.to_owned(),
    }
}

/// A URL that HTTP can call.
pub(super) fn http_url(text: &str, what: &str) -> Result<Url, Failure> {
    let wrong = |why: String| {
        Failure::new(
            ErrorKind::Configuration,
            format!("{what} `{}`: {why}", shown(text)),
        )
    };
    let url = Url::parse(text).map_err(|e| wrong(format!("not a URL: {e}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(wrong(format!(
            "`{other}` cannot be called, only http and https can"
        ))),
    }
}
