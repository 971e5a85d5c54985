//! What must not appear in log lines: texts that a part of the process declared secret. The last line of defence;
//! nothing logs secrets on purpose.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use tracing_subscriber::fmt::MakeWriter;

/// Stands for a hidden text.
pub const MASK: &str = "***";

/// Texts kept. Above it the oldest one is forgotten: by then its step is long over.
const TEXTS_MAX: usize = 4096;

static ANY: AtomicBool = AtomicBool::new(false);
static TEXTS: RwLock<VecDeque<String>> = RwLock::new(VecDeque::new());

/// From now on, replaces this text in every log line of the process.
pub fn hide(text: &str) {
    let is_known = |texts: &VecDeque<String>| texts.iter().any(|t| t == text);
    if text.is_empty() || is_known(&TEXTS.read().unwrap_or_else(PoisonError::into_inner)) {
        return;
    }
    let mut texts = TEXTS.write().unwrap_or_else(PoisonError::into_inner);
    if texts.len() == TEXTS_MAX {
        texts.pop_front();
    }
    texts.push_back(text.to_owned());
    ANY.store(true, Ordering::Release);
}

/// Standard error, through the mask. `tracing` writes each line with one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match masked(line) {
            Some(masked) => io::stderr().write_all(masked.as_bytes())?,
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// `None` when nothing in the line is hidden.
fn masked(line: &[u8]) -> Option<String> {
    if !ANY.load(Ordering::Acquire) {
        return None;
    }
    let line = String::from_utf8_lossy(line);
    let texts = TEXTS.read().unwrap_or_else(PoisonError::into_inner);
    let mut found: Vec<&String> = texts.iter().filter(|t| line.contains(t.as_str())).collect();
    // One may be part of another.
    found.sort_by_key(|t| std::cmp::Reverse(t.len()));
    let mask = |line: String, text: &&String| line.replace(text.as_str(), MASK);
    (!found.is_empty()).then(|| found.iter().fold(line.into_owned(), mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_texts_are_replaced_in_lines() {
        assert_eq!(masked(b"before open-sesame"), None);
        hide("open-sesame");
        hide("open-sesame-2");
        hide("");
        assert_eq!(
            masked(b"say open-sesame-2 or open-sesame\n").as_deref(),
            Some("say *** or ***\n")
        );
        assert_eq!(masked(b"nothing here"), None);
    }
}
