//! `--timeout`: one time limit for everything that a command does, from its first request to its last look.

use std::time::Duration;

use tokio::time::Instant;

use crate::failure::{Exit, Failure, Outcome};

/// A point in time, or none. The clock starts when it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit(Option<(Duration, Instant)>);

impl Limit {
    /// After so long, or never.
    pub(crate) fn after(time: Option<Duration>) -> Self {
        Self(time.map(|time| (time, Instant::now() + time)))
    }

    /// Completes when the time is over.
    pub(crate) async fn over(&self) {
        match self.0 {
            Some((_, at)) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Whether somebody set one.
    pub(crate) const fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Does something within the limit, else fails: `what` was not done.
    pub(crate) async fn cover<T>(
        &self,
        what: impl FnOnce() -> String,
        doing: impl Future<Output = Outcome<T>>,
    ) -> Outcome<T> {
        tokio::select! {
            done = doing => done,
            () = self.over() => Err(self.missed(&what())),
        }
    }

    /// What to say when `what` was not done in time.
    pub(crate) fn missed(&self, what: &str) -> Failure {
        let time = self.0.map_or(Duration::ZERO, |(time, _)| time);
        Failure::new(Exit::TimedOut, format!("{what} within {time:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_under_a_limit_shares_its_time() {
        let limit = Limit::after(Some(Duration::from_millis(20)));
        let done = limit.cover(String::new, std::future::ready(Ok(7))).await;
        assert_eq!(done.unwrap(), 7);
        let never = std::future::pending::<Outcome>();
        let failure = limit.cover(|| "it was not done".into(), never).await.unwrap_err();
        assert_eq!(
            (failure.exit, failure.message.as_str()),
            (Exit::TimedOut, "it was not done within 20ms")
        );
        let unlimited = Limit::after(None);
        let done = unlimited.cover(String::new, std::future::ready(Ok(7))).await;
        assert_eq!(done.unwrap(), 7);
    }
}
