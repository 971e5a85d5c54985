//! The fleet of workers: who is there, what they can do, who is late. Nothing here decides about state; when this part
//! stops, running steps go on and only the view of the fleet grows old.

mod ask;
mod offers;
mod roster;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use millrace_common::{AskRequest, Beat, Register, Registered, names};
use millrace_runtime::Shutdown;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::registry::{Registry, Store};

pub use offers::Offers;
pub use roster::{Health, Roster, WorkerView};

/// Creates the consumer of a queue if it is missing. Given by the coordinator, which owns the work queue.
pub type EnsureQueue = Arc<dyn Fn(String) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// Queue group of all coordinators: each message is taken by one of them.
const GROUP: &str = "coordinators";
/// Beats are written together at most this often.
const FLUSH: Duration = Duration::from_secs(1);
/// Workers that are long gone are looked for this often.
const SWEEP: Duration = Duration::from_secs(60);

/// The part. Built once, run again after a failure.
#[derive(Clone)]
pub struct Fleet {
    coordinator: String,
    partitions: u16,
    nats: Client,
    store: Store,
    registry: Registry,
    roster: Roster,
    ensure_queue: EnsureQueue,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("coordinator", &self.coordinator)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// For the coordinator of this id.
    pub fn new(
        coordinator: String,
        partitions: u16,
        nats: Client,
        store: Store,
        registry: Registry,
        ensure_queue: EnsureQueue,
    ) -> Self {
        let roster = Roster::new(store.clone());
        Self {
            coordinator,
            partitions,
            nats,
            store,
            registry,
            roster,
            ensure_queue,
        }
    }

    /// Answers workers until told to stop.
    ///
    /// # Errors
    /// When a subscription cannot be made or ends; the supervisor starts again.
    pub async fn run(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut registers = self.subscribe(names::FLEET_REGISTER).await?;
        let mut beats = self.subscribe(names::FLEET_BEAT).await?;
        let mut asks = self.subscribe(names::FLEET_ASK).await?;
        let mut flush = tokio::time::interval(FLUSH);
        let mut sweep = tokio::time::interval(SWEEP);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.triggered() => return self.roster.flush().await.map_err(Into::into),
                message = registers.next() => self.register(message.context("registrations ended")?).await,
                message = asks.next() => self.answer(message.context("questions ended")?).await,
                message = beats.next() => self.beat(&message.context("beats ended")?),
                _ = flush.tick() => warn("cannot store beats", self.roster.flush().await),
                _ = sweep.tick() => warn("cannot remove gone workers", self.roster.sweep().await),
            }
        }
    }

    async fn subscribe(&self, subject: &'static str) -> anyhow::Result<Subscriber> {
        self.nats
            .queue_subscribe(subject, GROUP.into())
            .await
            .with_context(|| format!("cannot listen on {subject}"))
    }

    async fn register(&self, message: Message) {
        let Some(register) = decode::<Register>(&message) else {
            return;
        };
        match self.admit(&register).await {
            Ok(refused) => {
                let reply = Registered {
                    coordinator: self.coordinator.clone(),
                    refused,
                };
                self.reply(&message, &reply).await;
            }
            // No answer: the worker asks again.
            Err(error) => tracing::warn!(worker.id = register.worker, %error, "cannot register worker"),
        }
    }

    /// Stores a worker and its functions; gives the reason when it is refused.
    async fn admit(&self, register: &Register) -> anyhow::Result<Option<String>> {
        if let Some(reason) = unfit(register) {
            return Ok(Some(reason));
        }
        let functions = roster::functions(register);
        if let Some(reason) = self
            .roster
            .rival(register, &functions, &self.registry.functions)
            .await?
        {
            return Ok(Some(reason));
        }
        for queue in roster::queues(register) {
            (self.ensure_queue)(queue).await?;
        }
        let changed = self.registry.functions.register(&functions).await?;
        self.roster.enter(register).await?;
        if changed {
            self.registry.hint().await;
        }
        tracing::info!(
            worker.id = register.worker,
            slots = register.slots,
            "worker registered"
        );
        Ok(None)
    }

    fn beat(&self, message: &Message) {
        if let Some(beat) = decode::<Beat>(message) {
            self.roster.beat(beat);
        }
    }

    async fn answer(&self, message: Message) {
        let Some(request) = decode::<AskRequest>(&message) else {
            return;
        };
        match ask::answer(&self.store, &self.registry.definitions, self.partitions, &request).await {
            Ok(reply) => self.reply(&message, &reply).await,
            // No answer: the worker asks again, or runs the step, which is allowed.
            Err(error) => tracing::warn!(instance.id = %request.instance, %error, "cannot look a step up"),
        }
    }

    async fn reply<T: Serialize + Sync>(&self, to: &Message, body: &T) {
        let Some(inbox) = to.reply.clone() else { return };
        let payload = serde_json::to_vec(body).expect("answers have string keys");
        if let Err(error) = self.nats.publish(inbox, payload.into()).await {
            tracing::warn!(%error, "cannot answer a worker");
        }
    }
}

fn decode<T: DeserializeOwned>(message: &Message) -> Option<T> {
    match serde_json::from_slice(&message.payload) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(subject = %message.subject, %error, "cannot read a worker's message");
            None
        }
    }
}

/// Ids and queues become tokens of subjects.
fn unfit(register: &Register) -> Option<String> {
    let token = |text: &str| {
        !text.is_empty()
            && text.len() <= 128
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_~:".contains(&b))
    };
    if !token(&register.worker) {
        return Some(format!(
            "invalid worker id `{}`: use 1 to 128 of A-Z, a-z, 0-9, `-`, `_`, `~` and `:`",
            register.worker
        ));
    }
    let bad = roster::queues(register)
        .into_iter()
        .find(|queue| !millrace_common::is_label(queue))?;
    Some(format!("invalid queue `{bad}`: use 1 to 63 of a-z, 0-9 and -"))
}

fn warn<E: std::fmt::Display>(what: &'static str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what}");
    }
}
