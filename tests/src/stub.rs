//! The outside world of a test: the services that workflows call, and a receiver of traces. One HTTP server on loopback;
//! workers reach it through `MILLRACE_HTTP_REDIRECTS`.
//!
//! | path | answer |
//! | --- | --- |
//! | `/v2/pet/…`, `/v2/swagger.json`, `/basic-auth/{user}/{password}` | what the conformance kit's scenarios call |
//! | the paths of the specification's examples | see `example` |
//! | `/own/item/{id}` | `{"id": id}` |
//! | `/own/echo…` | method, path, query, headers and body of the request |
//! | `/own/status/{code}` | that status, with a JSON body |
//! | `/own/flaky/{key}/{n}` | 503 for the first `n` calls with this key, then 200 and the number of the call |
//! | `/own/slow/{ms}` | answers late |
//! | `/own/redirect` | 302 to `/own/item/7` |
//! | `/own/text` | plain text |
//! | `/own/script` | a script that writes its first argument |
//! | `/own/big/{bytes}` | a text of that size |
//! | `/own/openapi.yaml` | an OpenAPI 3.1 document about some of these |
//! | `/auth/…`, `/own/bearer`, `/own/digest/…`, `/own/hash/…` | see `authority` |
//! | `/own/refuse` | 418 with the request as body |
//! | `/own/count/{key}` | how often `key` was called |
//! | `/own/agents/…` | servers of other protocols, see [`agents`] |
//! | `/v1/traces` | takes spans (OTLP, protobuf) |

mod agents;

use std::collections::HashMap;
use std::future::IntoFuture;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde_json::{Map, Value, json};

use crate::authority;
use crate::traces::{self, Span};

const BODY_BYTES_MAX: usize = 16 << 20;

/// Hosts that the specification's examples call.
const EXAMPLE_HOSTS: [&str; 5] = [
    "swapi.dev",
    "fake-hospital.com",
    "superbet-casinos.com",
    "external-service.example.com",
    "raw.githubusercontent.com",
];

/// See the module. Ends when dropped.
#[derive(Debug)]
pub struct Stub {
    address: SocketAddr,
    seen: Seen,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    calls: HashMap<String, u64>,
    spans: Vec<Span>,
    exports: Vec<u8>,
}

impl Stub {
    /// Serves on a free port, on a thread of its own: tests that share it have a runtime each.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let seen = Seen::default();
        let app = Router::new().fallback(answer).with_state(seen.clone());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || runtime.block_on(serve(listener, app, stopped)));
        Ok(Self {
            address,
            seen,
            stop: Some(stop),
        })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Value of `MILLRACE_HTTP_REDIRECTS` that sends all hosts of tests here.
    pub fn redirects(&self) -> String {
        let own = ["petstore.swagger.io", "httpbin.org", "stub.test"];
        let hosts = own.iter().chain(&EXAMPLE_HOSTS);
        hosts
            .map(|host| format!("{host}={}", self.url()))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// How often `key` was called.
    pub fn calls(&self, key: &str) -> u64 {
        self.seen.inner().calls.get(key).copied().unwrap_or(0)
    }

    /// Exports of spans as they came: texts are readable in them.
    pub fn exports(&self) -> Vec<u8> {
        self.seen.inner().exports.clone()
    }

    /// Spans taken so far.
    pub fn spans(&self) -> Vec<Span> {
        self.seen.inner().spans.clone()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        // The thread may have ended by itself.
        let _told = self.stop.take().map(|stop| stop.send(()));
    }
}

impl Seen {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of this call under `key`, from 1.
    fn count(&self, key: &str) -> u64 {
        let mut inner = self.inner();
        let calls = inner.calls.entry(key.into()).or_default();
        *calls += 1;
        *calls
    }
}

async fn serve(listener: std::net::TcpListener, app: Router, stopped: tokio::sync::oneshot::Receiver<()>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("the listener does not block");
    tokio::select! {
        _ended = axum::serve(listener, app).into_future() => {}
        _told = stopped => {}
    }
}

