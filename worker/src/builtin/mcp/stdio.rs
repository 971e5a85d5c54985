//! The stdio transport: the server is a process of this worker, one message a line. It runs only where the worker's
//! configuration allows processes, as one of them: with a private directory, an environment that holds nothing but the
//! definition's variables and what is needed to find programs, and within their bounds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::{RawJson, limits};
use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

use super::StdioTransport;
use crate::builtin::exchange::configuration;
use crate::builtin::json_rpc::{self, Message};
use crate::process::{Program, Talk};
use crate::{Context, Failure};

/// What the server last wrote to its standard error is kept for errors.
const COMPLAINT_BYTES_MAX: usize = 16 * 1024;
/// Its end, as errors show it.
const SHOWN_BYTES_MAX: usize = 1024;
/// Time for the last words of a server that ended.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Link {
    ctx: Context,
    name: String,
    talk: Talk,
    complaint: Arc<Mutex<Vec<u8>>>,
    listener: Option<JoinHandle<()>>,
    ready: VecDeque<Message>,
}

impl Link {
    pub(super) async fn open(ctx: &Context, name: &str, transport: &StdioTransport) -> Result<Self, Failure> {
        let Some(bounds) = ctx.processes() else {
            let text = format!(
                "{name}: this worker runs no processes, which the stdio transport needs; `shell` in MILLRACE_PROCESSES allows it"
            );
            return Err(configuration(text));
        };
        let (talk, errors) = Talk::open(ctx, bounds, program(name, transport)?).await?;
        let complaint = Arc::new(Mutex::new(Vec::new()));
        Ok(Self {
            ctx: ctx.clone(),
            name: name.to_owned(),
            talk,
            listener: Some(tokio::spawn(listen(errors, complaint.clone()))),
            complaint,
            ready: VecDeque::new(),
        })
    }

    pub(super) async fn send(&mut self, message: &RawJson) -> Result<(), Failure> {
        let mut line = message.text().replace('\n', " ");
        line.push('\n');
        let (end, limit) = self.talk.end();
        tokio::select! {
            written = self.talk.write(line.as_bytes()) => {
                written.map_err(|e| self.failed(&format!("cannot write to it: {e}")))
            }
            () = tokio::time::sleep_until(end) => Err(limit.passed(&self.name)),
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
        let bound = limits::PAYLOAD_BYTES_MAX;
        let (end, limit) = self.talk.end();
        let read = tokio::select! {
            read = self.talk.line(bound + 1) => read,
            () = tokio::time::sleep_until(end) => return Err(limit.passed(&self.name)),
        };
        match read {
            Err(error) => Err(self.failed(&format!("cannot read from it: {error}"))),
            Ok(line) if line.len() > bound => {
                Err(self.failed(&format!("it wrote a message of more than {bound} bytes")))
            }
            Ok(line) => Ok(Some(line).filter(|line| !line.is_empty())),
        }
    }

    /// What a server that ends has to say may come a moment later.
    async fn heard_out(&mut self) {
        if let Some(listener) = self.listener.take() {
            let abort = listener.abort_handle();
            if tokio::time::timeout(LAST_WORDS_LIMIT, listener).await.is_err() {
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
    pub(super) async fn close(self) {
        self.talk.close().await;
        if let Some(listener) = self.listener {
            listener.abort();
        }
    }
}

fn program(name: &str, transport: &StdioTransport) -> Result<Program, Failure> {
    let environment = &transport.environment;
    if let Some(bad) = environment.keys().find(|key| key.is_empty() || key.contains('=')) {
        let text = format!("{name}: `{bad}` cannot be the name of an environment variable");
        return Err(configuration(text));
    }
    let named = environment.iter().flat_map(|(key, value)| [key, value]);
    let mut texts = named.chain(&transport.arguments).chain([&transport.command]);
    if texts.any(|text| text.contains('\0')) {
        let text = format!("{name}: a zero byte can stand neither in a command nor in its environment");
        return Err(configuration(text));
    }
    Ok(Program {
        what: "the MCP server",
        path: transport.command.clone().into(),
        arguments: transport.arguments.clone(),
        environment: environment.clone(),
        stdin: String::new(),
    })
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
