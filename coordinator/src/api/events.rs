//! `POST /events`: CloudEvents in structured, binary and batched mode. Answers when the stream of events holds them all.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use futures_util::future::join_all;
use millrace_common::event::{Fault, FaultKind};
use millrace_common::{CloudEvent, limits, percent};
use millrace_runtime::nats::PublishError;
use serde_json::json;

use super::problem::{ApiError, ApiResult, Code};
use super::{ApiState, body};
use crate::events::CONTENT_TYPE;

const BATCH: &str = "application/cloudevents-batch+json";
const PREFIX: &str = "ce-";

pub(super) async fn publish(State(api): State<ApiState>, headers: HeaderMap, body: Body) -> ApiResult {
    let bytes = body::read("the request", &headers, body, limits::EVENT_REQUEST_BYTES_MAX).await?;
    let events = read(&headers, &bytes)?;
    let stored = join_all(events.iter().map(|event| api.events.publish(event))).await;
    let total = events.len();
    let mut duplicates = 0;
    for outcome in stored {
        duplicates += usize::from(outcome.map_err(|e| not_stored(&e, total))?.duplicate);
    }
    let answer = json!({"accepted": total, "duplicates": duplicates});
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// All events of a request, or the first fault.
fn read(headers: &HeaderMap, bytes: &[u8]) -> ApiResult<Vec<CloudEvent>> {
    let content_type = text(headers, header::CONTENT_TYPE.as_str())?;
    let media = content_type.as_deref().unwrap_or_default();
    let media = media
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_binary = headers.keys().any(|name| name.as_str().starts_with(PREFIX));
    let is_array = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    match media.as_str() {
        CONTENT_TYPE => one(CloudEvent::parse(bytes)),
        BATCH => batch(bytes),
        media if media.starts_with("application/cloudevents") => Err(unsupported(media)),
        _ if is_binary => one(CloudEvent::binary(
            attributes(headers)?,
            content_type.as_deref(),
            bytes,
        )),
        // Not of the specification, but what one types first.
        "application/json" if is_array => batch(bytes),
        "application/json" => one(CloudEvent::parse(bytes)),
        "" => Err(unsupported("no content type")),
        media => Err(unsupported(media)),
    }
}

fn one(event: Result<CloudEvent, Fault>) -> ApiResult<Vec<CloudEvent>> {
    event
        .map(|event| vec![event])
        .map_err(|fault| invalid(None, fault))
}

fn batch(bytes: &[u8]) -> ApiResult<Vec<CloudEvent>> {
    CloudEvent::batch(bytes).map_err(|(at, fault)| invalid(at, fault))
}

/// Attributes of binary mode. Their texts are percent-encoded where HTTP would not take them.
fn attributes(headers: &HeaderMap) -> ApiResult<Vec<(String, String)>> {
    let named = |name: &str| name.strip_prefix(PREFIX).map(str::to_owned);
    let mut found = Vec::new();
    for (name, value) in headers {
        if let Some(attribute) = named(name.as_str()) {
            let text = value.to_str().ok().and_then(decoded);
            let text = text.ok_or_else(|| {
                let text = "is not a text in printable ASCII with percent-encoding";
                invalid(None, Fault::of(&attribute, text))
            })?;
            found.push((attribute, text));
        }
    }
    Ok(found)
}

/// Undoes percent-encoding, and the quotes that some senders put around.
fn decoded(text: &str) -> Option<String> {
    let text = text
        .strip_prefix('"')
        .and_then(|t| t.strip_suffix('"'))
        .unwrap_or(text);
    String::from_utf8(percent::decoded(text.as_bytes())).ok()
}

fn text(headers: &HeaderMap, name: &str) -> ApiResult<Option<String>> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_not_ascii| {
        ApiError::new(
            Code::InvalidRequest,
            format!("header `{name}` is not printable ASCII"),
        )
    })?;
    Ok(Some(text.to_owned()))
}

fn invalid(at: Option<usize>, fault: Fault) -> ApiError {
    let place = at
        .map(|at| format!("event {at} of the batch: "))
        .unwrap_or_default();
    let code = match fault.kind {
        FaultKind::TooLarge => Code::TooLarge,
        FaultKind::Invalid => Code::InvalidRequest,
    };
    let mut error = ApiError::new(code, format!("{place}{fault}"));
    if let Some(at) = at {
        error = error.with("index", at);
    }
    match fault.attribute {
        Some(attribute) => error.with("attribute", attribute),
        None => error,
    }
}

