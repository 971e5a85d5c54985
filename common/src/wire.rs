//! Encoding of records and steps: JSON, one object, a version in front. Old golden files in `tests/golden` must
//! decode for ever; a new version is added, never exchanged.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{InstanceKey, RecordBody, Step};

/// Version of the wire format that is written.
pub const VERSION: u32 = 1;

/// Why bytes could not be decoded. A retry gives the same answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the JSON that was expected.
    #[error("cannot decode {what}: {source}")]
    Json {
        /// Record or step.
        what: &'static str,
        /// serde_json's reason.
        #[source]
        source: serde_json::Error,
    },
    /// Written by a newer build.
    #[error("cannot decode {what}: wire version {found} is newer than {VERSION}; upgrade this process")]
    Version {
        /// Record or step.
        what: &'static str,
        /// Version found.
        found: u32,
    },
}

#[derive(Serialize)]
struct RecordOut<'a> {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a InstanceKey>,
    record: &'a RecordBody,
}

#[derive(Deserialize)]
struct RecordIn {
    #[serde(default)]
    instance: Option<InstanceKey>,
    record: RecordBody,
}

#[derive(Serialize)]
struct StepOut<'a> {
    v: u32,
    step: &'a Step,
}

#[derive(Deserialize)]
struct StepIn {
    step: Step,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// Encodes a record's body for the log: `{"v":1,"instance":"ns/id","record":{"<kind>":{…}}}`.
pub fn encode_record(instance: Option<&InstanceKey>, body: &RecordBody) -> Bytes {
    write(&RecordOut {
        v: VERSION,
        instance,
        record: body,
    })
}

/// Decodes a log entry.
///
/// # Errors
/// [`Error`]; the same bytes fail again.
pub fn decode_record(bytes: &[u8]) -> Result<(Option<InstanceKey>, RecordBody), Error> {
    let r: RecordIn = read("record", bytes)?;
    Ok((r.instance, r.record))
}

/// Encodes a step for the work queue: `{"v":1,"step":{…}}`.
pub fn encode_step(step: &Step) -> Bytes {
    write(&StepOut { v: VERSION, step })
}

/// Decodes a step.
///
/// # Errors
/// [`Error`]; the same bytes fail again.
pub fn decode_step(bytes: &[u8]) -> Result<Step, Error> {
    read::<StepIn>("step", bytes).map(|s| s.step)
}

fn write<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .expect("wire types have string keys and no failing serialiser")
        .into()
}

fn read<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| match serde_json::from_slice::<Version>(bytes) {
        Ok(found) if found.v > VERSION => Error::Version { what, found: found.v },
        _ => Error::Json { what, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RawJson, StepOutcome, StepResult};

    #[test]
    fn records_round_trip() {
        let instance: InstanceKey = "default/a".parse().unwrap();
        let body = RecordBody::Result(Box::new(StepResult {
            step: "k.1".into(),
            frame: 4,
            generation: 0,
            worker: "w".into(),
            delivery: 1,
            duration_ms: 3,
            outcome: StepOutcome::Output(RawJson::parse(br#"{"a": [1, 2.50]}"#).unwrap()),
            token: String::new(),
        }));
        let bytes = encode_record(Some(&instance), &body);
        assert_eq!(decode_record(&bytes).unwrap(), (Some(instance), body));
    }

    #[test]
    fn newer_versions_are_named() {
        let text = decode_record(br#"{"v":9,"record":{"unheardOf":{}}}"#)
            .unwrap_err()
            .to_string();
        assert!(text.contains("version 9"), "{text}");
        assert!(
            decode_record(b"nonsense")
                .unwrap_err()
                .to_string()
                .starts_with("cannot decode record")
        );
    }
}
