//! `call:grpc`: one method of a gRPC service that a `.proto` file describes.
//!
//! Input: `{proto, service: {name, host, port?, authentication?}, method, arguments?}`. Messages are built and read by
//! the description alone, in the JSON form of protocol buffers: names in lower camel case (the file's own are read too),
//! 64-bit integers as texts, bytes in Base64, fields that have their default value left out.
//!
//! | method | `arguments` | output |
//! | --- | --- | --- |
//! | unary | the message | the message |
//! | server streaming | the message | array of messages |
//! | client streaming | `{messages: [ … ]}`, or the only message | the message |
//! | both | `{messages: [ … ]}`, or the only message | array of messages |
//!
//! TLS: `https://` or `grpcs://` before the host asks for it, `http://` or `grpc://` for none; without a scheme, port 443
//! means TLS and every other port does not. Without a port it is 443, or 80 when the scheme asks for no TLS.
//!
//! A status other than OK is a `communication` error with the HTTP status that corresponds to it.

mod schema;
mod wire;

use bytes::Bytes;
use millrace_common::{ErrorKind, RawJson, limits};
use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, MethodDescriptor};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use reqwest::{Method, Response, Url};
use serde::Deserialize;
use serde_json::value::RawValue;

use self::wire::{Frames, Status};
use super::authenticate::Policy;
use super::deadline::{TIMEOUT, within};
use super::exchange::configuration;
use super::exchange::{self, Wire};
use super::resource::Resource;
use crate::{Context, Failure};

const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc+proto");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Tells servers that support it which requests are repeats.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What to call.
#[derive(Deserialize)]
pub(super) struct Call {
    proto: Resource,
    service: Service,
    method: String,
    #[serde(default)]
    arguments: Option<RawJson>,
}

#[derive(Deserialize)]
struct Service {
    name: String,
    host: String,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    authentication: Option<Policy>,
}

/// The function.
pub(super) async fn call(ctx: Context, call: Call) -> Result<RawJson, Failure> {
    let name = format!("grpc {}/{}", call.service.name, call.method);
    within(&ctx, &name, None, exchange(&ctx, &name, &call)).await
}

async fn exchange(ctx: &Context, name: &str, call: &Call) -> Result<RawJson, Failure> {
    let address = call.service.address()?;
    let method = schema::method(ctx, &call.proto, &call.service.name, &call.method).await?;
    let body = frames(name, &method, call.arguments.as_ref())?;
    let response = send(ctx, name, &address, &method, &call.service, body).await?;
    let output = method.output();
    let mut answers = receive(name, response, &output).await?;
    if method.is_server_streaming() {
        return Ok(RawJson::encode(&answers)?);
    }
    match (answers.pop(), answers.pop()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Failure::communication(
            500,
            format!("{name}: the answer holds no message"),
        )),
        (Some(_), Some(_)) => {
            let text = format!("{name}: the answer of a method that does not stream holds several messages");
            Err(Failure::communication(500, text))
        }
    }
}

impl Service {
    /// Where the service is; see the module about TLS.
    fn address(&self) -> Result<Url, Failure> {
        let (scheme, host) = match self.host.split_once("://") {
            Some(("https" | "grpcs", host)) => (Some("https"), host),
            Some(("http" | "grpc", host)) => (Some("http"), host),
            Some((other, _)) => {
                let text = format!(
                    "grpc: host `{}`: `{other}` is none of grpc, grpcs, http, https",
                    self.host
                );
                return Err(configuration(text));
            }
            None => (None, self.host.as_str()),
        };
        let wrong = |why: &str| configuration(format!("grpc: host `{}`: {why}", self.host));
        // A scheme without a default port keeps the one that is written.
        let parsed = Url::parse(&format!("grpc://{host}")).map_err(|e| wrong(&e.to_string()))?;
        let is_plain =
            matches!(parsed.path(), "" | "/") && parsed.query().is_none() && parsed.username().is_empty();
        let Some(host) = parsed.host_str().filter(|host| is_plain && !host.is_empty()) else {
            return Err(wrong("must be a name or an address and nothing else"));
        };
        let unsaid = if scheme == Some("http") { 80 } else { 443 };
        let port = self.port.or_else(|| parsed.port()).unwrap_or(unsaid);
        let scheme = scheme.unwrap_or(if port == 443 { "https" } else { "http" });
        Url::parse(&format!("{scheme}://{host}:{port}")).map_err(|e| wrong(&e.to_string()))
    }
}

