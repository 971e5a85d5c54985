//! Containers on Docker, or on Podman, which speaks the same API.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::super::capture::{Captured, Keep};
use super::super::outcome::Ended;
use super::super::request::configuration;
use super::client::{Answer, Api};
use super::frames::Frames;
use super::job::{Cleanup, Job, PullPolicy};
use super::{GRACE, Host, WHAT};
use crate::Failure;

/// Where Docker listens unless configured otherwise.
pub(super) const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// Docker 20.10 and Podman 4 know it.
const VERSION: &str = "/v1.41";
/// Processes in one container.
const PIDS_MAX: u32 = 1024;
/// Broken waits for one container before the task fails.
const WAITS_MAX: u32 = 5;
/// Containers that wait for their removal; further ones are removed at once.
const REMOVALS_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Docker {
    api: Api,
    removals: Arc<Semaphore>,
}

impl Docker {
    pub(super) fn new(host: &str) -> Result<Self, String> {
        millrace_runtime::tls::install_provider();
        let (builder, base) = match host.strip_prefix("unix://") {
            Some(path) => (Client::builder().unix_socket(Path::new(path)), "http://docker"),
            None => (Client::builder(), host),
        };
        Ok(Self {
            api: Api::new("the container engine", builder, format!("{base}{VERSION}"), None)?,
            removals: Arc::new(Semaphore::new(REMOVALS_MAX)),
        })
    }

    /// Status of the container with the job's name; `None` when there is none.
    async fn find(&self, job: &Job) -> Result<Option<Value>, Failure> {
        let path = format!("/containers/{}/json", job.name);
        let answer = self.api.ask(Method::GET, &path, &[], None).await?;
        match answer.status {
            404 => Ok(None),
            200 if answer.body["Config"]["Labels"]["millrace.step"] == job.step.as_str() => {
                Ok(Some(answer.body["State"].clone()))
            }
            200 => Err(Failure::runtime(format!(
                "container {} belongs to another step: {}",
                job.name, answer.body["Config"]["Labels"]["millrace.step"]
            ))),
            _ => Err(self.api.refused("a look at the container", &answer)),
        }
    }

