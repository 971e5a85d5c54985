//! What must be true when a run is over: looked at from outside, in the ledger of effects and in what Redis and the
//! streams hold. Numbers are those of docs/guarantees.md.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::{InstanceKey, PartitionId, Record, names, partition_of, wire};
use millrace_engine::{Instance, Status, Writes};

use super::fleet::{Book, Effect};
use super::world::World;
use super::{Expected, PARTITIONS, expected};

/// What Redis holds of an instance.
#[derive(Default)]
struct State {
    fields: BTreeMap<Vec<u8>, Vec<u8>>,
    trace: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl State {
    fn instance(&self, key: &InstanceKey) -> Option<Instance> {
        let fields = self.fields.iter();
        let fields = fields.map(|(f, v)| (String::from_utf8(f.clone()).unwrap(), v.clone()));
        (!self.fields.is_empty()).then(|| Instance::load(key.clone(), fields).expect("readable state"))
    }

    fn write(&mut self, writes: Writes) {
        let text = |number: u64| number.to_string().into_bytes();
        for field in writes.delete {
            self.fields.remove(field.as_bytes());
        }
        for number in writes.trace_delete {
            self.trace.remove(&text(number));
        }
        let set = writes.set.into_iter().map(|(f, v)| (f.into_bytes(), v.to_vec()));
        self.fields.extend(set);
        let trace = writes.trace.into_iter().map(|(n, v)| (text(n), v.to_vec()));
        self.trace.extend(trace);
    }
}

/// Between the barrier and the last send of a new owner.
const SLACK: Duration = Duration::from_secs(1);

impl World {
    /// Starts that nobody had read when the log lost them: mode A does not promise them.
    pub(super) fn excuse(&self, p: PartitionId, lost: &BTreeSet<u64>) {
        let mut book = self.ledger.0.lock().unwrap();
        let gone: Vec<InstanceKey> = book
            .started
            .iter()
            .filter(|(_, (partition, sequence))| *partition == p.0 && lost.contains(sequence))
            .map(|(key, _)| key.clone())
            .filter(|key| self.fields(key).is_empty())
            .collect();
        book.excused.extend(gone);
        book.losses.push((p.0, lost.clone()));
    }

    fn fields(&self, key: &InstanceKey) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.redis
            .hash(&names::instance_key(partition_of(key, PARTITIONS), key))
    }

    fn instance(&self, key: &InstanceKey) -> Option<Instance> {
        let fields = self.fields(key);
        let fields = fields
            .into_iter()
            .map(|(f, v)| (String::from_utf8(f).unwrap(), v));
        let fields: Vec<(String, Vec<u8>)> = fields.collect();
        (!fields.is_empty()).then(|| Instance::load(key.clone(), fields).expect("readable state"))
    }

    /// Confirmed starts that are not over (I1).
    pub(super) fn unfinished(&self) -> Vec<String> {
        let book = self.ledger.0.lock().unwrap();
        let mut open = Vec::new();
        for key in book.started.keys() {
            match self.instance(key) {
                Some(instance) if instance.is_ended() => {}
                None if book.excused.contains(key) => {}
                Some(instance) => open.push(format!("{key} is {:?}", instance.status())),
                None => open.push(format!("{key} is nowhere")),
            }
        }
        open
    }

    /// I2: effects of instances that nobody has accepted. I4: steps that were let go although the log held their result
    /// for long: a new owner knows it when it begins to send.
    fn unfounded(&self, book: &Book) -> Vec<String> {
        let mut wrong = BTreeSet::new();
        for effect in &book.effects {
            let key: InstanceKey = effect.instance.parse().unwrap();
            if self.fields(&key).is_empty() {
                wrong.insert(format!("I2: {key} does not exist and had effects"));
            }
            let reported = book.reported.get(&effect.step);
            if book.losses.is_empty() && reported.is_some_and(|at| *at + SLACK < effect.sent) {
                wrong.insert(format!(
                    "I4: {key} {} was sent again after its result",
                    effect.task
                ));
            }
        }
        wrong.into_iter().collect()
    }

