//! A cluster in a few hundred lines: a log, workers, timers and a store, all in memory, in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_common::{
    CloudEvent, ControlKind, DefinitionRef, ErrorKind, InstanceKey, ParentLink, Problem, Progress, RawJson,
    Record, RecordBody, Reply, Start, StepOutcome, StepResult, TimerId,
};
use millrace_engine::listen::EventView;
use millrace_engine::{
    Definitions, Dispatch, Effect, Instance, InstanceView, Interest, Outcome, Plan, Status, Transition, apply,
};
use serde_json::{Value, json};

/// Where time begins.
pub(crate) const START_MS: i64 = 1_767_225_600_000;

/// What a worker does with a step.
pub(crate) enum Answer {
    Output(Value),
    Raw(String),
    Error(Problem),
    Silent,
}

pub(crate) type Worker = Box<dyn FnMut(&Dispatch) -> Answer>;

/// In which order workers answer.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    First,
    Last,
    Random,
}

/// When writes are taken, and the instance loaded afresh.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    Every,
    Reload,
    Random,
}

#[derive(Default)]
pub(crate) struct Library(BTreeMap<DefinitionRef, Arc<Plan>>);

impl Definitions for Library {
    fn plan(&self, definition: &DefinitionRef) -> Option<Arc<Plan>> {
        self.0.get(definition).cloned()
    }

    fn latest(&self, namespace: &str, name: &str) -> Option<String> {
        let found = self
            .0
            .keys()
            .filter(|d| d.namespace == namespace && d.name == name);
        found.max_by_key(|d| d.version.clone()).map(|d| d.version.clone())
    }
}

#[derive(Default)]
pub(crate) struct Stored {
    pub(crate) live: Option<Instance>,
    pub(crate) fields: BTreeMap<String, Bytes>,
    pub(crate) trace: BTreeMap<u64, Bytes>,
    pub(crate) bytes_written: usize,
    pub(crate) fields_written: usize,
}

pub(crate) struct World {
    pub(crate) library: Library,
    pub(crate) instances: BTreeMap<InstanceKey, Stored>,
    pub(crate) log: VecDeque<Record>,
    /// Every record that was folded.
    pub(crate) history: Vec<Record>,
    pub(crate) now_ms: i64,
    pub(crate) timers: BTreeMap<(InstanceKey, TimerId), i64>,
    pub(crate) outbox: BTreeMap<(InstanceKey, u32), Dispatch>,
    /// Steps that wait for a worker.
    pub(crate) queue: Vec<(InstanceKey, Dispatch)>,
    /// Every step ever dispatched.
    pub(crate) dispatched: Vec<Dispatch>,
    pub(crate) cancelled_steps: Vec<String>,
    pub(crate) replies: Vec<Reply>,
    /// What the stream of events holds.
    pub(crate) events: Vec<CloudEvent>,
    /// Who listens.
    pub(crate) listeners: BTreeMap<(InstanceKey, u32), Interest>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) worker: Worker,
    pub(crate) order: Order,
    pub(crate) split: Split,
    pub(crate) random: Random,
    /// Time spent in the engine: folding and encoding.
    pub(crate) engine_time: Duration,
    sequence: u64,
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// A definition from its body: name `flow`, version `1.0.0`.
pub(crate) fn document(name: &str, body: &str) -> String {
    format!("document: {{dsl: '1.0.3', namespace: default, name: {name}, version: '1.0.0'}}\n{body}\n")
}

pub(crate) fn key(id: &str) -> InstanceKey {
    InstanceKey::new("default", id).unwrap()
}

