//! Wire version 1, as it was written once: records and steps in these files must decode for ever. Files are added, never
//! rewritten. Each is one JSON object as it goes over the wire, formatted for people; encoding what was decoded must give
//! the same JSON again.

use std::path::PathBuf;

use millrace_common::wire;
use serde_json::Value;

fn files(prefix: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.retain(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    paths.sort();
    paths
        .into_iter()
        .map(|p| (p.clone(), std::fs::read(p).unwrap()))
        .collect()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn records_of_version_1_decode_and_encode_the_same() {
    let files = files("record-v1-");
    let mut kinds = std::collections::BTreeSet::new();
    for (path, bytes) in &files {
        let (instance, body) =
            wire::decode_record(bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        kinds.insert(body.kind());
        let again = wire::encode_record(instance.as_ref(), &body);
        assert_eq!(json(&again), json(bytes), "{}", path.display());
    }
    let all = [
        "announce",
        "childEnded",
        "continue",
        "control",
        "event",
        "lost",
        "progress",
        "result",
        "schedule",
        "start",
        "timer",
        "unquarantine",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
}

#[test]
fn steps_of_version_1_decode_and_encode_the_same() {
    let files = files("step-v1-");
    assert!(!files.is_empty());
    for (path, bytes) in &files {
        let step = wire::decode_step(bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(json(&wire::encode_step(&step)), json(bytes), "{}", path.display());
    }
}

#[test]
fn members_that_a_later_build_adds_are_ignored() {
    let text = br#"{"v":1,"instance":"default/a","later":1,"record":{"timer":{"timer":{"frame":1,"number":2},"later":true}}}"#;
    let (instance, body) = wire::decode_record(text).unwrap();
    assert_eq!((instance.unwrap().as_str(), body.kind()), ("default/a", "timer"));
}
