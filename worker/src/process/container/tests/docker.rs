//! The requests that Docker and Podman get.

use std::time::Duration;

use serde_json::{Value, json};

use super::stub::{Reply, Seen, Stub};
use super::{Backend, SETTINGS, containers, context, own_name, run_with};

const STEP: &str = "default/order-1:00000000000000ab.1";

/// One container of an engine, and how it behaves.
#[derive(Clone)]
struct Engine {
    /// Its state when the step comes; `None`: there is none.
    found: Option<&'static str>,
    step: &'static str,
    has_image: bool,
    code: i64,
    hangs: bool,
    out: String,
    create: u16,
    pull: &'static str,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            found: None,
            step: STEP,
            has_image: true,
            code: 0,
            hangs: false,
            out: "out".into(),
            create: 201,
            pull: "{\"status\":\"done\"}\r\n",
        }
    }
}

impl Engine {
    async fn serve(self) -> Stub {
        Stub::unix(move |request, before| self.answer(request, before)).await
    }

    fn answer(&self, request: &Seen, before: &[Seen]) -> Reply {
        let (method, path) = request.line.split_once(' ').unwrap();
        let path = path.strip_prefix("/v1.41").unwrap();
        let name = own_name();
        let own = |end: &str| path.starts_with(&format!("/containers/{name}{end}"));
        let was_created = before.iter().any(|b| b.line.contains("/containers/create"));
        match method {
            "GET" if path.starts_with("/images/") => match self.has_image {
                true => Reply::Json(200, json!({})),
                false => Reply::Json(404, json!({"message": "no such image"})),
            },
            "POST" if path.starts_with("/images/create") => Reply::Bytes(
                200,
                format!("{{\"status\":\"pulling\"}}\r\n{}", self.pull).into_bytes(),
            ),
            "POST" if path.starts_with("/containers/create") => {
                Reply::Json(self.create, json!({"message": "told so"}))
            }
            "GET" if own("/json") => match self.found.or_else(|| was_created.then_some("running")) {
                None => Reply::Json(404, json!({"message": "no such container"})),
                Some(status) => Reply::Json(
                    200,
                    json!({"State": {"Status": status}, "Config": {"Labels": {"millrace.step": self.step}}}),
                ),
            },
            "POST" if own("/attach") => Reply::Upgrade,
            "POST" if own("/start") || own("/stop") => Reply::Json(204, Value::Null),
            "POST" if own("/wait") && self.hangs => Reply::Hang,
            "POST" if own("/wait") => Reply::Json(200, json!({"StatusCode": self.code})),
            "GET" if own("/logs") && self.hangs => Reply::Hang,
            "GET" if own("/logs") => Reply::Bytes(200, framed(&[(1, &self.out), (2, "err")])),
            "DELETE" if own("") => Reply::Json(204, Value::Null),
            _ => panic!("unexpected request: {}", request.line),
        }
    }
}

