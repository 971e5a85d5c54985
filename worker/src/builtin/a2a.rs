//! `call:a2a`: one JSON-RPC method of an agent.
//!
//! Input: `{method, agentCard? | server?, parameters?}`. The output is the result; of the streaming methods, the array of
//! all results in order. The credentials of the card's endpoint are used for the agent as well when it is on the same
//! host. `message.messageId` is derived from the step's idempotency key, so an agent can tell repeats.

use millrace_common::hash::StableHash;
use millrace_common::{ErrorKind, RawJson, limits};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response, Url};
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::authenticate::Policy;
use super::deadline::within;
use super::exchange::configuration;
use super::exchange::{self, Wire, http_url};
use super::json_rpc::{Messages, Request};
use super::resource::{Endpoint, Resource};
use crate::{Context, Failure};

/// The only request of a connection has this id.
const ID: u64 = 1;
/// Tells servers that support it which requests are repeats.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What to call.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call {
    method: String,
    #[serde(default)]
    agent_card: Option<Resource>,
    #[serde(default)]
    server: Option<Endpoint>,
    #[serde(default)]
    parameters: Option<RawJson>,
}

/// An agent's address with what it takes to be let in.
struct Agent {
    url: Url,
    policy: Option<Policy>,
}

/// The function.
pub(super) async fn call(ctx: Context, call: Call) -> Result<RawJson, Failure> {
    let name = format!("a2a {}", call.method);
    within(&ctx, &name, None, exchange(&ctx, &name, call)).await
}

async fn exchange(ctx: &Context, name: &str, call: Call) -> Result<RawJson, Failure> {
    let parameters = parameters(ctx, &call)?;
    let agent = Agent::of(ctx, &call).await?;
    let is_stream = matches!(call.method.as_str(), "message/stream" | "tasks/resubscribe");
    let request = Request::new(ID, &call.method, parameters.as_ref()).encode()?;
    let response = agent.post(ctx, name, &request, is_stream).await?;
    let mut messages = Messages::of(ctx, name, response).await?;
    let mut results = Vec::new();
    let mut bytes = 0;
    while let Some(message) = messages.next().await? {
        if !message.answers(ID) && !message.is_error() {
            continue;
        }
        let result = message.into_result(ctx, name)?;
        if !is_stream {
            return Ok(result);
        }
        bytes += result.len() + 1;
        if bytes > limits::PAYLOAD_BYTES_MAX {
            let max = limits::PAYLOAD_BYTES_MAX;
            let text =
                format!("{name}: the results are larger than {max} bytes, the bound of a task's output");
            return Err(Failure::runtime(text));
        }
        results.push(result);
    }
    match is_stream {
        true => Ok(RawJson::encode(&results)?),
        false => Err(Failure::runtime(format!(
            "{name}: the agent's answer holds no result"
        ))),
    }
}

/// The parameters with the defaults of the specification.
fn parameters(ctx: &Context, call: &Call) -> Result<Option<RawJson>, Failure> {
    let Some(raw) = &call.parameters else {
        return Ok(None);
    };
    let mut members: Map<String, Value> = raw.decode().map_err(|_e| {
        let text = format!("a2a {}: `parameters` must be an object", call.method);
        Failure::new(ErrorKind::Validation, text)
    })?;
    let sends = matches!(call.method.as_str(), "message/send" | "message/stream");
    let Some(Value::Object(message)) = members.get_mut("message").filter(|_| sends) else {
        return Ok(Some(raw.clone()));
    };
    let id = message_id(ctx.idempotency_key());
    message
        .entry("messageId")
        .or_insert_with(|| id.to_string().into());
    message.entry("role").or_insert_with(|| "user".into());
    // Versions of the protocol whose parts have a `kind` ask for the message's as well.
    let parts = message.get("parts").and_then(Value::as_array);
    if parts.is_some_and(|parts| parts.iter().any(|p| p.get("kind").is_some())) {
        message.entry("kind").or_insert_with(|| "message".into());
    }
    Ok(Some(RawJson::encode(&members)?))
}

/// The same for every delivery and attempt of the step.
fn message_id(key: &str) -> Uuid {
    let half = |salt: &str| StableHash::new().part(salt).part(key).finish().to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half("a2a"));
    bytes[8..].copy_from_slice(&half("message"));
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl Agent {
    async fn of(ctx: &Context, call: &Call) -> Result<Self, Failure> {
        if let Some(card) = &call.agent_card {
            return Self::of_card(ctx, card).await;
        }
        let Some(server) = &call.server else {
            return Err(configuration("a2a: needs one of agentCard, server"));
        };
        Ok(Self {
            url: http_url(server.uri(), "the A2A server")?,
            policy: server.policy().cloned(),
        })
    }

    async fn of_card(ctx: &Context, card: &Resource) -> Result<Self, Failure> {
        let loaded = card.load(ctx, "the agent card").await.map_err(as_runtime)?;
        let unusable = |why: &str| {
            Failure::runtime(format!(
                "the agent card `{}` {why}",
                super::http::shown(loaded.url.as_str())
            ))
        };
        let content: Value =
            serde_json::from_str(&loaded.text).map_err(|e| unusable(&format!("is not JSON: {e}")))?;
        let address = address(&content).ok_or_else(|| unusable("names no JSON-RPC interface"))?;
        let url = loaded
            .url
            .join(address)
            .map_err(|e| unusable(&format!("has an address that is no URL: {e}")))?;
        let url = http_url(url.as_str(), "the agent's address")?;
        let is_same = url.origin() == loaded.url.origin();
        let policy = card.endpoint.policy().filter(|_| is_same).cloned();
        Ok(Self { url, policy })
    }

    async fn post(
        &self,
        ctx: &Context,
        name: &str,
        request: &RawJson,
        is_stream: bool,
    ) -> Result<Response, Failure> {
        let accept = if is_stream {
            "text/event-stream, application/json"
        } else {
            "application/json"
        };
        let prepare = |r: reqwest::RequestBuilder| {
            r.header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, accept)
                .header(IDEMPOTENCY_KEY, ctx.idempotency_key())
                .body(request.text().to_owned())
        };
        let failed = |text| Failure::runtime(format!("{name}: {text}"));
        exchange::send(
            ctx,
            (Method::POST, &self.url),
            Wire::Any,
            self.policy.as_ref(),
            prepare,
            failed,
        )
        .await
    }
}

/// Where a card says that JSON-RPC is spoken: in the form of protocol 1.0, then of 0.3 and before.
fn address(card: &Value) -> Option<&str> {
    let speaks = |interface: &&Value, key: &str| {
        let binding = interface[key].as_str();
        binding.is_some_and(|b| b.eq_ignore_ascii_case("JSONRPC"))
    };
    let find = |list: &str, key: &str| {
        let interfaces = card[list].as_array()?;
        interfaces.iter().find(|i| speaks(i, key))?["url"].as_str()
    };
    let main = || {
        let preferred = card["preferredTransport"].as_str();
        card["url"]
            .as_str()
            .filter(|_| preferred.is_none_or(|p| p.eq_ignore_ascii_case("JSONRPC")))
    };
    find("supportedInterfaces", "protocolBinding")
        .or_else(main)
        .or_else(|| find("additionalInterfaces", "transport"))
}

/// Failures of this call are `runtime` errors, the download of its card included. What the definition got wrong stays so.
fn as_runtime(failure: Failure) -> Failure {
    match failure.problem() {
        Some(p) if p.standard() == Some(ErrorKind::Communication) => {
            Failure::runtime(p.detail.clone().unwrap_or_default())
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests;
