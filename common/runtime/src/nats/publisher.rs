//! Publishing to JetStream with many messages in flight.
//!
//! One wildcard inbox takes all confirmations, so a message costs no subscription, no map entry in the client and,
//! with [`Publisher::publish_tagged`], no future. Confirmations come back in batches. All messages share one time
//! limit, so they are kept in the order of sending and only the oldest is ever compared with the clock.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::subject::ToSubject;
use async_nats::{HeaderMap, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::answer::outcome_of;
use super::window::{Waiter, Window};
use super::{Nats, PublishError};

/// How often the oldest message is compared with the clock.
const TICK: Duration = Duration::from_millis(100);
/// After a reconnect: time for what the client had queued to be sent and confirmed. What is still open then was
/// in the old connection's buffer and is lost, or its confirmation is.
const RECONNECT_GRACE: Duration = Duration::from_millis(500);
/// Confirmations handed over at a time.
const BATCH_MAX: usize = 256;

/// The server's confirmation: the message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Sequence in the stream.
    pub sequence: u64,
    /// True when nothing was stored because the message id was seen before.
    pub duplicate: bool,
}

/// What became of a tagged message: the tag and the outcome.
pub type Completion = (u64, Result<Ack, PublishError>);

/// Outcomes of tagged messages, in the order of their confirmations. Ends when the publisher is gone.
///
/// Holds one entry for each tagged message that was not yet received here; its owner sent them all, so its own rate
/// is the bound.
#[derive(Debug)]
pub struct Completions(mpsc::UnboundedReceiver<Vec<Completion>>);

impl Completions {
    /// Outcomes of another sender than [`Publisher`]: a model of one.
    pub fn channel() -> (mpsc::UnboundedSender<Vec<Completion>>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    /// The next outcomes, never empty; `None` when the publisher is gone and everything was received.
    pub async fn recv(&mut self) -> Option<Vec<Completion>> {
        self.0.recv().await
    }

    /// What is there now.
    pub fn try_recv(&mut self) -> Option<Vec<Completion>> {
        self.0.try_recv().ok()
    }
}

/// Settings of a [`Publisher`].
#[derive(Clone, Copy, Debug)]
pub struct PublisherOptions {
    /// Messages sent and not confirmed; at the bound `publish` and `publish_tagged` wait.
    pub in_flight_max: usize,
    /// Time for the confirmation, then [`PublishError::Unknown`].
    pub timeout: Duration,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            in_flight_max: 2048,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Headers that make the server refuse a message whose subject leads to another stream than this one: for senders whose
/// subjects may be mapped elsewhere by the server's configuration.
pub fn expected_stream(name: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Stream", name);
    headers
}

/// Sends to JetStream and matches confirmations; cheap to clone. Ends with its last clone.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDrop>,
}

struct Shared {
    client: async_nats::Client,
    /// `<inbox>.`, followed by the message's number.
    reply_prefix: String,
    permits: Semaphore,
    window: Mutex<Window>,
    /// The first message after a time without any was sent.
    busy: Notify,
    timeout: Duration,
    completions: mpsc::UnboundedSender<Vec<Completion>>,
}

impl Publisher {
    /// Subscribes the inbox and starts the task that matches confirmations.
    ///
    /// # Errors
    /// When the client is closed.
    pub async fn start(
        nats: &Nats,
        options: PublisherOptions,
    ) -> Result<(Self, Completions), async_nats::SubscribeError> {
        let client = nats.client().clone();
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await?;
        let (completions, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            client,
            reply_prefix: format!("{inbox}."),
            permits: Semaphore::new(options.in_flight_max),
            window: Mutex::default(),
            busy: Notify::new(),
            timeout: options.timeout,
            completions,
        });
        let matcher = Matcher {
            shared: shared.clone(),
            subscriber,
            nats: nats.clone(),
            lost_before: None,
        };
        let task = AbortOnDrop(tokio::spawn(matcher.run()));
        Ok((
            Self {
                shared,
                _task: Arc::new(task),
            },
            Completions(receiver),
        ))
    }

    /// Sends and waits for the confirmation.
    ///
    /// Dropping the future gives up the answer, not the message.
    ///
    /// # Errors
    /// See [`PublishError`]; [`PublishError::is_transient`] says whether to try again.
    pub async fn publish(
        &self,
        subject: impl ToSubject,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Ack, PublishError> {
        let (sender, receiver) = oneshot::channel();
        self.send(subject, headers, payload, Waiter::Future(sender)).await;
        receiver.await.unwrap_or(Err(PublishError::Closed))
    }

    /// Sends; the outcome arrives in [`Completions`] under `tag`. Waits only for a permit and for room in the
    /// client's queue.
    pub async fn publish_tagged(
        &self,
        subject: impl ToSubject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        tag: u64,
    ) {
        self.send(subject, headers, payload, Waiter::Tag(tag)).await;
    }

    /// Largest message that the server takes, as it said when the connection was made.
    pub fn payload_bytes_max(&self) -> usize {
        self.shared.client.server_info().max_payload
    }

    /// Messages sent and not confirmed.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().open
    }

