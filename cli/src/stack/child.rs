//! One child process: started so that it dies with this one, its output in a log file, ended by signals.
//!
//! Children are started from the main thread only (the runtime has no other): the kernel watches the thread that made
//! a child, not the process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::exec;
use crate::failure::{Exit, Failure, Outcome};

/// Lines of a log that are shown when its process failed.
const TAIL_LINES: usize = 15;
/// Bytes of a log that are read for them.
const TAIL_BYTES: u64 = 16 * 1024;

/// How to start a child, again if need be.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    log: PathBuf,
}

impl Spec {
    /// A program whose log goes to `logs/NAME.log` below `dir`.
    pub(crate) fn new(name: &str, program: &Path, dir: &Path) -> Self {
        let log = dir.join("logs").join(format!("{name}.log"));
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            log,
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<const N: usize>(&mut self, args: [&str; N]) -> &mut Self {
        self.args.extend(args.map(OsString::from));
        self
    }

    /// Sets a variable.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.into(), value.into()));
    }

    /// Sets variables.
    pub(crate) fn envs(&mut self, pairs: &[(&'static str, String)]) {
        self.env.extend(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
    }
}

/// See the module. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    spec: Spec,
    process: tokio::process::Child,
    pid: Option<Pid>,
}

impl Child {
    /// Starts a child.
    pub(crate) fn start(spec: Spec) -> Outcome<Self> {
        let process = spawn(&spec).map_err(|e| {
            Failure::new(
                Exit::Failed,
                format!("cannot start {} ({}): {e}", spec.name, spec.program.display()),
            )
        })?;
        let pid = process
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        Ok(Self { spec, process, pid })
    }

    /// Its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its process id, as long as it has not been seen to end.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Waits until it ends. Safe to drop and call again.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.process.wait().await;
        self.pid = None;
        status
    }

    /// How it ended, if it has.
    pub(crate) fn try_ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.try_wait().ok().flatten();
        if status.is_some() {
            self.pid = None;
        }
        status
    }

    /// Starts it again as it was. The old process has ended.
    pub(crate) fn restart(&mut self) -> Outcome {
        *self = Self::start(self.spec.clone())?;
        Ok(())
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends it without asking.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // Fails when it ended just now.
            kill(pid, signal).ok();
        }
    }

    /// Waits until it has ended, and kills it when it takes too long.
    pub(crate) async fn end_within(&mut self, limit: Duration) {
        if tokio::time::timeout(limit, self.ended()).await.is_err() {
            self.kill();
            drop(self.ended().await);
        }
    }

    /// What to say when it did not come up: with the end of its log.
    pub(crate) fn not_ready(&self, why: &str) -> Failure {
        let message = format!("{} {why}; its log is {}", self.spec.name, self.spec.log.display());
        Failure::new(Exit::Failed, message).report(self.log_tail())
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text = tail(&self.spec.log).unwrap_or_else(|e| format!("cannot read the log: {e}"));
        let lines: Vec<_> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        lines[from..]
            .iter()
            .map(|line| format!("{} | {line}\n", self.spec.name))
            .collect()
    }
}

impl Drop for Child {
    /// Returns when it is gone, within milliseconds, so that nothing writes into a directory that is about to be removed.
    fn drop(&mut self) {
        self.kill();
        if let Some(pid) = self.pid {
            // Leaves it to the runtime to bury it. Fails when that is done.
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).ok();
        }
    }
}

fn spawn(spec: &Spec) -> std::io::Result<tokio::process::Child> {
    if let Some(dir) = spec.log.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let log = File::options().create(true).append(true).open(&spec.log)?;
    let mut command = tokio::process::Command::from(exec::leashed(&spec.program)?);
    command
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C goes to this process alone, which ends the children in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

fn tail(path: &Path) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
