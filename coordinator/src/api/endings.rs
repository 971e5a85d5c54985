//! Who waits for the end of which instance: one subscription for all. The hints may be lost, so whoever waits here also
//! polls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::Client;
use futures_util::StreamExt;
use millrace_common::{InstanceKey, names};
use millrace_runtime::Shutdown;
use tokio::sync::watch;

/// Clonable handle.
#[derive(Clone, Debug, Default)]
pub struct Endings(Arc<Mutex<HashMap<Box<str>, Entry>>>);

#[derive(Debug)]
struct Entry {
    hinted: watch::Sender<bool>,
    waiters: usize,
}

/// Waits for one instance. Dropping it stops waiting.
#[derive(Debug)]
pub(super) struct Ending {
    endings: Endings,
    key: InstanceKey,
    hinted: watch::Receiver<bool>,
}

impl Endings {
    /// Hands hints to those who wait until told to stop.
    ///
    /// # Errors
    /// When the subscription cannot be made or ends; the supervisor starts again, and waiters poll meanwhile.
    pub async fn run(&self, nats: Client, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut hints = nats.subscribe(names::ENDED_HINT).await?;
        loop {
            let hint = tokio::select! {
                () = shutdown.triggered() => return Ok(()),
                hint = hints.next() => hint,
            };
            let Some(hint) = hint else {
                anyhow::bail!("the hints about ended instances ended")
            };
            self.hint(&hint.payload);
        }
    }

    pub(super) fn expect(&self, key: &InstanceKey) -> Ending {
        let mut entries = self.entries();
        let entry = entries.entry(key.as_str().into()).or_insert_with(|| Entry {
            hinted: watch::channel(false).0,
            waiters: 0,
        });
        entry.waiters += 1;
        Ending {
            endings: self.clone(),
            key: key.clone(),
            hinted: entry.hinted.subscribe(),
        }
    }

    /// Payload: one `namespace/id status` a line.
    fn hint(&self, payload: &[u8]) {
        let Ok(text) = std::str::from_utf8(payload) else {
            return;
        };
        for line in text.lines() {
            let Some((key, status)) = line.split_once(' ') else {
                continue;
            };
            if !matches!(status, "completed" | "faulted" | "cancelled") {
                continue;
            }
            if let Some(entry) = self.entries().get(key) {
                entry.hinted.send_replace(true);
            }
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ending {
    /// Completes when the instance was heard to have ended.
    pub(super) async fn hinted(&mut self) {
        if self.hinted.wait_for(|hinted| *hinted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut entries = self.endings.entries();
        if let Some(entry) = entries.get_mut(self.key.as_str()) {
            entry.waiters -= 1;
            if entry.waiters == 0 {
                entries.remove(self.key.as_str());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_waiter_of_an_instance_hears_its_end() {
        let endings = Endings::default();
        let key: InstanceKey = "default/a".parse().unwrap();
        let (mut one, mut two) = (endings.expect(&key), endings.expect(&key));
        endings.hint(b"default/a running\ndefault/b completed");
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(5), one.hinted())
                .await
                .is_err()
        );
        endings.hint(b"default/a completed");
        one.hinted().await;
        two.hinted().await;
        drop((one, two));
        assert!(endings.entries().is_empty());
    }
}
