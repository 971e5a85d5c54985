//! Each part of the coordinator runs alone: when one fails or panics, it is started again with a growing delay and the
//! others do not notice.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use millrace_runtime::Shutdown;
use millrace_runtime::backoff::Backoff;
use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::board::Board;

/// A part that ran at least this long starts again without delay the next time.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Runs `part` until shutdown, again and again. It must return when shutdown is triggered; an earlier return is a
/// failure.
pub fn spawn<F, Fut>(name: &'static str, board: &Board, shutdown: &Shutdown, mut part: F) -> JoinHandle<()>
where
    F: FnMut(Shutdown) -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let (board, shutdown) = (board.clone(), shutdown.clone());
    tokio::spawn(async move {
        let mut backoff = Backoff::for_servers();
        while !shutdown.is_triggered() {
            let started = Instant::now();
            let result = AssertUnwindSafe(part(shutdown.clone())).catch_unwind().await;
            if shutdown.is_triggered() {
                return;
            }
            match result {
                Ok(Ok(())) => warn!(part = name, "part ended by itself and is started again"),
                Ok(Err(e)) => warn!(
                    part = name,
                    reason = format!("{e:#}"),
                    "part failed and is started again"
                ),
                Err(_) => error!(
                    part = name,
                    error.code = "MR-PANIC",
                    "part panicked and is started again"
                ),
            }
            board.restarted(name);
            if started.elapsed() >= HEALTHY_AFTER {
                backoff.reset();
            }
            if shutdown.unless(backoff.sleep()).await.is_none() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn a_part_that_panics_or_fails_is_started_again_and_others_go_on() {
        let (board, shutdown) = (Board::default(), Shutdown::new());
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let bad = spawn("bad", &board, &shutdown, move |s| {
            let n = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                match n {
                    0 => panic!("first"),
                    1 => anyhow::bail!("second"),
                    _ => s.triggered().await,
                }
                Ok(())
            }
        });
        let good = spawn("good", &board, &shutdown, |s| async move {
            s.triggered().await;
            Ok(())
        });
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while runs.load(Ordering::SeqCst) < 3 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the part was not started again"
            );
            tokio::task::yield_now().await;
        }
        shutdown.trigger();
        bad.await.unwrap();
        good.await.unwrap();
        assert_eq!(board.restarts().get("bad"), Some(&2));
        assert_eq!(board.restarts().get("good"), None);
    }
}