/// `noop` returns its input; `flaky` fails `failures` times for each key; `fail` raises what its input says; `silent`
/// never answers; everything else returns `{function, input}`.
pub(crate) fn default_worker() -> Worker {
    let mut failed: BTreeMap<String, u64> = BTreeMap::new();
    Box::new(move |step| {
        let input: Value = step.input.decode().unwrap();
        match step.function.split(':').next().unwrap() {
            "noop" => Answer::Output(input),
            "silent" => Answer::Silent,
            "flaky" => {
                let count = failed.entry(step.key.clone()).or_default();
                if *count < input["failures"].as_u64().unwrap() {
                    *count += 1;
                    return Answer::Error(Problem::new(ErrorKind::Communication, format!("failure {count}")));
                }
                Answer::Output(json!({"failures": count, "attempt": step.attempt}))
            }
            "fail" => {
                let status = input["status"].as_u64().unwrap_or(500) as u16;
                Answer::Error(Problem::new(ErrorKind::Communication, "refused").with_status(status))
            }
            _ => Answer::Output(json!({"function": step.function, "input": input})),
        }
    })
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            library: Library::default(),
            instances: BTreeMap::new(),
            log: VecDeque::new(),
            history: Vec::new(),
            now_ms: START_MS,
            timers: BTreeMap::new(),
            outbox: BTreeMap::new(),
            queue: Vec::new(),
            dispatched: Vec::new(),
            cancelled_steps: Vec::new(),
            replies: Vec::new(),
            events: Vec::new(),
            listeners: BTreeMap::new(),
            outcomes: Vec::new(),
            worker: default_worker(),
            order: Order::First,
            split: Split::Reload,
            random: Random(1),
            engine_time: Duration::ZERO,
            sequence: 0,
        }
    }

    /// Defines `flow`.
    pub(crate) fn with(body: &str) -> Self {
        let mut world = Self::new();
        world.define("flow", body);
        world
    }

    pub(crate) fn define(&mut self, name: &str, body: &str) {
        self.define_text(&document(name, body));
    }

    pub(crate) fn define_text(&mut self, text: &str) {
        let parsed = millrace_dsl::parse(text).unwrap_or_else(|faults| {
            panic!(
                "{}\n{text}",
                faults
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("\n")
            )
        });
        let d = &parsed.document;
        let name = DefinitionRef {
            namespace: d.namespace.clone(),
            name: d.name.clone(),
            version: d.version.clone(),
        };
        self.library.0.insert(name, Arc::new(Plan::new(parsed.document)));
    }

    // ------------------------------------------------------------ records

    pub(crate) fn append(&mut self, instance: &InstanceKey, body: RecordBody) {
        self.sequence += 1;
        let record = Record {
            sequence: self.sequence,
            time_ms: self.now_ms,
            instance: Some(instance.clone()),
            body,
        };
        self.log.push_back(record);
    }

    pub(crate) fn start_record(
        &self,
        definition: &str,
        input: &Value,
        parent: Option<ParentLink>,
    ) -> RecordBody {
        RecordBody::Start(Box::new(Start {
            definition: definition.parse().unwrap(),
            input: RawJson::encode(input).unwrap(),
            labels: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
            parent,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            reply: Some("inbox".to_owned()),
        }))
    }

    pub(crate) fn start(&mut self, id: &str, input: Value) {
        let body = self.start_record("default/flow@1.0.0", &input, None);
        self.append(&key(id), body);
    }

    pub(crate) fn control(&mut self, id: &str, action: ControlKind) {
        let body = RecordBody::Control {
            action,
            reason: None,
            reply: Some("inbox".to_owned()),
        };
        self.append(&key(id), body);
        self.fold_all();
    }

    /// Folds one record.
    pub(crate) fn fold(&mut self, record: Record) -> Transition {
        let instance = record.instance.clone().unwrap();
        let stored = self.instances.entry(instance.clone()).or_default();
        let begin = Instant::now();
        let transition = apply(&self.library, &mut stored.live, &record);
        self.engine_time += begin.elapsed();
        self.history.push(record);
        let write = match self.split {
            Split::Every | Split::Reload => true,
            Split::Random => self.random.below(2) == 0,
        };
        let reload =
            self.split == Split::Reload || (self.split == Split::Random && self.random.below(3) == 0);
        if write || reload {
            let begin = Instant::now();
            let writes = stored.live.as_mut().map(Instance::take_writes);
            self.engine_time += begin.elapsed();
            writes.into_iter().for_each(|w| stored.take(w));
        }
        if reload && stored.live.is_some() {
            stored.live = Some(Instance::load(instance.clone(), stored.fields.clone()).unwrap());
        }
        if stored.live.is_none() && stored.fields.is_empty() {
            self.instances.remove(&instance);
        }
        self.outcomes.push(transition.outcome);
        for effect in &transition.effects {
            self.carry_out(&instance, effect);
        }
        for effect in &transition.effects {
            if let Effect::Emit { event, .. } = effect {
                self.emit(event);
            }
        }
        transition
    }

    pub(crate) fn fold_all(&mut self) {
        while let Some(record) = self.log.pop_front() {
            self.fold(record);
        }
    }

    fn carry_out(&mut self, instance: &InstanceKey, effect: &Effect) {
        match effect {
            Effect::Dispatch(step) => {
                let step = (**step).clone();
                if let Some(live) = self.instances.get(instance).and_then(|s| s.live.as_ref()) {
                    let plan = self.library.plan(live.definition()).unwrap();
                    if let Some(again) = live.step(&plan, step.frame) {
                        assert_eq!(again, step);
                    }
                }
                self.outbox.insert((instance.clone(), step.frame), step.clone());
                if step.generation > 0 {
                    self.queue
                        .retain(|(key, q)| key != instance || q.step != step.step);
                }
                self.queue.push((instance.clone(), step.clone()));
                self.dispatched.push(step);
            }
            Effect::Detach(step) => {
                self.queue.push((instance.clone(), (**step).clone()));
                self.dispatched.push((**step).clone());
            }
            Effect::Settle { frame } => {
                assert!(
                    self.outbox.remove(&(instance.clone(), *frame)).is_some(),
                    "settled twice: {frame}"
                );
            }
            Effect::CancelStep { step, .. } => {
                self.queue.retain(|(_, q)| q.step != *step);
                self.cancelled_steps.push(step.clone());
            }
            Effect::StartTimer { timer, due_ms } => {
                self.timers.insert((instance.clone(), *timer), *due_ms);
            }
            Effect::CancelTimer { timer } => {
                assert!(
                    self.timers.remove(&(instance.clone(), *timer)).is_some(),
                    "timer cancelled twice"
                );
            }
            Effect::Send { to, body, .. } => self.append(&to.clone(), (**body).clone()),
            Effect::Listen {
                frame,
                interest,
                is_new,
            } => {
                let json = serde_json::to_string(interest).unwrap();
                assert_eq!(serde_json::from_str::<Interest>(&json).unwrap(), **interest);
                let before = self
                    .listeners
                    .insert((instance.clone(), *frame), (**interest).clone());
                assert_eq!(before.is_none(), *is_new);
            }
            Effect::Unlisten { frame } => {
                assert!(
                    self.listeners.remove(&(instance.clone(), *frame)).is_some(),
                    "stopped listening twice: {frame}"
                );
            }
            // Leaves after the commit.
            Effect::Emit { .. } => {}
            Effect::Reply { body, .. } => self.replies.push(body.clone()),
        }
    }

    /// The stream of events: drops repeats, and tells all who listen.
    pub(crate) fn emit(&mut self, event: &CloudEvent) {
        if self.events.iter().any(|e| e.message_id() == event.message_id()) {
            return;
        }
        self.events.push(event.clone());
        self.deliver(event);
    }

    /// What the correlator does with an event.
    pub(crate) fn deliver(&mut self, event: &CloudEvent) {
        let view = EventView::new(&event.raw, self.now_ms).unwrap();
        let concerned = |((key, frame), interest): (&(InstanceKey, u32), &Interest)| {
            let definition = self.instances[key].live.as_ref().unwrap().definition().clone();
            let plan = self.library.plan(&definition).unwrap();
            let concerns = plan.concerns(interest, &view);
            for route in plan.routes(interest).iter().filter(|_| concerns) {
                assert_eq!(route.places.len(), route.values.len());
            }
            concerns.then(|| (key.clone(), *frame))
        };
        let found: Vec<_> = self.listeners.iter().filter_map(concerned).collect();
        for (key, frame) in found {
            let event = event.raw.clone();
            self.append(&key, RecordBody::Event { frame, event });
        }
    }

    /// Somebody publishes an event with this id, type and data.
    pub(crate) fn publish(&mut self, id: &str, kind: &str, data: Value) {
        self.publish_with(json!({"id": id, "type": kind, "data": data}));
    }

    /// Somebody publishes an event with these members.
    pub(crate) fn publish_with(&mut self, members: Value) {
        let mut event = json!({"specversion": "1.0", "source": "/test"});
        let members = members.as_object().unwrap().clone();
        event.as_object_mut().unwrap().extend(members);
        self.emit(&CloudEvent::parse(event.to_string().as_bytes()).unwrap());
        self.fold_all();
    }

    // ------------------------------------------------------------ time

    /// Folds, answers steps and fires timers until nothing is left to do.
    pub(crate) fn run(&mut self) {
        self.run_until(i64::MAX);
    }

    /// As [`Self::run`], but time does not pass this point.
    pub(crate) fn run_until(&mut self, end_ms: i64) {
        for _ in 0..2_000_000 {
            self.fold_all();
            if self.answer_one() {
                continue;
            }
            let next = self
                .timers
                .iter()
                .map(|((key, timer), due)| (*due, key.clone(), *timer))
                .min();
            match next {
                Some((due, instance, timer)) if due <= end_ms => {
                    self.now_ms = self.now_ms.max(due);
                    self.append(&instance, RecordBody::Timer { timer });
                }
                Some(_) | None => {
                    if end_ms != i64::MAX {
                        self.now_ms = self.now_ms.max(end_ms);
                    }
                    return;
                }
            }
        }
        panic!("it does not come to rest");
    }

    /// Lets a worker answer one step; false when none would.
    pub(crate) fn answer_one(&mut self) -> bool {
        while !self.queue.is_empty() {
            let at = match self.order {
                Order::First => 0,
                Order::Last => self.queue.len() - 1,
                Order::Random => self.random.below(self.queue.len()),
            };
            let (instance, step) = self.queue.remove(at);
            match (self.worker)(&step) {
                Answer::Output(v) => self.result(
                    &instance,
                    &step,
                    StepOutcome::Output(RawJson::encode(&v).unwrap()),
                ),
                Answer::Raw(text) => {
                    let raw = RawJson::parse(text.as_bytes()).unwrap();
                    self.result(&instance, &step, StepOutcome::Output(raw));
                }
                Answer::Error(problem) => self.result(&instance, &step, StepOutcome::Error(problem)),
                Answer::Silent => continue,
            }
            return true;
        }
        false
    }

    pub(crate) fn result(&mut self, instance: &InstanceKey, step: &Dispatch, outcome: StepOutcome) {
        let body = RecordBody::Result(Box::new(StepResult {
            step: step.step.clone(),
            frame: step.frame,
            generation: step.generation,
            worker: "w1".to_owned(),
            delivery: 1,
            duration_ms: 7,
            outcome,
            token: String::new(),
        }));
        self.append(instance, body);
    }

    /// A worker says that it runs a step.
    pub(crate) fn progress(&mut self, instance: &InstanceKey, step: &Dispatch) {
        let body = RecordBody::Progress(Box::new(Progress {
            step: step.step.clone(),
            frame: step.frame,
            worker: "w1".to_owned(),
            delivery: 1,
            value: None,
        }));
        self.append(instance, body);
    }

    // ------------------------------------------------------------ what is seen

    pub(crate) fn instance(&self, id: &str) -> &Instance {
        self.instances[&key(id)].live.as_ref().unwrap()
    }

    pub(crate) fn status(&self, id: &str) -> Status {
        self.instance(id).status()
    }

    /// Writes everything and reads it as the API does.
    pub(crate) fn view(&mut self, id: &str) -> InstanceView {
        let stored = self.instances.get_mut(&key(id)).unwrap();
        stored.flush();
        InstanceView::full(&key(id), &stored.fields).unwrap()
    }

    pub(crate) fn output(&mut self, id: &str) -> Value {
        let view = self.view(id);
        assert_eq!(view.status, Status::Completed, "{:?}", view.error);
        view.output.unwrap().decode().unwrap()
    }

    pub(crate) fn error(&mut self, id: &str) -> Problem {
        let view = self.view(id);
        assert_eq!(view.status, Status::Faulted, "{:?}", view.output);
        view.error.unwrap()
    }

    pub(crate) fn trace(&mut self, id: &str) -> Vec<Value> {
        let stored = self.instances.get_mut(&key(id)).unwrap();
        stored.flush();
        stored
            .trace
            .values()
            .map(|b| serde_json::from_slice(b).unwrap())
            .collect()
    }

    /// `type name` of every trace entry.
    pub(crate) fn events(&mut self, id: &str) -> Vec<String> {
        let line = |e: &Value| {
            format!(
                "{} {}",
                e["type"].as_str().unwrap(),
                e["name"].as_str().unwrap_or_default()
            )
            .trim_end()
            .to_owned()
        };
        self.trace(id).iter().map(line).collect()
    }

    /// Names of tasks in the order in which they were begun.
    pub(crate) fn started(&mut self, id: &str) -> Vec<String> {
        let mut found: Vec<(u64, String)> = self
            .trace(id)
            .iter()
            .filter(|e| e["type"] == "task.completed")
            .map(|e| {
                (
                    e["start"].as_u64().unwrap(),
                    e["name"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, name)| name).collect()
    }

    /// Everything stored of an instance, as text.
    pub(crate) fn dump(&mut self, id: &str) -> String {
        let stored = self.instances.get_mut(&key(id)).unwrap();
        stored.flush();
        stored.text()
    }

    /// After the end nothing is left anywhere.
    pub(crate) fn assert_clean(&self) {
        let ended = self
            .instances
            .values()
            .all(|s| s.live.as_ref().is_some_and(Instance::is_ended));
        assert!(ended, "not ended");
        assert!(self.timers.is_empty(), "timers left: {:?}", self.timers);
        assert!(self.outbox.is_empty(), "steps left: {:?}", self.outbox.keys());
        assert!(
            self.listeners.is_empty(),
            "listeners left: {:?}",
            self.listeners.keys()
        );
        for stored in self
            .instances
            .values()
            .filter(|s| s.live.as_ref().unwrap().status() != Status::Faulted)
        {
            for field in stored.fields.keys() {
                assert!(
                    ["i", "h", "in", "out", "err", "dt"].contains(&field.as_str()),
                    "field left: {field}"
                );
            }
        }
    }
}

impl Stored {
    pub(crate) fn take(&mut self, writes: millrace_engine::Writes) {
        let size = |(name, bytes): &(String, Bytes)| name.len() + bytes.len();
        self.bytes_written += writes.set.iter().map(size).sum::<usize>();
        self.bytes_written += writes.trace.iter().map(|(_, b)| b.len()).sum::<usize>();
        self.fields_written += writes.set.len() + writes.delete.len();
        for name in writes.delete {
            assert!(
                self.fields.remove(&name).is_some(),
                "deleted what is not stored: {name}"
            );
        }
        self.fields.extend(writes.set);
        self.trace.extend(writes.trace);
        for n in writes.trace_delete {
            self.trace.remove(&n);
        }
    }

    pub(crate) fn flush(&mut self) {
        if let Some(live) = &mut self.live {
            let writes = live.take_writes();
            self.take(writes);
        }
    }

    pub(crate) fn text(&self) -> String {
        let line = |(name, bytes): (&String, &Bytes)| format!("{name}: {}\n", String::from_utf8_lossy(bytes));
        let fields: String = self.fields.iter().map(line).collect();
        let trace: String = self
            .trace
            .values()
            .map(|b| format!("{}\n", String::from_utf8_lossy(b)))
            .collect();
        fields + &trace
    }
}

/// Runs `flow` to its end and gives its output.
pub(crate) fn run(body: &str, input: Value) -> Value {
    let mut world = World::with(body);
    world.start("a", input);
    world.run();
    world.assert_clean();
    world.output("a")
}

/// Runs `flow` to its end and gives its error.
pub(crate) fn run_to_fault(body: &str, input: Value) -> Problem {
    let mut world = World::with(body);
    world.start("a", input);
    world.run();
    world.assert_clean();
    world.error("a")
}
