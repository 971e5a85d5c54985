//! Takes steps from one queue's consumer, never more than there are free slots.
//!
//! Written on plain requests rather than on the client's pull stream: that one asks for a fixed batch whatever is free,
//! and goes quiet for its whole expiry after "no responders". Here each request asks for what [`Flights::reserve`]
//! gives, and any doubt (error status, silence, reconnect) begins a new session with a new inbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use millrace_common::names;
use millrace_runtime::Shutdown;
use millrace_runtime::backoff::Backoff;
use millrace_runtime::health::Check;
use millrace_runtime::nats::Nats;
use tokio::time::Sleep;

use super::flights::Flights;
use super::message::answer;
use super::run::Runner;

/// A pull that brings nothing ends after this long, and a new one is sent.
const EXPIRES: Duration = Duration::from_secs(10);
/// The server shows this often that it still holds the pull: the largest part of what an idle worker costs.
const HEARTBEAT: Duration = Duration::from_millis(1400);
/// Neither message nor two heartbeats in this time: the pull is lost.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Messages taken before the slots are looked at again.
const BATCH_MAX: usize = 32;
/// The server tells with these how much of a pull is left when it ends.
const PENDING_HEADER: &str = "Nats-Pending-Messages";

/// One queue of the worker.
pub(crate) struct Puller {
    pub(crate) nats: Nats,
    pub(crate) flights: Arc<Flights>,
    pub(crate) runner: Arc<Runner>,
    /// Index of the queue in [`Flights`] and [`Runner`].
    pub(crate) queue: usize,
    pub(crate) name: String,
    pub(crate) check: Check,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    Draining,
    /// Begin another one, for this reason.
    Again(&'static str),
}

impl Puller {
    /// Pulls until `drain`, then hands back what still arrives.
    pub(crate) async fn run(self, drain: Shutdown) {
        let mut backoff = Backoff::for_servers();
        loop {
            let Some(consumer) = drain.unless(self.find_consumer()).await else {
                return;
            };
            self.runner
                .set_ack_wait(self.queue, consumer.cached_info().config.ack_wait);
            self.check.good();
            let begun = Instant::now();
            match self.session(&drain).await {
                End::Draining => return,
                End::Again(reason) => tracing::warn!(queue = self.name, reason, "pulling anew"),
            }
            if begun.elapsed() > EXPIRES {
                backoff.reset();
            }
            if drain.unless(backoff.sleep()).await.is_none() {
                return;
            }
        }
    }

    /// The consumer is created by a coordinator when it hears of the queue; it is waited for, never created here.
    async fn find_consumer(&self) -> PullConsumer {
        let mut backoff = Backoff::for_servers();
        loop {
            let name = names::queue_consumer(&self.name);
            match self
                .nats
                .jetstream()
                .get_consumer_from_stream(name, names::STEPS_STREAM)
                .await
            {
                Ok(consumer) => return consumer,
                Err(error) => {
                    if backoff.attempts() % 8 == 7 {
                        tracing::warn!(queue = self.name, %error, "waiting for a coordinator to create the queue");
                    }
                    self.check.bad("the queue does not exist yet");
                }
            }
            backoff.sleep().await;
        }
    }

    async fn session(&self, drain: &Shutdown) -> End {
        let client = self.nats.client();
        let inbox = client.new_inbox();
        let Ok(subscriber) = client.subscribe(inbox.clone()).await else {
            return End::Again("client closed");
        };
        let mut session = Session {
            puller: self,
            client,
            inbox,
            subscriber,
            outstanding: 0,
            heard: Instant::now(),
            silence: Box::pin(tokio::time::sleep(SILENCE_MAX)),
        };
        let end = session.run(drain).await;
        session.finish(&end).await;
        end
    }
}

struct Session<'a> {
    puller: &'a Puller,
    client: &'a Client,
    inbox: String,
    subscriber: Subscriber,
    /// Messages asked for and neither come nor given up by the server.
    outstanding: usize,
    heard: Instant,
    silence: std::pin::Pin<Box<Sleep>>,
}