    async fn send(
        &self,
        subject: impl ToSubject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        waiter: Waiter,
    ) {
        // Never closed, so it always gives a permit. The permit returns when the slot completes.
        if let Ok(permit) = self.shared.permits.acquire().await {
            permit.forget();
        }
        let (number, is_first) = self.shared.open(waiter);
        if is_first {
            self.shared.busy.notify_one();
        }
        let reply = Subject::from(format!("{}{number}", self.shared.reply_prefix));
        let client = &self.shared.client;
        let sent = match headers {
            None => client.publish_with_reply(subject, reply, payload).await,
            Some(headers) => {
                client
                    .publish_with_reply_and_headers(subject, reply, headers, payload)
                    .await
            }
        };
        if let Err(error) = sent {
            self.shared.complete(number, Err(refused_by_client(&error)));
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a message; true when the clock was not looked at any more.
    fn open(&self, waiter: Waiter) -> (u64, bool) {
        let mut window = self.lock();
        let number = window.open(waiter);
        (number, std::mem::take(&mut window.is_clock_stopped))
    }

    fn complete(&self, number: u64, outcome: Result<Ack, PublishError>) {
        let mut batch = Vec::new();
        let waiter = self.lock().close(number);
        self.settle(waiter, outcome, &mut batch);
        self.hand_over(batch);
    }

    fn settle(&self, waiter: Waiter, outcome: Result<Ack, PublishError>, batch: &mut Vec<Completion>) {
        match waiter {
            Waiter::Closed => return,
            Waiter::Tag(tag) => batch.push((tag, outcome)),
            // The receiver may have been dropped: its owner gave up the answer.
            Waiter::Future(sender) => drop(sender.send(outcome)),
        }
        self.permits.add_permits(1);
    }

    fn hand_over(&self, batch: Vec<Completion>) {
        if !batch.is_empty() {
            // The receiver may be dropped by senders that use futures only.
            drop(self.completions.send(batch));
        }
    }
}

/// The task that reads the inbox.
struct Matcher {
    shared: Arc<Shared>,
    subscriber: Subscriber,
    nats: Nats,
    /// After a reconnect: messages below this number are given up at that time.
    lost_before: Option<(u64, Instant)>,
}

impl Matcher {
    async fn run(mut self) {
        let mut link = self.nats.link();
        let shared = self.shared.clone();
        let tick = tokio::time::sleep(TICK);
        tokio::pin!(tick);
        let mut is_ticking = true;
        loop {
            tokio::select! {
                message = self.subscriber.next() => match message {
                    Some(message) => self.take(message),
                    // The client was closed: nothing will be confirmed any more.
                    None => return self.close_all(),
                },
                () = &mut tick, if is_ticking => {
                    self.expire();
                    // Without anything in flight the clock stops: an idle process sleeps.
                    is_ticking = !self.shared.lock().stop_clock_if_idle();
                    tick.as_mut().reset((Instant::now() + TICK).into());
                }
                () = shared.busy.notified() => {
                    is_ticking = true;
                    tick.as_mut().reset((Instant::now() + TICK).into());
                }
                changed = link.changed() => {
                    if changed.is_ok() && link.borrow_and_update().connected {
                        let next = self.shared.lock().next_number();
                        self.lost_before = Some((next, Instant::now() + RECONNECT_GRACE));
                    }
                }
            }
        }
    }

    /// Takes a confirmation and all others that are there.
    fn take(&mut self, first: async_nats::Message) {
        let mut batch = Vec::new();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next {
            self.match_one(&message, &mut batch);
            taken += 1;
            next = if taken < BATCH_MAX {
                self.subscriber.next().now_or_never().flatten()
            } else {
                None
            };
        }
        self.shared.hand_over(batch);
    }

    fn match_one(&self, message: &async_nats::Message, batch: &mut Vec<Completion>) {
        let number = message
            .subject
            .get(self.shared.reply_prefix.len()..)
            .and_then(|n| n.parse().ok());
        let Some(number) = number else { return };
        let waiter = self.shared.lock().close(number);
        self.shared.settle(waiter, outcome_of(message), batch);
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let lost_before = match self.lost_before {
            Some((number, due)) if due <= now => {
                self.lost_before = None;
                number
            }
            _ => 0,
        };
        let sent_before = now.checked_sub(self.shared.timeout).unwrap_or(now);
        let expired = self.shared.lock().expire(sent_before, lost_before);
        self.settle_all(expired, &PublishError::Unknown);
    }

    fn close_all(&self) {
        let expired = self.shared.lock().expire(Instant::now(), u64::MAX);
        self.settle_all(expired, &PublishError::Closed);
    }

    fn settle_all(&self, waiters: Vec<Waiter>, error: &PublishError) {
        let mut batch = Vec::new();
        for waiter in waiters {
            self.shared.settle(waiter, Err(error.clone()), &mut batch);
        }
        self.shared.hand_over(batch);
    }
}

fn refused_by_client(error: &async_nats::PublishError) -> PublishError {
    match error.kind() {
        async_nats::client::PublishErrorKind::MaxPayloadExceeded => PublishError::Oversize(error.to_string()),
        async_nats::client::PublishErrorKind::Send => PublishError::Closed,
        _ => PublishError::Other {
            code: 0,
            description: error.to_string(),
        },
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
