//! Calls that need a real server of their protocol: AsyncAPI over NATS.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::StreamExt;
use millrace_common::ErrorKind;
use serde_json::{Value, json};

use crate::servers::Scratch;
use crate::stage::{Running, Scene, Stage, error, eventually, output, step};

/// Writes a document whose server this is, and starts a worker that may read it.
fn worker(stage: &Stage, files: &Path, server: &str) -> Running {
    let document = json!({
        "asyncapi": "3.0.0",
        "servers": {"main": {"host": server, "protocol": "nats"}},
        "channels": {
            "greetings": {"address": "app.{user}.greetings", "parameters": {"user": {"location": "$message.header#/user", "default": "*"}}},
        },
        "operations": {"greetings": {"action": "send", "channel": {"$ref": "#/channels/greetings"}}},
    });
    std::fs::write(files.join("document.json"), document.to_string()).unwrap();
    let files = files.display().to_string();
    let settings = [("MILLRACE_FILES", files.as_str())];
    stage.start("w1", &settings, |w| w.builtins())
}

fn address(stage: &Stage) -> String {
    stage.server.url().replace("nats://", "")
}

fn with(more: Value) -> String {
    let mut with = json!({"document": {"endpoint": "file://document.json"}, "operation": "greetings"});
    with.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    with.to_string()
}

#[tokio::test]
async fn a_message_is_published_to_its_subject() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let files = Scratch::new();
    let worker = worker(&stage, files.path(), &address(&stage));
    let mut seen = stage.client.subscribe("app.>").await.unwrap();
    stage.client.flush().await.unwrap();
    let message = json!({"payload": {"text": "hi"}, "headers": {"user": "ann", "n": 7}});
    stage
        .send(&step("a", "call:asyncapi", &with(json!({"message": message}))))
        .await;
    assert_eq!(output(&stage.result("a.1").await), message);
    let sent = seen.next().await.unwrap();
    assert_eq!(sent.subject.as_str(), "app.ann.greetings");
    assert_eq!(sent.payload, r#"{"text":"hi"}"#);
    let headers = sent.headers.unwrap();
    let headers: BTreeMap<String, String> = headers
        .iter()
        .map(|(k, v)| (k.to_string(), v[0].as_str().to_owned()))
        .collect();
    assert_eq!(headers["user"], "ann");
    assert_eq!(
        (headers["n"].as_str(), headers["Nats-Msg-Id"].as_str()),
        ("7", "a")
    );
    worker.stop().await;
}

#[tokio::test]
async fn messages_are_consumed_as_they_come() {
    let Some(stage) = Stage::open(Scene::default()).await else {
        return;
    };
    let files = Scratch::new();
    let worker = worker(&stage, files.path(), &address(&stage));
    let filter = json!({"expression": ".payload.n % 2 == $input.rest", "variables": {"input": {"rest": 1}}});
    let subscription = json!({"filter": filter, "consume": {"amount": 3}});
    stage
        .send(&step(
            "a",
            "call:asyncapi",
            &with(json!({"subscription": subscription})),
        ))
        .await;
    // Nobody tells when the worker listens: messages are sent until it has enough.
    let mut number = 0;
    let consumed = eventually("consumed messages", async || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Correlation-Id", format!("c{number}"));
        let payload = json!({"n": number}).to_string().into();
        stage
            .client
            .publish_with_headers("app.bob.greetings", headers, payload)
            .await
            .unwrap();
        stage.client.flush().await.unwrap();
        number += 1;
        let results = stage.log().await;
        results.iter().find_map(|r| match r {
            millrace_common::RecordBody::Result(r) if r.step == "a.1" => Some(output(r)),
            _ => None,
        })
    })
    .await;
    let numbers: Vec<i64> = consumed
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["payload"]["n"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, [numbers[0], numbers[0] + 2, numbers[0] + 4]);
    assert!(numbers[0] % 2 == 1);
    let first = json!({
        "payload": {"n": numbers[0]}, "correlationId": format!("c{}", numbers[0]),
        "headers": {"Correlation-Id": format!("c{}", numbers[0])},
    });
    assert_eq!(consumed[0], first);
    worker.stop().await;
}

#[tokio::test]
async fn credentials_are_used_and_objections_are_errors() {
    let Some(stage) = Stage::open_guarded().await else {
        return;
    };
    let files = Scratch::new();
    let worker = worker(&stage, files.path(), &address(&stage));
    let publish = |username: &str, password: &str| {
        let basic = json!({"basic": {"username": username, "password": password}});
        with(
            json!({"message": {"payload": {}}, "server": {"name": "main", "variables": {"user": "x"}}, "authentication": basic}),
        )
    };
    stage
        .send(&step("a", "call:asyncapi", &publish("admin", "admin")))
        .await;
    output(&stage.result("a.1").await);
    stage
        .send(&step("b", "call:asyncapi", &publish("w1", "secret")))
        .await;
    let refused = error(&stage.result("b.1").await);
    assert_eq!(refused.standard(), Some(ErrorKind::Communication));
    let detail = refused.detail.unwrap().to_lowercase();
    assert!(detail.contains("permissions violation"), "{detail}");
    stage
        .send(&step("c", "call:asyncapi", &publish("admin", "wrong")))
        .await;
    let denied = error(&stage.result("c.1").await);
    assert_eq!(denied.standard(), Some(ErrorKind::Communication));
    let detail = denied.detail.unwrap();
    assert!(
        detail.contains("cannot connect") && !detail.contains("wrong"),
        "{detail}"
    );
    worker.stop().await;
}