impl Session<'_> {
    async fn run(&mut self, drain: &Shutdown) -> End {
        let mut link = self.puller.nats.link();
        let connects = link.borrow_and_update().connects;
        let flights = self.puller.flights.clone();
        loop {
            // Registered before the slots are looked at, so that a slot freed in between is not missed.
            let freed = flights.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Err(end) = self.refill().await {
                return end;
            }
            tokio::select! {
                biased;
                () = drain.triggered() => return End::Draining,
                message = self.subscriber.next() => {
                    let Some(message) = message else { return End::Again("subscription ended") };
                    if let Err(end) = self.take_all(message).await {
                        return end;
                    }
                }
                () = &mut freed => {}
                _ = link.changed() => if link.borrow_and_update().connects != connects {
                    return End::Again("reconnected");
                },
                () = &mut self.silence => if let Err(end) = self.check_silence() {
                    return end;
                },
            }
        }
    }

    async fn refill(&mut self) -> Result<(), End> {
        let number = self.puller.flights.reserve(self.puller.queue);
        if number == 0 {
            return Ok(());
        }
        if self.outstanding == 0 {
            self.heard = Instant::now();
        }
        self.outstanding += number;
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            names::STEPS_STREAM,
            names::queue_consumer(&self.puller.name)
        );
        let sent = self
            .client
            .publish_with_reply(subject, self.inbox.clone(), request(number).into())
            .await;
        sent.map_err(|_e| End::Again("cannot send a pull"))
    }

    /// Takes a message and all others that are there, up to a bound.
    async fn take_all(&mut self, first: Message) -> Result<(), End> {
        self.heard = Instant::now();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next {
            self.take(message).await?;
            taken += 1;
            next = if taken < BATCH_MAX {
                self.subscriber.next().now_or_never().flatten()
            } else {
                None
            };
        }
        Ok(())
    }

    async fn take(&mut self, message: Message) -> Result<(), End> {
        match message.status {
            None | Some(StatusCode::OK) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.puller.runner.take(self.puller.queue, message).await;
                Ok(())
            }
            Some(StatusCode::IDLE_HEARTBEAT) => Ok(()),
            Some(status) => self.take_status(status, &message),
        }
    }

    /// The end of a pull, or of all of them.
    fn take_status(&mut self, status: StatusCode, message: &Message) -> Result<(), End> {
        let left = message
            .headers
            .as_ref()
            .and_then(|h| h.get(PENDING_HEADER)?.as_str().parse().ok());
        match (status, left) {
            (StatusCode::TIMEOUT, Some(left)) => {
                self.give_up(left);
                Ok(())
            }
            (StatusCode::NO_RESPONDERS, _) => Err(End::Again("nobody serves the queue")),
            _ => {
                let text = message.description.as_deref().unwrap_or_default();
                tracing::debug!(queue = self.puller.name, status = %status, text, "pull refused");
                Err(End::Again("pull refused"))
            }
        }
    }

    fn give_up(&mut self, left: usize) {
        let left = left.min(self.outstanding);
        self.outstanding -= left;
        self.puller.flights.give_up(self.puller.queue, left);
    }

    fn check_silence(&mut self) -> Result<(), End> {
        let quiet = self.heard.elapsed();
        if self.outstanding > 0 && quiet >= SILENCE_MAX {
            return Err(End::Again("neither step nor heartbeat"));
        }
        // The clock is only looked at here, not at every message.
        let rest = if self.outstanding > 0 {
            SILENCE_MAX - quiet
        } else {
            SILENCE_MAX
        };
        self.silence
            .as_mut()
            .reset((Instant::now() + rest.max(Duration::from_millis(10))).into());
        Ok(())
    }

    /// Ends the subscription; what the server sent before it knew is handed back at once instead of after `ack_wait`.
    async fn finish(&mut self, end: &End) {
        let limit = if matches!(end, End::Draining) {
            Duration::from_secs(2)
        } else {
            Duration::from_millis(500)
        };
        if self.subscriber.drain().await.is_ok() {
            let deadline = tokio::time::Instant::now() + limit;
            while let Ok(Some(message)) = tokio::time::timeout_at(deadline, self.subscriber.next()).await {
                hand_back(self.client, message).await;
            }
        }
        self.give_up(self.outstanding);
    }
}

async fn hand_back(client: &Client, message: Message) {
    let is_step = message.status.is_none_or(|s| s == StatusCode::OK);
    if let Some(reply) = message.reply.filter(|_| is_step) {
        // Unsent answers only delay the step until its lease ends.
        drop(client.publish(reply, answer::NAK).await);
    }
}

fn request(number: usize) -> String {
    format!(
        "{{\"batch\":{number},\"expires\":{},\"idle_heartbeat\":{}}}",
        EXPIRES.as_nanos(),
        HEARTBEAT.as_nanos()
    )
}
