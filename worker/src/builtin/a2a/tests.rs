//! Against an agent of the test's own.

use axum::extract::{Request as Incoming, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response as Reply};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::*;
use crate::builtin::testing::{context, error, input, output, serve};

async fn agent() -> String {
    let app = Router::new()
        .route("/rpc", post(answer))
        .route("/card/{form}", get(card))
        .route("/broken", get(|| async { "no card" }))
        .route(
            "/plain",
            post(|| async { ([("content-type", "text/html")], "<p>no agent</p>") }),
        )
        .route(
            "/refusing",
            post(|| async { (axum::http::StatusCode::UNAUTHORIZED, "who are you?") }),
        )
        .route("/silent", post(|| async { std::future::pending::<()>().await }));
    serve(app.with_state(())).await
}

async fn card(axum::extract::Path(form): axum::extract::Path<String>, headers: HeaderMap) -> Reply {
    let allowed = headers.get("authorization").is_some_and(|a| a == "Bearer t");
    match form.as_str() {
        "0.3" => Json(json!({"url": "/rpc", "preferredTransport": "JSONRPC"})).into_response(),
        "other-first" => Json(json!({
            "url": "/grpc", "preferredTransport": "GRPC",
            "additionalInterfaces": [{"url": "/rest", "transport": "HTTP+JSON"}, {"url": "/rpc", "transport": "JSONRPC"}],
        }))
        .into_response(),
        "1.0" => Json(json!({"supportedInterfaces": [
            {"url": "/grpc", "protocolBinding": "GRPC"}, {"url": "/rpc", "protocolBinding": "JSONRPC"},
        ]}))
        .into_response(),
        "none" => Json(json!({"url": "/grpc", "preferredTransport": "GRPC"})).into_response(),
        "guarded" if allowed => Json(json!({"url": "/rpc"})).into_response(),
        _ => axum::http::StatusCode::FORBIDDEN.into_response(),
    }
}

async fn answer(State(()): State<()>, request: Incoming) -> Reply {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let message: Value = serde_json::from_slice(&body).unwrap();
    let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    match message["method"].as_str().unwrap() {
        "message/send" => Json(result(json!({
            "params": message["params"], "authorization": header("authorization"), "key": header("idempotency-key"),
        })))
        .into_response(),
        "message/stream" | "tasks/resubscribe" => {
            let events: Vec<String> = (0..3)
                .map(|n| format!("event: x\ndata: {}\n\n", result(json!({"n": n, "accept": header("accept")}))))
                .collect();
            ([("content-type", "text/event-stream")], events.concat()).into_response()
        }
        "tasks/get" => {
            let error = json!({"code": -32001, "message": "no such task", "data": {"id": message["params"]["id"]}});
            Json(json!({"jsonrpc": "2.0", "id": message["id"], "error": error})).into_response()
        }
        "tasks/pushNotificationConfig/delete" => Json(result(Value::Null)).into_response(),
        "tasks/cancel" => Json(json!({"jsonrpc": "2.0", "id": 77, "result": "of another"})).into_response(),
        method => Json(result(json!({"method": method, "params": message.get("params")}))).into_response(),
    }
}

async fn run(with: Value) -> Result<RawJson, Failure> {
    call(context(None, false), input(&with)).await
}

#[tokio::test]
async fn a_message_gets_its_defaults_and_keeps_what_is_given() {
    let base = agent().await;
    let send = async |message: Value| {
        let with = json!({"method": "message/send", "server": format!("{base}/rpc"), "parameters": {"message": message}});
        output(run(with).await)
    };
    let sent = send(json!({"parts": [{"kind": "text", "text": "hi"}]})).await;
    let message = &sent["params"]["message"];
    assert_eq!(
        (&message["role"], &message["kind"]),
        (&json!("user"), &json!("message"))
    );
    let id: Uuid = message["messageId"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 8);
    assert_eq!(sent["key"], "detached");
    // A repeat is the same message.
    assert_eq!(
        send(json!({"parts": []})).await["params"]["message"]["messageId"],
        json!(id.to_string())
    );
    let given = json!({"parts": [{"text": "hi"}], "messageId": "m", "role": "agent"});
    assert_eq!(send(given.clone()).await["params"]["message"], given);
}

