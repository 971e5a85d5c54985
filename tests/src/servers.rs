//! The real servers, as child processes with data of their own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::binaries::server;
use crate::{Process, Spec, eventually, ports};

/// How nats-server is set up.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// `sync_interval`; nats-server's own default (2 minutes) when empty.
    pub sync_interval: Option<&'static str>,
    /// Bytes that JetStream may store in all.
    pub max_file_store: Option<u64>,
    /// Largest message; nats-server's own default (1 MB) when empty.
    pub max_payload: Option<u32>,
}

/// How redis-server is set up.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `appendfsync`.
    pub appendfsync: &'static str,
    /// `maxmemory` in bytes; unlimited when empty.
    pub max_memory: Option<u64>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            appendfsync: "everysec",
            max_memory: None,
        }
    }
}

/// nats-server with JetStream.
#[derive(Debug)]
pub struct Nats {
    process: Process,
    port: u16,
}

/// redis-server (or valkey-server) with an append-only file.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Nats {
    /// Prepares one that keeps its data below `dir`; not started yet.
    ///
    /// # Errors
    /// When the program is not found.
    pub fn new(dir: &Path, options: &NatsOptions) -> anyhow::Result<Self> {
        let port = ports::free();
        let config = dir.join("nats.conf");
        std::fs::write(&config, nats_config(port, &dir.join("jetstream"), options))?;
        let spec = Spec {
            name: "nats-server".into(),
            program: server("MILLRACE_NATS_SERVER", &["nats-server"])?,
            arguments: vec!["-c".into(), config.display().to_string()],
            variables: Default::default(),
            log: dir.join("nats-server.log"),
        };
        Ok(Self {
            process: Process::new(spec),
            port,
        })
    }

    /// Waits until JetStream answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let greeted = eventually("nats-server greets", async || {
            let text = ask(self.port, b"")?;
            text.contains("\"jetstream\":true").then_some(())
        });
        greeted.await.with_context(|| self.process.log_tail(30))
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client of its own.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn client(&self) -> anyhow::Result<async_nats::Client> {
        Ok(async_nats::connect(self.url()).await?)
    }

    /// JetStream.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn jetstream(&self) -> anyhow::Result<async_nats::jetstream::Context> {
        Ok(async_nats::jetstream::new(self.client().await?))
    }

    /// The process.
    pub const fn process(&self) -> &Process {
        &self.process
    }
}

impl Redis {
    /// Prepares one that keeps its data below `dir`; not started yet.
    ///
    /// # Errors
    /// When the program is not found.
    pub fn new(dir: &Path, options: &RedisOptions) -> anyhow::Result<Self> {
        let port = ports::free();
        let data = dir.join("redis");
        std::fs::create_dir_all(&data)?;
        let spec = Spec {
            name: "redis-server".into(),
            program: server("MILLRACE_REDIS_SERVER", &["redis-server", "valkey-server"])?,
            arguments: redis_arguments(port, &data, options),
            variables: Default::default(),
            log: dir.join("redis-server.log"),
        };
        Ok(Self {
            process: Process::new(spec),
            port,
        })
    }

    /// Waits until it answers and has loaded its data.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let answered = eventually("redis-server answers", async || {
            let text = ask(self.port, b"PING\r\n")?;
            text.starts_with("+PONG").then_some(())
        });
        answered.await.with_context(|| self.process.log_tail(30))
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connection(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }

    /// The process.
    pub const fn process(&self) -> &Process {
        &self.process
    }
}

fn nats_config(port: u16, store: &Path, options: &NatsOptions) -> String {
    let sync = options
        .sync_interval
        .map(|text| format!("  sync_interval: {text}\n"))
        .unwrap_or_default();
    let max = options.max_file_store.unwrap_or(16 << 30);
    let payload = options
        .max_payload
        .map(|bytes| format!("max_payload: {bytes}\n"))
        .unwrap_or_default();
    format!(
        "listen: \"127.0.0.1:{port}\"\n{payload}server_name: \"test\"\njetstream {{\n  store_dir: \"{}\"\n  max_file_store: {max}\n{sync}}}\n",
        store.display()
    )
}

fn redis_arguments(port: u16, data: &Path, options: &RedisOptions) -> Vec<String> {
    let port = port.to_string();
    let data = data.display().to_string();
    let max_memory = options.max_memory.unwrap_or(0).to_string();
    let pairs = [
        ("--port", port.as_str()),
        ("--bind", "127.0.0.1"),
        ("--dir", &data),
        ("--appendonly", "yes"),
        ("--appendfsync", options.appendfsync),
        ("--save", ""),
        ("--maxmemory", &max_memory),
        ("--maxmemory-policy", "noeviction"),
    ];
    pairs
        .iter()
        .flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()])
        .collect()
}

/// Connects, sends, and gives the first bytes of the answer.
fn ask(port: u16, question: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    stream.write_all(question).ok()?;
    let mut buffer = [0; 2048];
    let read = stream.read(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

/// A directory of its own for one stack; removed when dropped, unless the test is failing.
#[derive(Debug)]
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> anyhow::Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("millrace-test-{}-{number}", std::process::id()));
        // Left by an earlier process with the same id.
        let _absent = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn keep(&mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _left = std::fs::remove_dir_all(&self.0);
        }
    }
}
