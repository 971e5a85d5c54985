//! Containers as Jobs of Kubernetes, through the API server with the pod's own service account.
//!
//! It needs the rights to create, get and delete Jobs, to list pods and to read their logs in its namespace. The server
//! keeps one stream of both outputs, so what needs them apart is refused, and standard input goes through the image's
//! shell.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_common::ErrorKind;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::super::capture::{Captured, Keep};
use super::super::outcome::Ended;
use super::super::request::{Output, configuration};
use super::client::{Answer, Api};
use super::job::{Cleanup, Job, PullPolicy};
use super::{Host, WHAT};
use crate::Failure;

/// Files of a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Between two looks at a Job.
const POLL: Duration = Duration::from_secs(1);
/// Looks in a row that may fail.
const LOOKS_MAX: u32 = 10;
/// A finished Job that its worker did not remove is removed by the cluster after this long.
const LEFT_OVER_SECONDS: u64 = 600;
/// Lines of the log that stand in an error.
const DETAIL_LINES: &str = "50";
/// Where standard input waits for the shell that reads it. The kernel bounds one variable to 128 KiB.
const STDIN: &str = "MILLRACE_STDIN";
const STDIN_BYTES_MAX: usize = 120 * 1024;
/// `$0` is the command.
const WITH_STDIN: &str = r#"printf '%s' "$MILLRACE_STDIN" | env -u MILLRACE_STDIN sh -c "$0" sh "$@""#;

/// See the module.
#[derive(Debug)]
pub(super) struct Kubernetes {
    api: Api,
    namespace: String,
    poll: Duration,
}

/// What a look at a Job found.
enum Progress {
    Running,
    Ended { pod: String, code: i64 },
    Failed(Failure),
}

impl Kubernetes {
    /// Whether this process runs in a pod with a service account.
    pub(super) fn is_around() -> bool {
        std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(ACCOUNT).join("token").exists()
    }

