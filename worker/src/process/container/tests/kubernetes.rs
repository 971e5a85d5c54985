//! The requests that the API server of Kubernetes gets.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::kubernetes::Kubernetes;
use super::stub::{Reply, Seen, Stub};
use super::{Backend, SETTINGS, containers, context, own_name, run_with};

const STEP: &str = "default/order-1:00000000000000ab.1";
const JOBS: &str = "/apis/batch/v1/namespaces/flows/jobs";
const PODS: &str = "/api/v1/namespaces/flows/pods";

/// A Job and its pod, and how they behave.
#[derive(Clone)]
struct Cluster {
    create: u16,
    step: &'static str,
    /// State of the container after some looks.
    state: Value,
    /// Status of the Job.
    status: Value,
    log: String,
    /// Looks at pods that find none.
    late: usize,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            create: 201,
            step: STEP,
            state: json!({"terminated": {"exitCode": 0}}),
            status: json!({}),
            log: "out".into(),
            late: 2,
        }
    }
}

impl Cluster {
    async fn serve(self) -> Server {
        Server::new(Stub::tcp(move |request, before| self.answer(request, before)).await)
    }

    fn answer(&self, request: &Seen, before: &[Seen]) -> Reply {
        assert!(
            request.head.contains("authorization: bearer t0ken"),
            "{}",
            request.head
        );
        let (method, path) = request.line.split_once(' ').unwrap();
        let own = format!("{JOBS}/{}", own_name());
        let looks = before.iter().filter(|b| b.line.contains("labelSelector")).count();
        match method {
            "POST" if path == JOBS => Reply::Json(self.create, json!({"message": "told so"})),
            "GET" if path == own => Reply::Json(
                200,
                json!({"metadata": {"annotations": {"millrace/step": self.step}}, "status": self.status}),
            ),
            "GET" if path.starts_with(&format!("{PODS}?labelSelector")) => match looks {
                n if n < self.late => Reply::Json(200, json!({"items": []})),
                _ => Reply::Json(
                    200,
                    json!({"items": [{
                        "metadata": {"name": "pod-1"}, "status": {"containerStatuses": [{"state": self.state}]},
                    }]}),
                ),
            },
            "GET" if path.starts_with(&format!("{PODS}/pod-1/log")) => {
                Reply::Bytes(200, self.log.clone().into_bytes())
            }
            "DELETE" if path.starts_with(&own) => Reply::Json(200, json!({})),
            _ => panic!("unexpected request: {}", request.line),
        }
    }
}

/// A stub with the files of a service account.
struct Server {
    stub: Stub,
    account: PathBuf,
}

impl Server {
    fn new(stub: Stub) -> Self {
        let name = format!("millrace-account-{}", millrace_runtime::random::nonce());
        let account = std::env::temp_dir().join(name);
        std::fs::create_dir(&account).unwrap();
        std::fs::write(account.join("token"), "t0ken\n").unwrap();
        std::fs::write(account.join("namespace"), "flows").unwrap();
        Self { stub, account }
    }

    fn containers(&self) -> std::sync::Arc<super::Containers> {
        let kubernetes = Kubernetes::new(&self.stub.base, &self.account, Duration::from_millis(2)).unwrap();
        containers(Backend::Kubernetes(kubernetes), &SETTINGS)
    }

    async fn run(&self, request: Value) -> Result<Value, String> {
        run_with(
            &context(Some(Duration::from_secs(90))),
            &self.containers(),
            request,
        )
        .await
    }

    fn created(&self) -> Value {
        self.stub.find(&format!("POST {JOBS}")).unwrap().body
    }

    fn is_deleted(&self) -> bool {
        let line = format!("DELETE {JOBS}/{}?propagationPolicy=Background", own_name());
        self.stub.lines().contains(&line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.account).ok();
    }
}

#[tokio::test]
async fn a_job_is_made_awaited_and_read() {
    let server = Cluster::default().serve().await;
    let process = json!({
        "image": "alpine:3", "command": "echo $$ $1", "arguments": ["$(X)"], "environment": {"N": 1},
        "ports": {"8080": 80}, "volumes": {"/data": "/in"}, "pullPolicy": "always",
    });
    assert_eq!(server.run(json!({"process": process})).await.unwrap(), "out");
    let job = server.created();
    assert_eq!(
        (&job["kind"], &job["metadata"]["name"]),
        (&json!("Job"), &json!(own_name()))
    );
    assert_eq!(job["metadata"]["annotations"]["millrace/step"], STEP);
    let spec = &job["spec"];
    assert_eq!(spec["backoffLimit"], 0);
    let seconds = spec["activeDeadlineSeconds"].as_u64().unwrap();
    assert!((60..=90).contains(&seconds), "{seconds}");
    assert!(spec.get("ttlSecondsAfterFinished").is_none());
    let pod = &spec["template"]["spec"];
    assert_eq!(
        (&pod["restartPolicy"], &pod["automountServiceAccountToken"]),
        (&json!("Never"), &json!(false))
    );
    assert_eq!(
        pod["volumes"],
        json!([{"name": "v0", "hostPath": {"path": "/data"}}])
    );
    assert_eq!(
        pod["containers"],
        json!([{
            "name": "step", "image": "alpine:3", "imagePullPolicy": "Always",
            "env": [{"name": "N", "value": "1"}], "ports": [{"containerPort": 80}],
            "volumeMounts": [{"name": "v0", "mountPath": "/in"}],
            "securityContext": {"allowPrivilegeEscalation": false},
            // Dollars are doubled: the cluster takes two for one.
            "command": ["sh", "-c", "echo $$$$ $$1", "sh"], "args": ["$$(X)"],
            "resources": {"limits": {"memory": "67108864"}},
        }])
    );
    assert!(!server.is_deleted());
}

