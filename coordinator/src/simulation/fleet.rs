//! Workers and clients: a worker pulls, does, reports, and then acknowledges; a client starts instances and repeats a
//! start until it is confirmed. Both can die anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_common::{
    DefinitionRef, ErrorKind, InstanceKey, Problem, RawJson, RecordBody, Start, Step, StepOutcome,
    StepResult, names, partition_of, wire,
};

use super::PARTITIONS;
use super::jetstream::{Delivery, JetStream};
use super::universe::Universe;

/// A delivered step belongs to its worker for this long.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(3);

/// One execution, written before the effect as a real receiver would see it.
#[derive(Clone, Debug)]
pub(super) struct Effect {
    pub(super) instance: String,
    pub(super) task: String,
    pub(super) key: String,
    pub(super) begun: Duration,
    /// The attempt, and when the coordinator sent it.
    pub(super) step: String,
    pub(super) sent: Duration,
}

/// What happened outside the engine; no fault touches it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(pub(super) Arc<Mutex<Book>>);

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) effects: Vec<Effect>,
    /// Confirmed starts: partition and sequence of the record.
    pub(super) started: BTreeMap<InstanceKey, (u16, u64)>,
    /// Starts whose records were lost with the tail of a log before anybody read them.
    pub(super) excused: BTreeSet<InstanceKey>,
    /// When the result of an attempt was confirmed by the log.
    pub(super) reported: BTreeMap<String, Duration>,
    /// What logs lost: partition and sequences, in order of time.
    pub(super) losses: Vec<(u16, BTreeSet<u64>)>,
}

/// Works until it is killed.
pub(super) async fn work(universe: Universe, jetstream: JetStream, ledger: Ledger, name: String) {
    loop {
        match jetstream.pull(&name, ACK_WAIT) {
            Some(delivery) => one(&universe, &jetstream, &ledger, &name, delivery).await,
            None => {
                universe
                    .sleep(universe.between(Duration::from_millis(1), Duration::from_millis(20)))
                    .await;
            }
        }
    }
}

async fn one(universe: &Universe, jetstream: &JetStream, ledger: &Ledger, name: &str, delivery: Delivery) {
    let step = wire::decode_step(&delivery.payload).expect("a step");
    let begun = universe.now();
    ledger.0.lock().unwrap().effects.push(Effect {
        instance: step.instance.to_string(),
        task: step.task.clone(),
        key: step.key.clone(),
        begun,
        step: step.id.clone(),
        sent: delivery.sent,
    });
    // Now and then longer than the lease: another worker gets it, too.
    let time = match universe.chance(20) {
        true => universe.between(Duration::from_secs(1), Duration::from_secs(5)),
        false => universe.between(Duration::ZERO, Duration::from_millis(30)),
    };
    universe.sleep(time).await;
    let result = StepResult {
        step: step.id.clone(),
        frame: step.frame,
        generation: step.generation,
        worker: name.into(),
        delivery: delivery.count,
        duration_ms: 1,
        outcome: outcome(&step),
        token: step.token.clone(),
    };
    let record = wire::encode_record(Some(&step.instance), &RecordBody::Result(Box::new(result)));
    while jetstream
        .publish(name, &step.report, record.clone(), None)
        .await
        .is_err()
    {
        universe.sleep(Duration::from_millis(200)).await;
    }
    let mut book = ledger.0.lock().unwrap();
    book.reported
        .entry(step.id.clone())
        .or_insert_with(|| universe.now());
    drop(book);
    if universe.now() < begun + ACK_WAIT {
        jetstream.acknowledge(name, delivery.sequence);
    }
}

/// `noop` counts `n` up; `flaky` fails on its first attempts.
fn outcome(step: &Step) -> StepOutcome {
    let input: serde_json::Value = serde_json::from_str(step.input.text()).expect("JSON");
    if step.function.starts_with("flaky")
        && u64::from(step.attempt) <= input["failures"].as_u64().unwrap_or(0)
    {
        return StepOutcome::Error(Problem::new(ErrorKind::Communication, "flaky").with_status(503));
    }
    let n = input["n"].as_i64().unwrap_or(0);
    let output = serde_json::json!({ "n": n + 1 });
    StepOutcome::Output(RawJson::encode(&output).expect("JSON"))
}

/// Starts instances of the definitions in turn, some of them twice.
pub(super) async fn load(
    universe: Universe,
    jetstream: JetStream,
    ledger: Ledger,
    definitions: Vec<DefinitionRef>,
    count: u64,
    pause: Duration,
) {
    for number in 0..count {
        let at = usize::try_from(number).unwrap() % definitions.len();
        let definition = definitions[at].clone();
        let key = InstanceKey::new("default", &format!("{}-{number}", definition.name)).unwrap();
        let start = RecordBody::Start(Box::new(Start {
            definition,
            input: RawJson::encode(&serde_json::json!({"n": 0})).unwrap(),
            labels: BTreeMap::new(),
            parent: None,
            traceparent: None,
            reply: None,
        }));
        let (jetstream, ledger, mine) = (jetstream.clone(), ledger.clone(), universe.clone());
        universe.spawn(async move { begin(&mine, &jetstream, &ledger, &key, &start).await });
        universe.sleep(universe.between(Duration::ZERO, pause * 2)).await;
    }
}

async fn begin(
    universe: &Universe,
    jetstream: &JetStream,
    ledger: &Ledger,
    key: &InstanceKey,
    start: &RecordBody,
) {
    let p = partition_of(key, PARTITIONS);
    let (subject, record) = (
        names::log_subject(p, start.kind()),
        wire::encode_record(Some(key), start),
    );
    let is_doubled = universe.chance(100);
    let losses = ledger.0.lock().unwrap().losses.len();
    loop {
        match jetstream.publish("client", &subject, record.clone(), None).await {
            Ok(ack) => {
                let mut book = ledger.0.lock().unwrap();
                // Stored and lost while its confirmation was on the way.
                if book.losses[losses..]
                    .iter()
                    .any(|(partition, lost)| *partition == p.0 && lost.contains(&ack.sequence))
                {
                    book.excused.insert(key.clone());
                }
                book.started.entry(key.clone()).or_insert((p.0, ack.sequence));
                break;
            }
            Err(_) => universe.sleep(Duration::from_millis(300)).await,
        }
    }
    if is_doubled {
        drop(jetstream.publish("client", &subject, record, None).await);
    }
}
