//! The commit connection of one partition: a private Redis connection that nothing else uses, because WATCH belongs
//! to a connection.
//!
//! A commit is one write, `MULTI … EXEC | WATCH fence pos | GET fence | GET pos`: one round trip, and the next commit
//! is already fenced. The GETs are read and compared before the next MULTI is sent, because another client may slip in
//! between EXEC and WATCH. The outcome has more than two values: unknown is never taken for failure (H6).

use millrace_common::{InstanceKey, PartitionId, names};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};

use super::batch::Batch;
use super::fence::{Fence, Position};

/// What became of a commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Written, and still the owner.
    Applied,
    /// Not written, or written and then lost: somebody else moved the fence. Abdicate and reload.
    Lost,
    /// Not written: the server refused the whole transaction (memory, disk, replicas). Repeat the same batch later.
    Refused(String),
    /// Written or not: the connection broke or timed out. Fence off the old connection, then read.
    Unknown(String),
    /// Partly written: cannot happen with our commands, so a foreign writer used our keys. Halt.
    Torn(String),
}

/// Why a read or an acquisition failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server did not answer, or answered with an error. Safe to repeat on a new connection.
    #[error("cannot reach redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// A value under one of our keys is not ours.
    #[error("value of {key} cannot be read: {text}")]
    Foreign {
        /// Redis key.
        key: String,
        /// What is there, cut.
        text: String,
    },
}

/// Fence and position as they are in Redis.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Raw text of the fence: what WATCH is compared with.
    pub(crate) fence_text: Option<String>,
    /// Decoded.
    pub(crate) fence: Option<Fence>,
    /// Decoded.
    pub(crate) position: Option<Position>,
}

/// See the module.
pub(crate) struct Store {
    partition: PartitionId,
    connection: MultiplexedConnection,
    /// `CLIENT ID`: lets a later connection kill a commit that is still in flight here.
    pub(crate) client_id: i64,
    fence_key: String,
    position_key: String,
    fence: Fence,
}

impl Store {
    /// Wraps a fresh private connection. `fence` is what this owner will write on acquisition.
    pub(crate) async fn new(p: PartitionId, mut connection: MultiplexedConnection, fence: Fence) -> Result<Self, Error> {
        let client_id: i64 = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await?;
        Ok(Self {
            partition: p,
            connection,
            client_id,
            fence_key: names::fence_key(p),
            position_key: names::position_key(p),
            fence,
        })
    }

