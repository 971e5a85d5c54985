//! Against a server that speaks HTTP/2 and knows the same description.

use std::path::Path;

use h2::server::SendResponse;
use millrace_common::ErrorKind;
use protox::Compiler;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::builtin::testing::{Scratch, context, error, input, output};

const GREETER: &str = r#"
syntax = "proto3";
package greet.v1;
import "google/protobuf/timestamp.proto";
import "parts/number.proto";
service Greeter {
  rpc SayHello (Hello) returns (Hello);
  rpc Count (parts.Number) returns (stream parts.Number);
  rpc Sum (stream parts.Number) returns (parts.Number);
  rpc Echo (stream Hello) returns (stream Hello);
  rpc Refuse (Hello) returns (Hello);
  rpc Silence (Hello) returns (Hello);
  rpc Flood (Hello) returns (stream Hello);
}
message Hello {
  string display_name = 1;
  int64 large = 2;
  bytes picture = 3;
  google.protobuf.Timestamp at = 4;
  repeated string tags = 5;
  Mood mood = 6;
  string authorization = 7;
}
enum Mood { FINE = 0; GREAT = 1; }
"#;
const NUMBER: &str = "syntax = \"proto3\"; package parts; message Number { int32 value = 1; }";

/// Writes the description, and serves it.
async fn stage() -> (Scratch, u16) {
    let scratch = Scratch::new();
    scratch.write("app/greet.proto", GREETER);
    scratch.write("app/parts/number.proto", NUMBER);
    let mut compiler = Compiler::new([scratch.path().join("app")]).unwrap();
    compiler
        .include_imports(true)
        .open_file(scratch.path().join("app/greet.proto"))
        .unwrap();
    let service = compiler
        .descriptor_pool()
        .get_service_by_name("greet.v1.Greeter")
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let method = service
                        .methods()
                        .find(|m| request.uri().path().ends_with(m.name()));
                    tokio::spawn(answer(method, request, respond));
                }
            });
        }
    });
    (scratch, port)
}

async fn answer(
    method: Option<MethodDescriptor>,
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    assert_eq!(request.headers()["content-type"], "application/grpc+proto");
    assert_eq!(request.headers()["te"], "trailers");
    assert!(request.headers().contains_key("grpc-timeout"));
    let authorization = request
        .headers()
        .get("authorization")
        .map(|a| a.to_str().unwrap().to_owned());
    let (mut frames, mut body, mut got) = (Frames::default(), request.into_body(), Vec::new());
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        frames.feed(&piece);
    }
    let head = |extra: &[(&'static str, &'static str)]| {
        let mut head = http::Response::builder().header("content-type", "application/grpc");
        for (key, value) in extra {
            head = head.header(*key, *value);
        }
        head.body(()).unwrap()
    };
    let Some(method) = method else {
        respond
            .send_response(head(&[("grpc-status", "12")]), true)
            .unwrap();
        return;
    };
    while let Some(frame) = frames.next().unwrap() {
        got.push(DynamicMessage::decode(method.input(), frame).unwrap());
    }
    if method.name() == "Silence" {
        return std::future::pending().await;
    }
    let mut send = respond.send_response(head(&[]), false).unwrap();
    let (answers, status) = answers(&method, got, authorization);
    for answer in answers {
        let mut frame = Vec::new();
        wire::frame(&answer.encode_to_vec(), &mut frame);
        if send.send_data(frame.into(), false).is_err() {
            return;
        }
    }
    let pairs = [("grpc-status", status.0), ("grpc-message", status.1)];
    let trailers = pairs.map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()));
    // A client that has enough may be gone.
    let _gone = send.send_trailers(HeaderMap::from_iter(trailers));
}

fn answers(
    method: &MethodDescriptor,
    got: Vec<DynamicMessage>,
    authorization: Option<String>,
) -> (Vec<DynamicMessage>, (&'static str, &'static str)) {
    let number = |n: i32| {
        let mut message = DynamicMessage::new(method.output());
        message.set_field_by_name("value", prost_reflect::Value::I32(n));
        message
    };
    let value = |m: &DynamicMessage| m.get_field_by_name("value").unwrap().as_i32().unwrap();
    let answers = match method.name() {
        "SayHello" => {
            let mut hello = got.into_iter().next().unwrap();
            if let Some(a) = authorization {
                hello.set_field_by_name("authorization", prost_reflect::Value::String(a));
            }
            vec![hello]
        }
        "Echo" => got,
        "Count" => (1..=value(&got[0])).map(number).collect(),
        "Sum" => vec![number(got.iter().map(value).sum())],
        "Flood" => vec![got[0].clone(); 40],
        _ => return (Vec::new(), ("7", "not%20for%20you")),
    };
    (answers, ("0", ""))
}

