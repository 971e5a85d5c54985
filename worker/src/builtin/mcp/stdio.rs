//! The stdio transport: the server is a process of this worker, one message a line. It runs only where the worker's
//! configuration allows processes, with an environment that holds nothing but the definition's variables and what is
//! needed to find programs.

use std::io::ErrorKind;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::{RawJson, limits};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::StdioTransport;
use crate::builtin::exchange::configuration;
use crate::builtin::json_rpc::{self, Message};
use crate::{Context, Failure};

/// Variables of the worker that the process gets.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TMPDIR", "TZ"];
/// What the server last wrote to its standard error is kept for errors.
const COMPLAINT_BYTES_MAX: usize = 16 * 1024;
/// Its end, as errors show it.
const SHOWN_BYTES_MAX: usize = 1024;
/// Time to end by itself once its input is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Link {
    ctx: Context,
    name: String,
    group: Group,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    complaint: Arc<Mutex<Vec<u8>>>,
    listener: Option<JoinHandle<()>>,
    ready: std::collections::VecDeque<Message>,
}

/// The server's process group: it goes as a whole, also when the call is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails only when nobody is left in it.
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Link {
    pub(super) fn open(ctx: &Context, name: &str, transport: &StdioTransport) -> Result<Self, Failure> {
        if !ctx.runs_processes() {
            let text = format!(
                "{name}: this worker runs no processes, which the stdio transport needs; `shell` in MILLRACE_PROCESSES allows it"
            );
            return Err(configuration(text));
        }
        let inherited = INHERITED
            .iter()
            .filter_map(|key| std::env::var_os(key).map(|value| (key, value)));
        let mut command = Command::new(&transport.command);
        command
            .args(&transport.arguments)
            .env_clear()
            .envs(inherited)
            .envs(&transport.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|e| Failure::runtime(format!("{name}: cannot start `{}`: {e}", transport.command)))?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err(Failure::runtime(format!("{name}: the process has no pipes")));
        };
        let complaint = Arc::new(Mutex::new(Vec::new()));
        Ok(Self {
            ctx: ctx.clone(),
            name: name.to_owned(),
            group: Group(group),
            child,
            input: Some(input),
            output: BufReader::new(output),
            listener: Some(tokio::spawn(listen(errors, complaint.clone()))),
            complaint,
            ready: std::collections::VecDeque::new(),
        })
    }

    pub(super) async fn send(&mut self, message: &RawJson) -> Result<(), Failure> {
        let mut line = message.text().replace('\n', " ");
        line.push('\n');
        let Some(input) = &mut self.input else {
            return Err(self.failed("its input is closed"));
        };
        let written = match input.write_all(line.as_bytes()).await {
            Ok(()) => input.flush().await,
            error => error,
        };
        match written {
            Ok(()) => Ok(()),
            // It ended already: what it wrote before says more, and is read next.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(self.failed(&format!("cannot write to it: {error}"))),
        }
    }

    /// The next message; `None` when the server closed its output.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let Some(line) = self.line().await? else {
                self.heard_out().await;
                return match self.complaint().is_empty() {
                    true => Ok(None),
                    false => Err(self.failed("it ended without an answer")),
                };
            };
            if !line.trim_ascii().is_empty() {
                let messages = json_rpc::parse(&line)
                    .map_err(|e| self.failed(&format!("cannot read a line that it wrote: {e}")))?;
                self.ready.extend(messages);
            }
        }
    }

    async fn line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut line = Vec::new();
        let bound = u64::try_from(limits::PAYLOAD_BYTES_MAX).unwrap_or(u64::MAX);
        let read = (&mut self.output)
            .take(bound + 1)
            .read_until(b'\n', &mut line)
            .await;
        match read {
            Err(error) => Err(self.failed(&format!("cannot read from it: {error}"))),
            Ok(_) if line.len() > limits::PAYLOAD_BYTES_MAX => {
                Err(self.failed(&format!("it wrote a message of more than {bound} bytes")))
            }
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line)),
        }
    }

    /// What a server that ends has to say may come a moment later.
    async fn heard_out(&mut self) {
        if let Some(listener) = self.listener.take() {
            let abort = listener.abort_handle();
            if tokio::time::timeout(CLOSE_LIMIT, listener).await.is_err() {
                abort.abort();
            }
        }
    }

    fn complaint(&self) -> String {
        let bytes = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        // Masked before it is cut: half a secret would not be recognised.
        let text = self.ctx.mask().text(&String::from_utf8_lossy(&bytes));
        let text = text.trim();
        let start = text.ceil_char_boundary(text.len().saturating_sub(SHOWN_BYTES_MAX));
        text[start..].to_owned()
    }

    fn failed(&self, what: &str) -> Failure {
        let complaint = self.complaint();
        let said = if complaint.is_empty() {
            String::new()
        } else {
            format!("; it says: {complaint}")
        };
        Failure::runtime(format!("{}: the server failed: {what}{said}", self.name))
    }

    /// Closes its input, waits a moment, and ends whoever is left of its group.
    pub(super) async fn close(mut self) {
        drop(self.input.take());
        let ended = tokio::time::timeout(CLOSE_LIMIT, self.child.wait()).await;
        drop(self.group);
        if ended.is_err() {
            tracing::debug!(
                call = self.name,
                "the MCP server did not end by itself and was killed"
            );
            // It was killed just now: this only collects it.
            drop(self.child.wait().await);
        }
        if let Some(listener) = self.listener {
            listener.abort();
        }
    }
}

/// Keeps the end of what the server writes to its standard error, and lets it never wait.
async fn listen(mut errors: ChildStderr, complaint: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; 1024];
    while let Ok(n @ 1..) = errors.read(&mut piece).await {
        let mut kept = complaint.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&piece[..n]);
        let surplus = kept.len().saturating_sub(COMPLAINT_BYTES_MAX);
        kept.drain(..surplus);
    }
}
