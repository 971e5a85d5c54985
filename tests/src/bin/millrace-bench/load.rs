//! The load: many connections, each with one instance at a time, from its start to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::http::Connection;

/// Instances that are under way at any time.
pub(crate) const CONNECTIONS: usize = 512;

/// A load that is on.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Vec<Duration>>>,
}

/// Time from request to answer.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    noting: AtomicBool,
    completed: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    pub(crate) fn start(host: &str, request: &[u8]) -> Self {
        let shared = Arc::new(Shared::default());
        let request: Arc<[u8]> = request.into();
        let tasks = (0..CONNECTIONS)
            .map(|_| tokio::spawn(one(host.to_owned(), Arc::clone(&request), Arc::clone(&shared))))
            .collect();
        Self { shared, tasks }
    }

    /// Instances completed since the start.
    pub(crate) fn completed(&self) -> u64 {
        self.shared.completed.load(Ordering::Relaxed)
    }

    /// Whether latencies are noted from now on.
    pub(crate) fn note(&self, on: bool) {
        self.shared.noting.store(on, Ordering::Relaxed);
    }

    /// Lets what is under way end. Gives all completed instances, the failed ones, and the latencies noted.
    pub(crate) async fn stop(self) -> (u64, u64, Vec<Duration>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut noted = Vec::new();
        for task in self.tasks {
            noted.extend(task.await.expect("the load does not panic"));
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.shared.completed), count(&self.shared.failed), noted)
    }
}

impl Latency {
    /// # Panics
    /// When nothing was noted.
    pub(crate) fn of(mut noted: Vec<Duration>) -> Self {
        noted.sort_unstable();
        let at = |per_mille: usize| noted[(noted.len() - 1) * per_mille / 1000].as_secs_f64() * 1e3;
        Self {
            p50_ms: at(500),
            p99_ms: at(990),
        }
    }
}

/// One connection, until told to stop; after a failure with a new connection.
async fn one(host: String, request: Arc<[u8]>, shared: Arc<Shared>) -> Vec<Duration> {
    let mut noted = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        if let Err(error) = repeat(&host, &request, &shared, &mut noted).await {
            if shared.failed.fetch_add(1, Ordering::Relaxed) < 3 {
                eprintln!("an instance failed: {error:#}");
            }
            // So that a server that refuses is not asked in a tight loop.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    noted
}

async fn repeat(
    host: &str,
    request: &[u8],
    shared: &Shared,
    noted: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(host).await?;
    while !shared.stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        connection.ask(request).await?.completed()?;
        shared.completed.fetch_add(1, Ordering::Relaxed);
        if shared.noting.load(Ordering::Relaxed) {
            noted.push(begun.elapsed());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_read_from_the_sorted_times() {
        let latency = Latency::of((0..=100).rev().map(Duration::from_millis).collect());
        assert!((latency.p50_ms - 50.0).abs() < 1e-9);
        assert!((latency.p99_ms - 99.0).abs() < 1e-9);
    }
}
