//! Follows an instance to its end by polling, and says how it ended.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::client::{CallError, Client, Query, segment};
use crate::entry;
use crate::failure::{Exit, Failure, Outcome};
use crate::limit::Limit;
use crate::output::{print, text};
use crate::persist::PATIENCE;
use crate::screen::Screen;

/// Between two looks: short at first, since most runs are.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_millis(250);
/// Ctrl-C.
const SIGINT: u8 = 2;
/// Entries in one page.
const PAGE: usize = 500;

/// Which instance.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) id: String,
    pub(crate) namespace: Option<String>,
    /// Its start is in the log and was not read yet: until then it cannot be found.
    pub(crate) is_pending: bool,
}

impl Target {
    /// Its path with the namespace as query.
    pub(crate) fn path(&self, rest: &str) -> (String, Query) {
        let mut query = Query::default();
        query.add_some("namespace", self.namespace.as_deref());
        (format!("/api/v1/instances/{}{rest}", segment(&self.id)), query)
    }

    fn watch_command(&self) -> String {
        match self.namespace.as_deref() {
            None | Some("default") => format!("millrace instance watch {}", self.id),
            Some(namespace) => format!("millrace instance watch {} -n {namespace}", self.id),
        }
    }
}

/// Follows until the instance has ended; gives its last view.
pub(crate) async fn follow(client: &Client, target: &Target, limit: &Limit) -> Outcome<Value> {
    let goes_on = || {
        format!(
            "the instance goes on; follow it with `{}`",
            target.watch_command()
        )
    };
    tokio::select! {
        ended = poll(client, target) => ended,
        () = limit.over() => {
            Err(limit.missed(&format!("instance {} has not ended", target.id)).hint(goes_on()))
        }
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Exit::Signal(SIGINT), "interrupted").hint(goes_on()))
        }
    }
}

async fn poll(client: &Client, target: &Target) -> Outcome<Value> {
    let mut screen = Screen::new();
    let mut look = LOOK_FIRST;
    let mut history = History::new(target.clone());
    let mut away_since: Option<Instant> = None;
    let mut is_pending = target.is_pending;
    loop {
        match step(client, target, &mut history, &mut screen).await {
            Ok(view) if is_ended(&view) => return Ok(view),
            Ok(_) => (away_since, is_pending) = (None, false),
            Err(error) if is_pending && error.is_not_found() => {
                away_since = None;
                screen.pending();
            }
            Err(error) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if !error.is_transient() || since.elapsed() > PATIENCE {
                    screen.end();
                    return Err(lost(client, target, error));
                }
                screen.away(&error.to_string());
            }
        }
        tokio::time::sleep(look).await;
        look = LOOK_LAST.min(look * 2);
    }
}

fn lost(client: &Client, target: &Target, error: CallError) -> Failure {
    let is_away = error.is_transient();
    let failure = client.failure(error);
    if is_away {
        failure.hint(format!(
            "the instance goes on when the coordinator does; follow it with `{}`",
            target.watch_command()
        ))
    } else {
        failure
    }
}

async fn step(
    client: &Client,
    target: &Target,
    history: &mut History,
    screen: &mut Screen,
) -> Result<Value, CallError> {
    let (path, query) = target.path("");
    let view = client.try_get(&format!("{path}{}", query.text())).await?;
    // Read after the view: so an ended view has a whole history.
    let entries = history.news(client).await?;
    screen.update(&entries, &view);
    Ok(view)
}

/// Reads the history on from where it was.
#[derive(Debug)]
pub(crate) struct History {
    target: Target,
    after: u64,
}

impl History {
    /// From the first entry.
    pub(crate) fn new(target: Target) -> Self {
        Self { target, after: 0 }
    }

    /// Everything that is new.
    pub(crate) async fn news(&mut self, client: &Client) -> Result<Vec<Value>, CallError> {
        let mut news = Vec::new();
        loop {
            let (path, mut query) = self.target.path("/history");
            query.add("after", &self.after.to_string());
            query.add("limit", &PAGE.to_string());
            let mut page = client.try_get(&format!("{path}{}", query.text())).await?;
            let Some(Value::Array(entries)) = page.get_mut("entries").map(Value::take) else {
                return Ok(news);
            };
            self.after = entries.last().and_then(|e| e["n"].as_u64()).unwrap_or(self.after);
            news.extend(entries);
            if page["nextAfter"].is_null() {
                return Ok(news);
            }
        }
    }
}

/// Whether a view is of an instance that has ended.
pub(crate) fn is_ended(view: &Value) -> bool {
    matches!(
        view["status"].as_str(),
        Some("completed" | "faulted" | "cancelled")
    )
}

/// Prints the output of a completed instance, or says why there is none.
pub(crate) fn conclude(view: &Value) -> Outcome {
    let id = text(view, "/id");
    match view["status"].as_str().unwrap_or_default() {
        "completed" => print(&view["output"].to_string()),
        "faulted" => {
            let message = format!("instance {id} faulted: {}", entry::problem(&view["error"]));
            Err(Failure::new(Exit::Faulted, message)
                .report(view["error"].to_string())
                .hint(format!(
                    "`millrace instance retry {id}` starts it again from the failed task"
                )))
        }
        "cancelled" => Err(Failure::new(
            Exit::Cancelled,
            format!("instance {id} was cancelled"),
        )),
        status => Err(Failure::new(
            Exit::TimedOut,
            format!("instance {id} has not ended: it is {status}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_end_of_an_instance_is_the_exit_code() {
        assert!(conclude(&json!({"id": "a", "status": "completed", "output": {"x": 1}})).is_ok());
        let faulted =
            conclude(&json!({"id": "a", "status": "faulted", "error": {"type": "t", "status": 500}}));
        let failure = faulted.unwrap_err();
        assert_eq!(failure.exit, Exit::Faulted);
        assert_eq!(failure.report.as_deref(), Some(r#"{"type":"t","status":500}"#));
        assert_eq!(
            conclude(&json!({"id": "a", "status": "cancelled"}))
                .unwrap_err()
                .exit,
            Exit::Cancelled
        );
        assert_eq!(
            conclude(&json!({"id": "a", "status": "running"}))
                .unwrap_err()
                .exit,
            Exit::TimedOut
        );
    }
}
