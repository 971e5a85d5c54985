//! The way out: SIGTERM or SIGINT once asks every part to finish, twice ends the process at once.

use tokio_util::sync::CancellationToken;

/// Exit code of a process that was told twice to stop and did.
pub const SECOND_SIGNAL_EXIT_CODE: i32 = 130;

/// Told to every part; cheap to clone. A part that wants to stop its own children takes [`Shutdown::child`].
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that only [`Self::trigger`] sets off: for tests and parts started by others.
    pub fn new() -> Self {
        Self::default()
    }

    /// Set off by SIGTERM or SIGINT; the second of either exits with [`SECOND_SIGNAL_EXIT_CODE`].
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut signals = Signals::new()?;
        let told = shutdown.clone();
        // Lives as long as the process: the second signal must find it.
        tokio::spawn(async move {
            let name = signals.next().await;
            tracing::info!(signal = name, "stopping; send the signal again to exit at once");
            told.trigger();
            let name = signals.next().await;
            tracing::warn!(signal = name, "second signal, exiting at once");
            std::process::exit(SECOND_SIGNAL_EXIT_CODE);
        });
        Ok(shutdown)
    }

    /// Asks everyone to stop. Again is a no-op.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether stopping was asked for.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Completes once stopping was asked for; at once if it was already.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }

    /// Set off with this one, or alone without touching this one.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Runs a future until it completes (`Some`) or stopping is asked for (`None`; the future is dropped).
    pub async fn unless<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn children_stop_with_the_parent_and_alone() {
        let parent = Shutdown::new();
        let (a, b) = (parent.child(), parent.child());
        a.trigger();
        assert!(a.is_triggered() && !parent.is_triggered() && !b.is_triggered());
        parent.trigger();
        b.triggered().await;
        assert_eq!(b.unless(std::future::pending::<()>()).await, None);
    }
}