/// The body of the request: all its messages, since all are known.
fn frames(name: &str, method: &MethodDescriptor, arguments: Option<&RawJson>) -> Result<Bytes, Failure> {
    let arguments = arguments.map_or("{}", RawJson::text);
    let mut body = Vec::new();
    let mut add = |json: &str| {
        let message = message(name, &method.input(), json)?;
        wire::frame(&message.encode_to_vec(), &mut body);
        Ok::<_, Failure>(())
    };
    match Some(arguments)
        .filter(|_| method.is_client_streaming())
        .and_then(several)
    {
        Some(messages) => messages.iter().try_for_each(|m| add(m.get()))?,
        None => add(arguments)?,
    }
    Ok(body.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    messages: Vec<Box<RawValue>>,
}

/// The messages of `{messages: [ … ]}`.
fn several(arguments: &str) -> Option<Vec<Box<RawValue>>> {
    serde_json::from_str::<Several>(arguments)
        .ok()
        .map(|s| s.messages)
}

fn message(name: &str, kind: &MessageDescriptor, json: &str) -> Result<DynamicMessage, Failure> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let message = DynamicMessage::deserialize(kind.clone(), &mut reader);
    message.and_then(|m| reader.end().map(|()| m)).map_err(|e| {
        let text = format!("{name}: the arguments are no `{}`: {e}", kind.full_name());
        Failure::new(ErrorKind::Validation, text)
    })
}

async fn send(
    ctx: &Context,
    name: &str,
    address: &Url,
    method: &MethodDescriptor,
    service: &Service,
    body: Bytes,
) -> Result<Response, Failure> {
    let mut url = address.clone();
    url.set_path(&format!(
        "/{}/{}",
        method.parent_service().full_name(),
        method.name()
    ));
    let limit = ctx.remaining().unwrap_or(TIMEOUT);
    // At most eight digits are allowed.
    let timeout = format!("{}m", limit.as_millis().clamp(1, 99_999_999));
    let prepare = |r: reqwest::RequestBuilder| {
        r.header(CONTENT_TYPE, CONTENT)
            .header(TE, "trailers")
            .header(GRPC_TIMEOUT, timeout.as_str())
            .header(IDEMPOTENCY_KEY, ctx.idempotency_key())
            .body(body.clone())
    };
    let failed = |text| Failure::communication(503, format!("{name}: {text}"));
    let policy = service.authentication.as_ref();
    exchange::send(ctx, (Method::POST, &url), Wire::Http2, policy, prepare, failed).await
}

/// The messages of the answer, when its status is OK.
async fn receive(name: &str, response: Response, kind: &MessageDescriptor) -> Result<Vec<RawJson>, Failure> {
    let broken = |text: String| Failure::communication(500, format!("{name}: {text}"));
    check_head(name, &response)?;
    // An answer without messages may say all in its head.
    let head = Status::of(response.headers());
    let mut body = reqwest::Body::from(response);
    let mut frames = Frames::default();
    let (mut answers, mut bytes) = (Vec::new(), 0);
    let mut trailers: Option<HeaderMap> = None;
    while let Some(piece) = http_body_util::BodyExt::frame(&mut body).await {
        let piece =
            piece.map_err(|e| broken(format!("the answer broke off: {:#}", anyhow::Error::from(e))))?;
        match piece.into_data() {
            Ok(data) => frames.feed(&data),
            Err(other) => trailers = other.into_trailers().ok().or(trailers),
        }
        while let Some(frame) = frames.next().map_err(|e| broken(e.to_string()))? {
            let answer = json(kind, frame).map_err(|e| broken(format!("{e:#}")))?;
            bytes += answer.len() + 1;
            if bytes > limits::PAYLOAD_BYTES_MAX {
                let max = limits::PAYLOAD_BYTES_MAX;
                let text = format!(
                    "{name}: the answer is larger than {max} bytes as JSON, the bound of a task's output"
                );
                return Err(Failure::runtime(text));
            }
            answers.push(answer);
        }
    }
    let status = trailers.as_ref().and_then(Status::of).or(head);
    match status {
        Some(status) if status.is_ok() => Ok(answers),
        Some(status) => Err(Failure::communication(status.http(), format!("{name}: {status}"))),
        None => Err(broken("the answer ended without a status".into())),
    }
}

/// Whoever answers something else than gRPC is a proxy, or no gRPC service.
fn check_head(name: &str, response: &Response) -> Result<(), Failure> {
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
    if !status.is_success() {
        let text = format!("{name}: answered {status} and no gRPC");
        return Err(Failure::communication(status.as_u16(), text));
    }
    match content_type {
        Some(t) if t.starts_with("application/grpc") => Ok(()),
        other => {
            let text = format!(
                "{name}: the answer is no gRPC but `{}`",
                other.unwrap_or("of no type")
            );
            Err(Failure::communication(500, text))
        }
    }
}

fn json(kind: &MessageDescriptor, frame: Bytes) -> anyhow::Result<RawJson> {
    let message = DynamicMessage::decode(kind.clone(), frame)
        .map_err(|e| anyhow::anyhow!("the answer is no `{}`: {e}", kind.full_name()))?;
    Ok(RawJson::encode(&message)?)
}

#[cfg(test)]
mod tests;
