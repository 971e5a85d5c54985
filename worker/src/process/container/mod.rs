//! `run: container`: on Docker or Podman through their API, or as a Job of Kubernetes.
//!
//! A container's name derives from the step, so that a step that is delivered again finds the container of the earlier
//! delivery and waits for it instead of starting another one.

mod client;
mod docker;
mod frames;
mod job;
mod kubernetes;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use millrace_common::RawJson;
use millrace_runtime::config::ProcessConfig;

use self::docker::Docker;
use self::job::{Container, Job};
use self::kubernetes::Kubernetes;
use self::policy::Policy;
use super::bounds::Bounds;
use super::outcome::Ended;
use super::request::Request;
use crate::{Context, Failure};

/// For messages.
const WHAT: &str = "the container";
/// Time for a container to end when it is asked to, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// What all containers of a worker share.
#[derive(Debug)]
pub(super) struct Containers {
    bounds: Arc<Bounds>,
    policy: Policy,
    /// Or why there is none.
    backend: Result<Backend, String>,
}

#[derive(Debug)]
enum Backend {
    Docker(Docker),
    Kubernetes(Kubernetes),
}

impl Containers {
    pub(super) fn new(config: &ProcessConfig, bounds: Arc<Bounds>) -> Self {
        Self {
            bounds,
            policy: Policy::new(config),
            backend: Backend::of(config.container_host.as_deref()),
        }
    }
}

impl Backend {
    fn of(host: Option<&str>) -> Result<Self, String> {
        match host {
            Some("kubernetes") => Kubernetes::in_cluster().map(Self::Kubernetes),
            Some(host) => Docker::new(host).map(Self::Docker),
            None if Kubernetes::is_around() => Kubernetes::in_cluster().map(Self::Kubernetes),
            None => Docker::new(docker::DEFAULT_HOST).map(Self::Docker),
        }
    }
}

/// The function.
pub(super) async fn run(
    ctx: Context,
    containers: Arc<Containers>,
    request: Request<Container>,
) -> Result<RawJson, Failure> {
    let output = request.output;
    let backend = containers.backend.as_ref().map_err(|reason| {
        super::request::configuration(format!("this worker cannot run containers: {reason}"))
    })?;
    let job = Job::new(
        &ctx,
        request,
        &containers.policy,
        containers.bounds.memory_bytes_max,
    )?;
    let _turn = containers.bounds.turn(&ctx).await?;
    let limit = containers.bounds.time(&ctx);
    let ended = match backend {
        Backend::Docker(docker) => watch(&ctx, docker, &job, limit).await?,
        Backend::Kubernetes(kubernetes) => watch(&ctx, kubernetes, &job, limit).await?,
    };
    ended.into_output(WHAT, output)
}

/// What a place for containers can do.
trait Host {
    /// Starts the container, or finds the one of an earlier delivery, and waits for its end.
    fn run(&self, job: &Job, limit: Duration) -> impl Future<Output = Result<Ended, Failure>> + Send;

    /// Ends it before its time, and removes it unless it is to be kept.
    fn stop(&self, job: &Job) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Does with a container that ended what its lifetime says.
    fn clean_up(&self, job: &Job) -> impl Future<Output = Result<(), Failure>> + Send;
}

async fn watch<H: Host + Sync>(
    ctx: &Context,
    host: &H,
    job: &Job,
    limit: super::bounds::TimeLimit,
) -> Result<Ended, Failure> {
    let result = tokio::select! {
        result = host.run(job, limit.length) => result,
        () = ctx.cancelled() => Err(Failure::cancelled()),
        () = tokio::time::sleep(limit.length) => Err(limit.passed(WHAT)),
    };
    let tidied = match &result {
        Ok(_) => host.clean_up(job).await,
        Err(_) => host.stop(job).await,
    };
    if let Err(error) = tidied {
        // The result counts; what is left can be found by its label.
        tracing::warn!(container = job.name, %error, "a container was not tidied up");
    }
    result
}

#[cfg(test)]
mod tests;
