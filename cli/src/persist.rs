//! Repeats of what is safe to repeat: a coordinator that restarts or has too much to do is no reason to give up.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::{CallError, Client};
use crate::limit::Limit;

/// How long without a `--timeout`.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// First and longest pause between two tries.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// Tries until there is an answer that time does not change, or the time is over; gives the last one. Says on stderr what
/// it waits for. A coordinator that was never reached is not waited for.
pub(crate) async fn persist<T>(
    client: &Client,
    limit: &Limit,
    mut attempt: impl AsyncFnMut() -> Result<T, CallError>,
) -> Result<T, CallError> {
    let end = Instant::now() + PATIENCE;
    let (mut pause, mut said) = (PAUSE_FIRST, String::new());
    loop {
        let error = match attempt().await {
            Err(error) if passes(&error, client) => error,
            other => return other,
        };
        // A limit ends this from outside.
        if !limit.is_set() && Instant::now() >= end {
            return Err(error);
        }
        let why = error.to_string();
        if why != said {
            eprintln!("trying again: {why}");
            said = why;
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE_LAST.min(pause * 2);
    }
}

/// A coordinator that was never there is not about to come back.
fn passes(error: &CallError, client: &Client) -> bool {
    match error {
        CallError::Unreachable(_) => client.was_reached(),
        CallError::Unanswered(_) | CallError::Refused(..) => error.is_transient(),
    }
}