fn with(port: u16, method: &str, arguments: &Value) -> Value {
    json!({
        "proto": {"endpoint": "file://app/greet.proto"},
        "service": {"name": "greet.v1.Greeter", "host": "localhost", "port": port},
        "method": method,
        "arguments": arguments,
    })
}

async fn run(files: &Path, with: &Value) -> Result<RawJson, Failure> {
    call(context(Some(files), false), input(with)).await
}

#[tokio::test]
async fn a_unary_call_keeps_every_kind_of_field() {
    let (files, port) = stage().await;
    let message = json!({
        "displayName": "Zoë", "large": "9007199254740993", "picture": "/wA=", "at": "2026-01-02T03:04:05Z",
        "tags": ["a", "b"], "mood": "GREAT",
    });
    let got = output(run(files.path(), &with(port, "SayHello", &message)).await);
    assert_eq!(got, message);
    // Names of the file are read too; what has its default value is left out.
    let got = output(
        run(
            files.path(),
            &with(port, "SayHello", &json!({"display_name": "x", "mood": "FINE"})),
        )
        .await,
    );
    assert_eq!(got, json!({"displayName": "x"}));
}

#[tokio::test]
async fn streams_are_arrays() {
    let (files, port) = stage().await;
    let run = async |method, arguments| output(run(files.path(), &with(port, method, &arguments)).await);
    let numbers = json!([{"value": 1}, {"value": 2}, {"value": 3}]);
    assert_eq!(run("Count", json!({"value": 3})).await, numbers);
    assert_eq!(run("Count", json!({})).await, json!([]));
    assert_eq!(
        run("Sum", json!({"messages": numbers})).await,
        json!({"value": 6})
    );
    assert_eq!(run("Sum", json!({"value": 4})).await, json!({"value": 4}));
    assert_eq!(run("Sum", json!({"messages": []})).await, json!({}));
    let names = json!([{"displayName": "a"}, {"displayName": "b"}]);
    assert_eq!(run("Echo", json!({"messages": names})).await, names);
}

#[tokio::test]
async fn credentials_are_sent_with_the_call() {
    let (files, port) = stage().await;
    let mut with = with(port, "SayHello", &json!({}));
    with["service"]["authentication"] = json!({"bearer": {"token": "t"}});
    let got = output(run(files.path(), &with).await);
    assert_eq!(got, json!({"authorization": "Bearer t"}));
}

#[tokio::test]
async fn a_status_becomes_the_http_status_that_means_the_same() {
    let (files, port) = stage().await;
    let refused = error(run(files.path(), &with(port, "Refuse", &json!({}))).await);
    assert_eq!((refused.0, refused.1), (ErrorKind::Communication, 403));
    assert!(
        refused.2.ends_with("status PERMISSION_DENIED: not for you"),
        "{}",
        refused.2
    );
    // Nobody listens on the port of "discard".
    let unreachable = error(run(files.path(), &with(9, "SayHello", &json!({}))).await);
    assert_eq!((unreachable.0, unreachable.1), (ErrorKind::Communication, 503));
}

#[tokio::test]
async fn too_much_is_refused_and_silence_ends() {
    let (files, port) = stage().await;
    let large = json!({"displayName": "x".repeat(20_000)});
    let flood = error(run(files.path(), &with(port, "Flood", &large)).await);
    assert_eq!(flood.0, ErrorKind::Runtime, "{}", flood.2);
    let mut step = Context::detached("call:grpc", RawJson::null()).step().clone();
    let soon = std::time::SystemTime::now() + std::time::Duration::from_millis(300);
    step.deadline_ms = Some(crate::steps::flight::unix_ms(soon));
    let ctx = Context::detached_where(step, Some(files.path().to_owned()), None);
    let silent = error(call(ctx, input(&with(port, "Silence", &json!({})))).await);
    assert_eq!((silent.0, silent.1), (ErrorKind::Timeout, 408));
}

