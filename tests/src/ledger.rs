//! The ledger: what `ledger-worker` wrote down, line by line, outside of what is tested.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Deserialize;

/// Whether an execution began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It began.
    Begin,
    /// It ended.
    End,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// Whether the execution began or ended.
    pub what: What,
    /// Id of the instance.
    pub instance: String,
    /// From 1.
    pub step: u32,
    /// Sum that the step was given.
    pub total: u64,
    /// Idempotency key.
    pub key: String,
    /// Id of the worker.
    pub worker: String,
    /// Process that ran it: a worker that was started again has the same name.
    pub pid: u32,
    /// Unix ms.
    pub at: u64,
}

impl Entry {
    /// Instance and step.
    pub fn place(&self) -> (&str, u32) {
        (&self.instance, self.step)
    }
}

/// A ledger that is removed in the end, however the test ends.
#[derive(Debug)]
pub struct Kept(PathBuf);

impl Kept {
    /// An empty one in the directory for temporary files.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("millrace-test-{}-{name}.ledger", std::process::id()));
        std::fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Nothing is lost when it is gone already.
        std::fs::remove_file(&self.0).ok();
    }
}

/// All lines so far; none when the file is not there yet.
///
/// # Errors
/// When the file cannot be read, or a whole line of it is no entry.
pub fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("cannot read the ledger {}", path.display()))?,
    };
    // A line that is being written is not looked at yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("ledger line {line:?}")))
        .collect()
}

/// What a process has begun and nobody has ended: what another must do when it is killed. A step that ended before and
/// is run once more, because its result was still on its way, is not left undone.
pub fn unfinished(entries: &[Entry], pid: u32) -> BTreeSet<(String, u32)> {
    let of = |what| entries.iter().filter(move |e| e.what == what);
    let ended: BTreeSet<_> = of(What::End).map(Entry::place).collect();
    of(What::Begin)
        .filter(|e| e.pid == pid && !ended.contains(&e.place()))
        .map(|e| (e.instance.clone(), e.step))
        .collect()
}

/// The clock that the ledger is written by: one machine, one clock.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_broken_line_is_an_error_and_one_that_is_being_written_is_not() -> anyhow::Result<()> {
        let ledger = Kept::new("broken")?;
        let whole =
            r#"{"what":"end","instance":"a","step":1,"total":0,"key":"k","worker":"w","pid":7,"at":0}"#;
        std::fs::write(ledger.path(), format!("{whole}\n{}", &whole[..20]))?;
        assert_eq!(read(ledger.path())?.len(), 1);
        std::fs::write(ledger.path(), format!("{}\n{whole}\n", &whole[..20]))?;
        assert!(read(ledger.path()).is_err());
        assert_eq!(read(Path::new("/no/such/ledger"))?, []);
        Ok(())
    }
}
