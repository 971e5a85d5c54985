//! Against servers of the test's own: one over HTTP, and one that is a shell script.

use std::sync::{Arc, Mutex};

use axum::extract::{Request as Incoming, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response as Reply};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::*;
use crate::builtin::testing::{Scratch, bounded, context, error, input, output, serve};

/// What the server heard: method of HTTP or of the message, and headers of interest.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

async fn server() -> (String, Heard) {
    let heard = Heard::default();
    let app = Router::new().fallback(answer).with_state(heard.clone());
    (serve(app).await, heard)
}

/// `/json` and `/stream` answer in these forms; other paths misbehave.
async fn answer(State(heard): State<Heard>, request: Incoming) -> Reply {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .map_or("-", |v| v.to_str().unwrap())
            .to_owned()
    };
    if parts.method == Method::DELETE {
        heard.add(format!("DELETE {}", header("mcp-session-id")));
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    assert_eq!(header("accept"), "application/json, text/event-stream");
    let message: Value =
        serde_json::from_slice(&axum::body::to_bytes(body, usize::MAX).await.unwrap()).unwrap();
    let method = message["method"].as_str().unwrap_or("answer").to_owned();
    let told = if method == "answer" {
        message.to_string()
    } else {
        header("mcp-protocol-version")
    };
    heard.add(format!("{method} {} {told}", header("mcp-session-id")));
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
    match (method.as_str(), path.as_str()) {
        ("initialize", "/old") => Json(result(json!({"protocolVersion": "1999-01-01"}))).into_response(),
        ("initialize", "/nameless") => Json(result(json!({}))).into_response(),
        ("initialize", "/closed") => (StatusCode::FORBIDDEN, "not you").into_response(),
        ("initialize", _) => {
            assert_eq!(message["params"]["capabilities"], json!({}));
            let version = &message["params"]["protocolVersion"];
            heard.add(format!("client {}", message["params"]["clientInfo"]["name"]));
            let body = Json(result(json!({"protocolVersion": version, "capabilities": {}})));
            ([("mcp-session-id", "s1")], body).into_response()
        }
        ("notifications/initialized" | "answer", _) => StatusCode::ACCEPTED.into_response(),
        (_, "/slow") => std::future::pending().await,
        (_, "/broken") => ([("content-type", "text/event-stream")], ": nothing\n\n").into_response(),
        (_, "/error") => Json(json!({
            "jsonrpc": "2.0", "id": message["id"], "error": {"code": -32602, "message": "unknown tool"},
        }))
        .into_response(),
        (_, "/stream") => {
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}});
            let ping = json!({"jsonrpc": "2.0", "id": "p1", "method": "ping"});
            let roots = json!({"jsonrpc": "2.0", "id": "r1", "method": "roots/list"});
            let events = [progress, ping, roots, result(json!({"asked": message["params"]}))];
            let events = events.map(|e| format!("event: message\ndata: {e}\n\n"));
            ([("content-type", "text/event-stream")], events.concat()).into_response()
        }
        _ => Json(result(json!({"method": method, "params": message.get("params")}))).into_response(),
    }
}

fn over_http(base: &str, path: &str, method: &str) -> Value {
    json!({"method": method, "transport": {"http": {"endpoint": format!("{base}{path}"), "headers": {"x-own": "v"}}}})
}

async fn run(with: &Value) -> Result<RawJson, Failure> {
    call(context(None, true), input(with)).await
}

#[tokio::test]
async fn a_call_is_a_whole_session() {
    let (base, heard) = server().await;
    let mut with = over_http(&base, "/json", "tools/call");
    with["parameters"] = json!({"name": "add", "arguments": {"a": 1}});
    with["client"] = json!({"name": "orders", "version": "2"});
    let got = output(run(&with).await);
    assert_eq!(got, json!({"method": "tools/call", "params": with["parameters"]}));
    assert_eq!(
        heard.all(),
        [
            "initialize - -",
            "client \"orders\"",
            "notifications/initialized s1 2025-06-18",
            "tools/call s1 2025-06-18",
            "DELETE s1",
        ]
    );
}

#[tokio::test]
async fn every_method_gives_the_result() {
    let (base, _) = server().await;
    for method in [
        "tools/list",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/read",
        "resources/templates/list",
    ] {
        assert_eq!(
            output(run(&over_http(&base, "/json", method)).await)["method"],
            method
        );
    }
}

#[tokio::test]
async fn requests_of_the_server_are_answered_within_a_stream() {
    let (base, heard) = server().await;
    let mut with = over_http(&base, "/stream", "resources/read");
    with["parameters"] = json!({"uri": "x"});
    with["protocolVersion"] = json!("2025-03-26");
    assert_eq!(output(run(&with).await), json!({"asked": {"uri": "x"}}));
    let heard = heard.all();
    let answers: Vec<&String> = heard.iter().filter(|h| h.starts_with("answer")).collect();
    assert!(answers[0].contains("\"id\":\"p1\",\"result\":{}"), "{answers:?}");
    assert!(
        answers[1].contains("\"id\":\"r1\"") && answers[1].contains("-32601"),
        "{answers:?}"
    );
    assert!(
        heard.contains(&"resources/read s1 2025-03-26".to_owned()),
        "{heard:?}"
    );
}

