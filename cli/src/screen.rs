//! Progress of an instance on stderr: a line for everything that happened and, on a terminal, below them a few lines
//! that are redrawn for what it waits for.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::entry;
use crate::terminal::{Style, is_live, stderr_width};

/// Lines that are redrawn at most.
const LIVE_MAX: usize = 8;
/// Columns of such a line around what is waited for: indent, sign and seconds.
const AROUND: usize = 24;
/// A step is waiting for a worker that offers its function for this long before it is worth a line.
const UNOFFERED: Duration = Duration::from_secs(1);
const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// See the module.
#[derive(Debug)]
pub(crate) struct Screen {
    live: bool,
    style: Style,
    base_ms: Option<i64>,
    /// Lines now below the history.
    drawn: usize,
    turn: usize,
    since: HashMap<String, Instant>,
    /// Without a terminal: what was last said of waiting.
    said: HashMap<String, String>,
    /// The last remark, as long as it is true.
    remarked: String,
}

impl Screen {
    /// For standard error.
    pub(crate) fn new() -> Self {
        Self {
            live: is_live(),
            style: Style::stderr(),
            base_ms: None,
            drawn: 0,
            turn: 0,
            since: HashMap::new(),
            said: HashMap::new(),
            remarked: String::new(),
        }
    }

    /// Shows new entries and what is waited for.
    pub(crate) fn update(&mut self, entries: &[Value], view: &Value) {
        self.remarked.clear();
        let mut text = self.erased();
        for new in entries {
            let base = *self.base_ms.get_or_insert_with(|| entry::base_ms(new));
            text += &entry::line(new, base, self.style);
            text.push('\n');
        }
        let waiting = view["waitingFor"].as_array().map_or(&[][..], Vec::as_slice);
        text += &if self.live {
            self.drawing(waiting, view)
        } else {
            self.news(waiting)
        };
        write(&text);
    }

    /// The instance is not there yet.
    pub(crate) fn pending(&mut self) {
        self.remark("accepted; waiting until its partition is served");
    }

    /// The coordinator does not answer now.
    pub(crate) fn away(&mut self, why: &str) {
        self.remark(why);
    }

    /// Says it once, until it is another.
    fn remark(&mut self, text: &str) {
        if self.remarked != text {
            self.remarked = text.to_owned();
            let line = format!("           · {text}\n");
            write(&(self.erased() + &line));
        }
    }

    /// Takes the redrawn lines away.
    pub(crate) fn end(&mut self) {
        let text = self.erased();
        write(&text);
    }

    fn erased(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn drawing(&mut self, waiting: &[Value], view: &Value) -> String {
        self.turn += 1;
        let frame = FRAMES[self.turn % FRAMES.len()];
        let keys: Vec<_> = waiting.iter().map(identity).collect();
        // A line that wrapped would be two, and only one would be taken away.
        let width = stderr_width().saturating_sub(AROUND);
        self.since.retain(|key, _| keys.contains(key));
        let mut text = String::new();
        for (one, key) in waiting.iter().zip(keys).take(LIVE_MAX) {
            let seconds = self
                .since
                .entry(key)
                .or_insert_with(Instant::now)
                .elapsed()
                .as_secs_f32();
            let line = entry::waiting(one, width, self.style);
            let time = self.style.dim(&format!("{seconds:.1} s"));
            text += &format!("           {} {line} {time}\n", self.style.cyan(frame));
            self.drawn += 1;
        }
        let total = view["waitingTotal"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(waiting.len());
        if total > self.drawn {
            text += &format!(
                "           {} and {} more\n",
                self.style.cyan(frame),
                total - self.drawn
            );
            self.drawn += 1;
        }
        text
    }

    /// Without a terminal: only what is new since the last time.
    fn news(&mut self, waiting: &[Value]) -> String {
        let mut text = String::new();
        let shown = &waiting[..waiting.len().min(LIVE_MAX)];
        let keys: Vec<_> = shown.iter().map(identity).collect();
        self.since.retain(|key, _| keys.contains(key));
        self.said.retain(|key, _| keys.contains(key));
        for (one, key) in shown.iter().zip(keys) {
            let since = self.since.entry(key.clone()).or_insert_with(Instant::now);
            if !speaks(one, since.elapsed()) {
                continue;
            }
            let line = entry::waiting(one, usize::MAX, self.style);
            if self.said.get(&key) != Some(&line) {
                text += &format!("           · {line}\n");
                self.said.insert(key, line);
            }
        }
        text
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end();
    }
}

/// Of steps, timers and retries the history tells; not of a step that nobody takes. A worker that is just coming up is
/// given a moment.
fn speaks(waiting: &Value, since: Duration) -> bool {
    match waiting["kind"].as_str() {
        Some("child" | "quarantine") => true,
        Some("step") => waiting["offered"] == false && since >= UNOFFERED,
        _ => false,
    }
}

fn identity(waiting: &Value) -> String {
    format!("{} {} {}", waiting["task"], waiting["kind"], waiting["attempt"])
}

fn write(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut out = std::io::stderr().lock();
    // Progress is a courtesy: a closed stderr must not end the run.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}
