//! JSON-RPC 2.0 as MCP and A2A speak it over HTTP: a message is posted, and the answer is one JSON value or a stream of
//! server-sent events. All that goes wrong here is a `runtime` error, as the specification wants it for both.

use std::collections::VecDeque;

use millrace_common::{RawJson, limits};
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::exchange;
use super::sse;
use crate::{Context, Failure};

/// A request, or a notification when it has no id.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawJson>,
}

/// What comes back: an answer, or a request or notification of the other side.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    #[serde(default)]
    pub(super) id: Option<Value>,
    #[serde(default)]
    pub(super) method: Option<String>,
    #[serde(default)]
    result: Option<RawJson>,
    #[serde(default)]
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    code: i64,
    message: String,
    #[serde(default)]
    data: Option<RawJson>,
}

/// Bytes of an error's `message` that are shown.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Bytes of an error's `data` that are shown.
const DATA_BYTES_MAX: usize = 512;

impl<'a> Request<'a> {
    pub(super) const fn new(id: u64, method: &'a str, params: Option<&'a RawJson>) -> Self {
        Self {
            jsonrpc: "2.0",
            id: Some(id),
            method,
            params,
        }
    }

    pub(super) const fn notification(method: &'a str) -> Self {
        Self {
            jsonrpc: "2.0",
            id: None,
            method,
            params: None,
        }
    }

    pub(super) fn encode(&self) -> Result<RawJson, Failure> {
        Ok(RawJson::encode(self)?)
    }
}

impl Message {
    /// True for the answer to the request with this id.
    pub(super) fn answers(&self, id: u64) -> bool {
        self.method.is_none() && self.id.as_ref().is_some_and(|i| i.as_u64() == Some(id))
    }

    /// The result. An error without an id answers as well: the other side could not read which.
    pub(super) fn into_result(self, ctx: &Context, name: &str) -> Result<RawJson, Failure> {
        let Some(error) = self.error else {
            return Ok(self.result.unwrap_or_else(RawJson::null));
        };
        let data = error.data.filter(|d| d.text() != "null");
        let data = data.map(|d| format!(": {}", exchange::excerpt(ctx, d.text(), DATA_BYTES_MAX)));
        let code = error.code;
        let message = exchange::excerpt(ctx, &error.message, MESSAGE_BYTES_MAX);
        Err(Failure::runtime(format!(
            "{name}: error {code}, {message}{}",
            data.unwrap_or_default()
        )))
    }

    pub(super) const fn is_error(&self) -> bool {
        self.error.is_some()
    }
}

/// The messages of a text: one, or an array of them.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Message>, String> {
    let read = match text.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice::<Batch>(text).map(|batch| batch.0),
        _ => serde_json::from_slice(text).map(|m| vec![m]),
    };
    read.map_err(|e| format!("it is no JSON-RPC: {e}"))
}

/// An array of messages, read no further than to its bound: an empty message takes two bytes and becomes a hundred.
struct Batch(Vec<Message>);

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Batch;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "at most {} messages", limits::ANSWER_MESSAGES_MAX)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Batch, A::Error> {
                let mut messages = Vec::new();
                while let Some(message) = items.next_element()? {
                    if messages.len() == limits::ANSWER_MESSAGES_MAX {
                        return Err(A::Error::invalid_length(messages.len() + 1, &self));
                    }
                    messages.push(message);
                }
                Ok(Batch(messages))
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

/// The messages of one HTTP answer, read as they come.
pub(super) struct Messages {
    name: String,
    response: Response,
    /// `None`: one JSON value, which is read at once.
    events: Option<sse::Parser>,
    ready: VecDeque<Message>,
    ended: bool,
}

impl Messages {
    /// `name` begins its errors.
    pub(super) async fn of(ctx: &Context, name: &str, response: Response) -> Result<Self, Failure> {
        if !response.status().is_success() {
            return Err(Failure::runtime(exchange::refusal(ctx, name, response).await));
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
        let is_stream = content_type.is_some_and(|t| t.trim_start().starts_with("text/event-stream"));
        Ok(Self {
            name: name.to_owned(),
            response,
            events: is_stream.then(|| sse::Parser::new(limits::PAYLOAD_BYTES_MAX)),
            ready: VecDeque::new(),
            ended: false,
        })
    }

    /// The next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::runtime(format!("{}: {error}", self.name));
        let Some(parser) = &mut self.events else {
            let body = exchange::body(&mut self.response, limits::PAYLOAD_BYTES_MAX).await;
            let body = body.map_err(|e| failed(&e))?;
            self.ended = true;
            if !body.is_empty() {
                let messages = parse(&body).map_err(|e| failed(&format!("cannot read the answer: {e}")))?;
                self.ready.extend(messages);
            }
            return Ok(());
        };
        let Some(piece) = exchange::chunk(&mut self.response)
            .await
            .map_err(|e| failed(&e))?
        else {
            self.ended = true;
            return Ok(());
        };
        let events = parser.feed(&piece).map_err(|e| failed(&e))?;
        for event in events.iter().filter(|e| !e.data.is_empty()) {
            let messages =
                parse(event.data.as_bytes()).map_err(|e| failed(&format!("cannot read an event: {e}")))?;
            self.ready.extend(messages);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_of_an_array_are_bounded() {
        let array = |items: usize| format!("[{}]", vec!["{}"; items].join(","));
        let most = parse(array(limits::ANSWER_MESSAGES_MAX).as_bytes()).unwrap();
        assert_eq!(most.len(), limits::ANSWER_MESSAGES_MAX);
        let error = parse(array(limits::ANSWER_MESSAGES_MAX + 1).as_bytes()).unwrap_err();
        assert!(
            error.contains("invalid length 10001, expected at most 10000 messages"),
            "{error}"
        );
    }
}