#[tokio::test]
async fn streams_give_all_results_in_order() {
    let base = agent().await;
    for method in ["message/stream", "tasks/resubscribe"] {
        let results = output(
            run(json!({"method": method, "server": format!("{base}/rpc"), "parameters": {"id": 1}})).await,
        );
        let numbers: Vec<&Value> = results.as_array().unwrap().iter().map(|r| &r["n"]).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert!(
            results[0]["accept"]
                .as_str()
                .unwrap()
                .starts_with("text/event-stream")
        );
    }
}

#[tokio::test]
async fn other_methods_pass_their_parameters() {
    let base = agent().await;
    for method in [
        "tasks/list",
        "tasks/pushNotificationConfig/set",
        "tasks/pushNotificationConfig/get",
        "tasks/pushNotificationConfig/list",
    ] {
        let got = output(
            run(json!({"method": method, "server": format!("{base}/rpc"), "parameters": {"id": "x"}})).await,
        );
        assert_eq!(got, json!({"method": method, "params": {"id": "x"}}));
    }
    let method = "agent/getAuthenticatedExtendedCard";
    let got = output(run(json!({"method": method, "server": format!("{base}/rpc")})).await);
    assert_eq!(got, json!({"method": method, "params": null}));
    let method = "tasks/pushNotificationConfig/delete";
    assert_eq!(
        output(run(json!({"method": method, "server": format!("{base}/rpc")})).await),
        Value::Null
    );
}

#[tokio::test]
async fn the_card_says_where_the_agent_is() {
    let base = agent().await;
    for form in ["0.3", "other-first", "1.0"] {
        let card = json!({"endpoint": format!("{base}/card/{form}")});
        let got = output(
            run(json!({"method": "tasks/list", "agentCard": card, "server": "http://127.0.0.1:9/"})).await,
        );
        assert_eq!(got["method"], "tasks/list", "{form}");
    }
    let endpoint =
        json!({"uri": format!("{base}/card/guarded"), "authentication": {"bearer": {"token": "t"}}});
    let with =
        json!({"method": "message/send", "agentCard": {"endpoint": endpoint}, "parameters": {"message": {}}});
    assert_eq!(output(run(with).await)["authorization"], "Bearer t");
}

#[tokio::test]
async fn failures_are_runtime_errors() {
    let base = agent().await;
    let to = |path: &str| json!({"method": "tasks/get", "server": format!("{base}{path}"), "parameters": {"id": "x"}});
    let card =
        |path: &str| json!({"method": "tasks/get", "agentCard": {"endpoint": format!("{base}{path}")}});
    let mut cancel = to("/rpc");
    cancel["method"] = json!("tasks/cancel");
    for (with, part) in [
        (to("/rpc"), "error -32001, no such task: {\"id\":\"x\"}"),
        (to("/refusing"), "401 Unauthorized: who are you?"),
        (to("/plain"), "no JSON-RPC"),
        (to("/nowhere"), "404"),
        (
            json!({"method": "tasks/get", "server": "http://127.0.0.1:9/"}),
            "127.0.0.1:9",
        ),
        (card("/card/none"), "no JSON-RPC interface"),
        (card("/card/guarded"), "403"),
        (card("/broken"), "is not JSON"),
        (cancel, "holds no result"),
    ] {
        let (kind, status, detail) = error(run(with.clone()).await);
        assert_eq!((kind, status), (ErrorKind::Runtime, 500), "{with}: {detail}");
        assert!(detail.contains(part), "{with}: {detail}");
    }
    let text = json!({"method": "message/send", "server": format!("{base}/rpc"), "parameters": "text"});
    assert_eq!(error(run(text).await).0, ErrorKind::Validation);
    let ftp = json!({"method": "message/send", "server": "ftp://x"});
    assert_eq!(error(run(ftp).await).0, ErrorKind::Configuration);
}

#[tokio::test]
async fn a_cancelled_call_stops() {
    let base = agent().await;
    let ctx = context(None, false);
    ctx.cancel();
    let with = json!({"method": "tasks/get", "server": format!("{base}/silent")});
    assert_eq!(call(ctx, input(&with)).await.unwrap_err(), Failure::cancelled());
}
