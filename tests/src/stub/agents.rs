//! Servers of the protocols that are spoken over HTTP, below `/own/agents`:
//!
//! | path | answer |
//! | --- | --- |
//! | `mcp` | an MCP server (streamable HTTP) with the tool `add` |
//! | `card.json`, `a2a` | an A2A agent that says what it is told |
//! | `asyncapi.yaml`, `asyncapi-2.json` | documents with a server here: `channel/echo` takes messages, `channel/numbers` has them |

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{BODY_BYTES_MAX, json as answer};

const SESSION: &str = "mcp-session-id";

pub(super) async fn serve(path: &[&str], method: &str, headers: &HeaderMap, body: Body) -> Response {
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .unwrap_or_default();
    let message: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match path {
        ["mcp"] if method == "DELETE" => StatusCode::NO_CONTENT.into_response(),
        ["mcp"] => mcp(headers, &message),
        ["card.json"] => answer(
            200,
            json!({"name": "parrot", "url": "/own/agents/a2a", "preferredTransport": "JSONRPC"}),
        ),
        ["a2a"] => a2a(&message),
        ["asyncapi.yaml"] => DOCUMENT.into_response(),
        ["asyncapi-2.json"] => answer(200, document_two()),
        ["channel", "echo"] => StatusCode::ACCEPTED.into_response(),
        ["channel", "numbers"] => {
            let events: String = (1..=5).map(|n| format!("data: {{\"n\":{n}}}\n\n")).collect();
            ([(header::CONTENT_TYPE, "text/event-stream")], events).into_response()
        }
        _ => answer(404, json!({"unknown": path})),
    }
}

fn result(message: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": message["id"], "result": result})
}

fn refusal(message: &Value, code: i64, text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": text}})
}

fn mcp(headers: &HeaderMap, message: &Value) -> Response {
    let method = message["method"].as_str().unwrap_or_default();
    if method == "initialize" {
        let greeting =
            json!({"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}}});
        return ([(SESSION, "one")], axum::Json(result(message, &greeting))).into_response();
    }
    if headers.get(SESSION).is_none_or(|s| s != "one") {
        return answer(400, json!({"message": "no session"}));
    }
    let params = &message["params"];
    let reply = match method {
        "notifications/initialized" => return StatusCode::ACCEPTED.into_response(),
        "tools/list" => result(
            message,
            &json!({"tools": [{"name": "add", "inputSchema": {"type": "object"}}]}),
        ),
        "resources/read" => {
            let text = json!({"uri": params["uri"], "text": "hello"});
            let event = result(message, &json!({"contents": [text]}));
            return (
                [(header::CONTENT_TYPE, "text/event-stream")],
                format!("data: {event}\n\n"),
            )
                .into_response();
        }
        "tools/call" if params["name"] == "add" => {
            let number = |key: &str| params["arguments"][key].as_i64().unwrap_or_default();
            let sum = number("a") + number("b");
            result(
                message,
                &json!({"content": [{"type": "text", "text": sum.to_string()}], "isError": false}),
            )
        }
        "tools/call" => refusal(message, -32602, "unknown tool"),
        _ => refusal(message, -32601, "unknown method"),
    };
    answer(200, reply)
}

fn a2a(message: &Value) -> Response {
    let said = &message["params"]["message"];
    let event = |n: u64| {
        format!(
            "data: {}\n\n",
            result(message, &json!({"n": n, "of": said["role"]}))
        )
    };
    match message["method"].as_str().unwrap_or_default() {
        "message/send" => answer(200, result(message, said)),
        "message/stream" => {
            let events = [event(1), event(2)].concat();
            ([(header::CONTENT_TYPE, "text/event-stream")], events).into_response()
        }
        "tasks/get" => answer(200, refusal(message, -32001, "no such task")),
        _ => answer(200, refusal(message, -32601, "unknown method")),
    }
}

const DOCUMENT: &str = "asyncapi: 3.0.0
servers:
  broker: { host: 'broker.test', protocol: kafka }
  here: { host: 'stub.test', pathname: '/own/{place}/channel', protocol: http, variables: { place: { default: agents } } }
channels:
  echo: { address: echo, servers: [ { $ref: '#/servers/here' } ] }
  numbers: { address: numbers, servers: [ { $ref: '#/servers/here' } ] }
  queue: { address: queue, servers: [ { $ref: '#/servers/broker' } ] }
operations:
  say: { action: send, channel: { $ref: '#/channels/echo' } }
  count: { action: receive, channel: { $ref: '#/channels/numbers' } }
  queue: { action: send, channel: { $ref: '#/channels/queue' } }
";

fn document_two() -> Value {
    json!({
        "asyncapi": "2.6.0",
        "servers": {"here": {"url": "http://stub.test/own/agents/channel", "protocol": "http"}},
        "channels": {"/echo": {"publish": {}}, "/numbers": {"subscribe": {}}},
    })
}
