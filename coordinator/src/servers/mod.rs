//! What a partition needs of the servers, and nothing more: streams that are read in order, a sender, the work queue's
//! consumers, and a private connection to Redis. `real` is NATS and Redis; the simulation puts adversarial models in
//! their place and runs the same processor on them.

mod real;

use std::fmt;
use std::sync::Arc;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use millrace_common::{DefinitionRef, PartitionId};
use millrace_engine::Plan;
use millrace_runtime::nats::{Ack, Completions, PublishError};
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};

pub use real::Real;

use crate::cluster::Halt;

/// A server does not answer, or has lost what was asked of it. Safe to repeat.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Silent(pub String);

/// A message of a stream.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Sequence in the stream.
    pub sequence: u64,
    /// The server's own time, Unix ns.
    pub time_nanos: i128,
    /// Subject.
    pub subject: Subject,
    /// What it holds.
    pub payload: Bytes,
}

/// What a stream holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Sequence of the first message that is still there; one more than `last` when there is none.
    pub first: u64,
    /// Sequence of the last message that was stored.
    pub last: u64,
    /// Messages.
    pub messages: u64,
    /// Identity that a log was given at its creation (H2).
    pub incarnation: Option<String>,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// With this sequence.
    Sequence(u64),
    /// With the first message stored at this time or later, Unix ns.
    Time(i64),
}

/// Messages as they come. After an error the reader must be made anew.
pub type Messages = BoxStream<'static, Result<Stored, Silent>>;

/// A stream of JetStream.
pub trait Stream: Send + Sync + fmt::Debug {
    /// What it holds; `None` when there is no such stream.
    fn extent(&self) -> BoxFuture<'_, Result<Option<Extent>, Silent>>;

    /// One message; `None` when it is not there.
    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, Silent>>;

    /// The last message with a subject.
    fn last_of(&self, subject: String) -> BoxFuture<'_, Result<Option<Stored>, Silent>>;

    /// Reads on, asking for so many messages at a time.
    fn follow(&self, from: Begin, batch: usize) -> BoxFuture<'_, Result<Messages, Silent>>;
}

/// What puts messages into streams.
pub trait Sender: Send + Sync + fmt::Debug {
    /// Sends and waits for the confirmation.
    fn publish(&self, subject: String, payload: Bytes) -> BoxFuture<'_, Result<Ack, PublishError>>;

    /// Sends; what becomes of it arrives among the session's completions.
    fn publish_tagged(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        tag: u64,
    ) -> BoxFuture<'_, ()>;

    /// A hint to whoever listens now, over core NATS: best effort.
    fn hint(&self, subject: String, payload: Bytes) -> BoxFuture<'_, ()>;
}

/// A partition's own connection to NATS.
#[derive(Debug)]
pub struct Session {
    /// The partition's log.
    pub log: Arc<dyn Stream>,
    /// Events.
    pub events: Arc<dyn Stream>,
    /// The work queue.
    pub steps: Arc<dyn Stream>,
    /// Sends.
    pub sender: Arc<dyn Sender>,
    /// Outcomes of what was sent with a tag.
    pub completions: Completions,
}

/// The servers of a cluster.
pub trait Servers: Send + Sync + fmt::Debug {
    /// The incarnation of a partition's log, or why the partition is halted: it is not the one that Redis knows. `adopt`: an
    /// operator ordered to take the log that is there, or a new one where there is none.
    fn incarnation(&self, p: PartitionId, adopt: bool)
    -> BoxFuture<'_, Result<Result<String, Halt>, Silent>>;

    /// A connection of a partition's own.
    fn session(&self, p: PartitionId) -> BoxFuture<'_, Result<Session, Silent>>;

    /// A private connection to Redis: nothing else shares it, so it may WATCH.
    fn redis(&self) -> BoxFuture<'_, Result<Connection, Silent>>;

    /// Makes sure that a queue has its consumer.
    fn ensure_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<(), Silent>>;

    /// Consumers may have been lost.
    fn forget_queues(&self);
}

/// The definitions of a cluster.
pub trait Definitions: millrace_engine::Definitions + Send + Sync + fmt::Debug {
    /// Brings a plan into memory; `None` when there is no such version.
    fn load<'a>(&'a self, definition: &'a DefinitionRef) -> BoxFuture<'a, Result<Option<Arc<Plan>>, Silent>>;

    /// Those of which some version has a schedule: (namespace, name).
    fn scheduled(&self) -> Vec<(String, String)>;

    /// The newest version of a definition.
    fn newest(&self, namespace: &str, name: &str) -> Option<DefinitionRef>;

    /// Rises with every version that becomes known.
    fn revision(&self) -> i64;
}

/// A private connection to Redis.
pub struct Connection(Box<dyn ConnectionLike + Send + Sync>);

impl Connection {
    /// Wraps what speaks Redis.
    pub fn new(connection: impl ConnectionLike + Send + Sync + 'static) -> Self {
        Self(Box::new(connection))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(cmd, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}