    async fn provide_image(&self, job: &Job) -> Result<(), Failure> {
        let is_there = match job.pull {
            PullPolicy::Always => false,
            PullPolicy::Never => true,
            PullPolicy::IfNotPresent => {
                let path = format!("/images/{}/json", job.image);
                let answer = self.api.ask(Method::GET, &path, &[], None).await?;
                match answer.status {
                    200 => true,
                    404 => false,
                    _ => return Err(self.api.refused("a look at the image", &answer)),
                }
            }
        };
        if is_there {
            return Ok(());
        }
        let image = tagged(&job.image);
        let query = [("fromImage", image.as_str())];
        let mut answer = self
            .api
            .send(Method::POST, "/images/create", &query, None)
            .await?;
        let status = answer.status().as_u16();
        let mut last = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.api.unreachable(&e))? {
            last = last_line(last, &chunk);
        }
        let last: Value = serde_json::from_slice(&last).unwrap_or(Value::Null);
        let error = last["error"].as_str().or_else(|| last["message"].as_str());
        match (status, error) {
            (200, None) => Ok(()),
            (_, error) => Err(Failure::communication(
                if status == 200 { 500 } else { status },
                format!(
                    "cannot pull image `{image}`: {}",
                    error.unwrap_or("no reason given")
                ),
            )),
        }
    }

    /// Creates the container. One that an earlier delivery created meanwhile is as good.
    async fn create(&self, job: &Job) -> Result<(), Failure> {
        let query = [("name", job.name.as_str())];
        let answer = self
            .api
            .ask(Method::POST, "/containers/create", &query, Some(&manifest(job)))
            .await?;
        match answer.status {
            201 => Ok(()),
            409 if self.find(job).await?.is_some() => Ok(()),
            404 => Err(configuration(format!(
                "image `{}` is not there, and `pullPolicy` is `never`",
                job.image
            ))),
            _ => Err(self.api.refused("the creation of the container", &answer)),
        }
    }

    /// Starts it, with its input when it has some.
    async fn start(&self, job: &Job) -> Result<(), Failure> {
        let stdin = match job.stdin.is_empty() {
            true => None,
            false => {
                let path = format!("/containers/{}/attach", job.name);
                Some(
                    self.api
                        .upgrade(&path, &[("stream", "1"), ("stdin", "1")])
                        .await?,
                )
            }
        };
        let path = format!("/containers/{}/start", job.name);
        let answer = self.api.ask(Method::POST, &path, &[], None).await?;
        // 304: it was started already.
        if !matches!(answer.status, 204 | 304) {
            return Err(self.api.refused("the start of the container", &answer));
        }
        if let Some(mut stdin) = stdin {
            // A container need not read its input.
            if let Err(error) = write_all(&mut stdin, job.stdin.as_bytes()).await {
                tracing::debug!(container = job.name, %error, "not all input was taken");
            }
        }
        Ok(())
    }

    /// Both outputs from their beginning to their end.
    async fn outputs(&self, job: &Job) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let path = format!("/containers/{}/logs", job.name);
        let query = [("follow", "1"), ("stdout", "1"), ("stderr", "1")];
        let mut answer = self.api.send(Method::GET, &path, &query, None).await?;
        if answer.status().as_u16() != 200 {
            let (status, body) = (answer.status().as_u16(), answer.json().await.unwrap_or_default());
            return Err(self.api.refused("a look at the logs", &Answer { status, body }));
        }
        let keep = |returned| Captured::new(Keep::of(returned));
        let mut frames = Frames::new(keep(job.output.has_stdout()), keep(job.output.has_stderr()));
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.api.unreachable(&e))? {
            frames
                .add(&chunk)
                .map_err(|e| Failure::runtime(format!("{WHAT} was stopped: {e}")))?;
        }
        Ok(frames.into_bytes())
    }

    /// Waits for the exit code. A wait that breaks is tried again.
    async fn code(&self, job: &Job) -> Result<i64, Failure> {
        let path = format!("/containers/{}/wait", job.name);
        let query = [("condition", "not-running")];
        let mut broken = 0;
        loop {
            match self.api.ask(Method::POST, &path, &query, None).await {
                Ok(Answer { status: 200, body }) if body["StatusCode"].is_i64() => {
                    return Ok(body["StatusCode"].as_i64().unwrap_or_default());
                }
                Ok(answer) => return Err(self.api.refused("a wait for the container", &answer)),
                Err(error) if broken == WAITS_MAX => return Err(error),
                Err(_broken) => {
                    broken += 1;
                    tokio::time::sleep(Duration::from_millis(200) * broken).await;
                }
            }
        }
    }

    async fn remove(api: &Api, name: &str) -> Result<(), Failure> {
        let query = [("force", "1"), ("v", "1")];
        let answer = api
            .ask(Method::DELETE, &format!("/containers/{name}"), &query, None)
            .await?;
        match answer.status {
            204 | 404 => Ok(()),
            _ => Err(api.refused("the removal of the container", &answer)),
        }
    }

    fn remove_later(&self, job: &Job, after: Duration) -> bool {
        let Ok(place) = self.removals.clone().try_acquire_owned() else {
            return false;
        };
        let (api, name) = (self.api.clone(), job.name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if let Err(error) = Self::remove(&api, &name).await {
                tracing::warn!(container = name, %error, "a container was not removed");
            }
            drop(place);
        });
        true
    }
}

impl Host for Docker {
    async fn run(&self, job: &Job, _limit: Duration) -> Result<Ended, Failure> {
        let state = match self.find(job).await? {
            Some(state) => {
                tracing::info!(container = job.name, state = %state["Status"], "found the container of an earlier delivery");
                state
            }
            None => {
                self.provide_image(job).await?;
                self.create(job).await?;
                json!({"Status": "created"})
            }
        };
        if state["Status"] == "created" {
            self.start(job).await?;
        }
        let ((stdout, stderr), code) = tokio::try_join!(self.outputs(job), self.code(job))?;
        Ok(Ended { code, stdout, stderr })
    }

