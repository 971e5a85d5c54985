//! A stack that several tests of one binary use at the same time: started by the first that needs it, dropped with the
//! last that holds it. A static would never be dropped, and its processes would have to be hunted down.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

/// See the module. Put it into a `static`.
#[derive(Debug)]
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    /// Nothing started yet.
    pub const fn new() -> Self {
        Self(Mutex::const_new(Weak::new()))
    }

    /// What is shared; `start` makes it if nobody holds one.
    ///
    /// # Errors
    /// `start`'s.
    pub async fn get(&self, start: impl AsyncFnOnce() -> anyhow::Result<T>) -> anyhow::Result<Arc<T>> {
        let mut held = self.0.lock().await;
        if let Some(shared) = held.upgrade() {
            return Ok(shared);
        }
        let shared = Arc::new(start().await?);
        *held = Arc::downgrade(&shared);
        Ok(shared)
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}
