//! What one commit writes, gathered over the records of a batch and turned into Redis commands that cannot fail on
//! type: SET, HSET, HDEL, ZADD, ZREM, UNLINK on keys whose type follows from the name.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_common::{InstanceKey, PartitionId, TimerId, limits, names};
use millrace_engine::Writes;
use redis::Pipeline;

use super::sabotage::{self, Bug};

/// See the module. Later values win over earlier ones of the same batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    instances: Vec<(InstanceKey, Writes)>,
    timers: BTreeMap<String, Option<i64>>,
    outbox: BTreeMap<String, Option<Bytes>>,
    schedules: BTreeMap<String, Option<Bytes>>,
    listeners: BTreeMap<String, Option<Bytes>>,
    index: Vec<(InstanceKey, i64)>,
    open: BTreeMap<InstanceKey, Option<i64>>,
    expire: Vec<(InstanceKey, i64)>,
    reopened: Vec<InstanceKey>,
    removed: Vec<InstanceKey>,
    dead: Vec<(u64, Bytes)>,
    alive: Vec<u64>,
    dropped: Vec<String>,
    mark: Option<(u64, u64, u64)>,
    bytes: usize,
}

impl Batch {
    /// True when the batch should be closed.
    pub(crate) const fn is_full(&self) -> bool {
        self.bytes >= limits::COMMIT_BYTES_MAX
    }

    /// Reserves room for state that is encoded later.
    pub(crate) const fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// State and trace of one instance; called once per instance and batch.
    pub(crate) fn instance(&mut self, key: InstanceKey, writes: Writes) {
        self.bytes += writes.set.iter().map(|(_, v)| v.len()).sum::<usize>() + 64;
        self.instances.push((key, writes));
    }

    /// Arms (`Some(due_ms)`) or removes a timer.
    pub(crate) fn timer(&mut self, instance: &InstanceKey, timer: TimerId, due_ms: Option<i64>) {
        self.bytes += 64;
        self.timers.insert(names::timer_member(instance, timer), due_ms);
    }

    /// Sets or removes an outbox entry.
    pub(crate) fn outbox(&mut self, field: String, value: Option<Bytes>) {
        self.bytes += 64 + value.as_ref().map_or(0, Bytes::len);
        self.outbox.insert(field, value);
    }

    /// State of a schedule.
    pub(crate) fn schedule(&mut self, key: &InstanceKey, state: Bytes) {
        self.bytes += 64 + state.len();
        self.schedules.insert(key.to_string(), Some(state));
    }

    /// Sets or removes what a task listens for.
    pub(crate) fn listener(&mut self, field: String, value: Option<Bytes>) {
        self.bytes += 64 + value.as_ref().map_or(0, Bytes::len);
        self.listeners.insert(field, value);
    }

    /// Notes in the outbox that a message has left. What the batch itself says of the entry is newer: the step may be
    /// closed or dispatched again by the very records of this batch.
    pub(crate) fn left(&mut self, field: String, value: Option<Bytes>) {
        self.bytes += 64 + value.as_ref().map_or(0, Bytes::len);
        match sabotage::has(Bug::MarkOverwrites) {
            false => drop(self.outbox.entry(field).or_insert(value)),
            true => drop(self.outbox.insert(field, value)),
        }
    }

    /// A new instance.
    pub(crate) fn created(&mut self, key: &InstanceKey, at_ms: i64) {
        self.bytes += 128;
        self.index.push((key.clone(), at_ms));
        self.open.insert(key.clone(), Some(at_ms));
    }

    /// An instance ended; it is removed at `expire_ms`.
    pub(crate) fn ended(&mut self, key: &InstanceKey, expire_ms: i64) {
        self.bytes += 128;
        self.open.insert(key.clone(), None);
        self.expire.push((key.clone(), expire_ms));
    }

    /// An ended instance runs again.
    pub(crate) fn reopened(&mut self, key: &InstanceKey, at_ms: i64) {
        self.bytes += 128;
        self.open.insert(key.clone(), Some(at_ms));
        self.reopened.push(key.clone());
    }

    /// Retention of an ended instance is over.
    pub(crate) fn remove(&mut self, key: InstanceKey) {
        self.bytes += 128;
        self.removed.push(key);
    }

    /// A record that could not be applied, kept for people.
    pub(crate) fn dead(&mut self, sequence: u64, entry: Bytes) {
        self.bytes += entry.len();
        self.dead.push((sequence, entry));
    }

    /// A kept record was applied after all, or given up.
    pub(crate) fn alive(&mut self, sequence: u64) {
        self.bytes += 32;
        self.alive.push(sequence);
    }

    /// Removes a whole key of this partition: a repair, see `repair.rs`.
    pub(crate) fn drop_key(&mut self, key: String) {
        self.bytes += 32 + key.len();
        self.dropped.push(key);
    }

    /// A batch boundary to fall back to when the log loses its tail.
    pub(crate) const fn mark(&mut self, number: u64, sequence: u64, fingerprint: u64) {
        self.mark = Some((number, sequence, fingerprint));
    }

