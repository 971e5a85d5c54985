//! The coordinator around the engine: parts with separate loops, each supervised alone (ARCHITECTURE section 5).
//!
//! - [`api`] accepts and answers over HTTP; [`log`] appends what it accepts.
//! - [`registry`] keeps definitions, functions and workers; [`fleet`] listens to the workers.
//! - `partition` is the processor: ownership, reader, fold, commit, dispatch, timers, audit of one partition.
//! - `janitor` removes what has expired and trims logs behind durable positions.
//! - [`vitals`] counts what a process knows of itself.
//! - [`servers`] is what a partition needs of NATS and Redis; [`clock`] is its time: the seams of the simulation.
//! - [`board`] is where the parts show their health to each other.

pub mod api;
pub mod board;
pub mod clock;
pub mod cluster;
pub mod events;
pub mod fleet;
pub mod janitor;
pub mod log;
pub mod membership;
pub mod orders;
pub mod partition;
pub mod queries;
pub mod queues;
pub mod registry;
pub mod servers;
#[cfg(test)]
mod simulation;
pub mod supervise;
pub mod trace;
pub mod vitals;
