//! The time of a coordinator: its monotonic clock, the wall clock, and waiting. One seam for all three, so that the
//! simulation runs the same code in virtual time, with clocks that differ between coordinators.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::{BoxFuture, Either, select};

/// What tells the time. The system's, or a simulation's.
pub trait Time: Send + Sync {
    /// Monotonic.
    fn instant(&self) -> Instant;

    /// Wall clock, Unix ms.
    fn now_ms(&self) -> i64;

    /// Waits.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;

    /// A number that differs from one process to the next: for jitter and nonces.
    fn random(&self) -> u64;
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Time>);

/// The time limit ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self(Arc::new(System))
    }

    /// Another time.
    pub fn new(time: Arc<dyn Time>) -> Self {
        Self(time)
    }

    /// Monotonic time.
    pub fn instant(&self) -> Instant {
        self.0.instant()
    }

    /// Time since an instant of this clock.
    pub fn since(&self, earlier: Instant) -> Duration {
        self.instant().saturating_duration_since(earlier)
    }

    /// Wall clock, Unix ms. Only decides when timers are fired and retention ends; the fold never sees it.
    pub fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    /// Waits.
    pub async fn sleep(&self, time: Duration) {
        self.0.sleep(time).await;
    }

    /// Gives an action so much time; what is not done then is dropped.
    ///
    /// # Errors
    /// [`Elapsed`].
    pub async fn limit<F: Future>(&self, time: Duration, action: F) -> Result<F::Output, Elapsed> {
        let action = std::pin::pin!(action);
        match select(action, self.0.sleep(time)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(_) => Err(Elapsed),
        }
    }

    /// See [`Time::random`].
    pub fn random(&self) -> u64 {
        self.0.random()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

struct System;

impl Time for System {
    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn random(&self) -> u64 {
        millrace_runtime::random::number()
    }
}
