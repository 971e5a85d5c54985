//! What the cluster knows besides instances: definitions, functions, workers. Durable in Redis under one hash tag,
//! held in memory for the synchronous questions of the processor.

mod archive;
mod definitions;
mod fetch;
mod functions;
mod index;
mod source;
mod store;

use std::time::Duration;

use futures_util::StreamExt;
use millrace_common::names;
use millrace_runtime::Shutdown;
use millrace_runtime::config::Redirects;

pub use definitions::{
    Applied, ApplyError, DefinitionInfo, Definitions, StoredDefinition, Unavailable, Valid,
};
pub use functions::{FunctionEntry, Functions};
pub use store::{Decision, Store, StoreError};

/// How often memory is compared with Redis when no hint came.
const POLL: Duration = Duration::from_secs(1);

/// Definitions and functions together, kept fresh by one loop.
#[derive(Clone, Debug)]
pub struct Registry {
    /// Definitions.
    pub definitions: Definitions,
    /// Functions.
    pub functions: Functions,
    nats: async_nats::Client,
}

impl Registry {
    /// Empty handles; [`Self::start`] fills them, [`Self::run`] keeps them fresh.
    pub fn new(store: &Store, nats: async_nats::Client, redirects: Redirects) -> Self {
        let jetstream = async_nats::jetstream::new(nats.clone());
        Self {
            definitions: Definitions::new(store.clone(), jetstream, redirects),
            functions: Functions::new(store.clone()),
            nats,
        }
    }

    /// Restores an emptied Redis and reads everything once. Nothing may be served before.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn start(&self) -> Result<(), Unavailable> {
        let restored = self.definitions.restore().await?;
        if restored > 0 {
            tracing::warn!(
                restored,
                "definitions were missing in redis and came back from their stream"
            );
        }
        self.refresh().await?;
        Ok(())
    }

    /// Compares memory with Redis at every hint, and every second: hints may be lost.
    ///
    /// # Errors
    /// When the hints cannot be subscribed to; the supervisor starts again.
    pub async fn run(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut hints = self.nats.subscribe(names::REGISTRY_HINT).await?;
        loop {
            tokio::select! {
                () = shutdown.triggered() => return Ok(()),
                hint = hints.next() => anyhow::ensure!(hint.is_some(), "the registry hints ended"),
                () = tokio::time::sleep(POLL) => {}
            }
            if let Err(error) = self.refresh().await {
                tracing::warn!(%error, "cannot refresh the registry");
            }
        }
    }

    /// Tells all coordinators that the registry changed. A hint: when it is lost they see it a second later.
    pub async fn hint(&self) {
        if let Err(error) = self.nats.publish(names::REGISTRY_HINT, bytes::Bytes::new()).await {
            tracing::debug!(%error, "registry hint was not sent");
        }
    }

    async fn refresh(&self) -> Result<(), StoreError> {
        self.definitions.refresh().await?;
        self.functions.refresh().await
    }
}
