//! A child process that can be killed, stopped and started again in the same way.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{eventually_within, leash};

/// What is run, always in the same way.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables on top of the inherited ones; none named `MILLRACE_…` is inherited, except the mark of the test run.
    pub variables: BTreeMap<String, String>,
    /// Takes its output, run after run.
    pub log: PathBuf,
}

/// What a process used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Highest resident memory in bytes.
    pub rss_bytes_max: u64,
}

/// See the module. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn start(spec: Spec) -> anyhow::Result<Self> {
        let process = Self::new(spec);
        process.restart()?;
        Ok(process)
    }

    /// One that is not started yet.
    pub const fn new(spec: Spec) -> Self {
        Self {
            spec,
            child: Mutex::new(None),
        }
    }

    /// Starts it again, after it was killed or has ended.
    ///
    /// # Errors
    /// When it runs, or cannot be run.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.run(&self.spec)
    }

    fn run(&self, spec: &Spec) -> anyhow::Result<()> {
        let mut child = self.child();
        if child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None))) {
            bail!("{} is running", self.spec.name);
        }
        *child = Some(spawn(spec)?);
        Ok(())
    }

    /// Starts it again with one more variable, which later runs do not have.
    ///
    /// # Errors
    /// As [`Self::restart`].
    pub fn restart_with(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let mut spec = self.spec.clone();
        spec.variables.insert(name.into(), value.into());
        self.run(&spec)
    }

    /// SIGKILL, at once; returns when it is gone. Nothing happens when it is not running.
    pub fn kill9(&self) {
        if let Some(mut child) = self.child().take() {
            // Fails only when it has ended by itself.
            let _ended = child.kill();
            let _status = child.wait();
        }
    }

    /// SIGTERM: asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGSTOP: freezes it.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT: lets it go on.
    pub fn cont(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it has not within the deadline.
    pub async fn ended(&self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("{} ends", self.spec.name);
        eventually_within(deadline, &what, async || self.exit_status()).await
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(|c| c.try_wait().ok().flatten())
    }

    /// Whether it runs (or is stopped).
    pub fn is_running(&self) -> bool {
        self.child()
            .as_mut()
            .is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Its id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// How it is run.
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// All of its output so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.spec.log)
            .map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b).into_owned())
    }

    /// The last lines of its output, under its name.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        let tail = &all[all.len().saturating_sub(lines)..];
        format!(
            "--- {} ({} of {} lines)\n{}\n",
            self.spec.name,
            tail.len(),
            all.len(),
            tail.join("\n")
        )
    }

    /// What it used so far.
    ///
    /// # Errors
    /// When it does not run, or the system does not say.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        usage(
            self.pid()
                .with_context(|| format!("{} does not run", self.spec.name))?,
        )
    }

    fn signal(&self, signal: Signal) {
        // A child that has ended is a zombie until it is waited for, so its id is not anybody else's.
        if let Some(child) = self.child().as_ref() {
            let _ended = kill(pid(child), signal);
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids are below 2^31"))
}

fn spawn(spec: &Spec) -> anyhow::Result<Child> {
    let log = open(&spec.log)?;
    let mut command = leash::command(&spec.program)?;
    command.args(&spec.arguments).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    for (name, _) in std::env::vars_os() {
        let is_ours =
            name.to_string_lossy().starts_with("MILLRACE_") || name.to_string_lossy().starts_with("OTEL_");
        if is_ours && name != "MILLRACE_TEST_RUN" {
            command.env_remove(name);
        }
    }
    command.envs(&spec.variables);
    leash::spawn(command).with_context(|| format!("cannot start {} ({})", spec.name, spec.program.display()))
}

fn open(log: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(log);
    file.with_context(|| format!("cannot open {}", log.display()))
}

/// What a process used so far, by its id.
fn usage(pid: u32) -> anyhow::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .context("stat has a name")?
        .1
        .split_whitespace()
        .collect();
    let ticks = |at: usize| -> anyhow::Result<u64> { Ok(fields.get(at).context("stat is short")?.parse()?) };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or_default();
        line.split_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Ok(Usage {
        // A hundred ticks a second on every Linux.
        cpu: Duration::from_millis((ticks(11)? + ticks(12)?) * 10),
        rss_bytes: kib("VmRSS:") * 1024,
        rss_bytes_max: kib("VmHWM:") * 1024,
    })
}