async fn answer(State(seen): State<Seen>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["v1", "traces"] => take_spans(&seen, body).await,
        ["v2", "swagger.json"] => json(200, authority::swagger()),
        ["v2", rest @ ..] => petstore(rest),
        ["auth", "oauth2", "token"] => {
            let body = axum::body::to_bytes(body, BODY_BYTES_MAX)
                .await
                .unwrap_or_default();
            authority::token(&parts.headers, &body, seen.count("tokens"))
        }
        ["auth", ".well-known", "openid-configuration"] => authority::discovery(),
        ["own", "openapi.yaml"] => authority::OPENAPI.into_response(),
        ["own", "bearer"] => authority::bearer(&parts.headers),
        ["own", "hash", name, hash] => authority::hash(&parts.headers, name, hash),
        ["own", "refuse"] => {
            let echo = echo(parts.method.as_str(), &path, "", &parts.headers, body).await;
            (StatusCode::IM_A_TEAPOT, echo).into_response()
        }
        ["own", "digest", user] => authority::digest(
            parts.method.as_str(),
            &parts.uri.to_string(),
            &parts.headers,
            user,
        ),
        ["basic-auth", user, password] => basic(&parts.headers, user, password),
        ["own", "item", id] => json(200, json!({"id": id})),
        ["own", "echo", ..] => {
            let method = parts.method.as_str();
            echo(
                method,
                &path,
                parts.uri.query().unwrap_or_default(),
                &parts.headers,
                body,
            )
            .await
        }
        ["own", "agents", rest @ ..] => {
            agents::serve(rest, parts.method.as_str(), &parts.headers, body).await
        }
        ["own", "status", code] => json(code.parse().unwrap_or(500), json!({"code": code})),
        ["own", "flaky", key, failures] => {
            let call = seen.count(key);
            let fails = call <= failures.parse().unwrap_or(0);
            json(if fails { 503 } else { 200 }, json!({"call": call}))
        }
        ["own", "slow", ms] => {
            tokio::time::sleep(Duration::from_millis(ms.parse().unwrap_or(0))).await;
            json(200, json!({"slept": ms}))
        }
        ["own", "script"] => "console.log('from elsewhere:', process.argv[2])".into_response(),
        ["own", "redirect"] => (StatusCode::FOUND, [(header::LOCATION, "/own/item/7")]).into_response(),
        ["own", "text"] => "plain text".into_response(),
        ["own", "big", bytes] => json(200, json!("x".repeat(bytes.parse().unwrap_or(0)))),
        ["own", "catalog", "functions", name, version, "function.yaml"] => function(&seen, name, version),
        ["own", "schema"] => json(200, json!({"type": "object", "required": ["n"]})),
        ["own", "count", key] => json(200, json!({"call": seen.count(key)})),
        _ => example(&segments).unwrap_or_else(|| json(404, json!({"unknown": path}))),
    }
}

/// What the specification's examples call, with the answers that their texts count on.
fn example(segments: &[&str]) -> Option<Response> {
    Some(match segments {
        ["api", "people"] => json(200, json!({"count": 1, "results": [{"name": "Luke Skywalker"}]})),
        ["api", "people", id] => json(
            200,
            json!({"name": format!("person {id}"), "homeworld": "https://swapi.dev/api/planets/1/"}),
        ),
        ["api", "planets", id] => json(200, json!({"name": "Tatooine", "id": id})),
        ["api", "bet", "on", "football"] => json(200, json!({"placed": true})),
        ["api", "v3", "alert", who] => json(200, json!({"alerted": who})),
        ["api"] => json(503, json!({"message": "out of order"})),
        [.., "functions", "log", "1.0.0", "function.yaml"] => {
            "set: {logged: '${ .message }'}\n".into_response()
        }
        _ => return None,
    })
}

/// A small catalog of functions; how often each was fetched is counted as `function <name>`.
fn function(seen: &Seen, name: &str, version: &str) -> Response {
    seen.count(&format!("function {name}"));
    let text = match (name, version) {
        ("twice", "1.0.0") => {
            "input: {schema: {document: {type: object, required: [n]}}}\nset: {twice: '${ 2 * .n }'}\n"
        }
        ("four-times", "1.0.0") => {
            "do:\n- a: {call: 'http://stub.test/own/catalog/functions/twice/1.0.0/function.yaml', with: {n: '${ .n }'}}\n- b: {set: {four: '${ 2 * .twice }'}}\n"
        }
        ("circle", "1.0.0") => "call: 'http://stub.test/own/catalog/functions/circle/1.0.0/function.yaml'\n",
        ("wrong", "1.0.0") => "set: {x: 1}\nthn: end\n",
        _ => return json(404, json!({"unknown": name})),
    };
    ([(header::CONTENT_TYPE, "application/yaml")], text).into_response()
}

fn petstore(rest: &[&str]) -> Response {
    let pet = |id: u64| json!({"id": id, "name": format!("pet {id}"), "status": "available"});
    match rest {
        ["pet", "findByStatus"] => json(200, json!([pet(1), pet(2)])),
        ["pet", id] => match id.parse() {
            Ok(id) => json(200, pet(id)),
            Err(_) => json(404, json!({"message": "no such pet"})),
        },
        _ => json(404, json!({"message": "not found"})),
    }
}

fn basic(headers: &HeaderMap, user: &str, password: &str) -> Response {
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    match given == Some(&format!("Basic {expected}")) {
        true => json(200, json!({"authenticated": true, "user": user})),
        false => json(401, json!({"authenticated": false})),
    }
}

async fn echo(method: &str, path: &str, query: &str, headers: &HeaderMap, body: Body) -> Response {
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::String(text));
    let headers: Map<String, Value> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    json(
        200,
        json!({"method": method, "path": path, "query": query, "headers": headers, "body": body}),
    )
}

async fn take_spans(seen: &Seen, body: Body) -> Response {
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX)
        .await
        .unwrap_or_default();
    match traces::decode(&bytes) {
        Some(spans) => {
            let mut inner = seen.inner();
            inner.spans.extend(spans);
            inner.exports.extend_from_slice(&bytes);
            ([(header::CONTENT_TYPE, "application/x-protobuf")], "").into_response()
        }
        None => json(400, json!({"message": "not an export of spans"})),
    }
}

pub(crate) fn json(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
