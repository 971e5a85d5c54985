//! The ledger: what `ledger-worker` wrote down, line by line, outside of what is tested.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Deserialize;

/// Whether an execution began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum What {
    Begin,
    End,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Entry {
    pub(crate) what: What,
    pub(crate) instance: String,
    /// From 1.
    pub(crate) step: u32,
    /// Sum that the step was given.
    pub(crate) total: u64,
    /// Idempotency key.
    pub(crate) key: String,
    pub(crate) worker: String,
    /// Process that ran it: a worker that was started again has the same name.
    pub(crate) pid: u32,
    /// Unix ms.
    pub(crate) at: u64,
}

impl Entry {
    pub(crate) fn place(&self) -> (&str, u32) {
        (&self.instance, self.step)
    }
}

/// All lines so far; none when the file is not there yet.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // A line that is being written is not looked at yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("ledger line {line:?}")))
        .collect()
}

/// What a process has begun and nobody has ended: what another must do when it is killed. A step that ended before and
/// is run once more, because its result was still on its way, is not left undone.
pub(crate) fn unfinished(entries: &[Entry], pid: u32) -> BTreeSet<(String, u32)> {
    let of = |what| entries.iter().filter(move |e| e.what == what);
    let ended: BTreeSet<_> = of(What::End).map(Entry::place).collect();
    of(What::Begin)
        .filter(|e| e.pid == pid && !ended.contains(&e.place()))
        .map(|e| (e.instance.clone(), e.step))
        .collect()
}

/// The clock that the ledger is written by: one machine, one clock.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[test]
fn only_what_nobody_ended_is_unfinished() {
    let entry = |what, step, pid| Entry {
        what,
        instance: "a".into(),
        step,
        total: 0,
        key: "k".into(),
        worker: "w".into(),
        pid,
        at: 0,
    };
    let entries = [
        entry(What::Begin, 1, 7),
        entry(What::End, 1, 7),
        entry(What::Begin, 2, 7),
        entry(What::Begin, 3, 8),
        entry(What::End, 3, 8),
        entry(What::Begin, 3, 7),
        entry(What::Begin, 1, 7),
    ];
    assert_eq!(unfinished(&entries, 7), BTreeSet::from([("a".into(), 2)]));
}
