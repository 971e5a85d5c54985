//! Effects that must leave, and steps that are out: the memory of the outbox hash.
//!
//! A step's entry lives from the commit that dispatches it to the commit that holds its result; its value says which
//! generation it is and, once the work queue has acknowledged it, under which sequence. So a new owner publishes only
//! what may not have left, and the audit can prove a loss. The message itself is rebuilt from the state. Only a detached
//! step stands here whole, and only until the work queue has it: it belongs to the queue from then on.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use millrace_common::{InstanceKey, RawJson};
use serde::{Deserialize, Serialize};

use crate::trace::Attempt;

/// A step that is out.
#[derive(Clone, Debug)]
pub(crate) struct OpenStep {
    /// Step id.
    pub(crate) step: String,
    /// Dispatch generation.
    pub(crate) generation: u32,
    /// Sequence in the work queue, once acknowledged.
    pub(crate) sequence: Option<u64>,
    /// When it was last published (this process).
    pub(crate) since: Instant,
    /// Function, a label of metrics.
    pub(crate) function: Box<str>,
    /// What is told about the attempt when it ends, if its run is traced.
    pub(crate) attempt: Option<Box<Attempt>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    steps: HashMap<(InstanceKey, u32), OpenStep>,
    sends: HashMap<String, Bytes>,
    /// Steps acknowledged since the last commit.
    marks: Vec<(InstanceKey, u32)>,
    /// Sends acknowledged since the last commit.
    sent: Vec<String>,
}

/// What an entry of the hash says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A step.
    Step {
        /// Instance.
        instance: InstanceKey,
        /// Frame.
        frame: u32,
        /// Generation.
        generation: u32,
        /// Sequence in the work queue, if acknowledged.
        sequence: Option<u64>,
    },
    /// A record for a log; the value is the encoded record.
    Send,
    /// A detached step; the value is a [`Detached`].
    Detached,
    /// An event; the value is the event.
    Event,
    /// A lifecycle event, likewise.
    Lifecycle,
}

impl Outbox {
    /// Entries in all.
    pub(crate) fn len(&self) -> usize {
        self.steps.len() + self.sends.len()
    }

    /// A step was committed or read back.
    pub(crate) fn open(&mut self, instance: InstanceKey, frame: u32, step: OpenStep) {
        self.steps.insert((instance, frame), step);
    }

    /// A step is closed.
    pub(crate) fn settle(&mut self, instance: &InstanceKey, frame: u32) {
        self.steps.remove(&(instance.clone(), frame));
    }

    /// The open step of a frame.
    pub(crate) fn step(&self, instance: &InstanceKey, frame: u32) -> Option<&OpenStep> {
        self.steps.get(&(instance.clone(), frame))
    }

    /// All open steps.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&(InstanceKey, u32), &OpenStep)> {
        self.steps.iter()
    }

    /// The work queue has a step. Ignored when it is closed already or was dispatched anew.
    pub(crate) fn acknowledged(
        &mut self,
        instance: &InstanceKey,
        frame: u32,
        (step, generation): (&str, u32),
        sequence: u64,
    ) {
        let key = (instance.clone(), frame);
        if let Some(open) = self.steps.get_mut(&key)
            && open.step == step
            && open.generation == generation
        {
            open.sequence = Some(sequence);
            self.marks.push(key);
        }
    }

    /// A record must be appended to a log, or an event published.
    pub(crate) fn send(&mut self, field: String, record: Bytes) {
        self.sends.insert(field, record);
    }

    /// The record of a field that is not appended yet.
    pub(crate) fn unsent(&self, field: &str) -> Option<&Bytes> {
        self.sends.get(field)
    }

    /// The log has a record.
    pub(crate) fn sent(&mut self, field: String) {
        if self.sends.remove(&field).is_some() {
            self.sent.push(field);
        }
    }

    /// Whether acknowledgements wait for a commit.
    pub(crate) fn has_marks(&self) -> bool {
        !self.marks.is_empty() || !self.sent.is_empty()
    }

    /// Takes what was acknowledged since the last commit, as changes of the hash. A step that closed meanwhile is not
    /// written again.
    pub(crate) fn take_marks(&mut self) -> Vec<(String, Option<Bytes>)> {
        let mut changes: Vec<_> = std::mem::take(&mut self.sent)
            .into_iter()
            .map(|f| (f, None))
            .collect();
        for key in std::mem::take(&mut self.marks) {
            if let Some(open) = self.steps.get(&key) {
                changes.push((
                    step_field(&key.0, key.1),
                    Some(step_value(open.generation, open.sequence)),
                ));
            }
        }
        changes
    }
}

