//! `call:http`: one HTTP request.
//!
//! Input, made by the engine from the definition: `{method, endpoint, headers?, query?, body?, output, redirect,
//! authentication?}`. A status outside 200–299 (200–399 with `redirect: true`, which also follows up to ten redirections)
//! is a `communication` error with that status.

pub(crate) mod body;
pub(crate) mod output;
mod request;
pub(super) mod span;

use std::time::Duration;

use millrace_common::{ErrorKind, RawJson, limits};
use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode, Url};

use self::output::Received;
pub(crate) use self::request::{Call, Exchange, Prepared, parse_url};
use self::span::CallSpan;
use super::authenticate;
use crate::{Context, Failure};

/// Time for a call when its task has no deadline.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Redirections followed with `redirect: true`.
const REDIRECTS_MAX: usize = 10;
/// Bytes of an error's body that are shown in its detail.
const DETAIL_BYTES_MAX: usize = 1024;

/// The function.
pub(super) async fn call(ctx: Context, call: Call) -> Result<RawJson, Failure> {
    let name = format!("{} {}", call.method, shown(&call.endpoint));
    within_time(&ctx, &name, async { exchange(&ctx, call.prepare(&ctx)?).await }).await
}

/// Runs a call until its deadline, or until nobody wants it any more.
pub(crate) async fn within_time<T>(
    ctx: &Context,
    name: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let limit = ctx.remaining().unwrap_or(TIMEOUT);
    tokio::select! {
        result = tokio::time::timeout(limit, work) => result.unwrap_or_else(|_elapsed| {
            Err(Failure::new(ErrorKind::Timeout, format!("{name}: no answer within {} ms", limit.as_millis())))
        }),
        () = ctx.cancelled() => Err(Failure::cancelled()),
    }
}

/// Sends a request and makes the step's output of the response.
pub(crate) async fn exchange(ctx: &Context, exchange: Exchange) -> Result<RawJson, Failure> {
    let Exchange {
        prepared,
        output,
        redirect,
    } = exchange;
    let name = prepared.name();
    let request = output::Request::of(ctx, &prepared);
    let response = send(ctx, prepared, redirect).await?;
    let (status, headers) = (response.status(), output::headers(response.headers()));
    let body = read_body(&name, response, limits::PAYLOAD_BYTES_MAX).await?;
    let received = Received {
        status,
        headers,
        body,
    };
    if is_accepted(status, redirect) {
        received.into_output(output, request)
    } else {
        Err(refused(ctx, &name, &received))
    }
}

/// Fetches a document that a call refers to, redirections followed.
///
/// # Errors
/// `communication` when it cannot be had, with the status that was answered; `runtime` above the bound.
pub(crate) async fn fetch(
    ctx: &Context,
    name: &str,
    prepared: Prepared,
    bytes_max: usize,
) -> Result<Vec<u8>, Failure> {
    let response = send(ctx, prepared, true).await?;
    let (status, headers) = (response.status(), output::headers(response.headers()));
    let body = read_body(name, response, bytes_max).await?;
    match status.is_success() {
        true => Ok(body),
        false => Err(refused(
            ctx,
            name,
            &Received {
                status,
                headers,
                body,
            },
        )),
    }
}

/// Sends, and follows redirections if asked to.
async fn send(ctx: &Context, mut prepared: Prepared, redirect: bool) -> Result<Response, Failure> {
    for _ in 0..REDIRECTS_MAX {
        let response = send_once(ctx, &prepared).await?;
        match next_hop(&prepared.url, &response).filter(|_| redirect) {
            Some(url) => prepared.point_to(ctx, url, response.status())?,
            None => return Ok(response),
        }
    }
    send_once(ctx, &prepared).await
}

async fn send_once(ctx: &Context, prepared: &Prepared) -> Result<Response, Failure> {
    let span = CallSpan::begin(ctx);
    let trace = span.as_ref().map(CallSpan::context);
    let make = || prepared.build(ctx.http_under(trace));
    let name = prepared.name();
    let result = authenticate::send(ctx, prepared.policy.as_ref(), make, |e| failed(&name, e)).await;
    if let Some(span) = span {
        let status = result.as_ref().map(|r| r.status().as_u16());
        span.end(ctx, (&prepared.method, &prepared.url), status);
    }
    result
}

fn next_hop(from: &Url, response: &Response) -> Option<Url> {
    let is_redirection = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| is_redirection)?;
    from.join(location.to_str().ok()?)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// Reads a body up to a bound.
///
/// # Errors
/// `runtime` above the bound, which is named; as [`failed`] when the connection breaks.
pub(crate) async fn read_body(
    name: &str,
    mut response: Response,
    bytes_max: usize,
) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| failed(name, e))? {
        body.extend_from_slice(&chunk);
        if body.len() > bytes_max {
            return Err(Failure::runtime(format!(
                "{name}: the response is larger than {bytes_max} bytes, the bound for it"
            )));
        }
    }
    Ok(body)
}

fn is_accepted(status: StatusCode, redirect: bool) -> bool {
    status.is_success() || redirect && status.is_redirection()
}

fn refused(ctx: &Context, name: &str, received: &Received) -> Failure {
    // Masked before it is cut: half a secret would not be recognised.
    let body = ctx.mask().text(&String::from_utf8_lossy(&received.body));
    let body = body.trim();
    let (shown, rest) = match body.len() > DETAIL_BYTES_MAX {
        true => (&body[..body.floor_char_boundary(DETAIL_BYTES_MAX)], "…"),
        false => (body, ""),
    };
    let separator = if shown.is_empty() { "" } else { ": " };
    let detail = format!("{name} answered {}{separator}{shown}{rest}", received.status);
    Failure::communication(received.status.as_u16(), detail)
}

/// A connection that failed.
pub(crate) fn failed(name: &str, error: reqwest::Error) -> Failure {
    let kind = if error.is_builder() {
        ErrorKind::Configuration
    } else if error.is_timeout() {
        ErrorKind::Timeout
    } else {
        ErrorKind::Communication
    };
    Failure::new(
        kind,
        format!("{name}: {:#}", anyhow::Error::from(error.without_url())),
    )
}

pub(crate) fn configuration(detail: String) -> Failure {
    Failure::new(ErrorKind::Configuration, detail)
}

/// A URL without password and query: either may hold secrets.
pub(crate) fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            url.set_query(None);
            url.set_fragment(None);
            // Only fails for URLs that cannot hold credentials.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.into()
        }
        Err(_not_a_url) => url.split(['?', '#']).next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests;
