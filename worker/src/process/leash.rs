//! Runs a program so that nothing of it outlives its step, its bounds, or this worker.
//!
//! Between worker and program stands a small shell script, the leader of the process group. It sets the limits, starts
//! the program, writes its exit code to a file, and then kills the whole group, itself included: what the program left
//! in the background ends with it. A second shell beside it reads from a pipe that only the worker holds; when the
//! worker is gone, however it ended, the pipe closes and the group is killed. So nothing here needs unsafe code or a
//! program of our own.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::bounds::{Bounds, TimeLimit};
use super::capture::{CaptureError, Keep, capture};
use super::outcome::Ended;
use super::request::Output;
use super::room::Room;
use crate::{Context, Failure};

/// Time between the request to end and the end by force.
const GRACE: Duration = Duration::from_secs(5);
/// Time for the streams to end after the group was killed. Only a process that left the group can keep them open.
const LINGER: Duration = Duration::from_secs(1);
/// Where programs are found when the worker itself has no `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The second shell is waited for, so that it leaves no zombie where this worker is the first process of a container.
/// `$1` is the private directory, `$2` the memory in KiB, then the program and its arguments. No variable is set before
/// the program has its environment: a name of the definition could be the same.
const LEASH: &str = r#"
exec 3<&0 </dev/null
trap : TERM
( trap "" TERM; read -r _ <&3; kill -TERM 0; command -p rm -rf -- "$1"; kill -KILL 0 ) >/dev/null 2>&1 &
( exec <"$1/stdin" 3<&-; ulimit -c 0; ulimit -d "$2" || exit 125; shift 2; exec "$@" )
echo "$?" >"$1/status"
kill -KILL "$!"
wait "$!" 2>/dev/null
kill -KILL 0
"#;

/// What to run.
#[derive(Debug)]
pub(crate) struct Program {
    /// For messages: `the shell command`.
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Not of one that is spoken with.
    pub(crate) stdin: String,
}

/// Runs a program to its end. When the future is dropped, the program is killed.
pub(super) async fn run(
    ctx: &Context,
    bounds: &Bounds,
    room: &Room,
    program: &Program,
    output: Output,
) -> Result<Ended, Failure> {
    tokio::fs::write(room.stdin(), &program.stdin).await?;
    let limit = bounds.time(ctx);
    let mut running = Running::start(room, program, bounds.memory_bytes_max)
        .map_err(|e| Failure::runtime(format!("cannot start {}: {e}", program.what)))?;
    let result = tokio::select! {
        result = running.ended(output) => result.map_err(|e| End::Broken(e.to_string())),
        () = ctx.cancelled() => Err(End::Cancelled),
        () = tokio::time::sleep(limit.length) => Err(End::Late(limit)),
    };
    match result {
        Ok((stdout, stderr)) => Ok(Ended {
            code: running.code(room, program.what).await?,
            stdout,
            stderr,
        }),
        Err(end) => {
            running.stop().await;
            Err(end.into_failure(program.what))
        }
    }
}

/// Why a program was stopped.
enum End {
    Cancelled,
    Late(TimeLimit),
    Broken(String),
}

impl End {
    fn into_failure(self, what: &str) -> Failure {
        match self {
            Self::Cancelled => Failure::cancelled(),
            Self::Late(limit) => limit.passed(what),
            Self::Broken(reason) => Failure::runtime(format!("{what} was stopped: {reason}")),
        }
    }
}

/// A group at work.
pub(super) struct Running {
    leader: Child,
    /// Closed when this worker is gone.
    _worker_lives: Option<ChildStdin>,
}

impl Running {
    /// Standard input is the file or pipe in the room.
    pub(super) fn start(room: &Room, program: &Program, memory_bytes_max: u64) -> io::Result<Self> {
        let memory = match memory_bytes_max {
            0 => "unlimited".to_owned(),
            bytes => (bytes / 1024).to_string(),
        };
        let home = room.work();
        let mut leader = Command::new("/bin/sh")
            .args(["-c", LEASH, "leash"])
            .arg(room.path())
            .arg(memory)
            .arg(&program.path)
            .args(&program.arguments)
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", &home)
            .env("TMPDIR", &home)
            .env("LANG", "C.UTF-8")
            .envs(&program.environment)
            .current_dir(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let worker_lives = leader.stdin.take();
        Ok(Self {
            leader,
            _worker_lives: worker_lives,
        })
    }

    /// Standard output and standard error.
    pub(super) fn streams(&mut self) -> io::Result<(ChildStdout, ChildStderr)> {
        let taken = || io::Error::other("its streams are read already");
        let stdout = self.leader.stdout.take().ok_or_else(taken)?;
        Ok((stdout, self.leader.stderr.take().ok_or_else(taken)?))
    }

    /// Waits until the program and its group are gone.
    pub(super) async fn wait(&mut self) -> io::Result<()> {
        self.leader.wait().await.map(|_killed| ())
    }

    /// Both streams, once the group is gone.
    async fn ended(&mut self, output: Output) -> Result<(Vec<u8>, Vec<u8>), CaptureError> {
        let (stdout, stderr) = self.streams()?;
        let streams = async {
            tokio::try_join!(
                capture(stdout, Keep::of(output.has_stdout())),
                capture(stderr, Keep::of(output.has_stderr())),
            )
        };
        tokio::pin!(streams);
        tokio::select! {
            read = &mut streams => {
                let read = read?;
                self.leader.wait().await?;
                Ok(read)
            }
            ended = self.leader.wait() => {
                ended?;
                tokio::time::timeout(LINGER, streams).await.unwrap_or_else(|_elapsed| {
                    Err(io::Error::other("a process that left the group keeps its output open").into())
                })
            }
        }
    }

    /// The exit code that the leader noted before it killed its group.
    async fn code(&mut self, room: &Room, what: &str) -> Result<i64, Failure> {
        let noted = tokio::fs::read_to_string(room.status()).await.ok();
        noted
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Failure::runtime(format!("{what} was killed from outside before it ended")))
    }

    /// Asks the group to end, and kills it when it takes too long.
    pub(super) async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(GRACE, self.leader.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            if let Err(error) = self.leader.wait().await {
                tracing::warn!(%error, "cannot wait for the end of a process");
            }
        }
    }

    /// The leader is not waited for yet, so its number is still the group's.
    fn signal(&self, signal: Signal) {
        let group = self.leader.id().and_then(|id| i32::try_from(id).ok());
        if let Some(Err(error)) = group.map(|id| killpg(Pid::from_raw(id), signal)) {
            tracing::debug!(%error, %signal, "a group of processes ended by itself");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// The worker's own `PATH`.
pub(super) fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH")
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| PATH.into())
}
