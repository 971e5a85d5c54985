//! A worker against a real nats-server. The coordinator's side is played by [`stage::Stage`]: it creates the streams,
//! answers registrations and questions, publishes steps and reads the log.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod binary;
mod calls;
mod drain;
mod fleet;
mod leases;
mod processes;
mod results;
#[path = "../../../common/runtime/tests/integration/servers.rs"]
mod servers;
mod stage;
