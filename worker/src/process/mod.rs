//! `run: shell`, `run: script` and `run: container`: processes that a definition starts, as far as the worker's
//! configuration allows the kind.
//!
//! A process runs in a group of its own with a cleared environment and a private directory, within bounds of time,
//! memory and output ([`leash`]); a container on Docker, Podman or Kubernetes ([`container`]).
//! Neither is a sandbox: `docs/run-processes.md` says what they protect from.

mod bounds;
mod capture;
mod container;
mod leash;
mod outcome;
mod request;
mod room;
mod script;
mod shell;
mod talk;

use std::sync::Arc;

use millrace_runtime::config::ProcessConfig;

pub(crate) use self::bounds::Bounds;
use self::container::Containers;
pub(crate) use self::leash::Program;
pub(crate) use self::talk::Talk;
use crate::Function;

/// Makes this process one that others of its user cannot look into: a command of a definition could read secrets in
/// `/proc/<worker>/environ` otherwise. Processes that are started from it are not affected.
pub(crate) fn shield() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "processes that this worker starts can read its environment");
    }
}

/// The functions of the kinds that are allowed.
pub(crate) fn functions(config: &ProcessConfig, bounds: &Arc<Bounds>) -> Vec<Function> {
    let mut functions = Vec::new();
    if config.shell {
        let bounds = bounds.clone();
        functions.push(Function::new("run:shell", move |ctx, request| {
            shell::run(ctx, bounds.clone(), request)
        }));
    }
    if config.script {
        let bounds = bounds.clone();
        functions.push(Function::new("run:script", move |ctx, request| {
            script::run(ctx, bounds.clone(), request)
        }));
    }
    if config.container {
        let containers = Arc::new(Containers::new(config, bounds.clone()));
        functions.push(Function::new("run:container", move |ctx, request| {
            container::run(ctx, containers.clone(), request)
        }));
    }
    functions
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    const PROBE: &str = "process::tests::probe";

    fn environment_of_the_parent() -> String {
        let command = "tr '\\0' '\\n' </proc/$PPID/environ";
        let read = Command::new("/bin/sh")
            .args(["-c", command])
            .output()
            .expect("the machine has a shell");
        String::from_utf8_lossy(&read.stdout).into_owned()
    }

    #[test]
    #[ignore = "run by the next test, in a process of its own"]
    fn probe() {
        assert!(
            environment_of_the_parent().contains("open-sesame"),
            "it could be read"
        );
        shield();
        assert_eq!(environment_of_the_parent(), "");
    }

    /// Root may look into every process: it becomes another user for this.
    #[test]
    fn a_command_cannot_read_the_environment_of_its_worker() {
        let mut probe = Command::new(std::env::current_exe().unwrap());
        probe
            .args(["--exact", PROBE, "--ignored", "--test-threads=1"])
            .env("MILLRACE_SECRET_PROBE", "open-sesame");
        if nix::unistd::geteuid().is_root() {
            probe.uid(65_534).gid(65_534);
        }
        let probed = probe.output().unwrap();
        let told = String::from_utf8_lossy(&probed.stdout);
        assert!(probed.status.success() && told.contains("1 passed"), "{told}");
    }
}