    /// I10: the log folded from its beginning, record by record, gives what Redis holds, byte for byte.
    fn refold(&self, p: PartitionId) -> Vec<String> {
        let mut states: BTreeMap<InstanceKey, State> = BTreeMap::new();
        let mut clock = 0;
        for message in self.jetstream.messages(&names::log_stream(p)) {
            let (instance, body) = wire::decode_record(&message.payload).unwrap();
            clock = clock.max(i64::try_from(message.time_nanos / 1_000_000).unwrap());
            let Some(key) = instance else { continue };
            let record = Record {
                sequence: message.sequence,
                time_ms: clock,
                instance: Some(key.clone()),
                body,
            };
            let state = states.entry(key.clone()).or_default();
            let mut instance = state.instance(&key);
            millrace_engine::apply(&*self.library, &mut instance, &record);
            if let Some(mut instance) = instance {
                state.write(instance.take_writes());
            }
        }
        let differs = |(key, state): (&InstanceKey, &State)| {
            let is_same =
                self.fields(key) == state.fields && self.redis.hash(&names::trace_key(p, key)) == state.trace;
            (!is_same).then(|| format!("I10: {key} is not what its log says"))
        };
        states.iter().filter_map(differs).collect()
    }

    /// Everything that is wrong.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut wrong = self.unfinished();
        wrong.extend(self.halts());
        let book = self.ledger.0.lock().unwrap();
        for key in book.started.keys() {
            if let Some(instance) = self.instance(key).filter(Instance::is_ended) {
                wrong.extend(outcome(&instance, self.fields(key).get(&b"out"[..])));
            }
        }
        wrong.extend(effects(&book.effects, &book.started.keys().cloned().collect()));
        wrong.extend(self.unfounded(&book));
        let book_has_no_losses = book.losses.is_empty();
        drop(book);
        for p in (0..PARTITIONS).map(PartitionId) {
            let left = [
                ("outbox", self.redis.hash(&names::outbox_key(p)).len()),
                ("timers", self.redis.sorted(&names::timers_key(p))),
                ("open", self.redis.sorted(&names::open_key(p))),
                ("dead", self.redis.hash(&names::dead_key(p)).len()),
            ];
            for (what, n) in left.into_iter().filter(|(_, n)| *n > 0) {
                wrong.push(format!("I11: {n} left in {what} of partition {p}"));
            }
        }
        if book_has_no_losses {
            wrong.extend((0..PARTITIONS).flat_map(|p| self.refold(PartitionId(p))));
        }
        let steps = self.jetstream.count(names::STEPS_STREAM);
        if steps > 0 {
            wrong.push(format!("I11: {steps} steps left in the work queue"));
        }
        wrong
    }
}

/// I3: what came out is what each step once makes.
fn outcome(instance: &Instance, output: Option<&Vec<u8>>) -> Option<String> {
    let key = instance.key();
    if instance.status() != Status::Completed {
        return Some(format!("{key} ended as {:?}", instance.status()));
    }
    let output: serde_json::Value = serde_json::from_slice(output?).unwrap();
    let Expected { n, .. } = expected(key)?;
    (output["n"] != n).then(|| format!("I3: {key} has output {output}, expected n = {n}"))
}

/// I4: each effect at least once, always under the same key. I5: in order. I7: no timer early.
fn effects(effects: &[Effect], started: &BTreeSet<InstanceKey>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_instance: BTreeMap<&str, Vec<&Effect>> = BTreeMap::new();
    for effect in effects {
        by_instance.entry(&effect.instance).or_default().push(effect);
    }
    for key in started {
        let Some(expected) = expected(key) else { continue };
        let done = by_instance
            .get(key.to_string().as_str())
            .cloned()
            .unwrap_or_default();
        let keys: BTreeSet<&str> = done.iter().map(|e| e.key.as_str()).collect();
        if !done.is_empty() && keys.len() != expected.keys {
            wrong.push(format!(
                "I4: {key} has effects under {} keys, expected {}",
                keys.len(),
                expected.keys
            ));
        }
        if let Some((first, then, least)) = expected.gap {
            let begun = |task: &str| {
                done.iter()
                    .filter(|e| e.task.ends_with(task))
                    .map(|e| e.begun)
                    .min()
            };
            if let (Some(first), Some(then)) = (begun(first), begun(then))
                && then < first + least
            {
                wrong.push(format!(
                    "I7: {key} went on after {:?}",
                    then.saturating_sub(first)
                ));
            }
        }
        wrong.extend(order(key, &done, expected.order));
    }
    wrong
}

/// Tasks in order of their first execution.
fn order(key: &InstanceKey, done: &[&Effect], expected: &[&str]) -> Option<String> {
    let first = |task: &&str| {
        done.iter()
            .filter(|e| e.task.ends_with(*task))
            .map(|e| e.begun)
            .min()
    };
    let times: Vec<Option<Duration>> = expected.iter().map(first).collect();
    let known: Vec<Duration> = times.iter().flatten().copied().collect();
    (!known.is_sorted()).then(|| format!("I5: {key} ran its steps at {known:?}"))
}