fn unsupported(media: &str) -> ApiError {
    let detail = format!("events cannot be read from {media}");
    ApiError::new(Code::UnsupportedMediaType, detail).hint(format!(
        "send {CONTENT_TYPE}, {BATCH}, or the attributes as `{PREFIX}` headers"
    ))
}

fn not_stored(e: &PublishError, events: usize) -> ApiError {
    let code = match e {
        PublishError::Full(_) => Code::Overloaded,
        PublishError::Unknown | PublishError::Closed => Code::OutcomeUnknown,
        PublishError::Oversize(_) => Code::TooLarge,
        PublishError::Unavailable(_) | PublishError::WrongLastSequence(_) | PublishError::Other { .. } => {
            Code::Unavailable
        }
    };
    let what = match (code, events) {
        (Code::OutcomeUnknown, _) => "it is not known whether everything is stored",
        (_, 1) => "the event is not stored",
        _ => "not all events are stored",
    };
    let error = ApiError::new(code, format!("{what}: {e}"));
    match code {
        // Nothing that passes.
        Code::TooLarge => error.hint("send less, or let the operator raise NATS' max_payload"),
        _ => error
            .hint("repeat the request: an event with the same source and id is stored once")
            .retry_after(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(k, v): &(&'static str, &'static str)| (k.parse().unwrap(), v.parse().unwrap());
        list.iter().map(pair).collect()
    }

    const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"n":1}}"#;

    #[test]
    fn all_modes_are_read() {
        let structured = headers(&[("content-type", "application/cloudevents+json; charset=utf-8")]);
        assert_eq!(read(&structured, EVENT.as_bytes()).unwrap().len(), 1);
        let batched = headers(&[("content-type", BATCH)]);
        assert_eq!(read(&batched, format!("[{EVENT}]").as_bytes()).unwrap().len(), 1);
        let plain = headers(&[("content-type", "application/json")]);
        assert_eq!(read(&plain, EVENT.as_bytes()).unwrap().len(), 1);
        assert_eq!(read(&plain, format!(" [{EVENT}]").as_bytes()).unwrap().len(), 1);
        let binary = headers(&[
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "a%20%C3%BC"),
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-tenant", "blue"),
        ]);
        let events = read(&binary, br#"{"n":1}"#).unwrap();
        assert_eq!(events[0].id, "a ü");
        let value: serde_json::Value = events[0].raw.decode().unwrap();
        assert_eq!(
            (&value["tenant"], &value["data"]["n"]),
            (&"blue".into(), &1.into())
        );
        assert_eq!(value["datacontenttype"], "application/json");
    }

    #[test]
    fn what_nats_finds_too_large_is_not_to_be_repeated() {
        let error = not_stored(&PublishError::Oversize("maximum payload".into()), 1);
        assert_eq!(error.code(), Code::TooLarge);
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
        let busy = not_stored(&PublishError::Full("bytes".into()), 1).into_response();
        assert!(busy.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn faults_name_the_attribute_and_the_place() {
        let plain = headers(&[("content-type", "application/json")]);
        let error = read(&plain, br#"{"specversion":"1.0","source":"/s","type":"t"}"#).unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest);
        let text = format!("{error:?}");
        assert!(
            text.contains("attribute `id` is missing") && text.contains("\"attribute\""),
            "{text}"
        );
        let error = read(
            &headers(&[("content-type", BATCH)]),
            format!("[{EVENT},{{}}]").as_bytes(),
        )
        .unwrap_err();
        assert!(format!("{error:?}").contains("event 1 of the batch"), "{error:?}");
        let error = read(&headers(&[("content-type", "text/html")]), b"x").unwrap_err();
        assert_eq!(error.code(), Code::UnsupportedMediaType);
        assert_eq!(
            read(&headers(&[]), b"x").unwrap_err().code(),
            Code::UnsupportedMediaType
        );
        let large = format!(
            r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","data":"{}"}}"#,
            "x".repeat(limits::EVENT_BYTES_MAX)
        );
        assert_eq!(read(&plain, large.as_bytes()).unwrap_err().code(), Code::TooLarge);
    }
}
