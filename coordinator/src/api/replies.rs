//! One inbox for all answers of the processors: `<inbox>.<number>`. An answer is a hint that may be lost, so whoever
//! waits here also polls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::Client;
use futures_util::StreamExt;
use millrace_common::Reply;
use millrace_runtime::Shutdown;
use tokio::sync::oneshot;

/// Clonable handle.
#[derive(Clone, Debug)]
pub struct Replies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    inbox: String,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
}

/// A number that an answer is expected under. Dropping it stops waiting.
#[derive(Debug)]
pub(super) struct Expected {
    replies: Replies,
    number: u64,
    receiver: oneshot::Receiver<Reply>,
}

impl Replies {
    /// With an inbox of its own.
    pub fn new(nats: &Client) -> Self {
        let inner = Inner {
            inbox: nats.new_inbox(),
            next: AtomicU64::new(0),
            waiting: Mutex::default(),
        };
        Self(Arc::new(inner))
    }

    /// Hands answers to those who wait until told to stop.
    ///
    /// # Errors
    /// When the subscription cannot be made or ends; the supervisor starts again, and waiters poll meanwhile.
    pub async fn run(&self, nats: Client, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut messages = nats.subscribe(format!("{}.*", self.0.inbox)).await?;
        loop {
            let message = tokio::select! {
                () = shutdown.triggered() => return Ok(()),
                message = messages.next() => message,
            };
            let Some(message) = message else {
                anyhow::bail!("the inbox of replies ended")
            };
            self.deliver(&message.subject, &message.payload);
        }
    }

    pub(super) fn expect(&self) -> Expected {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting().insert(number, sender);
        Expected {
            replies: self.clone(),
            number,
            receiver,
        }
    }

    fn deliver(&self, subject: &str, payload: &[u8]) {
        let number = subject.rsplit('.').next().and_then(|n| n.parse().ok());
        let Some(sender) = number.and_then(|n: u64| self.waiting().remove(&n)) else {
            return;
        };
        match serde_json::from_slice(payload) {
            // The waiter may have given up in this moment.
            Ok(reply) => drop(sender.send(reply)),
            Err(error) => tracing::warn!(%error, "cannot read a reply"),
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Reply>>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected {
    /// Subject to be put into the record.
    pub(super) fn subject(&self) -> String {
        format!("{}.{}", self.replies.0.inbox, self.number)
    }

    /// The answer, if it comes; pending for ever when it is lost.
    pub(super) async fn answer(&mut self) -> Reply {
        match (&mut self.receiver).await {
            Ok(reply) => reply,
            Err(_unreadable) => std::future::pending().await,
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.replies.waiting().remove(&self.number);
    }
}
