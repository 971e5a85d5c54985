//! A worker for fault tests. One function takes its worker along (`crash:1.0.0`); the other (`ledger:1.0.0`) writes down every execution in a ledger that is not part of what is tested: one
//! line in a file, on the disk before the step goes on.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use millrace_worker::{Context, Failure, Worker};
use serde::Deserialize;
use serde_json::{Value, json};

/// Path of the ledger; nothing is kept without.
const LEDGER: &str = "MILLRACE_TEST_LEDGER";

#[derive(Deserialize)]
struct Entry {
    /// Number of the step within its instance, from 1.
    step: u32,
    /// Sum so far.
    #[serde(default)]
    total: u64,
    /// Time that the work takes.
    #[serde(default)]
    ms: u64,
}

fn main() -> anyhow::Result<()> {
    let path = std::env::var_os(LEDGER).unwrap_or_else(|| "/dev/null".into());
    let ledger = OpenOptions::new().create(true).append(true).open(&path);
    let ledger = Arc::new(ledger.with_context(|| format!("cannot open {}", path.display()))?);
    let enter = move |ctx: Context, entry: Entry| work(Arc::clone(&ledger), ctx, entry);
    let worker = Worker::from_env("default")?
        .builtins()
        .function("ledger:1.0.0", enter)
        .function("crash:1.0.0", crash);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(worker.run())
}

/// Writes down that the execution begins, works, writes down that it ended, adds 1.
async fn work(ledger: Arc<File>, ctx: Context, entry: Entry) -> Result<Value, Failure> {
    let line = |what| {
        let line = json!({
            "what": what, "key": ctx.idempotency_key(), "instance": ctx.instance().id(), "step": entry.step,
            "total": entry.total, "attempt": ctx.attempt(), "delivery": ctx.delivery(), "worker": ctx.worker(),
            "pid": std::process::id(), "at": now_ms(),
        });
        format!("{line}\n")
    };
    let failed = |e| Failure::runtime(format!("no ledger: {e}"));
    write_down(&ledger, line("begin")).await.map_err(failed)?;
    tokio::time::sleep(Duration::from_millis(entry.ms)).await;
    write_down(&ledger, line("end")).await.map_err(failed)?;
    Ok(json!({"step": entry.step, "total": entry.total + 1}))
}

/// Takes its worker along.
async fn crash(_ctx: Context, _input: Value) -> Result<Value, Failure> {
    std::process::abort()
}

/// One write in append mode is one line, whoever else writes; then it is made durable.
async fn write_down(ledger: &Arc<File>, line: String) -> std::io::Result<()> {
    let ledger = Arc::clone(ledger);
    let write = tokio::task::spawn_blocking(move || {
        (&*ledger).write_all(line.as_bytes())?;
        ledger.sync_data()
    });
    write.await.map_err(std::io::Error::other)?
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
