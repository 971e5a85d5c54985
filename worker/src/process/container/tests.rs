//! Against stubs of the APIs in this process: there is neither a container engine nor a cluster where tests run.

mod docker;
mod kubernetes;
mod stub;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_common::RawJson;
use millrace_runtime::config::WorkerConfig;
use serde_json::Value;

use super::super::bounds::Bounds;
use super::*;

const LIMIT: Duration = Duration::from_secs(20);
/// Settings of the worker that most tests use.
const SETTINGS: [(&str, &str); 2] = [
    ("MILLRACE_PROCESS_MEMORY", "64MiB"),
    ("MILLRACE_CONTAINER_VOLUMES", "/data"),
];

fn containers(backend: Backend, settings: &[(&str, &str)]) -> Arc<Containers> {
    let source: BTreeMap<_, _> = settings.iter().copied().collect();
    let config = WorkerConfig::read(&source, "default").unwrap().processes;
    let bounds = Arc::new(Bounds::new(&config));
    Arc::new(Containers {
        backend: Ok(backend),
        ..Containers::new(&config, bounds)
    })
}

fn context(deadline: Option<Duration>) -> Context {
    let mut step = Context::detached("run:container", RawJson::null()).step().clone();
    step.id = "default/order-1:00000000000000ab.1".into();
    step.deadline_ms = deadline.map(|time| {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + time;
        i64::try_from(at.as_millis()).unwrap()
    });
    Context::for_step(step)
}

fn own_name() -> String {
    job::name_of("default/order-1:00000000000000ab.1")
}

async fn run_with(ctx: &Context, containers: &Arc<Containers>, request: Value) -> Result<Value, String> {
    let request = serde_json::from_value(request).unwrap();
    let ran = tokio::time::timeout(LIMIT, run(ctx.clone(), containers.clone(), request));
    let output = ran.await.expect("the container ends in time");
    output.map(|o| o.decode().unwrap()).map_err(|f| f.to_string())
}

#[test]
fn names_are_labels_and_differ_by_attempt() {
    let (first, second) = (job::name_of("default/a:1.1"), job::name_of("default/a:1.2"));
    assert_ne!(first, second);
    assert_eq!(first, job::name_of("default/a:1.1"));
    assert!(millrace_common::is_label(&first), "{first}");
}

#[tokio::test]
async fn what_the_worker_does_not_allow_reaches_no_engine() {
    let stub = stub::Stub::tcp(|_, _| stub::Reply::Json(500, Value::Null)).await;
    let settings = [("MILLRACE_CONTAINER_IMAGES", "alpine:*,tools/*")];
    let containers = containers(Backend::of(Some(&stub.base)).unwrap(), &settings);
    for (process, part) in [
        (
            serde_json::json!({"image": "ubuntu"}),
            "MILLRACE_CONTAINER_IMAGES",
        ),
        (
            serde_json::json!({"image": "alpine:3", "volumes": {"/etc": "/etc"}}),
            "MILLRACE_CONTAINER_VOLUMES",
        ),
        (
            serde_json::json!({"image": "alpine:3", "ports": {"x": 1}}),
            "not a port",
        ),
        (
            serde_json::json!({"image": "alpine:3", "lifetime": {"cleanup": "eventually"}}),
            "lifetime.after",
        ),
    ] {
        let error = run_with(
            &context(None),
            &containers,
            serde_json::json!({"process": process}),
        )
        .await;
        let error = error.unwrap_err();
        assert!(
            error.starts_with("configuration error 400") && error.contains(part),
            "{error}"
        );
    }
    assert!(stub.seen().is_empty());
}
