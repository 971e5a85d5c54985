//! NATS and Redis.
//!
//! A stream is followed without acknowledging anything: who reads keeps the place elsewhere. The consumer is ephemeral:
//! no durable consumer's memory is trusted, since servers have lost or stalled them.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{self, LastRawMessageErrorKind as Kind};
use async_nats::jetstream::{self, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use millrace_common::{DefinitionRef, PartitionId, names};
use millrace_engine::Plan;
use millrace_runtime::config::CoordinatorConfig;
use millrace_runtime::nats::{Ack, Nats, PublishError, Publisher, PublisherOptions};
use millrace_runtime::redis::SharedRedis;
use tracing::debug;

use super::{
    Begin, Connection, Definitions, Extent, Messages, Sender, Servers, Session, Silent, Stored, Stream,
};
use crate::cluster::{self, Halt, May};
use crate::queues::Queues;
use crate::registry;

/// The broker forgets a consumer that nobody pulls from for this long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A pull ends after this time and is made again; a lost one hangs no longer.
const PULL: Duration = Duration::from_secs(5);
/// Without a message or a sign of life for twice this time the reader is lost.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Real {
    config: CoordinatorConfig,
    jetstream: jetstream::Context,
    redis: SharedRedis,
    queues: Queues,
}

impl Real {
    /// The servers of a cluster that was opened.
    pub const fn new(
        config: CoordinatorConfig,
        jetstream: jetstream::Context,
        redis: SharedRedis,
        queues: Queues,
    ) -> Self {
        Self {
            config,
            jetstream,
            redis,
            queues,
        }
    }

    async fn open(&self, p: PartitionId) -> Result<Session, Silent> {
        let name = format!("coordinator-{}-p{p}", self.config.id);
        let nats = millrace_runtime::nats::connect(&self.config.nats, &name)
            .await
            .map_err(silent)?;
        match tokio::time::timeout(Duration::from_secs(5), nats.ready()).await {
            Ok(ready) => ready.map_err(silent)?,
            Err(_) => return Err(Silent("nats does not answer".into())),
        }
        let jetstream = nats.jetstream().clone();
        cluster::ensure_events(&self.config, &jetstream)
            .await
            .map_err(silent)?;
        let log = Named::new(&jetstream, names::log_stream(p)).await?;
        let events = Named::new(&jetstream, names::EVENTS_STREAM.into()).await?;
        // Asked for by the audit now and then: on the connection of the process.
        let steps = Named::new(&self.jetstream, names::STEPS_STREAM.into()).await?;
        let options = PublisherOptions {
            in_flight_max: self.config.publish_in_flight,
            ..PublisherOptions::default()
        };
        let (publisher, completions) = Publisher::start(&nats, options).await.map_err(silent)?;
        Ok(Session {
            log: Arc::new(log),
            events: Arc::new(events),
            steps: Arc::new(steps),
            sender: Arc::new(Outgoing { nats, publisher }),
            completions,
        })
    }
}

impl Servers for Real {
    fn incarnation(
        &self,
        p: PartitionId,
        adopt: bool,
    ) -> BoxFuture<'_, Result<Result<String, Halt>, Silent>> {
        let may = if adopt { May::Adopt } else { May::Look };
        Box::pin(async move {
            match cluster::identify(&self.config, &self.jetstream, &self.redis, p, may).await {
                Ok(found) => Ok(Ok(found)),
                // A halt is an answer; that a server is silent is none.
                Err(cluster::Error::Halt { code, text }) => Ok(Err((code, text))),
                Err(other) => Err(silent(other)),
            }
        })
    }

    fn session(&self, p: PartitionId) -> BoxFuture<'_, Result<Session, Silent>> {
        Box::pin(self.open(p))
    }

    fn redis(&self) -> BoxFuture<'_, Result<Connection, Silent>> {
        Box::pin(async {
            let connection = millrace_runtime::redis::connect(&self.config.redis).await;
            connection.map(Connection::new).map_err(silent)
        })
    }

    fn ensure_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<(), Silent>> {
        Box::pin(async move { self.queues.ensure(queue).await.map_err(silent) })
    }

    fn forget_queues(&self) {
        self.queues.forget();
    }
}

/// A stream by its name.
#[derive(Debug)]
struct Named {
    jetstream: jetstream::Context,
    stream: stream::Stream<()>,
    name: String,
}

