//! Consumers of the work queue: one durable pull consumer per queue, made here and never by workers, so that a queue
//! exists before anything is published to it (autoscalers read its lag from zero workers on).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self};
use millrace_common::names;

/// Steps delivered and not acknowledged, per queue: at the bound delivery waits. Above any sum of worker slots that one
/// queue is meant for.
const ACK_PENDING_MAX: i64 = 50_000;

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queues {
    jetstream: jetstream::Context,
    ack_wait: Duration,
    known: Arc<Mutex<HashSet<String>>>,
}

impl Queues {
    /// Remembers what it has made or seen.
    pub fn new(jetstream: jetstream::Context, ack_wait: Duration) -> Self {
        Self {
            jetstream,
            ack_wait,
            known: Arc::default(),
        }
    }

    /// Makes sure that the queue has its consumer.
    ///
    /// # Errors
    /// When NATS does not answer or refuses; safe to repeat.
    pub async fn ensure(&self, queue: &str) -> anyhow::Result<()> {
        if self.lock().contains(queue) {
            return Ok(());
        }
        let config = pull::Config {
            durable_name: Some(names::queue_consumer(queue)),
            filter_subject: names::queue_filter(queue),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            max_deliver: -1,
            max_ack_pending: ACK_PENDING_MAX,
            ..pull::Config::default()
        };
        let stream = self.jetstream.get_stream_no_info(names::STEPS_STREAM).await?;
        stream.create_consumer(config).await?;
        self.lock().insert(queue.to_owned());
        Ok(())
    }

    /// Steps of each known queue that wait or run: what an autoscaler reads, too.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn lags(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let known: Vec<String> = self.lock().iter().cloned().collect();
        let stream = self.jetstream.get_stream_no_info(names::STEPS_STREAM).await?;
        let mut lags = Vec::with_capacity(known.len());
        for queue in known {
            let info = stream.consumer_info(names::queue_consumer(&queue)).await?;
            lags.push((queue, info.num_pending + info.num_ack_pending as u64));
        }
        Ok(lags)
    }

    /// Forgets what it knows: after the broker may have lost consumers.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
