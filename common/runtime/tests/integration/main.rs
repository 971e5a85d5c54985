//! The connections against real servers, and telemetry against a receiver in this process.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod nats;
mod publisher;
mod redis;
mod servers;
mod traces;
