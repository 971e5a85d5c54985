//! An HTTP server of a few lines, on a socket of this machine: it notes each request and answers as the test says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// `GET /path?query`.
    pub(super) line: String,
    pub(super) head: String,
    pub(super) body: Value,
}

pub(super) enum Reply {
    Json(u16, Value),
    Bytes(u16, Vec<u8>),
    /// Never answers.
    Hang,
    /// Gives the connection up and notes what comes.
    Upgrade,
}

#[derive(Default)]
pub(super) struct Notes {
    pub(super) seen: Vec<Seen>,
    /// What came over connections that were given up.
    pub(super) raw: Vec<u8>,
}

pub(super) struct Stub {
    pub(super) base: String,
    notes: Arc<Mutex<Notes>>,
    socket: Option<PathBuf>,
    task: JoinHandle<()>,
}

type Answer = dyn Fn(&Seen, &[Seen]) -> Reply + Send + Sync;

impl Stub {
    /// On a port of the loopback. `answer` is given the request and those before it.
    pub(super) async fn tcp(answer: impl Fn(&Seen, &[Seen]) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (notes, answer): (Arc<Mutex<Notes>>, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        let shared = notes.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone(), answer.clone()));
            }
        });
        Self {
            base,
            notes,
            socket: None,
            task,
        }
    }

    /// On a Unix socket.
    pub(super) async fn unix(answer: impl Fn(&Seen, &[Seen]) -> Reply + Send + Sync + 'static) -> Self {
        let name = format!("millrace-stub-{}.sock", millrace_runtime::random::nonce());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let (notes, answer): (Arc<Mutex<Notes>>, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        let shared = notes.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone(), answer.clone()));
            }
        });
        Self {
            base: format!("unix://{}", path.display()),
            notes,
            socket: Some(path),
            task,
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.notes.lock().unwrap().seen.clone()
    }

    /// Lines of all requests.
    pub(super) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.line).collect()
    }

    /// The first request whose line begins so.
    pub(super) fn find(&self, start: &str) -> Option<Seen> {
        self.seen().into_iter().find(|s| s.line.starts_with(start))
    }

    pub(super) fn raw(&self) -> String {
        String::from_utf8(self.notes.lock().unwrap().raw.clone()).unwrap()
    }

    /// Waits until a request came whose line begins so.
    pub(super) async fn saw(&self, start: &str) {
        let end = std::time::Instant::now() + super::LIMIT;
        while self.find(start).is_none() {
            assert!(
                std::time::Instant::now() < end,
                "never saw {start}: {:?}",
                self.lines()
            );
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(path) = &self.socket {
            std::fs::remove_file(path).ok();
        }
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    notes: Arc<Mutex<Notes>>,
    answer: Arc<Answer>,
) {
    let Some(seen) = read(&mut stream).await else {
        return;
    };
    let reply = {
        let mut notes = notes.lock().unwrap();
        let reply = answer(&seen, &notes.seen);
        notes.seen.push(seen);
        reply
    };
    let (status, kind, body) = match reply {
        Reply::Json(status, body) => (status, "application/json", body.to_string().into_bytes()),
        Reply::Bytes(status, body) => (status, "application/octet-stream", body),
        Reply::Hang => std::future::pending().await,
        Reply::Upgrade => {
            let head = "HTTP/1.1 101 UPGRADED\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut raw = Vec::new();
            stream.read_to_end(&mut raw).await.unwrap();
            notes.lock().unwrap().raw.extend(raw);
            return;
        }
    };
    let body = if matches!(status, 204 | 304) {
        Vec::new()
    } else {
        body
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // The client may be gone.
    if stream.write_all(head.as_bytes()).await.is_ok() && stream.write_all(&body).await.is_ok() {
        stream.shutdown().await.ok();
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec())
        .unwrap()
        .to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .map_or(0, |l| l.parse().unwrap());
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let first = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let line = first.lines().next()?.rsplit_once(' ')?.0.to_owned();
    let body = serde_json::from_slice(&bytes[end..end + length]).unwrap_or(Value::Null);
    Some(Seen { line, head, body })
}