    pub(super) fn in_cluster() -> Result<Self, String> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_unset| format!("{name} is not set: this is no pod of Kubernetes"))
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        Self::new(&format!("https://{host}:{port}"), Path::new(ACCOUNT), POLL)
    }

    /// With the files `token`, `namespace` and `ca.crt` of an account.
    pub(super) fn new(base: &str, account: &Path, poll: Duration) -> Result<Self, String> {
        millrace_runtime::tls::install_provider();
        let read = |name: &str| {
            let path: PathBuf = account.join(name);
            std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
        };
        let namespace = String::from_utf8_lossy(&read("namespace")?).trim().to_owned();
        if !millrace_common::is_label(&namespace) {
            return Err(format!("`{namespace}` is not a namespace of Kubernetes"));
        }
        let mut builder = Client::builder();
        if base.starts_with("https://") {
            let authorities = reqwest::Certificate::from_pem_bundle(&read("ca.crt")?)
                .map_err(|e| format!("cannot read the cluster's authority: {e}"))?;
            builder = builder.tls_certs_only(authorities);
        }
        let token = Some(account.join("token"));
        Ok(Self {
            api: Api::new("Kubernetes", builder, base, token)?,
            namespace,
            poll,
        })
    }

    fn jobs(&self) -> String {
        format!("/apis/batch/v1/namespaces/{}/jobs", self.namespace)
    }

    fn pods(&self) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace)
    }

    /// Creates the Job. One that an earlier delivery created is as good.
    async fn create(&self, job: &Job, limit: Duration) -> Result<(), Failure> {
        let manifest = manifest(job, limit)?;
        let answer = self
            .api
            .ask(Method::POST, &self.jobs(), &[], Some(&manifest))
            .await?;
        match answer.status {
            201 => Ok(()),
            409 => self.check_owner(job).await,
            _ => Err(self.api.refused("the creation of a Job", &answer)),
        }
    }

    async fn check_owner(&self, job: &Job) -> Result<(), Failure> {
        let found = self.look(job).await?;
        let owner = &found["metadata"]["annotations"]["millrace/step"];
        if *owner == job.step.as_str() {
            tracing::info!(job = job.name, "found the Job of an earlier delivery");
            return Ok(());
        }
        Err(Failure::runtime(format!(
            "Job {} belongs to another step: {owner}",
            job.name
        )))
    }

    async fn look(&self, job: &Job) -> Result<Value, Failure> {
        let path = format!("{}/{}", self.jobs(), job.name);
        let answer = self.api.ask(Method::GET, &path, &[], None).await?;
        match answer.status {
            200 => Ok(answer.body),
            404 => Err(Failure::runtime(format!(
                "Job {} was removed before it ended",
                job.name
            ))),
            _ => Err(self.api.refused("a look at the Job", &answer)),
        }
    }

    async fn progress(&self, job: &Job) -> Result<Progress, Failure> {
        let status = self.look(job).await?["status"].clone();
        let pod = self.pod(job).await?;
        let state = &pod["status"]["containerStatuses"][0]["state"];
        if let (Some(code), Some(name)) = (
            state["terminated"]["exitCode"].as_i64(),
            pod["metadata"]["name"].as_str(),
        ) {
            return Ok(match deadline_exceeded(&status) {
                true => Progress::Failed(too_late()),
                false => Progress::Ended {
                    pod: name.to_owned(),
                    code,
                },
            });
        }
        if let Some(failed) = condition(&status, "Failed") {
            return Ok(Progress::Failed(match deadline_exceeded(&status) {
                true => too_late(),
                false => Failure::runtime(format!(
                    "the Job failed without an exit code: {}",
                    failed["message"].as_str().unwrap_or("no reason given")
                )),
            }));
        }
        Ok(waiting(job, &state["waiting"]).map_or(Progress::Running, Progress::Failed))
    }

    /// The Job's pod, `null` before there is one.
    async fn pod(&self, job: &Job) -> Result<Value, Failure> {
        let selector = format!("job-name={}", job.name);
        let answer = self
            .api
            .ask(Method::GET, &self.pods(), &[("labelSelector", &selector)], None)
            .await?;
        match answer.status {
            200 => Ok(answer.body["items"][0].clone()),
            _ => Err(self.api.refused("a look at pods", &answer)),
        }
    }

    /// Waits for the end of the Job. Looks that fail are tried again.
    async fn end(&self, job: &Job) -> Result<(String, i64), Failure> {
        let mut failed = 0;
        loop {
            match self.progress(job).await {
                Ok(Progress::Ended { pod, code }) => return Ok((pod, code)),
                Ok(Progress::Failed(failure)) => return Err(failure),
                Ok(Progress::Running) => failed = 0,
                Err(error) if failed == LOOKS_MAX || !is_transient(&error) => return Err(error),
                Err(_transient) => failed += 1,
            }
            tokio::time::sleep(self.poll).await;
        }
    }

    async fn log(&self, pod: &str, job: &Job, code: i64) -> Result<Vec<u8>, Failure> {
        let is_whole = job.output.has_stdout() && code == 0;
        let path = format!("{}/{pod}/log", self.pods());
        let query: &[(&str, &str)] = match is_whole {
            true => &[("container", "step")],
            false => &[("container", "step"), ("tailLines", DETAIL_LINES)],
        };
        let mut answer = self.api.send(Method::GET, &path, query, None).await?;
        if answer.status().as_u16() != 200 {
            let (status, body) = (answer.status().as_u16(), answer.json().await.unwrap_or_default());
            return Err(self.api.refused("a look at the log", &Answer { status, body }));
        }
        let mut captured = Captured::new(Keep::of(is_whole));
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.api.unreachable(&e))? {
            captured
                .add(&chunk)
                .map_err(|e| Failure::runtime(format!("the output of {WHAT} cannot be returned: {e}")))?;
        }
        Ok(captured.into_bytes())
    }
}

impl Host for Kubernetes {
    async fn run(&self, job: &Job, limit: Duration) -> Result<Ended, Failure> {
        self.create(job, limit).await?;
        let (pod, code) = self.end(job).await?;
        let log = match job.output {
            Output::Code => Vec::new(),
            _ => self.log(&pod, job, code).await?,
        };
        // One stream: what it says of a failure is in there, too.
        let (stdout, stderr) = match code {
            0 => (log, Vec::new()),
            _ => (Vec::new(), log),
        };
        Ok(Ended { code, stdout, stderr })
    }

    async fn stop(&self, job: &Job) -> Result<(), Failure> {
        let path = format!("{}/{}", self.jobs(), job.name);
        let query = [("propagationPolicy", "Background")];
        let answer = self.api.ask(Method::DELETE, &path, &query, None).await?;
        match answer.status {
            200 | 202 | 404 => Ok(()),
            _ => Err(self.api.refused("the removal of the Job", &answer)),
        }
    }

    async fn clean_up(&self, job: &Job) -> Result<(), Failure> {
        match job.cleanup {
            Cleanup::Always => self.stop(job).await,
            // The cluster does it.
            Cleanup::After(_) | Cleanup::Never => Ok(()),
        }
    }
}

