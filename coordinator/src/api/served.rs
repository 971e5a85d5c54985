//! Whether every partition is served by somebody: this coordinator says so itself; of the others the fence moves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_common::{PartitionId, names};

use super::ApiState;
use crate::registry::StoreError;

/// A fence that moved within this time is held by somebody alive.
const FRESH: Duration = Duration::from_secs(5);
/// How long a probe may watch for a move, and how often it looks.
const WATCH: Duration = Duration::from_millis(1_500);
const LOOK: Duration = Duration::from_millis(150);

/// What was last seen of the fences.
#[derive(Clone, Debug, Default)]
pub(super) struct Served(Arc<Mutex<HashMap<PartitionId, Seen>>>);

#[derive(Debug)]
struct Seen {
    fence: Option<Vec<u8>>,
    moved: Option<Instant>,
}

impl Served {
    /// Partitions that nobody is known to serve. Watches for a moment where one look does not tell.
    pub(super) async fn missing(&self, api: &ApiState) -> Result<Vec<PartitionId>, StoreError> {
        let until = Instant::now() + WATCH;
        loop {
            let missing = self.look(api).await?;
            if missing.is_empty() || Instant::now() >= until {
                return Ok(missing);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self, api: &ApiState) -> Result<Vec<PartitionId>, StoreError> {
        let own = api.board.partitions();
        let others: Vec<_> = (0..api.partitions)
            .map(PartitionId)
            .filter(|p| own.get(p).is_none_or(|state| state.phase != "serving"))
            .collect();
        if others.is_empty() {
            return Ok(others);
        }
        let mut reads = redis::pipe();
        for p in &others {
            reads.get(names::fence_key(*p));
        }
        let fences: Vec<Option<Vec<u8>>> = api.store.pipe(&reads).await?;
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let served = |(p, fence)| note(&mut seen, p, fence, Instant::now());
        let missing: Vec<bool> = others.iter().copied().zip(fences).map(served).collect();
        Ok(others
            .into_iter()
            .zip(missing)
            .filter_map(|(p, served)| (!served).then_some(p))
            .collect())
    }
}

/// Books a fence; true when it moved lately.
fn note(seen: &mut HashMap<PartitionId, Seen>, p: PartitionId, fence: Option<Vec<u8>>, now: Instant) -> bool {
    let Some(entry) = seen.get_mut(&p) else {
        seen.insert(p, Seen { fence, moved: None });
        return false;
    };
    if entry.fence != fence {
        *entry = Seen {
            fence,
            moved: Some(now),
        };
    }
    entry.moved.is_some_and(|at| now.duration_since(at) < FRESH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fence_that_moves_is_held() {
        let (mut seen, start, p) = (HashMap::new(), Instant::now(), PartitionId(0));
        let mut at = |fence: &str, ms| {
            note(
                &mut seen,
                p,
                Some(fence.into()),
                start + Duration::from_millis(ms),
            )
        };
        assert!(!at("1", 0), "a first look tells nothing");
        assert!(!at("1", 100));
        assert!(at("2", 200));
        assert!(at("2", 5_100));
        assert!(!at("2", 5_300));
    }
}
