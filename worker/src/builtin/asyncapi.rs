//! `call:asyncapi`: publishes a message, or consumes some, as an AsyncAPI document (2.x or 3.x) says where and how.
//!
//! Input: `{document, channel | operation, server?, protocol?, message | subscription, authentication?}`. Protocols are
//! `http` and `nats`. The document is read as a client reads it: whatever side it was written for, `message` publishes
//! to the channel and `subscription` consumes from it.
//!
//! Publishing gives the message, `{payload, headers}`. Consuming gives the array of messages, in the order in which they
//! came: `{payload, headers, correlationId?}` each. `filter` sees one of them; `until` and `while` see the array so far,
//! `until` before each message and `while` after it. Messages that were consumed are kept with the step, at most a second
//! late, so a worker that takes over goes on behind them; what is sent while no worker listens is lost unless the
//! protocol keeps it.

mod consume;
mod document;
mod http;
mod nats;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::{ErrorKind, RawJson};
use millrace_dsl::{Value, value};
use serde::Deserialize;
use serde_json::value::RawValue;

use self::consume::{Consumer, Subscription};
use self::document::{Document, Protocol, Target};
use super::authenticate::Policy;
use super::deadline::within;
use super::resource::Resource;
use crate::{Context, Failure};

/// What to do.
#[derive(Deserialize)]
pub(super) struct Call {
    document: Resource,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    operation: Option<String>,
    #[serde(default)]
    server: Option<Server>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    message: Option<Outbound>,
    #[serde(default)]
    subscription: Option<Subscription>,
    #[serde(default)]
    authentication: Option<Policy>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
    #[serde(default)]
    variables: BTreeMap<String, serde_json::Value>,
}

/// A message to publish.
#[derive(Deserialize)]
struct Outbound {
    #[serde(default)]
    payload: Option<Box<RawValue>>,
    #[serde(default)]
    headers: BTreeMap<String, serde_json::Value>,
}

/// The function.
pub(super) async fn call(ctx: Context, call: Call) -> Result<RawJson, Failure> {
    let place = call.operation.as_ref().or(call.channel.as_ref());
    let name = format!("asyncapi {}", place.map_or("", String::as_str));
    let prepared = within(&ctx, &name, None, target(&ctx, &name, &call)).await?;
    match (&call.message, &call.subscription) {
        (Some(message), None) => {
            within(&ctx, &name, None, publish(&ctx, &name, &call, &prepared, message)).await
        }
        (None, Some(subscription)) => subscribe(&ctx, &name, &call, &prepared, subscription).await,
        _ => Err(super::exchange::configuration(format!(
            "{name}: needs one of message, subscription"
        ))),
    }
}

async fn target(ctx: &Context, name: &str, call: &Call) -> Result<Target, Failure> {
    let loaded = call.document.load(ctx, "the AsyncAPI document").await?;
    Document::parse(&loaded.text, super::http::shown(loaded.url.as_str()))?.target(name, call)
}

async fn publish(
    ctx: &Context,
    name: &str,
    call: &Call,
    target: &Target,
    message: &Outbound,
) -> Result<RawJson, Failure> {
    let policy = call.authentication.as_ref();
    match target.protocol {
        Protocol::Http => http::publish(ctx, name, target, policy, message).await?,
        Protocol::Nats => nats::publish(ctx, name, target, policy, message).await?,
    }
    let payload = message.payload.as_deref().unwrap_or(RawValue::NULL);
    let headers = serde_json::value::to_raw_value(&message.headers)?;
    Ok(RawJson::encode(&BTreeMap::from([
        ("payload", payload),
        ("headers", &*headers),
    ]))?)
}

async fn subscribe(
    ctx: &Context,
    name: &str,
    call: &Call,
    target: &Target,
    subscription: &Subscription,
) -> Result<RawJson, Failure> {
    let mut consumer = Consumer::new(ctx, name, subscription)?;
    let (time, deadline) = (consumer.time_left(), ctx.remaining());
    let consumed = tokio::select! {
        consumed = consume(ctx, name, call, target, &mut consumer) => consumed,
        () = elapsed(time) => Ok(()),
        () = elapsed(deadline) => {
            let text = format!("{name}: the time is up while messages are consumed");
            Err(Failure::new(ErrorKind::Timeout, text))
        }
        () = ctx.cancelled() => Err(Failure::cancelled()),
    };
    consumed.map(|()| consumer.into_output())
}

/// Never, without a limit.
async fn elapsed(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn consume(
    ctx: &Context,
    name: &str,
    call: &Call,
    target: &Target,
    consumer: &mut Consumer,
) -> Result<(), Failure> {
    if consumer.is_done()? {
        return Ok(());
    }
    let policy = call.authentication.as_ref();
    let mut source = match target.protocol {
        Protocol::Http => Source::Http(http::Source::new(ctx, name, target, policy)),
        Protocol::Nats => Source::Nats(nats::Source::open(ctx, name, target, policy).await?),
    };
    while !consumer.is_done()? {
        let message = match &mut source {
            Source::Http(source) => source.next().await?,
            Source::Nats(source) => source.next().await?,
        };
        consumer.take(ctx, message.into_value(target)).await?;
    }
    Ok(())
}

enum Source<'a> {
    Http(http::Source<'a>),
    Nats(nats::Source<'a>),
}

/// A message that came.
struct Inbound {
    payload: Value,
    /// Messages of one answer share them.
    headers: Arc<BTreeMap<String, String>>,
}

impl Inbound {
    /// `payload` as JSON if it is, else as a text, else in Base64.
    fn of(payload: &[u8], headers: Arc<BTreeMap<String, String>>) -> Self {
        let payload = match std::str::from_utf8(payload) {
            Ok(text) => value::parse(text).unwrap_or_else(|_not_json| value::string(text)),
            Err(_not_text) => {
                use base64::Engine as _;
                value::string(base64::engine::general_purpose::STANDARD.encode(payload))
            }
        };
        Self { payload, headers }
    }

    fn into_value(self, target: &Target) -> Value {
        let headers = self.headers.iter();
        let headers: Vec<_> = headers
            .map(|(k, v)| (value::string(k.as_str()), value::string(v.as_str())))
            .collect();
        let headers = Value::obj(headers.into_iter().collect());
        let correlation = target.correlation(&self.payload, &headers);
        match correlation {
            Some(id) => value::object([
                ("payload", self.payload),
                ("headers", headers),
                ("correlationId", id),
            ]),
            None => value::object([("payload", self.payload), ("headers", headers)]),
        }
    }
}

impl Outbound {
    fn body(&self) -> &str {
        self.payload.as_deref().map_or("", RawValue::get)
    }

    /// Headers as texts.
    fn headers(&self) -> impl Iterator<Item = (&str, String)> {
        self.headers.iter().map(|(name, v)| (name.as_str(), as_text(v)))
    }
}

/// A text as it is, everything else as JSON.
fn as_text(v: &serde_json::Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