impl Named {
    /// Without a round trip: the stream was seen at boot.
    async fn new(jetstream: &jetstream::Context, name: String) -> Result<Self, Silent> {
        Ok(Self {
            jetstream: jetstream.clone(),
            stream: cluster::handle(jetstream, &name).await.map_err(silent)?,
            name,
        })
    }

    async fn start(&self, from: Begin, batch: usize) -> Result<Messages, Silent> {
        let config = pull::Config {
            deliver_policy: policy(from)?,
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: FORGOTTEN_AFTER,
            ..pull::Config::default()
        };
        let consumer = self.stream.create_consumer(config).await.map_err(silent)?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(batch)
            .expires(PULL)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(silent)?;
        Ok(messages.map(|read| delivered(&read.map_err(silent)?)).boxed())
    }
}

impl Stream for Named {
    fn extent(&self) -> BoxFuture<'_, Result<Option<Extent>, Silent>> {
        Box::pin(async {
            let info = cluster::find(&self.jetstream, &self.name).await.map_err(silent)?;
            Ok(info.map(|mut info| Extent {
                incarnation: info.config.metadata.remove(cluster::INCARNATION),
                first: info.state.first_sequence,
                last: info.state.last_sequence,
                messages: info.state.messages,
            }))
        })
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, Silent>> {
        Box::pin(async move {
            match self.stream.get_raw_message(sequence).await {
                Ok(message) => Ok(Some(kept(message))),
                Err(e) if matches!(e.kind(), Kind::NoMessageFound) => Ok(None),
                Err(e) => Err(silent(e)),
            }
        })
    }

    fn last_of(&self, subject: String) -> BoxFuture<'_, Result<Option<Stored>, Silent>> {
        Box::pin(async move {
            match self.stream.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => Ok(Some(kept(message))),
                Err(e) if matches!(e.kind(), Kind::NoMessageFound) => Ok(None),
                Err(e) => Err(silent(e)),
            }
        })
    }

    fn follow(&self, from: Begin, batch: usize) -> BoxFuture<'_, Result<Messages, Silent>> {
        Box::pin(self.start(from, batch))
    }
}

fn policy(from: Begin) -> Result<DeliverPolicy, Silent> {
    match from {
        Begin::Sequence(start_sequence) => Ok(DeliverPolicy::ByStartSequence { start_sequence }),
        Begin::Time(nanos) => time::OffsetDateTime::from_unix_timestamp_nanos(nanos.into())
            .map(|start_time| DeliverPolicy::ByStartTime { start_time })
            .map_err(silent),
    }
}

fn delivered(message: &Message) -> Result<Stored, Silent> {
    let info = message.info().map_err(silent)?;
    Ok(Stored {
        sequence: info.stream_sequence,
        time_nanos: info.published.unix_timestamp_nanos(),
        subject: message.subject.clone(),
        payload: message.payload.clone(),
    })
}

fn kept(message: StreamMessage) -> Stored {
    Stored {
        sequence: message.sequence,
        time_nanos: message.time.unix_timestamp_nanos(),
        subject: message.subject,
        payload: message.payload,
    }
}

/// The way to the streams.
#[derive(Debug)]
struct Outgoing {
    nats: Nats,
    publisher: Publisher,
}

impl Sender for Outgoing {
    fn publish(&self, subject: String, payload: Bytes) -> BoxFuture<'_, Result<Ack, PublishError>> {
        Box::pin(self.publisher.publish(subject, None, payload))
    }

    fn publish_tagged(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        tag: u64,
    ) -> BoxFuture<'_, ()> {
        Box::pin(self.publisher.publish_tagged(subject, headers, payload, tag))
    }

    fn hint(&self, subject: String, payload: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(e) = self.nats.client().publish(subject, payload).await {
                debug!(reason = %e, "hint was not sent");
            }
        })
    }
}

impl Definitions for registry::Definitions {
    fn load<'a>(&'a self, definition: &'a DefinitionRef) -> BoxFuture<'a, Result<Option<Arc<Plan>>, Silent>> {
        Box::pin(async move { Self::load(self, definition).await.map_err(silent) })
    }

    fn scheduled(&self) -> Vec<(String, String)> {
        Self::scheduled(self)
    }

    fn newest(&self, namespace: &str, name: &str) -> Option<DefinitionRef> {
        Self::latest(self, namespace, name)
    }

    fn revision(&self) -> i64 {
        Self::revision(self)
    }
}

fn silent(e: impl std::fmt::Display) -> Silent {
    Silent(e.to_string())
}