#[tokio::test]
async fn failures_are_runtime_errors() {
    let (base, _) = server().await;
    for (path, part) in [
        ("/old", "protocol version `1999-01-01`"),
        ("/nameless", "names no protocolVersion"),
        ("/closed", "403 Forbidden: not you"),
        ("/broken", "without an answer to `tools/list`"),
        ("/error", "error -32602, unknown tool"),
    ] {
        let (kind, status, detail) = error(run(&over_http(&base, path, "tools/list")).await);
        assert_eq!((kind, status), (ErrorKind::Runtime, 500), "{path}: {detail}");
        assert!(detail.contains(part), "{path}: {detail}");
    }
    let unreachable = error(run(&over_http("http://127.0.0.1:9", "/", "tools/list")).await);
    assert_eq!(unreachable.0, ErrorKind::Runtime);
    let mut text = over_http(&base, "/json", "tools/list");
    text["parameters"] = json!("text");
    assert_eq!(error(run(&text).await).0, ErrorKind::Validation);
}

#[tokio::test]
async fn its_own_timeout_ends_it_and_the_session() {
    let (base, heard) = server().await;
    let mut with = over_http(&base, "/slow", "tools/list");
    with["timeout"] = json!({"milliseconds": 200});
    assert_eq!(error(run(&with).await).0, ErrorKind::Timeout);
    assert_eq!(heard.all().last().unwrap(), "DELETE s1");
}

/// A server in the shell: it greets, notes what it was started with, and answers the first request.
const SCRIPT: &str = r#"
read -r greeting
case "$greeting" in *'"method":"initialize"'*) ;; *) exit 3;; esac
echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}'
read -r initialized
read -r request
echo "about to answer" >&2
echo '{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
echo "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"argument\":\"$1\",\"own\":\"$OWN\",\"leaked\":\"$CARGO_PKG_NAME\"}}"
"#;

fn over_stdio(script: &str) -> Value {
    let stdio =
        json!({"command": "sh", "arguments": ["-c", script, "sh", "first"], "environment": {"OWN": "v"}});
    json!({"method": "tools/call", "parameters": {"name": "x"}, "transport": {"stdio": stdio}})
}

#[tokio::test]
async fn a_process_is_spoken_to_line_by_line() {
    let got = output(run(&over_stdio(SCRIPT)).await);
    assert_eq!(got, json!({"argument": "first", "own": "v", "leaked": ""}));
}

#[tokio::test]
async fn a_process_that_fails_is_quoted() {
    for (script, part) in [
        ("echo 'no licence' >&2; exit 1", "no licence"),
        ("echo 'not json'", "no JSON-RPC"),
        ("exit 0", "without an answer to `initialize`"),
    ] {
        let (kind, _, detail) = error(run(&over_stdio(script)).await);
        assert!(
            kind == ErrorKind::Runtime && detail.contains(part),
            "{script}: {detail}"
        );
    }
    let mut missing = over_stdio("");
    missing["transport"]["stdio"]["command"] = json!("/no/such/program");
    let detail = error(run(&missing).await).2;
    assert!(
        detail.contains("/no/such/program") && detail.contains("not found"),
        "{detail}"
    );
}

#[tokio::test]
async fn processes_run_only_where_they_may() {
    let refused = call(context(None, false), input(&over_stdio(SCRIPT))).await;
    let (kind, _, detail) = error(refused);
    assert!(
        kind == ErrorKind::Configuration && detail.contains("runs no processes"),
        "{detail}"
    );
}

#[tokio::test]
async fn nobody_of_a_process_group_is_left_behind() {
    let scratch = Scratch::new();
    let file = scratch.path().join("child");
    let script = format!(
        "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait",
        file.display()
    );
    let mut with = over_stdio(&script);
    with["timeout"] = json!("PT0.5S");
    let (kind, _, detail) = error(run(&with).await);
    assert_eq!(kind, ErrorKind::Timeout, "{detail}");
    let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while is_running(child) {
        assert!(std::time::Instant::now() < deadline, "process {child} still runs");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_bounds_of_processes_hold() {
    let memory = bounded(&[("MILLRACE_PROCESS_MEMORY", "32MiB")]);
    let script = "read -r x; ulimit -d >&2; exit 1";
    let (_, _, detail) = error(call(memory, input(&over_stdio(script))).await);
    assert!(detail.contains("32768"), "{detail}");

    let time = bounded(&[("MILLRACE_PROCESS_TIME", "1s")]);
    let (kind, _, detail) = error(call(time, input(&over_stdio("sleep 1000"))).await);
    assert!(
        kind == ErrorKind::Timeout && detail.contains("MILLRACE_PROCESS_TIME"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_server_counts_as_a_process() {
    let one = bounded(&[("MILLRACE_PROCESS_COUNT", "1")]);
    let turn = one.processes().unwrap().turn(&one).await.unwrap();
    let waiting = tokio::spawn(call(one.clone(), input(&over_stdio(SCRIPT))));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(turn);
    assert_eq!(output(waiting.await.unwrap())["argument"], "first");
}

#[tokio::test]
async fn a_server_has_a_private_directory_that_is_gone_at_the_end() {
    let script = r#"
read -r greeting
echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}'
read -r initialized; read -r request
echo "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"home\":\"$HOME\",\"in\":\"$(pwd)\"}}"
"#;
    let got = output(run(&over_stdio(script)).await);
    assert_eq!(got["home"], got["in"]);
    let home = std::path::PathBuf::from(got["home"].as_str().unwrap());
    assert!(home.to_string_lossy().contains("millrace-process-") && !home.exists());
}

/// A killed process that nobody has collected yet does not run.
fn is_running(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = state.rsplit(") ").next().and_then(|s| s.chars().next());
    state.is_some_and(|s| s != 'Z')
}
