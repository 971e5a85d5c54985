//! Writing workers for Millrace: register async functions, run, done.
//!
//! ```no_run
//! use millrace_worker::{Context, Failure, Worker};
//! # #[derive(serde::Deserialize)] struct Charge { amount: u64 }
//! # #[derive(serde::Serialize)] struct Receipt { id: String }
//!
//! async fn charge(ctx: Context, input: Charge) -> Result<Receipt, Failure> {
//!     Ok(Receipt { id: format!("{}-{}", ctx.idempotency_key(), input.amount) })
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     Worker::from_env("orders")?
//!         .function("charge:1.0.0", charge)
//!         .run()
//!         .await
//! }
//! ```
//!
//! What a handler can rely on:
//! - It runs at least once for each attempt, with the same [`Context::idempotency_key`] every time.
//! - Its lease is kept alive while it runs. When the worker dies, another gets the step within `MILLRACE_ACK_WAIT`.
//! - A value given to [`Context::checkpoint`] is there for the next delivery or attempt, on any worker.
//! - [`Context::cancelled`] tells when the result is no longer wanted.
//! - An error becomes an error of the workflow, which decides about retries; so does a panic.
//!
//! The process reads `MILLRACE_*` variables (`docs/reference/config.md`), stops taking steps on SIGTERM, finishes those that run and
//! hands back the rest. [`Worker::run`] returns then; a second signal exits at once.

mod builtin;
mod context;
mod egress;
mod failure;
mod fleet;
mod function;
mod late;
mod process;
mod secrets;
mod steps;
mod worker;

pub use context::{CheckpointError, Context};
pub use egress::Http;
pub use failure::Failure;
pub use function::Function;
pub use millrace_common::{ErrorKind, Problem, RawJson};
pub use millrace_runtime::config;
pub use worker::Worker;
