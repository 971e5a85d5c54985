//! The worker as the fleet sees it: announced, alive, and told what to do. Nothing here decides about steps' results.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::{Stream, StreamExt};
use millrace_common::{BEAT_MS, Beat, Register, Registered, WorkerCommand, names};
use millrace_runtime::Shutdown;
use millrace_runtime::backoff::Backoff;
use millrace_runtime::nats::Nats;

use crate::steps::flights::Flights;
use crate::steps::report::Reporter;

/// Time for a coordinator to answer a registration.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Announces the worker and carries out commands.
pub(crate) struct Member {
    pub(crate) nats: Nats,
    pub(crate) register: Register,
    pub(crate) flights: Arc<Flights>,
    pub(crate) reporter: Reporter,
    /// Set off by the command to drain.
    pub(crate) drain: Shutdown,
}

impl Member {
    /// Registers at the start and after every reconnect: a coordinator may have forgotten, or be another one.
    pub(crate) async fn keep_registered(self: Arc<Self>) {
        let mut link = self.nats.link();
        loop {
            link.borrow_and_update();
            self.register().await;
            let connects = link.borrow().connects;
            if link
                .wait_for(|l| l.connected && l.connects != connects)
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn register(&self) {
        let mut backoff = Backoff::for_servers();
        loop {
            match self.try_register().await {
                Ok(Registered {
                    refused: None,
                    coordinator,
                }) => {
                    tracing::info!(worker.id = self.register.worker, coordinator, "registered");
                    return;
                }
                Ok(Registered {
                    refused: Some(reason),
                    ..
                }) => {
                    tracing::error!(
                        worker.id = self.register.worker,
                        reason,
                        "the fleet refused this worker"
                    );
                }
                Err(reason) => {
                    if backoff.attempts() % 16 == 15 {
                        tracing::warn!(reason, "no coordinator registers this worker yet");
                    }
                }
            }
            backoff.sleep().await;
        }
    }

    async fn try_register(&self) -> Result<Registered, String> {
        let payload = serde_json::to_vec(&self.register).map_err(|e| e.to_string())?;
        let asked = self.nats.client().request(names::FLEET_REGISTER, payload.into());
        let reply = tokio::time::timeout(REGISTER_TIMEOUT, asked).await;
        let reply = reply
            .map_err(|_e| "no answer".to_owned())?
            .map_err(|e| e.to_string())?;
        serde_json::from_slice(&reply.payload).map_err(|e| format!("unreadable answer: {e}"))
    }

    /// Shows every two seconds that the worker is alive, and at once when it begins to drain.
    pub(crate) async fn beat(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(BEAT_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_draining = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.drain.triggered(), if !is_draining => is_draining = true,
            }
            // Beats of the past help nobody: none are queued while the link is down.
            if self.nats.is_connected() {
                self.send_beat(is_draining).await;
            }
        }
    }

    async fn send_beat(&self, draining: bool) {
        let (done_total, failed_total) = self.reporter.totals();
        let beat = Beat {
            worker: self.register.worker.clone(),
            running: self.flights.running(),
            slots_used: u32::try_from(self.flights.counts().used).unwrap_or(u32::MAX),
            slots: self.register.slots,
            draining,
            done_total,
            failed_total,
        };
        let Ok(payload) = serde_json::to_vec(&beat) else {
            return;
        };
        if let Err(error) = self
            .nats
            .client()
            .publish(names::FLEET_BEAT, payload.into())
            .await
        {
            tracing::debug!(%error, "a beat was not sent");
        }
    }

    /// Carries out cancellations and commands until the subscriptions end with the client.
    pub(crate) async fn obey(
        self: Arc<Self>,
        mut cancels: impl Stream<Item = Message> + Unpin,
        mut commands: Subscriber,
    ) {
        loop {
            tokio::select! {
                message = cancels.next() => match message {
                    Some(message) => self.cancel(&message.payload),
                    None => return,
                },
                message = commands.next() => match message {
                    Some(message) => self.command(&message.payload),
                    None => return,
                },
            }
        }
    }

    fn cancel(&self, steps: &[u8]) {
        for step in String::from_utf8_lossy(steps)
            .lines()
            .map(str::trim)
            .filter(|s| !s.is_empty())
        {
            let is_here = self.flights.cancel(step);
            tracing::debug!(step, is_here, "asked to cancel a step");
        }
    }

    fn command(&self, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(WorkerCommand::Drain) => {
                tracing::info!(worker.id = self.register.worker, "told to drain");
                self.drain.trigger();
            }
            Err(error) => tracing::warn!(%error, "a command was not understood"),
        }
    }
}
