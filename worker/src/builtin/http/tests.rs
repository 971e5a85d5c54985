//! Against a server in this process.

use axum::Router;
use axum::body::Body;
use axum::extract::Request as Incoming;
use axum::http::Response as Reply;
use millrace_runtime::config::Redirects;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::egress::Egress;

/// Starts a server that answers by path, and gives its base URL.
async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
    base
}

async fn answer(request: Incoming) -> Reply<Body> {
    let path = request.uri().path().to_owned();
    let reply = |status: u16, content_type: &str, body: String| {
        Reply::builder()
            .status(status)
            .header("content-type", content_type)
            .body(Body::from(body))
            .unwrap()
    };
    match path.as_str() {
        "/echo" => reply(200, "application/json", echo(request).await),
        "/text" => reply(200, "text/plain", "42".into()),
        "/lies" => reply(200, "text/plain", " {\"a\": 1.50}".into()),
        "/bytes" => Reply::builder()
            .header("content-type", "image/png")
            .body(Body::from(vec![0xff, 0x00]))
            .unwrap(),
        "/empty" => Reply::builder().status(204).body(Body::empty()).unwrap(),
        "/missing" => reply(404, "application/json", "{\"message\":\"no such pet\"}".into()),
        "/large" => reply(200, "text/plain", "x".repeat(limits::PAYLOAD_BYTES_MAX + 1)),
        "/moved" => Reply::builder()
            .status(302)
            .header("location", "/echo")
            .body(Body::empty())
            .unwrap(),
        "/loop" => Reply::builder()
            .status(307)
            .header("location", "/loop")
            .body(Body::empty())
            .unwrap(),
        "/elsewhere" => Reply::builder()
            .status(307)
            .header("location", request.uri().query().unwrap())
            .body(Body::empty())
            .unwrap(),
        _ => std::future::pending().await,
    }
}

async fn echo(request: Incoming) -> String {
    let headers = output::headers(request.headers());
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let body = axum::body::to_bytes(request.into_body(), usize::MAX)
        .await
        .unwrap();
    json!({"method": method, "uri": uri, "headers": headers, "body": String::from_utf8_lossy(&body)})
        .to_string()
}

async fn run_in(ctx: Context, input: Value) -> Result<Value, Failure> {
    let input: Call = serde_json::from_value(input).unwrap();
    call(ctx, input).await.map(|output| output.decode().unwrap())
}

async fn run(input: Value) -> Result<Value, Failure> {
    run_in(Context::detached("call:http", RawJson::null()), input).await
}

fn problem(result: Result<Value, Failure>) -> millrace_common::Problem {
    result.unwrap_err().problem().unwrap().clone()
}

#[tokio::test]
async fn content_is_json_text_base64_or_nothing() {
    let base = serve().await;
    let get = |path: &str| run(json!({"method": "GET", "endpoint": format!("{base}{path}")}));
    assert_eq!(get("/text").await.unwrap(), json!("42"));
    assert_eq!(get("/lies").await.unwrap(), json!({"a": 1.5}));
    assert_eq!(get("/bytes").await.unwrap(), json!("/wA="));
    assert_eq!(get("/empty").await.unwrap(), Value::Null);
}

#[tokio::test]
async fn query_headers_body_and_credentials_arrive() {
    let base = serve().await;
    let sent = run(json!({
        "method": "POST", "endpoint": format!("{base}/echo?a=1"), "query": {"b": "x y"}, "headers": {"X-Own": "v"},
        "body": {"n": 1.50}, "authentication": {"basic": {"username": "u", "password": "p"}},
    }));
    let sent = sent.await.unwrap();
    assert_eq!(sent["uri"], "/echo?a=1&b=x+y");
    assert_eq!(sent["body"], "{\"n\":1.5}");
    let headers = &sent["headers"];
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["x-own"], "v");
    assert_eq!(headers["authorization"], "Basic dTpw");
    assert_eq!(headers["idempotency-key"], "detached");
    assert!(headers["user-agent"].as_str().unwrap().starts_with("millrace/"));
}

#[tokio::test]
async fn a_given_content_type_decides_about_the_body() {
    let base = serve().await;
    let post = |content_type: &str, body: Value| {
        let headers = json!({"Content-Type": content_type, "Idempotency-Key": "mine"});
        run(json!({"method": "POST", "endpoint": format!("{base}/echo"), "headers": headers, "body": body}))
    };
    let text = post("text/plain", json!("as it is")).await.unwrap();
    assert_eq!(
        (&text["body"], &text["headers"]["idempotency-key"]),
        (&json!("as it is"), &json!("mine"))
    );
    let form = post("application/x-www-form-urlencoded", json!({"a": "x&y", "n": 2}))
        .await
        .unwrap();
    assert_eq!(form["body"], "a=x%26y&n=2");
    let custom = post("application/cloudevents+json", json!("text")).await.unwrap();
    assert_eq!(custom["body"], "\"text\"");
}

#[tokio::test]
async fn refusals_carry_status_and_body() {
    let base = serve().await;
    let refused =
        problem(run(json!({"method": "GET", "endpoint": format!("{base}/missing?key=secret")})).await);
    assert_eq!(
        (refused.standard(), refused.status),
        (Some(ErrorKind::Communication), 404)
    );
    let detail = refused.detail.unwrap();
    assert!(
        detail.contains("no such pet") && !detail.contains("secret"),
        "{detail}"
    );
}

