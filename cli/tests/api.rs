//! The HTTP API as a client meets it, on a real stack: statuses, codes and bounds.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as expected"
)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Dev, HELLO, Reply, eventually, http};

const PATIENT: Duration = Duration::from_secs(20);
const SLOW: &str = "document: {dsl: 1.0.3, namespace: default, name: slow, version: 1.0.0}\ndo:\n  - nap: {wait: {seconds: 30}}\n";
const STEP: &str = "document: {dsl: 1.0.3, namespace: default, name: step, version: 1.0.0}\ndo:\n  - one: {call: 'noop:1.0.0@default', with: {n: 1}}\n";

fn get(dev: &Dev, path: &str) -> Reply {
    http(&dev.url, &format!("GET {path}"), &[], "")
}

fn post(dev: &Dev, path: &str, body: &Value) -> Reply {
    http(
        &dev.url,
        &format!("POST {path}"),
        &[("Content-Type", "application/json")],
        &body.to_string(),
    )
}

fn apply(dev: &Dev, source: &str) -> Reply {
    http(
        &dev.url,
        "POST /api/v1/definitions",
        &[("Content-Type", "application/yaml")],
        source,
    )
}

fn start(dev: &Dev, request: &Value) -> Reply {
    post(dev, "/api/v1/instances", request)
}

#[test]
fn versions_of_a_definition_never_change() {
    let dev = Dev::start("api-definitions", &["--ephemeral"]);
    let first = apply(&dev, HELLO);
    assert_eq!(first.status, 201, "{}", first.body);
    assert!(
        first
            .head
            .contains("location: /api/v1/definitions/default/hello/1.0.0"),
        "{}",
        first.head
    );
    let as_json = json!({"do": [{"greet": {"set": {"greeting": "hello"}}}],
        "document": {"version": "1.0.0", "name": "hello", "namespace": "default", "dsl": "1.0.3"}});
    assert_eq!(
        post(&dev, "/api/v1/definitions", &as_json).status,
        200,
        "the same, written otherwise"
    );
    assert_eq!(
        apply(&dev, &HELLO.replace("hello}", "bye}")).code(),
        (409, "definitionConflict")
    );
    assert_eq!(apply(&dev, &HELLO.replace("1.0.0}", "1.10.0}")).status, 201);
    assert_eq!(apply(&dev, &HELLO.replace("1.0.0}", "1.9.0}")).status, 201);

    let newest = get(&dev, "/api/v1/definitions/default/hello").body;
    assert_eq!(
        (newest["version"].as_str(), &newest["versions"]),
        (Some("1.10.0"), &json!(["1.10.0", "1.9.0", "1.0.0"]))
    );
    assert_eq!(
        get(&dev, "/api/v1/definitions/default/hello/1.0.0").body["source"],
        HELLO
    );
    assert_eq!(
        get(&dev, "/api/v1/definitions/default/hello/2.0.0").code(),
        (404, "definitionNotFound")
    );
    assert_eq!(get(&dev, "/api/v1/definitions").body["items"][0]["name"], "hello");

    let invalid = apply(&dev, "document: {dsl: 1.0.3}\ndo: [{a: {sett: {}}}]\n");
    assert_eq!(invalid.code(), (422, "invalidDefinition"));
    assert!(
        invalid.head.contains("content-type: application/problem+json"),
        "{}",
        invalid.head
    );
    let diagnostics = invalid.body["diagnostics"].as_array().unwrap();
    assert!(diagnostics.len() > 1, "all faults at once: {diagnostics:?}");
    for part in ["pointer", "line", "column", "message"] {
        assert!(!diagnostics[0][part].is_null(), "{part}");
    }
    let validated = http(
        &dev.url,
        "POST /api/v1/definitions:validate",
        &[("Content-Type", "application/yaml")],
        STEP,
    );
    assert_eq!((validated.status, &validated.body["valid"]), (200, &json!(true)));
    assert_eq!(
        get(&dev, "/api/v1/definitions/default/step").code(),
        (404, "definitionNotFound")
    );
    let media = http(
        &dev.url,
        "POST /api/v1/definitions",
        &[("Content-Type", "image/png")],
        HELLO,
    );
    assert_eq!(media.code(), (415, "unsupportedMediaType"));
    let large = apply(&dev, &format!("{HELLO}# {}", "x".repeat(800_000)));
    assert_eq!(large.code(), (413, "tooLarge"));
    assert!(
        large.body["bytes"].as_u64() > large.body["maxBytes"].as_u64(),
        "{}",
        large.body
    );
}

