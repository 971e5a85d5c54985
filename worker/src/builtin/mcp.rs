//! `call:mcp`: one method of a Model Context Protocol server.
//!
//! Input: `{method, transport: {http | stdio, options?}, parameters?, protocolVersion?, timeout?, client?}`. Each call is
//! a session of its own: `initialize`, `notifications/initialized`, the method, and the end of the session. The output is
//! the result as the server gave it: of `tools/call` that includes `isError`. What the server asks for meanwhile is
//! answered: `ping` with a pong, everything else with "not offered".

mod http;
mod stdio;

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::{ErrorKind, RawJson};
use millrace_dsl::value;
use serde::Deserialize;
use serde_json::{Value, json};

use super::deadline::within;
use super::exchange::excerpt;
use super::json_rpc::{Message, Request};
use super::resource::Endpoint;
use crate::{Context, Failure};

/// Revisions of the protocol whose messages this client reads, beside the one that a definition asks for.
const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// Bytes of unusable parameters that are shown.
const PARAMETERS_BYTES_MAX: usize = 512;
/// JSON-RPC: the method does not exist.
const NOT_OFFERED: i64 = -32601;

/// What to call.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call {
    method: String,
    transport: Transport,
    #[serde(default)]
    parameters: Option<RawJson>,
    #[serde(default = "default_version")]
    protocol_version: String,
    #[serde(default)]
    timeout: Option<RawJson>,
    #[serde(default)]
    client: Client,
}

#[derive(Deserialize)]
struct Transport {
    #[serde(default)]
    http: Option<HttpTransport>,
    #[serde(default)]
    stdio: Option<StdioTransport>,
}

#[derive(Deserialize)]
struct HttpTransport {
    endpoint: Endpoint,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct StdioTransport {
    command: String,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Client {
    name: String,
    version: String,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            name: "millrace".into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

fn default_version() -> String {
    "2025-06-18".into()
}

/// A connection over which messages go both ways.
enum Link<'a> {
    Http(Box<http::Link<'a>>),
    Stdio(Box<stdio::Link>),
}

/// The function.
pub(super) async fn call(ctx: Context, call: Call) -> Result<RawJson, Failure> {
    let name = format!("mcp {}", call.method);
    let limit = call.timeout.as_ref().map(limit).transpose()?;
    if let Some(parameters) = call.parameters.as_ref().filter(|p| !p.text().starts_with('{')) {
        let text = format!(
            "{name}: `parameters` must be an object, got {}",
            excerpt(&ctx, parameters.text(), PARAMETERS_BYTES_MAX)
        );
        return Err(Failure::new(ErrorKind::Validation, text));
    }
    let link = Link::open(&ctx, &name, &call.transport).await?;
    let mut session = Session {
        ctx: &ctx,
        name: &name,
        link,
        last_id: 0,
    };
    let result = within(&ctx, &name, limit, session.run(&call)).await;
    session.link.close().await;
    result
}

fn limit(timeout: &RawJson) -> Result<Duration, Failure> {
    let length = value::from_raw(timeout).map_err(Failure::from_problem)?;
    let length = millrace_dsl::duration::Duration::from_value(&length);
    let length = length.map_err(|e| Failure::new(ErrorKind::Expression, format!("`timeout`: {e}")))?;
    Ok(Duration::from_millis(length.as_millis()))
}

struct Session<'a> {
    ctx: &'a Context,
    name: &'a str,
    link: Link<'a>,
    last_id: u64,
}

impl Session<'_> {
    async fn run(&mut self, call: &Call) -> Result<RawJson, Failure> {
        self.initialize(call).await?;
        self.request(&call.method, call.parameters.as_ref()).await
    }

    async fn initialize(&mut self, call: &Call) -> Result<(), Failure> {
        let params = RawJson::encode(&json!({
            "protocolVersion": call.protocol_version,
            "capabilities": {},
            "clientInfo": {"name": call.client.name, "version": call.client.version},
        }))?;
        let greeting: Value = self.request("initialize", Some(&params)).await?.decode()?;
        let Some(version) = greeting["protocolVersion"].as_str() else {
            let text = format!(
                "{}: the server's answer to `initialize` names no protocolVersion",
                self.name
            );
            return Err(Failure::runtime(text));
        };
        if version != call.protocol_version && !VERSIONS.contains(&version) {
            let text = format!(
                "{}: the server speaks protocol version `{version}`, which is none of {}",
                self.name,
                VERSIONS.join(", ")
            );
            return Err(Failure::runtime(text));
        }
        self.link.agreed(version);
        let initialized = Request::notification("notifications/initialized").encode()?;
        self.link.notify(&initialized).await
    }

    async fn request(&mut self, method: &str, params: Option<&RawJson>) -> Result<RawJson, Failure> {
        self.last_id += 1;
        let id = self.last_id;
        self.link
            .send(&Request::new(id, method, params).encode()?)
            .await?;
        while let Some(message) = self.link.next().await? {
            if message.answers(id) || message.is_error() && message.id.is_none() {
                return message.into_result(self.ctx, self.name);
            }
            if let Some(answer) = answer(&message)? {
                self.link.notify(&answer).await?;
            }
        }
        Err(Failure::runtime(format!(
            "{}: the server ended without an answer to `{method}`",
            self.name
        )))
    }
}

/// What a request of the server gets; `None` for everything that wants no answer.
fn answer(message: &Message) -> Result<Option<RawJson>, Failure> {
    let (Some(method), Some(id)) = (&message.method, &message.id) else {
        return Ok(None);
    };
    let answer = match method.as_str() {
        "ping" => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
        other => {
            let error =
                json!({"code": NOT_OFFERED, "message": format!("`{other}` is not offered by this client")});
            json!({"jsonrpc": "2.0", "id": id, "error": error})
        }
    };
    Ok(Some(RawJson::encode(&answer)?))
}

impl<'a> Link<'a> {
    async fn open(ctx: &'a Context, name: &'a str, transport: &'a Transport) -> Result<Self, Failure> {
        match (&transport.http, &transport.stdio) {
            (Some(http), None) => http::Link::open(ctx, name, http).map(|l| Self::Http(Box::new(l))),
            (None, Some(stdio)) => stdio::Link::open(ctx, name, stdio)
                .await
                .map(|l| Self::Stdio(Box::new(l))),
            _ => Err(super::exchange::configuration(format!(
                "{name}: `transport` needs one of http, stdio"
            ))),
        }
    }

    /// From here on the messages are of this revision.
    fn agreed(&mut self, version: &str) {
        if let Self::Http(link) = self {
            link.agreed(version);
        }
    }

    /// Sends a request; [`Self::next`] reads the answer.
    async fn send(&mut self, message: &RawJson) -> Result<(), Failure> {
        match self {
            Self::Http(link) => link.send(message).await,
            Self::Stdio(link) => link.send(message).await,
        }
    }

    /// Sends what gets no answer.
    async fn notify(&mut self, message: &RawJson) -> Result<(), Failure> {
        match self {
            Self::Http(link) => link.notify(message).await,
            Self::Stdio(link) => link.send(message).await,
        }
    }

    async fn next(&mut self) -> Result<Option<Message>, Failure> {
        match self {
            Self::Http(link) => link.next().await,
            Self::Stdio(link) => link.next().await,
        }
    }

    /// Ends the session, also after a failure.
    async fn close(self) {
        match self {
            Self::Http(link) => link.close().await,
            Self::Stdio(link) => link.close().await,
        }
    }
}

#[cfg(test)]
mod tests;
