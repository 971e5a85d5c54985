//! What the tests of several processes share. Three test binaries use it: `conformance` (the language), `integration`
//! (one module a behaviour) and `fault` (kill, stop, lose); so does the benchmark.
//!
//! - [`Stack`] is a whole Millrace: real servers ([`Nats`], [`Redis`]), coordinators and workers, each a child
//!   [`Process`] on loopback that can be killed, stopped and started again; all of it is gone when it is dropped, and
//!   when the test process itself is killed.
//! - [`Client`] speaks the HTTP API as users do.
//! - [`eventually`] waits for a condition with a deadline. Nothing in a test sleeps, except where the sleep is the
//!   fault.
//! - [`Rng`] draws from a printed seed, so a failure can be had again.
//! - [`ledger`] reads what `ledger-worker` wrote down, outside of what is tested.
//! - [`Stub`] is the outside world: the HTTP services that workflows call, and a receiver of traces.
//! - [`yaml`] reads the files that say what is expected.

pub mod authority;
mod binaries;
mod client;
mod leash;
pub mod ledger;
mod ports;
mod process;
mod seed;
mod servers;
mod shared;
mod stack;
mod stub;
pub mod traces;
mod wait;
pub mod yaml;

pub use binaries::binary;
pub use client::{Answer, Client};
pub use process::{Process, Spec, Usage};
pub use seed::Rng;
pub use servers::{Nats, NatsOptions, Redis, RedisOptions};
pub use shared::Shared;
pub use stack::{Owner, Stack, StackBuilder};
pub use stub::Stub;
pub use wait::{eventually, eventually_within};

#[cfg(test)]
mod golden;