    /// The fence as last written by this owner.
    pub(crate) const fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Kills a connection that may still carry a commit of ours. Not allowed or unknown id is fine: the fence is
    /// moved before anything is read.
    pub(crate) async fn kill(&mut self, client_id: i64) -> Result<(), Error> {
        let reply: Result<Value, _> =
            redis::cmd("CLIENT").arg("KILL").arg("ID").arg(client_id).query_async(&mut self.connection).await;
        match reply {
            Ok(_) => Ok(()),
            Err(e) if e.code().is_some() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// WATCHes fence and position and reads them.
    pub(crate) async fn watch(&mut self) -> Result<Held, Error> {
        let mut pipe = Pipeline::new();
        self.arm(&mut pipe);
        let replies: Vec<Value> = pipe.query_async(&mut self.connection).await?;
        self.held(&replies[1..])
    }

    /// Takes the fence over (and writes `start` where there is no position yet). `false`: somebody was faster.
    /// [`Self::watch`] must have been the last call, and its caller has judged the answer.
    pub(crate) async fn acquire(&mut self, fence: Fence, start: Option<&Position>) -> Result<bool, Error> {
        let mut pipe = Pipeline::new();
        pipe.cmd("MULTI");
        pipe.cmd("SET").arg(&self.fence_key).arg(encode(&fence));
        if let Some(start) = start {
            pipe.cmd("SET").arg(&self.position_key).arg(encode(start));
        }
        pipe.cmd("EXEC");
        let exec = pipe.len() - 1;
        self.arm(&mut pipe);
        let replies: Vec<Value> = pipe.query_async(&mut self.connection).await?;
        let now = self.held(&replies[exec + 2..])?;
        let mine = now.fence.as_ref() == Some(&fence);
        self.fence = fence;
        Ok(!matches!(replies[exec], Value::Nil) && mine)
    }

    /// One commit: everything in `batch`, the position, and the fence with its beat moved. `release` leaves the fence
    /// free for the next owner.
    pub(crate) async fn commit(&mut self, batch: &Batch, position: &Position, release: bool) -> Outcome {
        let fence = Fence { released: release, ..self.fence.next() };
        let (fence_text, position_text) = (encode(&fence), encode(position));
        let mut pipe = Pipeline::new();
        pipe.ignore_errors();
        pipe.cmd("MULTI");
        batch.commands(self.partition, &mut pipe);
        pipe.cmd("SET").arg(&self.position_key).arg(&position_text);
        pipe.cmd("SET").arg(&self.fence_key).arg(&fence_text);
        pipe.cmd("EXEC");
        let exec = pipe.len() - 1;
        self.arm(&mut pipe);
        let replies: Vec<Value> = match pipe.query_async(&mut self.connection).await {
            Ok(replies) => replies,
            Err(e) => return Outcome::Unknown(e.to_string()),
        };
        let outcome = judge(&replies, exec, &fence_text, &position_text);
        if outcome == Outcome::Applied {
            self.fence = fence;
        }
        outcome
    }

    /// Reads whole state hashes, in order; an absent one is empty.
    pub(crate) async fn instances(&mut self, keys: &[InstanceKey]) -> Result<Vec<Vec<(String, Vec<u8>)>>, Error> {
        let mut pipe = Pipeline::new();
        for key in keys {
            pipe.cmd("HGETALL").arg(names::instance_key(self.partition, key));
        }
        Ok(pipe.query_async(&mut self.connection).await?)
    }

    /// Runs a read on the commit connection.
    pub(crate) async fn read<T: redis::FromRedisValue>(&mut self, cmd: &Cmd) -> Result<T, Error> {
        Ok(cmd.query_async(&mut self.connection).await?)
    }

    fn arm(&self, pipe: &mut Pipeline) {
        pipe.cmd("WATCH").arg(&self.fence_key).arg(&self.position_key);
        pipe.cmd("GET").arg(&self.fence_key);
        pipe.cmd("GET").arg(&self.position_key);
    }

    fn held(&self, replies: &[Value]) -> Result<Held, Error> {
        let fence_text = text(&self.fence_key, replies.first())?;
        let position_text = text(&self.position_key, replies.get(1))?;
        Ok(Held {
            fence: decode(&self.fence_key, fence_text.as_deref())?,
            position: decode(&self.position_key, position_text.as_deref())?,
            fence_text,
        })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("partition", &self.partition).field("fence", &self.fence).finish_non_exhaustive()
    }
}

/// Looks at every reply: an error inside EXEC does not roll the others back, and a nil EXEC decodes to success when it
/// is not looked at.
fn judge(replies: &[Value], exec: usize, fence_text: &str, position_text: &str) -> Outcome {
    match replies.get(exec) {
        Some(Value::Nil) => return Outcome::Lost,
        Some(Value::Array(results)) => {
            if let Some(Value::ServerError(e)) = results.iter().find(|r| matches!(r, Value::ServerError(_))) {
                return Outcome::Torn(e.to_string());
            }
        }
        Some(Value::ServerError(e)) => return Outcome::Refused(refusal(replies, &e.to_string())),
        other => return Outcome::Unknown(format!("EXEC answered {other:?}")),
    }
    let same = |at: usize, expected: &str| matches!(replies.get(at), Some(Value::BulkString(b)) if b == expected.as_bytes());
    if same(exec + 2, fence_text) && same(exec + 3, position_text) { Outcome::Applied } else { Outcome::Lost }
}

/// The command that was refused when it was queued says more than EXEC's own "aborted because of previous errors".
fn refusal(replies: &[Value], exec: &str) -> String {
    replies
        .iter()
        .find_map(|r| match r {
            Value::ServerError(e) => Some(e.to_string()),
            _ => None,
        })
        .unwrap_or_else(|| exec.into())
}

fn encode<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("fence and position are plain structs")
}

fn text(key: &str, value: Option<&Value>) -> Result<Option<String>, Error> {
    match value {
        Some(Value::Nil) => Ok(None),
        Some(Value::BulkString(b)) => Ok(Some(String::from_utf8_lossy(b).into_owned())),
        other => Err(Error::Foreign { key: key.into(), text: format!("{other:?}").chars().take(200).collect() }),
    }
}

fn decode<T: serde::de::DeserializeOwned>(key: &str, text: Option<&str>) -> Result<Option<T>, Error> {
    let Some(text) = text else { return Ok(None) };
    match serde_json::from_str(text) {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::Foreign { key: key.into(), text: text.chars().take(200).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn error(text: &str) -> Value {
        let mut wire = format!("-{text}\r\n").into_bytes();
        redis::parse_redis_value(&std::mem::take(&mut wire)).unwrap()
    }

    #[test]
    fn nil_is_lost_and_never_success() {
        assert_eq!(judge(&[Value::Okay, Value::Nil, Value::Okay, bulk("f"), bulk("p")], 1, "f", "p"), Outcome::Lost);
    }

    #[test]
    fn applied_needs_the_exact_fence_and_position_after_the_rearming() {
        let done = Value::Array(vec![Value::Okay, Value::Int(1)]);
        let all = |f: &str| vec![Value::Okay, done.clone(), Value::Okay, bulk(f), bulk("p")];
        assert_eq!(judge(&all("f"), 1, "f", "p"), Outcome::Applied);
        assert_eq!(judge(&all("other"), 1, "f", "p"), Outcome::Lost);
    }

    #[test]
    fn an_error_inside_exec_is_torn() {
        let done = Value::Array(vec![Value::Okay, error("WRONGTYPE Operation against a key")]);
        assert!(matches!(judge(&[Value::Okay, done, Value::Okay, bulk("f"), bulk("p")], 1, "f", "p"), Outcome::Torn(_)));
    }

    #[test]
    fn a_refused_transaction_names_the_first_refusal() {
        let replies =
            [Value::Okay, error("OOM command not allowed"), error("EXECABORT Transaction discarded"), Value::Okay, bulk("f"), bulk("p")];
        match judge(&replies, 2, "f", "p") {
            Outcome::Refused(text) => assert!(text.contains("OOM"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
