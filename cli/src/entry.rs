//! Lines for people: what happened to an instance, and what it waits for.

use serde_json::Value;

use crate::output::text;
use crate::terminal::{Style, cut};

/// Width of task names before the columns break.
const NAME: usize = 18;

/// One entry of the history as a line; `base_ms` is where its clock starts.
pub(crate) fn line(entry: &Value, base_ms: i64, style: Style) -> String {
    let at = clock(entry["at"].as_i64().unwrap_or(base_ms) - base_ms);
    let kind = entry["type"].as_str().unwrap_or_default();
    let sign = sign(kind, style);
    let what = match text(entry, "/name") {
        name if name.is_empty() => about_itself(entry, kind, style),
        name => format!("{:NAME$} {}", cut(&name, NAME), happened(entry, kind)),
    };
    let error = match kind {
        // The line of the failed task has said all of it, if a task failed.
        "task.retried" => problem_kind(&entry["error"]),
        _ => problem(&entry["error"]),
    };
    let error = if error.is_empty() {
        error
    } else {
        format!(": {}", style.red(&cut(&error, 160)))
    };
    format!("{} {sign} {}{error}", style.dim(&at), what.trim_end())
}

/// Where the clock of an instance's lines starts: at its first entry.
pub(crate) fn base_ms(first: &Value) -> i64 {
    let at = first["at"].as_i64().unwrap_or(0);
    first["startedAt"].as_i64().map_or(at, |started| started.min(at))
}

/// One thing that an instance waits for, in at most `width` characters.
pub(crate) fn waiting(waiting: &Value, width: usize, style: Style) -> String {
    let task = text(waiting, "/task");
    let name = task.rsplit('/').next().unwrap_or_default();
    let worker = text(waiting, "/worker");
    let attempt = match waiting["attempt"].as_u64() {
        Some(n) if n > 1 => format!(", attempt {n}"),
        _ => String::new(),
    };
    let what = match waiting["kind"].as_str().unwrap_or_default() {
        "step" if waiting["offered"] == false => format!("waits: {}{attempt}", text(waiting, "/reason")),
        "step" if worker.is_empty() => format!("{} is dispatched{attempt}", text(waiting, "/function")),
        "step" => format!("{} runs on {worker}{attempt}", text(waiting, "/function")),
        "timer" => format!("waits until {}", text(waiting, "/due")),
        "retry" => format!("is tried again at {}", text(waiting, "/due")),
        "child" => format!("waits for {}", text(waiting, "/child")),
        "quarantine" => format!("is quarantined: {}", text(waiting, "/reason")),
        other => other.to_owned(),
    };
    format!(
        "{:NAME$} {}",
        cut(name, NAME),
        style.cyan(&cut(&what, width.saturating_sub(NAME + 1).max(10)))
    )
}

/// A problem of the language in one line.
pub(crate) fn problem(problem: &Value) -> String {
    if !problem.is_object() {
        return String::new();
    }
    let kind = problem_kind(problem);
    let detail = [text(problem, "/detail"), text(problem, "/title")]
        .into_iter()
        .find(|t| !t.is_empty());
    match detail {
        Some(detail) => format!("{kind}: {detail}"),
        None => kind,
    }
}

fn problem_kind(problem: &Value) -> String {
    if !problem.is_object() {
        return String::new();
    }
    let kind = text(problem, "/type");
    let kind = kind.rsplit('/').next().unwrap_or_default();
    format!("{kind} error {}", text(problem, "/status"))
}

/// What happened to the instance, with the operator's reason.
fn about_itself(entry: &Value, kind: &str, style: Style) -> String {
    let what = style.bold(&kind.replace("instance.", "instance "));
    match text(entry, "/detail") {
        reason if reason.is_empty() => what,
        reason => format!("{what}: {}", cut(&reason, 120)),
    }
}

fn sign(kind: &str, style: Style) -> String {
    match kind {
        "task.completed" | "task.detachedCompleted" | "instance.completed" => style.green("✓"),
        "task.faulted" | "task.detachedFaulted" | "instance.faulted" => style.red("✗"),
        "task.retried" | "instance.retried" => style.yellow("↻"),
        "task.takenOver" | "task.redispatched" => style.yellow("⇄"),
        "task.started" => style.cyan("▸"),
        "task.cancelled" | "instance.cancelled" | "instance.suspended" | "instance.quarantined" => {
            style.yellow("■")
        }
        _ => style.dim("·"),
    }
}

fn happened(entry: &Value, kind: &str) -> String {
    let word = kind.trim_start_matches("task.");
    let detail = text(entry, "/detail");
    if !detail.is_empty() {
        return cut(&detail, 120);
    }
    let mut line = word.to_owned();
    let worker = text(entry, "/worker");
    if !worker.is_empty() {
        line += &format!(" on {worker}");
    }
    if let Some(ms) = entry["durationMs"].as_u64() {
        line += &format!(" in {ms} ms");
    }
    match (entry["attempt"].as_u64(), entry["delivery"].as_u64()) {
        (Some(attempt), _) if attempt > 1 => line += &format!(", attempt {attempt}"),
        (_, Some(delivery)) if delivery > 1 => line += &format!(", delivery {delivery}"),
        _ => {}
    }
    line
}

/// Milliseconds as seconds with three places, aligned.
fn clock(ms: i64) -> String {
    let ms = ms.max(0);
    format!("{:>5}.{:03}s", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_read_as_sentences() {
        let plain = |entry: Value| line(&entry, 1000, Style::plain());
        assert_eq!(
            plain(
                json!({"n":1,"at":1012,"type":"task.completed","task":"/do/0/greet","name":"greet","worker":"w-1",
                "durationMs":3,"attempt":2})
            ),
            "    0.012s ✓ greet              completed on w-1 in 3 ms, attempt 2"
        );
        assert_eq!(
            plain(
                json!({"n":2,"at":3000,"type":"task.faulted","name":"pay","worker":"w-1","attempt":1,
                "error":{"type":"https://x/errors/communication","status":503,"detail":"no\nluck"}})
            ),
            "    2.000s ✗ pay                faulted on w-1: communication error 503: no…"
        );
        assert_eq!(
            plain(
                json!({"n":3,"at":3000,"type":"task.retried","name":"try","attempt":1,
                "detail":"retry 1 in 100 ms","error":{"type":"https://x/errors/communication","status":503}})
            ),
            "    2.000s ↻ try                retry 1 in 100 ms: communication error 503"
        );
        assert_eq!(
            plain(json!({"n":3,"at":3100,"type":"instance.completed"})),
            "    2.100s ✓ instance completed"
        );
    }

    #[test]
    fn waiting_names_who_and_what() {
        let plain = |value: Value| waiting(&value, 100, Style::plain());
        assert_eq!(
            plain(
                json!({"kind":"step","task":"/do/1/ship","function":"sleep:1.0.0","worker":"w-2","attempt":2})
            ),
            "ship               sleep:1.0.0 runs on w-2, attempt 2"
        );
        assert_eq!(
            plain(json!({"kind":"step","task":"/do/1/ship","function":"sleep:1.0.0","attempt":1})),
            "ship               sleep:1.0.0 is dispatched"
        );
        assert_eq!(
            plain(
                json!({"kind":"step","task":"/do/1/ship","function":"slep:1.0.0","attempt":1,"offered":false,
                "reason":"no worker offers slep:1.0.0; did you mean `sleep:1.0.0`?"})
            ),
            "ship               waits: no worker offers slep:1.0.0; did you mean `sleep:1.0.0`?"
        );
    }
}
