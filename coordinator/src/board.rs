//! Where the parts show their state to each other: read by readiness, `millrace status` and back-pressure. Nothing
//! here is needed for correctness; it is gone with the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_common::PartitionId;
use serde::Serialize;

use crate::cluster::Halt;

/// What this coordinator knows of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionState {
    /// `contending`, `recovering`, `serving`, `halted` or `stalled`.
    pub phase: String,
    /// Why it is halted or stalled: error code and text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What halted it, until it is served or taken by somebody else: a halted partition is looked at again and again.
    #[serde(skip)]
    pub halt: Option<Halt>,
    /// Fence counter while owned.
    pub epoch: u64,
    /// Last log sequence folded and committed.
    pub applied: u64,
    /// Entries in the outbox.
    pub outbox: u64,
    /// Instances held in memory.
    pub cached: u64,
    /// Timers held in memory: those due within a minute.
    pub timers: u64,
    /// Schedules in force.
    pub schedules: u64,
    /// The earliest of their due times, Unix ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_schedule_due_ms: Option<i64>,
    /// Tasks that listen for events.
    pub listening: u64,
}

/// Why new starts are refused for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pressure {
    /// Which bound: `logFull`, `stepsFull`, `redisMemory` or `outbox`.
    pub bound: String,
    /// Value and limit in words.
    pub detail: String,
}

/// Shared by all parts of one coordinator. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    partitions: BTreeMap<PartitionId, PartitionState>,
    pressure: Vec<Pressure>,
    restarts: BTreeMap<String, u64>,
}

impl Board {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is shown of a partition.
    pub fn partition(&self, p: PartitionId, change: impl FnOnce(&mut PartitionState)) {
        self.with(|i| change(i.partitions.entry(p).or_default()));
    }

    /// All partitions seen by this coordinator.
    pub fn partitions(&self) -> BTreeMap<PartitionId, PartitionState> {
        self.with(|i| i.partitions.clone())
    }

    /// Replaces the reasons for refusing starts.
    pub fn press(&self, pressure: Vec<Pressure>) {
        self.with(|i| i.pressure = pressure);
    }

    /// The first reason for refusing starts, if any.
    pub fn pressure(&self) -> Option<Pressure> {
        self.with(|i| i.pressure.first().cloned())
    }

    /// Counts a restart of a part.
    pub fn restarted(&self, part: &str) {
        self.with(|i| *i.restarts.entry(part.into()).or_default() += 1);
    }

    /// Restarts by part.
    pub fn restarts(&self) -> BTreeMap<String, u64> {
        self.with(|i| i.restarts.clone())
    }
}
