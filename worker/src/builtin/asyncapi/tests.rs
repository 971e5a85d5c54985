//! Documents, subscriptions, and HTTP against a server of the test's own. NATS has a real server, in
//! `tests/integration/calls.rs`.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request as Incoming, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response as Reply};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value as Json, json};

use super::*;
use crate::builtin::testing::{Scratch, context, error, input, output, serve};

/// What the server got, and how often it was asked for messages.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Json>>>);

async fn server() -> (String, Heard) {
    let heard = Heard::default();
    let app = Router::new().fallback(answer).with_state(heard.clone());
    (serve(app).await, heard)
}

async fn answer(State(heard): State<Heard>, request: Incoming) -> Reply {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let number = {
        let mut heard = heard.0.lock().unwrap();
        heard.push(json!({
            "method": parts.method.as_str(), "uri": parts.uri.to_string(), "body": String::from_utf8_lossy(&body),
            "type": header("content-type"), "own": header("x-own"), "authorization": header("authorization"),
            "last": header("last-event-id"), "key": header("idempotency-key"),
        }));
        heard.len()
    };
    let whole = |kind: &'static str, text: String| ([("content-type", kind)], text).into_response();
    match parts.uri.path() {
        "/base/events" => {
            let events =
                (1..=3).map(|n| format!("id: {number}.{n}\ndata: {{\"n\":{n},\"call\":{number}}}\n\n"));
            whole("text/event-stream", events.collect())
        }
        "/base/lines" => whole(
            "application/x-ndjson",
            "{\"n\":1}\n\n{\"n\":2}\ntext\n{\"n\":4}".into(),
        ),
        "/base/poll" if number == 2 => StatusCode::NO_CONTENT.into_response(),
        "/base/poll" => (
            [("x-correlation-id", "c")],
            axum::Json(json!([{"n": 1}, {"n": 2}])),
        )
            .into_response(),
        "/base/open" => {
            let lines = ["{\"n\":1}\n", "{\"n\":2}\n"].map(Ok::<_, std::io::Error>);
            let open = stream::iter(lines).chain(stream::pending());
            ([("content-type", "application/jsonl")], Body::from_stream(open)).into_response()
        }
        "/base/silent" => std::future::pending().await,
        "/base/refuses" => (StatusCode::CONFLICT, "taken").into_response(),
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

/// A document of version 3 in YAML, with references, variables and parameters.
fn document(base: &str) -> String {
    let (scheme, host) = base.split_once("://").unwrap();
    format!(
        r##"
asyncapi: 3.0.0
servers:
  main: {{ host: '{host}', pathname: '/{{stage}}', protocol: {scheme}, variables: {{ stage: {{ default: base, enum: [base, other] }} }} }}
  queue: {{ host: 'broker:1', protocol: kafka }}
channels:
  greetings:
    address: 'users/{{user}}/greetings'
    servers: [ {{ $ref: '#/servers/main' }} ]
    parameters: {{ user: {{ location: '$message.payload#/user/id', default: nobody }} }}
    messages: {{ greeting: {{ $ref: '#/components/messages/greeting' }} }}
  events: {{ address: /events, messages: {{ greeting: {{ $ref: '#/components/messages/greeting' }} }} }}
  lines: {{ address: lines }}
  poll: {{ address: poll }}
  silent: {{ address: silent }}
  open: {{ address: open }}
  refuses: {{ address: refuses }}
  broker: {{ address: b, servers: [ {{ $ref: '#/servers/queue' }} ] }}
  nowhere: {{ address: null }}
operations:
  greet: {{ action: send, channel: {{ $ref: '#/channels/greetings' }}, bindings: {{ http: {{ method: put }} }} }}
  events: {{ action: receive, channel: {{ $ref: '#/channels/events' }} }}
  lines: {{ action: receive, channel: {{ $ref: '#/channels/lines' }} }}
  poll: {{ action: receive, channel: {{ $ref: '#/channels/poll' }} }}
  silent: {{ action: receive, channel: {{ $ref: '#/channels/silent' }} }}
  open: {{ action: receive, channel: {{ $ref: '#/channels/open' }} }}
  refuses: {{ action: send, channel: {{ $ref: '#/channels/refuses' }} }}
  broker: {{ action: send, channel: {{ $ref: '#/channels/broker' }} }}
  nowhere: {{ action: send, channel: {{ $ref: '#/channels/nowhere' }} }}
  dangling: {{ action: send, channel: {{ $ref: '#/channels/none' }} }}
  outside: {{ action: send, channel: {{ $ref: 'https://x.y/z#/channels/none' }} }}
components:
  messages:
    greeting:
      contentType: application/greeting+json
      correlationId: {{ location: '$message.payload#/call' }}
"##
    )
}

/// The same as version 2.
fn document_two(base: &str) -> Json {
    let parameter = json!({"schema": {"type": "string", "default": "nobody"}});
    json!({
        "asyncapi": "2.6.0",
        "servers": {
            "other": {"url": "amqp://broker", "protocol": "amqp"},
            "main": {"url": format!("{base}/{{stage}}"), "protocol": "http", "variables": {"stage": {"default": "base"}}},
        },
        "defaultContentType": "application/json",
        "channels": {
            "/users/{user}": {
                "servers": ["main"], "parameters": {"user": parameter},
                "publish": {"message": {"oneOf": [{"$ref": "#/components/messages/m"}]}},
            },
            "/events": {"subscribe": {}},
        },
        "components": {"messages": {"m": {"contentType": "text/plain"}}},
    })
}

async fn stage() -> (Scratch, String, Heard) {
    let (base, heard) = server().await;
    let scratch = Scratch::new();
    scratch.write("three.yaml", &document(&base));
    scratch.write("two.json", &document_two(&base).to_string());
    (scratch, base, heard)
}

fn three(operation: &str, more: &Json) -> Json {
    let mut with = json!({"document": {"endpoint": "file://three.yaml"}, "operation": operation});
    with.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    with
}

fn subscribe(operation: &str, consume: &Json) -> Json {
    three(operation, &json!({"subscription": {"consume": consume}}))
}

fn later(expression: &str, variables: &Json) -> Json {
    json!({"expression": expression, "variables": variables})
}

async fn run(files: &Scratch, with: &Json) -> Result<RawJson, Failure> {
    call(context(Some(files.path()), false), input(with)).await
}

fn numbers(messages: &Json) -> Vec<&Json> {
    messages
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["payload"]["n"])
        .collect()
}

#[tokio::test]
async fn a_message_is_published_where_the_document_says() {
    let (files, _, heard) = stage().await;
    let message =
        json!({"payload": {"user": {"id": "u 1"}, "text": "hi"}, "headers": {"x-own": "v", "n": 1}});
    let more = json!({"message": message, "authentication": {"bearer": {"token": "t"}}});
    assert_eq!(output(run(&files, &three("greet", &more)).await), message);
    let sent = heard.0.lock().unwrap()[0].clone();
    assert_eq!(
        sent,
        json!({
            "method": "PUT", "uri": "/base/users/u%201/greetings", "body": "{\"user\":{\"id\":\"u 1\"},\"text\":\"hi\"}",
            "type": "application/greeting+json", "own": "v", "authorization": "Bearer t", "last": null, "key": "detached",
        })
    );
    let server = json!({"name": "main", "variables": {"stage": "other"}});
    output(run(&files, &three("greet", &json!({"message": {}, "server": server}))).await);
    assert_eq!(heard.0.lock().unwrap()[1]["uri"], "/other/users/nobody/greetings");
}

#[tokio::test]
async fn version_two_has_channels() {
    let (files, _, heard) = stage().await;
    let with = |channel: &str, more: Json| {
        let mut with = json!({"document": {"endpoint": "file://two.json"}, "channel": channel});
        with.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        with
    };
    let published = run(
        &files,
        &with("/users/{user}", json!({"message": {"payload": {"a": 1}}})),
    )
    .await;
    assert_eq!(output(published), json!({"payload": {"a": 1}, "headers": {}}));
    let sent = heard.0.lock().unwrap()[0].clone();
    assert_eq!(
        [&sent["method"], &sent["uri"], &sent["type"]],
        [&json!("POST"), &json!("/base/users/nobody"), &json!("text/plain")]
    );
    let subscription = json!({"subscription": {"consume": {"amount": 2}}, "protocol": "http"});
    let messages = output(run(&files, &with("/events", subscription)).await);
    assert_eq!(numbers(&messages), [1, 2]);
    // Without a choice the first server counts, whatever it speaks.
    let first = with("/events", json!({"subscription": {"consume": {"amount": 2}}}));
    assert!(
        error(run(&files, &first).await)
            .2
            .contains("protocol `amqp` of server `other` is not supported")
    );
}

#[tokio::test]
async fn events_lines_and_polled_values_are_messages() {
    let (files, _, heard) = stage().await;
    // Two answers: the second request says where the first ended.
    let events = output(run(&files, &subscribe("events", &json!({"amount": 4}))).await);
    assert_eq!(numbers(&events), [1, 2, 3, 1]);
    assert_eq!(
        (&events[0]["correlationId"], &events[3]["correlationId"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(events[0]["headers"]["id"], "1.1");
    assert_eq!(heard.0.lock().unwrap()[1]["last"], "1.3");
    let lines = output(run(&files, &subscribe("lines", &json!({"amount": 4}))).await);
    assert_eq!(lines[2]["payload"], "text");
    assert_eq!(lines[3]["payload"]["n"], 4);
    heard.0.lock().unwrap().clear();
    let polled = output(run(&files, &subscribe("poll", &json!({"amount": 3}))).await);
    assert_eq!(numbers(&polled), [1, 2, 1]);
    assert_eq!(polled[0]["correlationId"], "c");
    assert_eq!(heard.0.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn filter_until_and_while_decide_what_is_consumed() {
    let (files, _, _) = stage().await;
    let consumed = async |filter: Option<Json>, consume: Json| {
        let mut with = subscribe("events", &consume);
        if let Some(filter) = filter {
            with["subscription"]["filter"] = filter;
        }
        let messages = output(run(&files, &with).await);
        numbers(&messages)
            .into_iter()
            .filter_map(Json::as_i64)
            .collect::<Vec<_>>()
    };
    let filter = later(".payload.n != $input.skip", &json!({"input": {"skip": 2}}));
    assert_eq!(consumed(Some(filter), json!({"amount": 3})).await, [1, 3, 1]);
    let until = later("(. | length) == $context.most", &json!({"context": {"most": 2}}));
    assert_eq!(consumed(None, json!({"until": until})).await, [1, 2]);
    assert_eq!(
        consumed(None, json!({"until": later("true", &json!({}))})).await,
        [0; 0]
    );
    // The message behind which `while` is false still counts.
    let condition = later(".[-1].payload.n < 3", &json!({}));
    assert_eq!(consumed(None, json!({"while": condition})).await, [1, 2, 3]);
    assert_eq!(
        consumed(None, json!({"while": later("false", &json!({}))})).await,
        [1]
    );
}

#[tokio::test]
async fn time_is_up_with_what_there_is() {
    let (files, _, _) = stage().await;
    let consume = json!({"amount": 5, "for": {"milliseconds": 300}});
    assert_eq!(
        output(run(&files, &subscribe("silent", &consume)).await),
        json!([])
    );
    let consume = json!({"amount": 5, "for": "PT1.5S"});
    assert_eq!(
        numbers(&output(run(&files, &subscribe("open", &consume)).await)),
        [1, 2]
    );
    let ctx = context(Some(files.path()), false);
    ctx.cancel();
    let cancelled = call(ctx, input(&subscribe("silent", &json!({"amount": 1})))).await;
    assert_eq!(cancelled.unwrap_err(), Failure::cancelled());
}

#[tokio::test]
async fn the_next_delivery_goes_on_behind_what_was_consumed() {
    let (files, _, _) = stage().await;
    let ctx = context(Some(files.path()), false);
    let consume = json!({"amount": 4});
    let first = call(ctx.clone(), input(&subscribe("lines", &consume))).await;
    assert_eq!(output(first).as_array().unwrap().len(), 4);
    // The first message was kept at once; the rest of a second's was not, and comes again.
    let second = call(ctx, input(&subscribe("lines", &consume))).await;
    let second = output(second);
    assert_eq!(second[0]["payload"]["n"], 1);
    assert_eq!(second[1]["payload"]["n"], 1);
    assert_eq!(second.as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn refusals_carry_the_status() {
    let (files, _, _) = stage().await;
    let refused = error(run(&files, &three("refuses", &json!({"message": {"payload": {}}}))).await);
    assert_eq!((refused.0, refused.1), (ErrorKind::Communication, 409));
    assert!(refused.2.contains("taken"), "{}", refused.2);
}

#[tokio::test]
async fn what_the_definition_or_the_document_got_wrong_is_said() {
    let (files, base, _) = stage().await;
    files.write("old.json", "{\"asyncapi\": \"1.2.0\"}");
    files.write("none.json", "{}");
    files.write("broken.yaml", "a: [");
    let message = json!({"message": {}});
    let other =
        |document: &str| json!({"document": {"endpoint": document}, "operation": "greet", "message": {}});
    let more = |more: Json| {
        let mut with = message.clone();
        with.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        three("greet", &with)
    };
    for (with, part) in [
        (
            three("wave", &message),
            "has no operation `wave`; it has greet, events",
        ),
        (
            three("broker", &message),
            "protocol `kafka` of server `queue` is not supported, http and nats are",
        ),
        (three("nowhere", &message), "has no address"),
        (
            three("dangling", &message),
            "refers to `#/channels/none`, which it does not have",
        ),
        (three("outside", &message), "only references within the document"),
        (
            more(json!({"protocol": "mqtt"})),
            "protocol `mqtt` is not supported",
        ),
        (
            more(json!({"protocol": "nats"})),
            "has no server with protocol `nats`",
        ),
        (more(json!({"server": {"name": "x"}})), "has no server `x`"),
        (
            more(json!({"server": {"name": "main", "variables": {"stage": "x"}}})),
            "does not allow `x` for `stage`",
        ),
        (
            json!({"document": {"endpoint": "file://three.yaml"}, "channel": "/x", "message": {}}),
            "give `operation`",
        ),
        (
            json!({"document": {"endpoint": "file://two.json"}, "operation": "x", "message": {}}),
            "give `channel`",
        ),
        (other("file://old.json"), "is of version 1.2.0"),
        (other("file://none.json"), "has no `asyncapi` version"),
        (other("file://broken.yaml"), "cannot be read"),
        (other("file://missing.yaml"), "missing.yaml"),
    ] {
        let (kind, _, detail) = error(run(&files, &with).await);
        assert!(
            kind == ErrorKind::Configuration && detail.contains(part),
            "{with}: {detail}"
        );
    }
    let (kind, status, _) = error(run(&files, &other(&format!("{base}/base/refuses"))).await);
    assert_eq!((kind, status), (ErrorKind::Communication, 409));
}
