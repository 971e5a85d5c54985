//! The process around the binaries: everything between `main` and the parts that do the work.
//!
//! - [`config`]: every environment variable, typed, all faults at once.
//! - [`telemetry`]: logs, and traces over OTLP with exact span ids.
//! - [`metrics`]: the instruments of both binaries.
//! - [`nats`] and [`redis`]: connections with the settings that keep a dead link from looking alive.
//! - [`backoff`], [`shutdown`], [`health`]: retry delays, the way out, and what probes see.
//!
//! No domain logic: nothing here knows what a step or an instance is.

pub mod backoff;
pub mod config;
pub mod health;
pub mod metrics;
pub mod nats;
pub mod random;
pub mod redis;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

pub use shutdown::Shutdown;