#[test]
fn definitions_come_back_from_their_stream_when_redis_lost_them() {
    let dev = Dev::start("api-restore", &["--ephemeral"]);
    assert_eq!(apply(&dev, HELLO).status, 201);
    redis(&dev, "DEL {mr:reg}:definitions {mr:reg}:definition:default/hello");
    let coordinator = dev
        .children()
        .into_iter()
        .find(|(_, name)| name.contains("coordi"))
        .unwrap()
        .0;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(coordinator),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    eventually("the definition is back", PATIENT, || {
        dev.millrace(&["definition", "list"]).1.contains("hello")
    });
    assert_eq!(apply(&dev, HELLO).status, 200);
    assert_eq!(
        apply(&dev, &HELLO.replace("hello}", "bye}")).code(),
        (409, "definitionConflict")
    );
}

/// Sends one command to the Redis of a stack.
fn redis(dev: &Dev, command: &str) {
    let said = dev.said();
    let address = said.split("redis://").nth(1).unwrap().lines().next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b":");
}

#[test]
fn an_id_starts_once() {
    let dev = Dev::start("api-starts", &["--ephemeral"]);
    apply(&dev, STEP);
    let request = json!({"definition": {"namespace": "default", "name": "step", "version": "1.0.0"}, "id": "order:1",
        "input": {"a": 1, "b": 2}, "labels": {"tier": "gold"}});
    let first = post(&dev, "/api/v1/instances?wait=10s", &request);
    assert_eq!(
        (first.status, &first.body["status"]),
        (201, &json!("completed")),
        "{}",
        first.body
    );
    assert!(
        first.head.contains("location: /api/v1/instances/order:1"),
        "{}",
        first.head
    );
    assert_eq!(
        (&first.body["id"], &first.body["output"]),
        (&json!("order:1"), &json!({"n": 1}))
    );
    let mut same = request.clone();
    same["input"] = json!({"b": 2, "a": 1});
    assert_eq!(start(&dev, &same).status, 200);
    same["definition"].as_object_mut().unwrap().remove("version");
    assert_eq!(start(&dev, &same).status, 200, "newest: the same definition");
    same["input"] = json!({"b": 3});
    assert_eq!(start(&dev, &same).code(), (409, "instanceConflict"));
    apply(&dev, &STEP.replace("1.0.0}", "2.0.0}"));
    let newer = json!({"definition": {"name": "step", "version": "2.0.0"}, "id": "order:1", "input": {"a": 1, "b": 2}});
    assert_eq!(start(&dev, &newer).code(), (409, "instanceConflict"));
    let generated = start(&dev, &json!({"definition": {"name": "step"}}));
    assert_eq!(
        (generated.status, generated.body["definition"]["version"].as_str()),
        (201, Some("2.0.0"))
    );
}