/// Field of a step.
pub(crate) fn step_field(instance: &InstanceKey, frame: u32) -> String {
    format!("s|{instance}|{frame}")
}

/// Field of a record that must be sent.
pub(crate) fn send_field(instance: &InstanceKey, id: &str) -> String {
    format!("m|{instance}|{id}")
}

/// Field of an event that must be published.
pub(crate) fn event_field(instance: &InstanceKey, id: &str) -> String {
    format!("e|{instance}|{id}")
}

/// Field of a lifecycle event that must be published.
pub(crate) fn lifecycle_field(instance: &InstanceKey, id: &str) -> String {
    format!("l|{instance}|{id}")
}

/// Field of a detached step.
pub(crate) fn detached_field(step: &str) -> String {
    format!("d|{step}")
}

/// A detached step on its way to the work queue: whole, because its instance knows nothing of it any more.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Detached {
    /// Its queue.
    pub(crate) queue: String,
    /// Trace context for its message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    /// The encoded step.
    pub(crate) step: RawJson,
}

impl Detached {
    /// As it is stored.
    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("texts and JSON can be written as JSON")
            .into()
    }

    /// Reads it back; `None` when it is not one.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// Value of a step.
pub(crate) fn step_value(generation: u32, sequence: Option<u64>) -> Bytes {
    match sequence {
        Some(sequence) => format!("{generation} {sequence}").into(),
        None => generation.to_string().into(),
    }
}

/// Reads an entry back; `None` when it is not one.
pub(crate) fn parse(field: &str, value: &[u8]) -> Option<Entry> {
    let mut parts = field.split('|');
    match parts.next()? {
        "m" => Some(Entry::Send),
        "d" => Some(Entry::Detached),
        "e" => Some(Entry::Event),
        "l" => Some(Entry::Lifecycle),
        "s" => {
            let instance = parts.next()?.parse().ok()?;
            let frame = parts.next()?.parse().ok()?;
            let mut value = std::str::from_utf8(value).ok()?.split(' ');
            let generation = value.next()?.parse().ok()?;
            let sequence = value.next().map(str::parse).transpose().ok()?;
            Some(Entry::Step {
                instance,
                frame,
                generation,
                sequence,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> InstanceKey {
        "default/a:1".parse().unwrap()
    }

    fn open(generation: u32) -> OpenStep {
        OpenStep {
            step: "s".into(),
            generation,
            sequence: None,
            since: Instant::now(),
            function: "f".into(),
            attempt: None,
        }
    }

    #[test]
    fn entries_round_trip() {
        for sequence in [None, Some(7)] {
            let parsed = parse(&step_field(&key(), 3), &step_value(2, sequence));
            assert_eq!(
                parsed,
                Some(Entry::Step {
                    instance: key(),
                    frame: 3,
                    generation: 2,
                    sequence
                })
            );
        }
        assert_eq!(parse(&send_field(&key(), "continue"), b"{}"), Some(Entry::Send));
        assert_eq!(parse(&event_field(&key(), "00ab"), b"{}"), Some(Entry::Event));
        assert_eq!(parse("x|y", b""), None);
        let detached = Detached {
            queue: "run-shell".into(),
            traceparent: None,
            step: RawJson::parse(br#"{"id": "a.1"}"#).unwrap(),
        };
        let value = detached.encode();
        assert_eq!(
            parse(&detached_field("default/a:1.1"), &value),
            Some(Entry::Detached)
        );
        assert_eq!(Detached::decode(&value), Some(detached));
    }

    #[test]
    fn an_acknowledgement_of_an_older_generation_or_attempt_is_ignored() {
        let mut o = Outbox::default();
        o.open(key(), 1, open(1));
        o.acknowledged(&key(), 1, ("s", 0), 9);
        o.acknowledged(&key(), 1, ("earlier", 1), 9);
        assert!(!o.has_marks());
        o.acknowledged(&key(), 1, ("s", 1), 10);
        assert_eq!(
            o.take_marks(),
            [(step_field(&key(), 1), Some(step_value(1, Some(10))))]
        );
    }

    #[test]
    fn a_step_that_closed_is_not_marked() {
        let mut o = Outbox::default();
        o.open(key(), 1, open(0));
        o.acknowledged(&key(), 1, ("s", 0), 9);
        o.settle(&key(), 1);
        assert!(o.take_marks().is_empty());
    }
}