#[tokio::test]
async fn what_the_definition_got_wrong_is_said() {
    let (files, port) = stage().await;
    files.write("bad.proto", "syntax = \"proto3\"; message {");
    files.write("alone.proto", "syntax = \"proto3\"; import \"nowhere.proto\";");
    let good = with(port, "SayHello", &json!({}));
    let changed = |pointer: &str, to: Value| {
        let mut with = good.clone();
        *with.pointer_mut(pointer).unwrap() = to;
        with
    };
    for (with, kind, part) in [
        (
            changed("/method", json!("Wave")),
            ErrorKind::Configuration,
            "has no method `Wave`; it has SayHello, Count",
        ),
        (
            changed("/service/name", json!("Other")),
            ErrorKind::Configuration,
            "no service `Other`; it has greet.v1.Greeter",
        ),
        (
            changed("/service/host", json!("ftp://x")),
            ErrorKind::Configuration,
            "`ftp` is none of",
        ),
        (
            changed("/service/host", json!("a/b")),
            ErrorKind::Configuration,
            "must be a name",
        ),
        (
            changed("/arguments", json!({"nme": 1})),
            ErrorKind::Validation,
            "no `greet.v1.Hello`",
        ),
        (
            changed("/arguments", json!({"large": "x"})),
            ErrorKind::Validation,
            "no `greet.v1.Hello`",
        ),
        (
            changed("/proto/endpoint", json!("file://bad.proto")),
            ErrorKind::Configuration,
            "bad.proto",
        ),
        (
            changed("/proto/endpoint", json!("file://alone.proto")),
            ErrorKind::Configuration,
            "import `nowhere.proto`",
        ),
        (
            changed("/proto/endpoint", json!("file://../x.proto")),
            ErrorKind::Configuration,
            "x.proto",
        ),
        (
            changed("/proto/endpoint", json!("file:///etc%2F..%2Fx")),
            ErrorKind::Configuration,
            "leaves the directory",
        ),
        (
            changed("/proto/endpoint", json!("ftp://x/y")),
            ErrorKind::Configuration,
            "none of http, https and file",
        ),
    ] {
        let (found, _, detail) = error(run(files.path(), &with).await);
        assert!(found == kind && detail.contains(part), "{with}: {detail}");
    }
    let closed = call(context(None, false), input(&good)).await;
    assert!(error(closed).2.contains("MILLRACE_FILES"));
}

#[test]
fn tls_follows_scheme_and_port() {
    let address = |host: &str, port: Option<u16>| {
        let service = Service {
            name: "s".into(),
            host: host.into(),
            port,
            authentication: None,
        };
        service.address().unwrap().to_string()
    };
    for (host, port, expected) in [
        ("h", None, "https://h/"),
        ("h", Some(443), "https://h/"),
        ("h", Some(5011), "http://h:5011/"),
        ("grpcs://h", Some(5011), "https://h:5011/"),
        ("https://h", None, "https://h/"),
        ("grpc://h", None, "http://h/"),
        ("http://h", Some(443), "http://h:443/"),
        ("[::1]", Some(7), "http://[::1]:7/"),
        ("grpc://h:99", None, "http://h:99/"),
        ("h:99", None, "http://h:99/"),
        ("h:443", None, "https://h/"),
    ] {
        assert_eq!(address(host, port), expected, "{host} {port:?}");
    }
}

#[tokio::test]
async fn imports_come_from_the_same_place() {
    use crate::builtin::testing::serve;
    // An import with `//` is no import, but URLs do without it.
    let file = "syntax = \"proto3\"; import \"https:127.0.0.1:9/number.proto\";";
    let base = serve(axum::Router::new().fallback(move || async move { file })).await;
    let base = base.replace("http://", "http://someone:hunter2@");
    let call_input = json!({
        "proto": {"endpoint": format!("{base}/root.proto?key=hunter2")},
        "service": {"name": "S", "host": "localhost", "port": 1}, "method": "M",
    });
    let (kind, _, detail) = error(call(context(None, false), input(&call_input)).await);
    assert_eq!(kind, ErrorKind::Configuration);
    assert!(
        detail.contains("it is in another place") && !detail.contains("hunter2"),
        "{detail}"
    );
}