#[test]
fn a_start_that_cannot_be_is_refused_with_the_reason() {
    let dev = Dev::start("api-refused", &["--ephemeral"]);
    apply(&dev, STEP);
    let with = |more: Value| {
        let mut request = json!({"definition": {"name": "step"}});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        start(&dev, &request)
    };
    assert_eq!(
        with(json!({"definition": {"name": "absent"}})).code(),
        (404, "definitionNotFound")
    );
    assert_eq!(
        with(json!({"definition": {"name": "step", "version": "9.9.9"}})).code(),
        (404, "definitionNotFound")
    );
    for bad in [
        json!({"inputs": 1}),
        json!({"id": "a b"}),
        json!({"id": "x".repeat(129)}),
        json!({"labels": {"k": "v".repeat(129)}}),
        json!({"labels": {"k": 1}}),
        json!({"definition": {"name": "Not A Label"}}),
    ] {
        assert_eq!(with(bad.clone()).code(), (400, "invalidRequest"), "{bad}");
    }
    let deep = format!(
        r#"{{"definition":{{"name":"step"}},"input":{}1{}}}"#,
        "[".repeat(150),
        "]".repeat(150)
    );
    let deep = http(&dev.url, "POST /api/v1/instances", &[], &deep);
    assert_eq!(deep.code(), (400, "invalidRequest"));
    assert!(
        deep.body["detail"].as_str().unwrap().contains("nested"),
        "{}",
        deep.body
    );
    let large = with(json!({"input": "x".repeat(786_433)}));
    assert_eq!(
        (large.code(), &large.body["maxBytes"]),
        ((413, "tooLarge"), &json!(786_432))
    );
    assert_eq!(
        with(json!({"input": "x".repeat(786_430)})).status,
        201,
        "the largest input"
    );
    assert_eq!(
        post(&dev, "/api/v1/instances?wait=1h", &json!({})).code(),
        (400, "invalidRequest")
    );
    assert_eq!(
        post(&dev, "/api/v1/instances?weight=1s", &json!({})).code(),
        (400, "invalidRequest")
    );
}