    async fn stop(&self, job: &Job) -> Result<(), Failure> {
        let path = format!("/containers/{}/stop", job.name);
        let seconds = GRACE.as_secs().to_string();
        let answer = self
            .api
            .ask(Method::POST, &path, &[("t", &seconds)], None)
            .await?;
        // 304: it ended before; 404: it was never made.
        if !matches!(answer.status, 204 | 304 | 404) {
            return Err(self.api.refused("the stop of the container", &answer));
        }
        self.clean_up(job).await
    }

    async fn clean_up(&self, job: &Job) -> Result<(), Failure> {
        match job.cleanup {
            Cleanup::Never => Ok(()),
            Cleanup::After(after) if self.remove_later(job, after) => Ok(()),
            Cleanup::Always | Cleanup::After(_) => Self::remove(&self.api, &job.name).await,
        }
    }
}

fn manifest(job: &Job) -> Value {
    let labels: BTreeMap<String, &String> = job
        .notes
        .iter()
        .map(|(key, value)| (format!("millrace.{key}"), value))
        .collect();
    let environment: Vec<String> = job.environment.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let exposed: BTreeMap<String, Value> = job
        .ports
        .iter()
        .map(|(_, port)| (format!("{port}/tcp"), json!({})))
        .collect();
    // Other machines have no business with a step's container.
    let bound: BTreeMap<String, Value> = job
        .ports
        .iter()
        .map(|(host, port)| {
            let binding = json!([{"HostIp": "127.0.0.1", "HostPort": host.to_string()}]);
            (format!("{port}/tcp"), binding)
        })
        .collect();
    let binds: Vec<String> = job.volumes.iter().map(|(h, c)| format!("{h}:{c}")).collect();
    let has_stdin = !job.stdin.is_empty();
    let mut manifest = json!({
        "Image": job.image, "Env": environment, "Labels": labels, "ExposedPorts": exposed,
        "OpenStdin": has_stdin, "StdinOnce": has_stdin, "AttachStdin": has_stdin, "Tty": false,
        "HostConfig": {
            "Binds": binds, "PortBindings": bound, "Memory": job.memory_bytes_max,
            "MemorySwap": job.memory_bytes_max, "PidsLimit": PIDS_MAX, "Privileged": false,
            "SecurityOpt": ["no-new-privileges"], "RestartPolicy": {"Name": "no"},
        },
    });
    if !job.entrypoint.is_empty() {
        manifest["Entrypoint"] = json!(job.entrypoint);
    }
    if !job.entrypoint.is_empty() || !job.arguments.is_empty() {
        manifest["Cmd"] = json!(job.arguments);
    }
    manifest
}

/// Without a tag the engine would pull all tags.
fn tagged(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.contains([':', '@']) {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

/// Progress comes as a line of JSON each; the last one tells an error.
fn last_line(before: Vec<u8>, chunk: &[u8]) -> Vec<u8> {
    const LINE_BYTES_MAX: usize = 64 * 1024;
    let mut all = before;
    all.extend_from_slice(chunk);
    let text = all.trim_ascii_end();
    let start = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    // What is longer is no message for people.
    all[start.max(all.len().saturating_sub(LINE_BYTES_MAX))..].to_vec()
}

async fn write_all(stdin: &mut reqwest::Upgraded, bytes: &[u8]) -> std::io::Result<()> {
    stdin.write_all(bytes).await?;
    stdin.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        assert_eq!(tagged("alpine"), "alpine:latest");
        assert_eq!(
            tagged("reg.example:5000/alpine"),
            "reg.example:5000/alpine:latest"
        );
        assert_eq!(tagged("alpine:3"), "alpine:3");
        assert_eq!(tagged("a/b@sha256:00"), "a/b@sha256:00");
    }

    #[test]
    fn the_last_line_of_a_pull_is_kept() {
        let mut last = Vec::new();
        for chunk in [
            &b"{\"status\":\"a\"}\r\n{\"sta"[..],
            b"tus\":\"b\"}\r\n",
            b"{\"error\":\"no\"}\r\n",
        ] {
            last = last_line(last, chunk);
        }
        assert_eq!(serde_json::from_slice::<Value>(&last).unwrap()["error"], "no");
    }
}