fn framed(pieces: &[(u8, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (whose, text) in pieces {
        bytes.extend_from_slice(&[*whose, 0, 0, 0]);
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

async fn run(stub: &Stub, request: Value) -> Result<Value, String> {
    let containers = containers(Backend::of(Some(&stub.base)).unwrap(), &SETTINGS);
    run_with(&context(None), &containers, request).await
}

fn paths(stub: &Stub) -> Vec<String> {
    let short = |line: String| line.replace(&own_name(), "NAME").replace("/v1.41", "");
    stub.lines().into_iter().map(short).collect()
}

#[tokio::test]
async fn a_container_is_made_started_awaited_and_removed() {
    let stub = Engine {
        has_image: false,
        ..Engine::default()
    }
    .serve()
    .await;
    let process = json!({
        "image": "alpine", "name": "nice", "command": "cat; echo $1", "arguments": ["a"], "stdin": "Hello",
        "environment": {"N": 1}, "ports": {"8080": 80}, "volumes": {"/data": "/in"},
        "lifetime": {"cleanup": "always"},
    });
    let output = run(&stub, json!({"process": process, "return": "all"})).await;
    assert_eq!(
        output.unwrap(),
        json!({"code": 0, "stdout": "out", "stderr": "err"})
    );
    assert_eq!(stub.raw(), "Hello");
    let created = stub.find("POST /v1.41/containers/create").unwrap();
    assert!(
        created.line.ends_with(&format!("?name={}", own_name())),
        "{}",
        created.line
    );
    let expected = json!({
        "Image": "alpine", "Entrypoint": ["sh", "-c", "cat; echo $1", "sh"], "Cmd": ["a"], "Env": ["N=1"],
        "Labels": {
            "millrace.instance": "default/detached", "millrace.name": "nice", "millrace.step": STEP,
            "millrace.task": "/do/0/detached",
        },
        "ExposedPorts": {"80/tcp": {}},
        "OpenStdin": true, "StdinOnce": true, "AttachStdin": true, "Tty": false,
        "HostConfig": {
            "Binds": ["/data:/in"], "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
            "Memory": 67_108_864, "MemorySwap": 67_108_864, "PidsLimit": 1024, "Privileged": false,
            "SecurityOpt": ["no-new-privileges"], "RestartPolicy": {"Name": "no"},
        },
    });
    assert_eq!(created.body, expected);
    let mut lines = paths(&stub);
    // Logs and the wait begin together.
    lines[6..8].sort();
    assert_eq!(
        lines,
        [
            "GET /containers/NAME/json",
            "GET /images/alpine/json",
            "POST /images/create?fromImage=alpine%3Alatest",
            "POST /containers/create?name=NAME",
            "POST /containers/NAME/attach?stream=1&stdin=1",
            "POST /containers/NAME/start",
            "GET /containers/NAME/logs?follow=1&stdout=1&stderr=1",
            "POST /containers/NAME/wait?condition=not-running",
            "DELETE /containers/NAME?force=1&v=1",
        ]
    );
}

#[tokio::test]
async fn a_container_is_kept_unless_its_lifetime_says_otherwise() {
    let stub = Engine::default().serve().await;
    let output = run(&stub, json!({"process": {"image": "alpine:3"}})).await;
    assert_eq!(output.unwrap(), "out");
    let created = stub.find("POST /v1.41/containers/create").unwrap().body;
    assert!(
        created.get("Entrypoint").is_none() && created.get("Cmd").is_none(),
        "{created}"
    );
    assert!(stub.find("DELETE").is_none());
    let after = json!({"cleanup": "eventually", "after": {"milliseconds": 1}});
    run(
        &stub,
        json!({"process": {"image": "alpine:3", "lifetime": after}}),
    )
    .await
    .unwrap();
    stub.saw("DELETE").await;
}

#[tokio::test]
async fn a_step_that_comes_again_finds_its_container() {
    for state in ["running", "exited", "created"] {
        let stub = Engine {
            found: Some(state),
            code: 3,
            ..Engine::default()
        }
        .serve()
        .await;
        let output = run(&stub, json!({"process": {"image": "alpine"}, "return": "code"})).await;
        assert_eq!(output.unwrap(), 3);
        assert!(stub.find("POST /v1.41/containers/create").is_none());
        let is_started = paths(&stub).contains(&"POST /containers/NAME/start".to_owned());
        assert_eq!(is_started, state == "created", "{state}");
    }
    // Another worker was faster.
    let stub = Engine {
        create: 409,
        ..Engine::default()
    }
    .serve()
    .await;
    assert_eq!(
        run(&stub, json!({"process": {"image": "alpine"}})).await.unwrap(),
        "out"
    );
    let foreign = Engine {
        found: Some("running"),
        step: "other",
        ..Engine::default()
    }
    .serve()
    .await;
    let error = run(&foreign, json!({"process": {"image": "alpine"}}))
        .await
        .unwrap_err();
    assert!(error.contains("belongs to another step"), "{error}");
}

#[tokio::test]
async fn exit_codes_and_too_much_output_are_errors() {
    let stub = Engine {
        code: 2,
        ..Engine::default()
    }
    .serve()
    .await;
    let error = run(&stub, json!({"process": {"image": "alpine"}}))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        "runtime error 500: the container ended with exit code 2: err"
    );
    let stub = Engine {
        out: "x".repeat(600_000),
        ..Engine::default()
    }
    .serve()
    .await;
    let error = run(&stub, json!({"process": {"image": "alpine"}}))
        .await
        .unwrap_err();
    assert!(error.contains("wrote more than 524288 bytes"), "{error}");
    assert!(stub.lines().iter().any(|l| l.contains("/stop")));
}

#[tokio::test]
async fn a_cancelled_or_late_container_is_stopped() {
    let hanging = Engine {
        hangs: true,
        ..Engine::default()
    };
    let stub = hanging.clone().serve().await;
    let containers = containers(Backend::of(Some(&stub.base)).unwrap(), &SETTINGS);
    let ctx = context(None);
    let request = json!({"process": {"image": "alpine", "lifetime": {"cleanup": "always"}}});
    let wait = format!("POST /v1.41/containers/{}/wait", own_name());
    let (result, ()) = tokio::join!(run_with(&ctx, &containers, request), async {
        stub.saw(&wait).await;
        ctx.cancel();
    });
    assert_eq!(result.unwrap_err(), "cancelled");
    let lines = paths(&stub);
    assert_eq!(
        lines[lines.len() - 2..],
        [
            "POST /containers/NAME/stop?t=5",
            "DELETE /containers/NAME?force=1&v=1"
        ]
    );
    let stub = hanging.serve().await;
    let containers = super::containers(Backend::of(Some(&stub.base)).unwrap(), &SETTINGS);
    let ctx = context(Some(Duration::from_millis(300)));
    let error = run_with(&ctx, &containers, json!({"process": {"image": "alpine"}}))
        .await
        .unwrap_err();
    assert!(
        error.starts_with("timeout error 408: the container did not end"),
        "{error}"
    );
    assert_eq!(paths(&stub).last().unwrap(), "POST /containers/NAME/stop?t=5");
}

#[tokio::test]
async fn images_that_cannot_be_had_are_errors() {
    let absent = Engine {
        create: 404,
        ..Engine::default()
    };
    let stub = absent.serve().await;
    let error = run(
        &stub,
        json!({"process": {"image": "alpine", "pullPolicy": "never"}}),
    )
    .await
    .unwrap_err();
    assert!(
        error.starts_with("configuration error 400: image `alpine` is not there"),
        "{error}"
    );
    assert!(stub.find("POST /v1.41/images/create").is_none());
    let stub = Engine {
        pull: "{\"error\":\"access denied\"}\r\n",
        ..Engine::default()
    }
    .serve()
    .await;
    let error = run(
        &stub,
        json!({"process": {"image": "alpine", "pullPolicy": "always"}}),
    )
    .await
    .unwrap_err();
    assert!(
        error.starts_with("communication error 500") && error.contains("access denied"),
        "{error}"
    );
    let nowhere = containers(Backend::of(Some("unix:///no/such/socket")).unwrap(), &SETTINGS);
    let error = run_with(&context(None), &nowhere, json!({"process": {"image": "alpine"}}))
        .await
        .unwrap_err();
    assert!(
        error.starts_with("communication error 500: cannot talk to the container engine"),
        "{error}"
    );
}
