//! Servers and contexts for the tests of calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use millrace_common::{ErrorKind, Problem, RawJson};
use millrace_runtime::config::WorkerConfig;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::process::Bounds;
use crate::{Context, Failure};

/// Serves on loopback for as long as the test's runtime lives; gives the URL.
pub(crate) async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    base
}

/// A directory that is gone at the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("millrace-calls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only leaves litter behind.
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// A worker that may read the files of a directory and run processes.
pub(super) fn context(files: Option<&Path>, processes: bool) -> Context {
    let step = Context::detached("call:test", RawJson::null()).step().clone();
    let bounds = processes.then(|| bounds(&[]));
    Context::detached_where(step, files.map(Path::to_owned), bounds)
}

/// A worker that may run processes, with these settings for them.
pub(super) fn bounded(settings: &[(&str, &str)]) -> Context {
    let step = Context::detached("call:test", RawJson::null()).step().clone();
    Context::detached_where(step, None, Some(bounds(settings)))
}

fn bounds(settings: &[(&str, &str)]) -> Arc<Bounds> {
    let source: BTreeMap<_, _> = settings.iter().copied().collect();
    let config = WorkerConfig::read(&source, "default").unwrap();
    Arc::new(Bounds::new(&config.processes))
}

/// An input as a step brings it.
pub(super) fn input<T: DeserializeOwned>(input: &Value) -> T {
    serde_json::from_str(&input.to_string()).unwrap()
}

/// What a call gave.
pub(super) fn output(result: Result<RawJson, Failure>) -> Value {
    result.unwrap().decode().unwrap()
}

/// The error of a call that must fail.
pub(super) fn problem(result: Result<RawJson, Failure>) -> Problem {
    result.unwrap_err().problem().unwrap().clone()
}

/// Kind, status and detail of the error of a call that must fail.
pub(super) fn error(result: Result<RawJson, Failure>) -> (ErrorKind, u16, String) {
    let problem = problem(result);
    (
        problem.standard().unwrap(),
        problem.status,
        problem.detail.unwrap_or_default(),
    )
}
