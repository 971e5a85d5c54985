//! Consumers of the work queue: one durable pull consumer per queue, made here and never by workers, so that a queue
//! exists before anything is published to it (autoscalers read its lag from zero workers on).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self};
use millrace_common::names;

/// Steps delivered and not acknowledged, per queue: at the bound delivery waits. Above any sum of worker slots that one
/// queue is meant for.
const ACK_PENDING_MAX: i64 = 50_000;

/// What a queue holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The queue.
    pub queue: String,
    /// Steps that wait or run.
    pub lag: u64,
    /// Age of the first step that was not delivered yet.
    pub oldest: Option<Duration>,
}

/// Age of the first step of a queue from `sequence` on; `None` when it has been delivered meanwhile.
async fn oldest(
    stream: &jetstream::stream::Stream<()>,
    queue: &str,
    sequence: u64,
) -> anyhow::Result<Option<Duration>> {
    use jetstream::stream::RawMessageErrorKind as Kind;
    let subject = names::queue_filter(queue);
    match stream.get_first_raw_message_by_subject(&subject, sequence).await {
        Ok(message) => {
            let stored = SystemTime::from(message.time);
            Ok(Some(stored.elapsed().unwrap_or_default()))
        }
        Err(e) if matches!(e.kind(), Kind::NoMessageFound) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

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

    /// What each known queue holds: what an autoscaler reads, too.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn backlogs(&self) -> anyhow::Result<Vec<Backlog>> {
        let known: Vec<String> = self.lock().iter().cloned().collect();
        let stream = self.jetstream.get_stream_no_info(names::STEPS_STREAM).await?;
        let mut backlogs = Vec::with_capacity(known.len());
        for queue in known {
            let info = stream.consumer_info(names::queue_consumer(&queue)).await?;
            let oldest = match info.num_pending {
                0 => None,
                _ => oldest(&stream, &queue, info.delivered.stream_sequence + 1).await?,
            };
            backlogs.push(Backlog {
                queue,
                lag: info.num_pending + info.num_ack_pending as u64,
                oldest,
            });
        }
        Ok(backlogs)
    }

    /// Forgets what it knows: after the broker may have lost consumers.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
