//! Waiting for a condition. The deadline is generous and never a measurement: a loaded machine must not fail a test.

use std::time::{Duration, Instant};

use anyhow::bail;

const POLL_MIN: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits up to 30 s until `check` gives a value.
///
/// # Errors
/// When it does not, with `what` was waited for.
pub async fn eventually<T>(what: &str, check: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    eventually_within(DEADLINE, what, check).await
}

/// Waits until `check` gives a value; looks often at first, then ten times a second.
///
/// # Errors
/// When it does not within `deadline`, with `what` was waited for.
pub async fn eventually_within<T>(
    deadline: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    let mut pause = POLL_MIN;
    loop {
        if let Some(value) = check().await {
            return Ok(value);
        }
        if begun.elapsed() >= deadline {
            bail!("waited {deadline:?} in vain: {what}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}
