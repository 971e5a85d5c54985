//! One container to run, whatever runs it: the definition's `container`, checked and completed.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::hash::StableHash;
use serde::Deserialize;
use serde_json::Value;

use super::super::request::{Inputs, Output, Request, Text, configuration};
use super::policy::Policy;
use crate::{Context, Failure};

/// The definition's `container`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct Container {
    image: String,
    #[serde(default)]
    name: Text,
    #[serde(default)]
    command: Text,
    #[serde(default)]
    ports: BTreeMap<String, Text>,
    #[serde(default)]
    volumes: BTreeMap<String, Text>,
    #[serde(default)]
    lifetime: Lifetime,
    #[serde(default)]
    pull_policy: PullPolicy,
    #[serde(flatten)]
    inputs: Inputs,
}

/// `pullPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PullPolicy {
    #[default]
    IfNotPresent,
    Always,
    Never,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Lifetime {
    #[serde(default)]
    cleanup: Word,
    #[serde(default)]
    after: Value,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Word {
    Always,
    #[default]
    Never,
    Eventually,
}

/// What becomes of a container that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cleanup {
    Always,
    Never,
    After(Duration),
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// A label of DNS, which every backend takes.
    pub(super) name: String,
    pub(super) step: String,
    /// For people: what they would look for.
    pub(super) notes: BTreeMap<&'static str, String>,
    pub(super) image: String,
    pub(super) pull: PullPolicy,
    /// Instead of the image's own; empty: the image's.
    pub(super) entrypoint: Vec<String>,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) stdin: String,
    /// Port of the host, port of the container.
    pub(super) ports: Vec<(u16, u16)>,
    /// Directory of the host, directory of the container.
    pub(super) volumes: Vec<(String, String)>,
    /// 0: no bound.
    pub(super) memory_bytes_max: u64,
    pub(super) cleanup: Cleanup,
    pub(super) output: Output,
}

impl Job {
    pub(super) fn new(
        ctx: &Context,
        request: Request<Container>,
        policy: &Policy,
        memory_bytes_max: u64,
    ) -> Result<Self, Failure> {
        let Request { process: c, output } = request;
        policy.check_image(&c.image)?;
        let volumes = volumes(&c.volumes, policy)?;
        let step = ctx.step().id.clone();
        let mut notes = BTreeMap::from([
            ("instance", ctx.instance().to_string()),
            ("task", ctx.task().to_owned()),
            ("step", step.clone()),
        ]);
        if !c.name.0.is_empty() {
            notes.insert("name", c.name.0);
        }
        Ok(Self {
            name: name_of(&step),
            step,
            notes,
            image: c.image,
            pull: c.pull_policy,
            entrypoint: entrypoint(&c.command.0),
            arguments: c.inputs.arguments()?,
            environment: c.inputs.environment()?,
            stdin: c.inputs.stdin.0,
            ports: ports(&c.ports)?,
            volumes,
            memory_bytes_max,
            cleanup: cleanup(&c.lifetime)?,
            output,
        })
    }
}

/// The same for every delivery of an attempt, another for the next attempt. Step ids are too long for Kubernetes and
/// hold other characters, so it is made of two hashes; what is found under the name is compared with the step.
pub(super) fn name_of(step: &str) -> String {
    let hash = |salt: u64| StableHash::new().number(salt).part(step).finish();
    format!("millrace-{:016x}{:016x}", hash(1), hash(2))
}

/// A command is for the image's shell, as `run: shell` has it: arguments are `$1`, `$2` and so on.
fn entrypoint(command: &str) -> Vec<String> {
    if command.is_empty() {
        return Vec::new();
    }
    ["sh", "-c", command, "sh"].map(String::from).to_vec()
}

fn ports(ports: &BTreeMap<String, Text>) -> Result<Vec<(u16, u16)>, Failure> {
    let port = |text: &str| {
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        port.ok_or_else(|| configuration(format!("`{text}` is not a port: expected 1 to 65535")))
    };
    ports
        .iter()
        .map(|(host, container)| Ok((port(host)?, port(&container.0)?)))
        .collect()
}

fn volumes(volumes: &BTreeMap<String, Text>, policy: &Policy) -> Result<Vec<(String, String)>, Failure> {
    for (host, container) in volumes {
        policy.check_volume(host)?;
        if !container.0.starts_with('/') || container.0.contains(':') {
            return Err(configuration(format!(
                "`{}` is not an absolute path to mount `{host}` at",
                container.0
            )));
        }
    }
    Ok(volumes.iter().map(|(h, c)| (h.clone(), c.0.clone())).collect())
}

fn cleanup(lifetime: &Lifetime) -> Result<Cleanup, Failure> {
    match lifetime.cleanup {
        Word::Always => Ok(Cleanup::Always),
        Word::Never => Ok(Cleanup::Never),
        Word::Eventually => {
            let after = millrace_dsl::value::from_serde(lifetime.after.clone());
            let after = millrace_dsl::duration::Duration::from_value(&after)
                .map_err(|reason| configuration(format!("`lifetime.after`: {reason}")))?;
            Ok(Cleanup::After(Duration::from_millis(after.as_millis())))
        }
    }
}