    /// Appends the commands to a pipeline.
    pub(crate) fn commands(&self, p: PartitionId, pipe: &mut Pipeline) {
        for (key, writes) in &self.instances {
            instance_commands(p, key, writes, pipe);
        }
        zset_commands(
            &names::timers_key(p),
            self.timers.iter().map(|(m, s)| (m.as_str(), *s)),
            pipe,
        );
        hash_commands(
            &names::outbox_key(p),
            self.outbox.iter().map(|(f, v)| (f.as_str(), v.as_ref())),
            pipe,
        );
        hash_commands(
            &names::schedules_key(p),
            self.schedules.iter().map(|(f, v)| (f.as_str(), v.as_ref())),
            pipe,
        );
        hash_commands(
            &names::listeners_key(p),
            self.listeners.iter().map(|(f, v)| (f.as_str(), v.as_ref())),
            pipe,
        );
        zset_commands(
            &names::index_key(p),
            self.index.iter().map(|(k, s)| (k.as_str(), Some(*s))),
            pipe,
        );
        zset_commands(
            &names::open_key(p),
            self.open.iter().map(|(k, s)| (k.as_str(), *s)),
            pipe,
        );
        // Removals first: an instance that is retried and ends again within one batch keeps its new time.
        zset_commands(
            &names::expire_key(p),
            self.reopened.iter().map(|k| (k.as_str(), None)),
            pipe,
        );
        zset_commands(
            &names::expire_key(p),
            self.expire.iter().map(|(k, s)| (k.as_str(), Some(*s))),
            pipe,
        );
        for key in &self.removed {
            pipe.cmd("UNLINK")
                .arg(names::instance_key(p, key))
                .arg(names::trace_key(p, key));
        }
        if !self.removed.is_empty() {
            for zset in [names::index_key(p), names::expire_key(p)] {
                zset_commands(&zset, self.removed.iter().map(|k| (k.as_str(), None)), pipe);
            }
        }
        for (sequence, entry) in &self.dead {
            pipe.cmd("HSET")
                .arg(names::dead_key(p))
                .arg(*sequence)
                .arg(&entry[..]);
        }
        if !self.alive.is_empty() {
            pipe.cmd("HDEL").arg(names::dead_key(p)).arg(&self.alive);
        }
        if !self.dropped.is_empty() {
            pipe.cmd("UNLINK").arg(&self.dropped);
        }
        if let Some((number, sequence, fingerprint)) = self.mark {
            let slot = number % limits::POSITION_MARKS;
            pipe.cmd("HSET")
                .arg(names::marks_key(p))
                .arg(slot)
                .arg(format!("{sequence} {fingerprint}"));
        }
    }
}

fn instance_commands(p: PartitionId, key: &InstanceKey, writes: &Writes, pipe: &mut Pipeline) {
    let state = names::instance_key(p, key);
    if !writes.set.is_empty() {
        let cmd = pipe.cmd("HSET").arg(&state);
        for (field, value) in &writes.set {
            cmd.arg(field).arg(&value[..]);
        }
    }
    if !writes.delete.is_empty() {
        pipe.cmd("HDEL").arg(&state).arg(&writes.delete);
    }
    if writes.trace.is_empty() && writes.trace_delete.is_empty() {
        return;
    }
    let trace = names::trace_key(p, key);
    if !writes.trace.is_empty() {
        let cmd = pipe.cmd("HSET").arg(&trace);
        for (number, entry) in &writes.trace {
            cmd.arg(*number).arg(&entry[..]);
        }
    }
    if !writes.trace_delete.is_empty() {
        pipe.cmd("HDEL").arg(&trace).arg(&writes.trace_delete);
    }
}

/// One ZADD for all members with a score, one ZREM for all without.
fn zset_commands<'a>(key: &str, members: impl Iterator<Item = (&'a str, Option<i64>)>, pipe: &mut Pipeline) {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for (member, score) in members {
        match score {
            Some(score) => add.push((score, member)),
            None => remove.push(member),
        }
    }
    if !add.is_empty() {
        let cmd = pipe.cmd("ZADD").arg(key);
        for (score, member) in add {
            cmd.arg(score).arg(member);
        }
    }
    if !remove.is_empty() {
        pipe.cmd("ZREM").arg(key).arg(remove);
    }
}

/// One HSET for all fields with a value, one HDEL for all without.
fn hash_commands<'a>(
    key: &str,
    fields: impl Iterator<Item = (&'a str, Option<&'a Bytes>)>,
    pipe: &mut Pipeline,
) {
    let (mut set, mut delete) = (Vec::new(), Vec::new());
    for (field, value) in fields {
        match value {
            Some(value) => set.push((field, value)),
            None => delete.push(field),
        }
    }
    if !set.is_empty() {
        let cmd = pipe.cmd("HSET").arg(key);
        for (field, value) in set {
            cmd.arg(field).arg(&value[..]);
        }
    }
    if !delete.is_empty() {
        pipe.cmd("HDEL").arg(key).arg(delete);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_a_batch_closes_is_not_written_back_by_its_acknowledgement() {
        let mut batch = Batch::default();
        batch.outbox("closed".into(), None);
        batch.outbox("again".into(), Some("1".into()));
        for field in ["closed", "again", "open"] {
            batch.left(field.into(), Some("0 7".into()));
        }
        let value = |field: &str| batch.outbox[field].as_deref();
        assert_eq!(value("closed"), None);
        assert_eq!(value("again"), Some(&b"1"[..]));
        assert_eq!(value("open"), Some(&b"0 7"[..]));
    }
}