fn manifest(job: &Job, limit: Duration) -> Result<Value, Failure> {
    if job.output.has_stderr() {
        return Err(configuration(
            "Kubernetes keeps one stream of both outputs: `return` can be stdout, code or none there",
        ));
    }
    let annotations: serde_json::Map<String, Value> = job
        .notes
        .iter()
        .map(|(key, value)| (format!("millrace/{key}"), value.as_str().into()))
        .collect();
    let labels = json!({"app.kubernetes.io/managed-by": "millrace"});
    let volumes: Vec<Value> = (0..)
        .zip(&job.volumes)
        .map(|(n, (host, _))| json!({"name": format!("v{n}"), "hostPath": {"path": host}}))
        .collect();
    let mut spec = json!({
        "backoffLimit": 0, "completions": 1, "parallelism": 1,
        "activeDeadlineSeconds": seconds(limit).max(1),
        "template": {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {
                "restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
                "volumes": volumes, "containers": [container(job)?],
            },
        },
    });
    match job.cleanup {
        Cleanup::Always => spec["ttlSecondsAfterFinished"] = LEFT_OVER_SECONDS.into(),
        Cleanup::After(after) => spec["ttlSecondsAfterFinished"] = seconds(after).into(),
        Cleanup::Never => {}
    }
    Ok(json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": job.name, "labels": labels, "annotations": annotations},
        "spec": spec,
    }))
}

fn container(job: &Job) -> Result<Value, Failure> {
    let mut environment: Vec<Value> = job
        .environment
        .iter()
        .map(|(name, value)| json!({"name": name, "value": literal(value)}))
        .collect();
    let mut entrypoint = job.entrypoint.clone();
    if !job.stdin.is_empty() {
        let [_, _, command, _] = &entrypoint[..] else {
            return Err(configuration(
                "`stdin` of a container on Kubernetes needs `command`: it goes through the image's shell",
            ));
        };
        if job.stdin.len() > STDIN_BYTES_MAX || job.stdin.contains('\0') {
            return Err(configuration(format!(
                "`stdin` of a container on Kubernetes has {} bytes: at most {STDIN_BYTES_MAX} without zero bytes fit \
                 into a variable",
                job.stdin.len()
            )));
        }
        environment.push(json!({"name": STDIN, "value": literal(&job.stdin)}));
        entrypoint = ["sh", "-c", WITH_STDIN, command].map(String::from).to_vec();
    }
    let mounts: Vec<Value> = (0..)
        .zip(&job.volumes)
        .map(|(n, (_, path))| json!({"name": format!("v{n}"), "mountPath": path}))
        .collect();
    let ports: Vec<Value> = job
        .ports
        .iter()
        .map(|(_, port)| json!({"containerPort": port}))
        .collect();
    let pull = match job.pull {
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Always => "Always",
        PullPolicy::Never => "Never",
    };
    let mut container = json!({
        "name": "step", "image": job.image, "imagePullPolicy": pull, "env": environment, "ports": ports,
        "volumeMounts": mounts, "securityContext": {"allowPrivilegeEscalation": false},
    });
    if !entrypoint.is_empty() {
        container["command"] = entrypoint.iter().map(|t| literal(t)).collect();
    }
    if !job.arguments.is_empty() {
        container["args"] = job.arguments.iter().map(|t| literal(t)).collect();
    }
    if job.memory_bytes_max > 0 {
        container["resources"] = json!({"limits": {"memory": job.memory_bytes_max.to_string()}});
    }
    Ok(container)
}

/// Kubernetes replaces `$(NAME)` in commands and values, and takes `$$` for one `$`.
fn literal(text: &str) -> Value {
    text.replace('$', "$$").into()
}

/// Whole ones, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = status["conditions"].as_array()?;
    conditions
        .iter()
        .find(|c| c["type"] == kind && c["status"] == "True")
}

fn deadline_exceeded(status: &Value) -> bool {
    condition(status, "Failed").is_some_and(|c| c["reason"] == "DeadlineExceeded")
}

fn too_late() -> Failure {
    Failure::new(ErrorKind::Timeout, "the Job was stopped at its deadline")
}

/// Why a container that waits will never start.
fn waiting(job: &Job, waiting: &Value) -> Option<Failure> {
    let message = waiting["message"].as_str().unwrap_or("no reason given");
    let text = format!("image `{}` cannot be run: {message}", job.image);
    match waiting["reason"].as_str()? {
        "InvalidImageName" | "ErrImageNeverPull" | "CreateContainerConfigError" => Some(configuration(text)),
        "ImagePullBackOff" => Some(Failure::communication(500, text)),
        _ => None,
    }
}

fn is_transient(failure: &Failure) -> bool {
    failure.problem().is_some_and(|p| {
        p.standard() == Some(ErrorKind::Communication) && (p.status >= 500 || p.status == 429)
    })
}