#[tokio::test]
async fn redirections_are_errors_unless_asked_for() {
    let base = serve().await;
    let post = |path: &str, redirect: bool| {
        let endpoint = format!("{base}{path}");
        run(
            json!({"method": "POST", "endpoint": endpoint, "redirect": redirect, "body": 1, "output": "response"}),
        )
    };
    assert_eq!(problem(post("/moved", false).await).status, 302);
    let followed = post("/moved", true).await.unwrap();
    assert_eq!(
        (&followed["statusCode"], &followed["content"]["method"]),
        (&json!(200), &json!("GET"))
    );
    assert_eq!(post("/loop", true).await.unwrap()["statusCode"], 307);
}

#[tokio::test]
async fn the_whole_response_names_the_request_without_credentials() {
    let base = serve().await;
    let whole = run(json!({
        "method": "GET", "endpoint": format!("{base}/text"), "output": "response",
        "headers": {"Authorization": "Bearer t"},
    }));
    let whole = whole.await.unwrap();
    assert_eq!(
        whole["request"],
        json!({"method": "GET", "uri": format!("{base}/text"), "headers": {}})
    );
    assert_eq!(
        (&whole["statusCode"], &whole["content"]),
        (&json!(200), &json!("42"))
    );
    assert_eq!(whole["headers"]["content-type"], "text/plain");
    let raw = run(json!({"method": "GET", "endpoint": format!("{base}/text"), "output": "raw"})).await;
    assert_eq!(raw.unwrap(), json!("NDI="));
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let base = serve().await;
    let mut step = Context::detached("call:http", RawJson::null()).step().clone();
    let now = std::time::SystemTime::now() + Duration::from_millis(100);
    step.deadline_ms = Some(crate::steps::flight::unix_ms(now));
    let late = run_in(
        Context::for_step(step),
        json!({"method": "GET", "endpoint": format!("{base}/silent")}),
    );
    let late = problem(late.await);
    assert_eq!((late.standard(), late.status), (Some(ErrorKind::Timeout), 408));
}

#[tokio::test]
async fn a_cancelled_call_stops() {
    let base = serve().await;
    let ctx = Context::detached("call:http", RawJson::null());
    ctx.cancel();
    let cancelled = run_in(
        ctx,
        json!({"method": "GET", "endpoint": format!("{base}/silent")}),
    )
    .await;
    assert_eq!(cancelled.unwrap_err(), Failure::cancelled());
}

#[tokio::test]
async fn what_cannot_work_is_said_so() {
    let base = serve().await;
    let kind = |result| problem(result).standard().unwrap();
    let get = |endpoint: &str| run(json!({"method": "GET", "endpoint": endpoint}));
    assert_eq!(kind(get("not a url").await), ErrorKind::Configuration);
    assert_eq!(kind(get("ftp://127.0.0.1/x").await), ErrorKind::Configuration);
    assert_eq!(kind(get(&format!("{base}/large")).await), ErrorKind::Runtime);
    // Port 9 (discard) is not served on a test machine.
    assert_eq!(kind(get("http://127.0.0.1:9/").await), ErrorKind::Communication);
    let lacking = json!({"basic": {"username": "u"}});
    let call = run(json!({"method": "GET", "endpoint": base, "authentication": lacking}));
    assert_eq!(kind(call.await), ErrorKind::Configuration);
}

#[tokio::test]
async fn the_egress_table_holds_for_calls() {
    let base = serve().await;
    let egress = Egress::new(Redirects::new([("petstore.swagger.io".to_owned(), base)]));
    let ctx = Context::detached_with(egress);
    let sent = run_in(
        ctx,
        json!({"method": "GET", "endpoint": "https://petstore.swagger.io/echo?x=1"}),
    )
    .await
    .unwrap();
    assert_eq!(sent["uri"], "/echo?x=1");
    assert_eq!(sent["headers"]["x-forwarded-host"], "petstore.swagger.io");
}

#[tokio::test]
async fn secrets_are_not_redirected_to_another_host() {
    let (base, other) = (serve().await, serve().await);
    let ctx = Context::detached("call:http", RawJson::null());
    ctx.conceal("open-sesame");
    let post = |to: &str, body: Value| {
        let headers = json!({
            "X-Key": "Key open-sesame", "X-Plain": "v", "Authorization": "Bearer t", "Proxy-Authorization": "Basic t",
        });
        let endpoint = format!("{base}/elsewhere?{to}/echo");
        run_in(
            ctx.clone(),
            json!({"method": "POST", "endpoint": endpoint, "redirect": true, "headers": headers, "body": body}),
        )
    };
    let sent = post(&base, json!({"k": "open-sesame"})).await.unwrap();
    assert_eq!(sent["headers"]["x-key"], "Key open-sesame", "the same host");
    let sent = post(&other, json!({"k": "plain"})).await.unwrap();
    let headers = sent["headers"].as_object().unwrap();
    for gone in ["x-key", "authorization", "proxy-authorization"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert_eq!(
        (&headers["x-plain"], &sent["body"]),
        (&json!("v"), &json!("{\"k\":\"plain\"}"))
    );
    let refused = problem(post(&other, json!({"k": "open-sesame"})).await);
    let detail = refused.detail.unwrap();
    assert!(
        detail.contains("its body holds a secret") && detail.contains(&other),
        "{detail}"
    );
}

#[tokio::test]
async fn the_request_is_shown_without_user_name() {
    let base = serve().await.replace("http://", "http://someone:hunter2@");
    let whole = run(json!({"method": "GET", "endpoint": format!("{base}/text"), "output": "response"}));
    let uri = whole.await.unwrap()["request"]["uri"].to_string();
    assert!(!uri.contains("someone") && !uri.contains("hunter2"), "{uri}");
}