#[test]
fn lists_are_paged_and_filtered() {
    let dev = Dev::start("api-lists", &["--ephemeral"]);
    for source in [STEP, SLOW] {
        apply(&dev, source);
    }
    for n in 0..7 {
        let label = if n % 2 == 0 { "even" } else { "odd" };
        let request =
            json!({"definition": {"name": "step"}, "id": format!("step-{n}"), "labels": {"parity": label}});
        assert_eq!(
            post(&dev, "/api/v1/instances?wait=10s", &request).body["status"],
            "completed"
        );
    }
    start(&dev, &json!({"definition": {"name": "slow"}, "id": "slow-0"}));
    let ids = |query: &str| -> Vec<String> {
        let page = get(&dev, &format!("/api/v1/instances{query}")).body;
        let items = page["items"]
            .as_array()
            .unwrap_or_else(|| panic!("{query}: {page}"));
        items
            .iter()
            .map(|i| i["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let newest_first = [
        "slow-0", "step-6", "step-5", "step-4", "step-3", "step-2", "step-1", "step-0",
    ];
    assert_eq!(ids(""), newest_first);
    assert_eq!(ids("?label=parity%3Deven&limit=2"), ["step-6", "step-4"]);
    assert_eq!(ids("?status=waiting,running"), ["slow-0"]);
    assert_eq!(
        ids("?status=completed&status=faulted&definition=default/step@1.0.0").len(),
        7
    );
    assert_eq!(ids("?definition=step@2.0.0").len(), 0);
    assert_eq!(ids("?namespace=elsewhere").len(), 0);

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(&dev, &format!("/api/v1/instances?limit=3{cursor}")).body;
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i["id"].as_str().unwrap().to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, newest_first);
    for bad in [
        "?cursor=x",
        "?limit=0",
        "?limit=501",
        "?status=done",
        "?color=red",
    ] {
        assert_eq!(
            get(&dev, &format!("/api/v1/instances{bad}")).code(),
            (400, "invalidRequest"),
            "{bad}"
        );
    }
    let first = get(&dev, "/api/v1/instances/step-0/history?limit=1").body;
    assert_eq!(
        (first["entries"][0]["n"].as_u64(), first["nextAfter"].as_u64()),
        (Some(1), Some(1))
    );
    let rest = get(&dev, "/api/v1/instances/step-0/history?after=1").body;
    assert_eq!(
        (rest["entries"][0]["n"].as_u64(), &rest["nextAfter"]),
        (Some(2), &Value::Null)
    );
}

#[test]
fn an_id_is_found_in_the_only_namespace_that_has_it() {
    let dev = Dev::start("api-namespaces", &["--ephemeral"]);
    for namespace in ["default", "shop", "stock"] {
        apply(
            &dev,
            &HELLO.replace("namespace: default", &format!("namespace: {namespace}")),
        );
    }
    let start_in = |namespace: &str, id: &str| {
        start(
            &dev,
            &json!({"definition": {"namespace": namespace, "name": "hello"}, "id": id}),
        )
    };
    for (namespace, id) in [
        ("shop", "one"),
        ("shop", "two"),
        ("stock", "two"),
        ("default", "three"),
        ("shop", "three"),
    ] {
        assert_eq!(start_in(namespace, id).status, 201);
    }
    let found = |path: &str| get(&dev, &format!("/api/v1/instances/{path}"));
    assert_eq!(found("one").body["namespace"], "shop");
    assert_eq!(found("two").code(), (409, "ambiguousInstance"));
    assert_eq!(found("two?namespace=stock").body["namespace"], "stock");
    assert_eq!(found("three").body["namespace"], "default");
    assert_eq!(found("one?namespace=default").code(), (404, "instanceNotFound"));
    assert_eq!(found("four").code(), (404, "instanceNotFound"));
    assert_eq!(found("one/history").status, 200);
}

#[test]
fn controls_are_answered_by_what_came_of_them() {
    let dev = Dev::start("api-controls", &["--ephemeral"]);
    apply(&dev, SLOW);
    start(&dev, &json!({"definition": {"name": "slow"}, "id": "a:b"}));
    let control = |action: &str, body: &Value| post(&dev, &format!("/api/v1/instances/a:b:{action}"), body);
    let status = |reply: &Reply| {
        (
            reply.status,
            reply.body["status"].as_str().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(
        status(&control("suspend", &json!({"reason": "lunch"}))),
        (200, "suspended".into())
    );
    assert_eq!(
        status(&control("suspend", &json!({}))),
        (200, "suspended".into()),
        "already true"
    );
    assert_eq!(status(&control("resume", &json!({}))), (200, "waiting".into()));
    let refused = control("retry", &json!({}));
    assert_eq!(refused.code(), (409, "notAllowedNow"));
    assert_eq!(
        (&refused.body["status"], &refused.body["instanceStatus"]),
        (&json!(409), &json!("waiting")),
        "{}",
        refused.body
    );
    assert_eq!(
        control("cancel", &json!({"because": 1})).code(),
        (400, "invalidRequest")
    );
    assert_eq!(
        control("cancel", &json!({"reason": "x".repeat(2_000)})).code(),
        (400, "invalidRequest")
    );
    assert_eq!(
        status(&http_empty(&dev, "/api/v1/instances/a:b:cancel")),
        (200, "cancelled".into())
    );
    assert_eq!(control("stop", &json!({})).code(), (404, "notFound"));
    assert_eq!(
        post(&dev, "/api/v1/instances/nobody:cancel", &json!({})).code(),
        (404, "instanceNotFound")
    );
    let history = get(&dev, "/api/v1/instances/a:b/history").body.to_string();
    assert!(history.contains("lunch"), "{history}");
}

fn http_empty(dev: &Dev, path: &str) -> Reply {
    http(&dev.url, &format!("POST {path}"), &[], "")
}

#[test]
fn probes_and_wrong_paths_answer_in_kind() {
    let dev = Dev::start("api-probes", &["--ephemeral"]);
    assert_eq!(get(&dev, "/healthz").body["status"], "alive");
    assert_eq!(get(&dev, "/readyz").body["ready"], true);
    assert!(
        get(&dev, "/metrics")
            .body
            .as_str()
            .unwrap()
            .contains("millrace_http_request_duration_seconds")
    );
    assert_eq!(get(&dev, "/openapi.json").body["openapi"], "3.1.0");
    let status = get(&dev, "/api/v1/status").body;
    assert_eq!(
        (&status["durability"]["mode"], &status["partitions"]["count"]),
        (&json!("A"), &json!(2))
    );
    assert_eq!(get(&dev, "/nowhere").code(), (404, "notFound"));
    assert_eq!(get(&dev, "/api/v1/nowhere").code(), (404, "notFound"));
    assert_eq!(
        http(&dev.url, "DELETE /api/v1/instances", &[], "").code(),
        (405, "methodNotAllowed")
    );
    assert_eq!(
        post(&dev, "/api/v1/events", &json!({})).code(),
        (400, "invalidRequest")
    );
    assert_eq!(get(&dev, "/api/v1/registry/agents").code(), (501, "notSupported"));
    assert_eq!(
        get(&dev, "/api/v1/workers/nobody").code(),
        (404, "workerNotFound")
    );
    assert_eq!(get(&dev, "/api/v1/queues/nothing").code(), (404, "queueNotFound"));
}

#[test]
fn a_paused_queue_delivers_nothing_until_it_is_resumed() {
    let dev = Dev::start("api-queues", &["--ephemeral"]);
    apply(&dev, STEP);
    assert_eq!(
        post(&dev, "/api/v1/queues/default:pause", &json!({})).body["paused"],
        true
    );
    let held = post(
        &dev,
        "/api/v1/instances?wait=1s",
        &json!({"definition": {"name": "step"}, "id": "held"}),
    );
    assert_eq!(held.body["status"], "running", "{}", held.body);
    assert_eq!(get(&dev, "/api/v1/queues/default").body["pending"], 1);
    assert_eq!(
        post(&dev, "/api/v1/queues/default:resume", &json!({})).body["paused"],
        false
    );
    eventually("the step is delivered", PATIENT, || {
        get(&dev, "/api/v1/instances/held").body["status"] == "completed"
    });
}

#[test]
fn a_call_that_nobody_offers_is_told_by_apply_and_by_the_instance() {
    let dev = Dev::start("api-unoffered", &["--ephemeral"]);
    let offered = apply(&dev, STEP);
    assert_eq!(offered.body["warnings"], json!([]), "{}", offered.body);
    let misspelt = STEP
        .replace("noop:", "nop:")
        .replace("name: step", "name: misspelt");
    for status in [201, 200] {
        let applied = apply(&dev, &misspelt);
        let warning = &applied.body["warnings"][0];
        assert_eq!(
            (
                applied.status,
                &warning["line"],
                &warning["message"],
                &warning["hint"]
            ),
            (
                status,
                &json!(3),
                &json!("no worker offers function `nop:1.0.0` now"),
                &json!("did you mean `noop:1.0.0`?")
            ),
            "{}",
            applied.body
        );
    }
    let validated = http(
        &dev.url,
        "POST /api/v1/definitions:validate",
        &[("Content-Type", "application/yaml")],
        &misspelt,
    );
    assert_eq!(validated.body["warnings"].as_array().map(Vec::len), Some(1));
    start(&dev, &json!({"definition": {"name": "misspelt"}, "id": "lost"}));
    eventually("the instance says so", PATIENT, || {
        let waiting = &get(&dev, "/api/v1/instances/lost").body["waitingFor"][0];
        waiting["offered"] == false
            && waiting["reason"] == "no worker offers nop:1.0.0; did you mean `noop:1.0.0`?"
    });
    let (_, stdout, _) = dev.millrace(&["instance", "get", "lost"]);
    assert!(stdout.contains("waits: no worker offers nop:1.0.0"), "{stdout}");
}

#[test]
fn a_drained_worker_ends_and_is_seen_to() {
    let dev = Dev::start("api-workers", &["--ephemeral"]);
    eventually("the worker is registered", PATIENT, || {
        get(&dev, "/api/v1/workers/worker-1").body["health"] == "alive"
    });
    let listed = get(&dev, "/api/v1/workers").body;
    assert_eq!(listed["items"][0]["id"], "worker-1");
    assert_eq!(
        post(&dev, "/api/v1/workers/worker-1:drain", &json!({})).status,
        202
    );
    eventually("the worker ended and dev told so", PATIENT, || {
        dev.said().contains("worker-1 ended with")
    });
}