#[tokio::test]
async fn lifetimes_are_the_clusters_to_keep() {
    let server = Cluster::default().serve().await;
    let process = json!({"image": "a", "lifetime": {"cleanup": "always"}});
    server.run(json!({"process": process})).await.unwrap();
    assert_eq!(server.created()["spec"]["ttlSecondsAfterFinished"], 600);
    assert!(server.is_deleted());
    let server = Cluster::default().serve().await;
    let process = json!({"image": "a", "lifetime": {"cleanup": "eventually", "after": {"minutes": 30}}});
    server.run(json!({"process": process})).await.unwrap();
    assert_eq!(server.created()["spec"]["ttlSecondsAfterFinished"], 1800);
    assert!(!server.is_deleted());
}

#[tokio::test]
async fn a_step_that_comes_again_finds_its_job() {
    let again = Cluster {
        create: 409,
        ..Cluster::default()
    };
    assert_eq!(
        again
            .serve()
            .await
            .run(json!({"process": {"image": "a"}}))
            .await
            .unwrap(),
        "out"
    );
    let foreign = Cluster {
        create: 409,
        step: "other",
        ..Cluster::default()
    };
    let server = foreign.serve().await;
    let error = server.run(json!({"process": {"image": "a"}})).await.unwrap_err();
    assert!(error.contains("belongs to another step"), "{error}");
}

#[tokio::test]
async fn exit_codes_deadlines_and_images_are_told_apart() {
    let failed = |reason: &str| json!({"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": "m"}]});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "no such image"}});
    let ended = json!({"terminated": {"exitCode": 4}});
    for (state, status, expected) in [
        (
            ended.clone(),
            failed("BackoffLimitExceeded"),
            "runtime error 500: the container ended with exit code 4: out",
        ),
        (
            ended,
            failed("DeadlineExceeded"),
            "timeout error 408: the Job was stopped at its deadline",
        ),
        (json!({}), failed("DeadlineExceeded"), "timeout error 408"),
        (
            json!({}),
            failed("Evicted"),
            "runtime error 500: the Job failed without an exit code: m",
        ),
        (
            waiting("ImagePullBackOff"),
            json!({}),
            "communication error 500: image `a` cannot be run: no such image",
        ),
        (waiting("InvalidImageName"), json!({}), "configuration error 400"),
    ] {
        let cluster = Cluster {
            state,
            status,
            late: 0,
            ..Cluster::default()
        };
        let error = cluster
            .serve()
            .await
            .run(json!({"process": {"image": "a"}}))
            .await
            .unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    let code = Cluster {
        state: json!({"terminated": {"exitCode": 4}}),
        ..Cluster::default()
    };
    let server = code.serve().await;
    assert_eq!(
        server
            .run(json!({"process": {"image": "a"}, "return": "code"}))
            .await
            .unwrap(),
        4
    );
    let refused = Cluster {
        create: 403,
        ..Cluster::default()
    };
    let error = refused
        .serve()
        .await
        .run(json!({"process": {"image": "a"}}))
        .await
        .unwrap_err();
    assert!(
        error.starts_with("configuration error 400") && error.contains("lacks the right"),
        "{error}"
    );
}

#[tokio::test]
async fn a_cancelled_job_is_deleted() {
    let server = Cluster {
        state: json!({"running": {}}),
        ..Cluster::default()
    }
    .serve()
    .await;
    let (ctx, containers) = (context(None), server.containers());
    let request = json!({"process": {"image": "a"}});
    let (result, ()) = tokio::join!(run_with(&ctx, &containers, request), async {
        server.stub.saw(&format!("GET {PODS}")).await;
        ctx.cancel();
    });
    assert_eq!(result.unwrap_err(), "cancelled");
    assert!(server.is_deleted());
}

#[tokio::test]
async fn input_goes_through_the_shell_and_streams_cannot_be_told_apart() {
    let server = Cluster::default().serve().await;
    let process = json!({"image": "a", "command": "cat $1", "arguments": ["-"], "stdin": "in $HOME"});
    server.run(json!({"process": process})).await.unwrap();
    let container = server.created()["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(
        container["env"],
        json!([{"name": "MILLRACE_STDIN", "value": "in $$HOME"}])
    );
    assert_eq!(container["command"][3], "cat $$1");
    assert_eq!(container["args"], json!(["-"]));
    for request in [
        json!({"process": {"image": "a"}, "return": "all"}),
        json!({"process": {"image": "a"}, "return": "stderr"}),
        json!({"process": {"image": "a", "stdin": "x"}}),
    ] {
        let server = Cluster::default().serve().await;
        let error = server.run(request).await.unwrap_err();
        assert!(
            error.starts_with("configuration error 400") && error.contains("Kubernetes"),
            "{error}"
        );
        assert!(server.stub.find("POST").is_none());
    }
}
