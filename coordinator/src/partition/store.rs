//! The commit connection of one partition: a private Redis connection that nothing else uses, because WATCH belongs
//! to a connection.
//!
//! A commit is one write, `MULTI … EXEC | WATCH fence pos | GET fence | GET pos`: one round trip, and the next commit
//! is already fenced. The GETs are read and compared before the next MULTI is sent, because another client may slip in
//! between EXEC and WATCH. The outcome has more than two values: unknown is never taken for failure (H6).

use millrace_common::{InstanceKey, PartitionId, names};
use redis::{Cmd, Pipeline, Value};

use super::batch::Batch;
use super::fence::{Fence, Position};
use super::sabotage::{self, Bug};
use crate::servers::Connection;

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
    connection: Connection,
    /// `CLIENT ID`: lets a later connection kill a commit that is still in flight here.
    pub(crate) client_id: i64,
    fence_key: String,
    position_key: String,
    fence: Fence,
    /// Texts of fence and position as they were when WATCH was last armed. `None`: not the owner (any more), so nothing
    /// may be committed. Without this a second commit after an abort would pass: the abort re-armed the WATCH.
    armed: Option<(String, String)>,
}

impl Store {
    /// Wraps a fresh private connection. `fence` is what this owner will write on acquisition.
    pub(crate) async fn new(p: PartitionId, mut connection: Connection, fence: Fence) -> Result<Self, Error> {
        let client_id: i64 = redis::cmd("CLIENT")
            .arg("ID")
            .query_async(&mut connection)
            .await?;
        Ok(Self {
            partition: p,
            connection,
            client_id,
            fence_key: names::fence_key(p),
            position_key: names::position_key(p),
            fence,
            armed: None,
        })
    }

    /// The fence as last written by this owner.
    pub(crate) const fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Kills a connection that may still carry a commit of ours. Not allowed or unknown id is fine: the fence is
    /// moved before anything is read.
    pub(crate) async fn kill(&mut self, client_id: i64) -> Result<(), Error> {
        let reply: Result<Value, _> = redis::cmd("CLIENT")
            .arg("KILL")
            .arg("ID")
            .arg(client_id)
            .query_async(&mut self.connection)
            .await;
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
        let mine = !matches!(replies[exec], Value::Nil) && now.fence.as_ref() == Some(&fence);
        self.armed = now
            .fence_text
            .zip(now.position.as_ref().map(encode))
            .filter(|_| mine);
        self.fence = fence;
        Ok(mine)
    }

    /// One commit: everything in `batch`, the position, and the fence with its beat moved. `release` leaves the fence
    /// free for the next owner. After any outcome but applied and refused this store commits nothing more.
    pub(crate) async fn commit(&mut self, batch: &Batch, position: &Position, release: bool) -> Outcome {
        let Some(before) = self.armed.take() else {
            return Outcome::Lost;
        };
        let fence = Fence {
            released: release,
            ..self.fence.next()
        };
        let after = (encode(&fence), encode(position));
        let mut pipe = Pipeline::new();
        pipe.ignore_errors();
        pipe.cmd("MULTI");
        batch.commands(self.partition, &mut pipe);
        if !sabotage::has(Bug::PositionLeftBehind) {
            pipe.cmd("SET").arg(&self.position_key).arg(&after.1);
        }
        pipe.cmd("SET").arg(&self.fence_key).arg(&after.0);
        pipe.cmd("EXEC");
        let exec = pipe.len() - 1;
        self.arm(&mut pipe);
        let replies: Vec<Value> = match pipe.query_async(&mut self.connection).await {
            Ok(replies) => replies,
            Err(_) if sabotage::has(Bug::UnknownIsSuccess) => {
                (self.fence, self.armed) = (fence, Some(after));
                return Outcome::Applied;
            }
            Err(e) => return Outcome::Unknown(e.to_string()),
        };
        let outcome = match judge(&replies, exec, &before, &after) {
            Outcome::Lost if sabotage::has(Bug::NilIsSuccess) => Outcome::Applied,
            _ if sabotage::has(Bug::PositionLeftBehind) => Outcome::Applied,
            outcome => outcome,
        };
        match outcome {
            Outcome::Applied => {
                self.fence = fence;
                self.armed = Some(after);
            }
            Outcome::Refused(_) => self.armed = Some(before),
            Outcome::Lost | Outcome::Unknown(_) | Outcome::Torn(_) => {}
        }
        outcome
    }

    /// Reads whole state hashes, in order; an absent one is empty.
    pub(crate) async fn instances(
        &mut self,
        keys: &[InstanceKey],
    ) -> Result<Vec<Vec<(String, Vec<u8>)>>, Error> {
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
        match sabotage::has(Bug::NoWatch) {
            false => pipe.cmd("WATCH").arg(&self.fence_key).arg(&self.position_key),
            true => pipe.cmd("UNWATCH"),
        };
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
        f.debug_struct("Store")
            .field("partition", &self.partition)
            .field("fence", &self.fence)
            .finish_non_exhaustive()
    }
}

/// Looks at every reply: an error inside EXEC does not roll the others back, and a nil EXEC decodes to success when it
/// is not looked at. `before` and `after` are what fence and position must be, re-armed, when nothing or everything was
/// written: anything else means that somebody slipped in between EXEC and WATCH.
fn judge(replies: &[Value], exec: usize, before: &(String, String), after: &(String, String)) -> Outcome {
    let same = |at: usize, expected: &str| matches!(replies.get(at), Some(Value::BulkString(b)) if b == expected.as_bytes());
    let holds = |texts: &(String, String)| same(exec + 2, &texts.0) && same(exec + 3, &texts.1);
    match replies.get(exec) {
        Some(Value::Nil) => Outcome::Lost,
        Some(Value::Array(results)) => match results.iter().find(|r| matches!(r, Value::ServerError(_))) {
            Some(error) => Outcome::Torn(format!("{error:?}")),
            None if holds(after) => Outcome::Applied,
            None => Outcome::Lost,
        },
        Some(Value::ServerError(e)) if holds(before) => Outcome::Refused(refusal(replies, &e.to_string())),
        Some(Value::ServerError(_)) => Outcome::Lost,
        other => Outcome::Unknown(format!("EXEC answered {other:?}")),
    }
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
        other => Err(Error::Foreign {
            key: key.into(),
            text: format!("{other:?}").chars().take(200).collect(),
        }),
    }
}

fn decode<T: serde::de::DeserializeOwned>(key: &str, text: Option<&str>) -> Result<Option<T>, Error> {
    let Some(text) = text else { return Ok(None) };
    match serde_json::from_str(text) {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::Foreign {
            key: key.into(),
            text: text.chars().take(200).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use redis::aio::MultiplexedConnection;

    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn error(text: &str) -> Value {
        let mut wire = format!("-{text}\r\n").into_bytes();
        redis::parse_redis_value(&std::mem::take(&mut wire)).unwrap()
    }

    fn texts(fence: &str) -> (String, String) {
        (fence.into(), "p".into())
    }

    fn judged(exec: Value, fence_now: &str) -> Outcome {
        let replies = [Value::Okay, exec, Value::Okay, bulk(fence_now), bulk("p")];
        judge(&replies, 1, &texts("before"), &texts("after"))
    }

    #[test]
    fn nil_is_lost_and_never_success() {
        assert_eq!(judged(Value::Nil, "before"), Outcome::Lost);
        assert_eq!(judged(Value::Nil, "after"), Outcome::Lost);
    }

    #[test]
    fn applied_needs_the_exact_fence_and_position_after_the_rearming() {
        let done = || Value::Array(vec![Value::Okay, Value::Int(1)]);
        assert_eq!(judged(done(), "after"), Outcome::Applied);
        assert_eq!(judged(done(), "other"), Outcome::Lost);
    }

    #[test]
    fn an_error_inside_exec_is_torn() {
        let done = Value::Array(vec![Value::Okay, error("WRONGTYPE Operation against a key")]);
        assert!(matches!(judged(done, "after"), Outcome::Torn(_)));
    }

    #[test]
    fn a_refused_transaction_names_the_first_refusal_and_needs_the_old_fence() {
        let replies = |fence: &str| {
            [
                Value::Okay,
                error("OOM command not allowed"),
                error("EXECABORT Transaction discarded"),
                Value::Okay,
                bulk(fence),
                bulk("p"),
            ]
        };
        match judge(&replies("before"), 2, &texts("before"), &texts("after")) {
            Outcome::Refused(text) => assert!(text.contains("OOM"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(
            judge(&replies("other"), 2, &texts("before"), &texts("after")),
            Outcome::Lost
        );
    }

    /// A real server for the races that no table can show.
    struct Redis {
        url: String,
        _process: tokio::process::Child,
    }

    impl Redis {
        async fn start() -> Self {
            let program = std::env::var("MILLRACE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
            let port = std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let process = tokio::process::Command::new(program)
                .args([
                    "--port",
                    &port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ])
                .stdout(std::process::Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("redis-server is brought by tools/servers");
            let redis = Self {
                url: format!("redis://127.0.0.1:{port}/"),
                _process: process,
            };
            let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
            while redis.try_connect().await.is_none() {
                assert!(tokio::time::Instant::now() < deadline, "redis does not answer");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            redis
        }

        async fn try_connect(&self) -> Option<MultiplexedConnection> {
            let client = redis::Client::open(self.url.as_str()).ok()?;
            client.get_multiplexed_async_connection().await.ok()
        }

        async fn connect(&self) -> Connection {
            Connection::new(self.try_connect().await.expect("redis answers"))
        }

        async fn owner(&self, nonce: &str, counter: u64) -> (Store, Position) {
            let fence = Fence {
                counter,
                nonce: nonce.into(),
                beat: 0,
                owner: nonce.into(),
                released: false,
            };
            let mut store = Store::new(PartitionId(0), self.connect().await, fence.clone())
                .await
                .unwrap();
            // An owner that commits meanwhile makes an acquisition fail; a contender tries again.
            for _ in 0..1000 {
                let held = store.watch().await.unwrap();
                let start = Position::start("i");
                let position = held.position.clone().unwrap_or_else(|| start.clone());
                let first = held.position.is_none().then_some(&start);
                if store.acquire(fence.clone(), first).await.unwrap() {
                    return (store, position);
                }
            }
            panic!("never acquired");
        }
    }

    fn at(position: &Position, sequence: u64) -> Position {
        Position {
            sequence,
            ..position.clone()
        }
    }

    #[tokio::test]
    async fn only_the_newest_owner_can_commit() {
        let redis = Redis::start().await;
        let (mut old, start) = redis.owner("old", 1).await;
        assert_eq!(
            old.commit(&Batch::default(), &at(&start, 1), false).await,
            Outcome::Applied
        );
        let (mut new, position) = redis.owner("new", 2).await;
        assert_eq!(position.sequence, 1);
        assert_eq!(
            old.commit(&Batch::default(), &at(&start, 2), false).await,
            Outcome::Lost
        );
        assert_eq!(
            old.commit(&Batch::default(), &at(&start, 2), false).await,
            Outcome::Lost,
            "it stays lost"
        );
        assert_eq!(
            new.commit(&Batch::default(), &at(&position, 5), false).await,
            Outcome::Applied
        );
        assert_eq!(new.watch().await.unwrap().position.unwrap().sequence, 5);
    }

    #[tokio::test]
    async fn two_contenders_cannot_both_acquire() {
        let redis = Redis::start().await;
        let fence = |n: &str| Fence {
            counter: 1,
            nonce: n.into(),
            beat: 0,
            owner: n.into(),
            released: false,
        };
        let mut a = Store::new(PartitionId(0), redis.connect().await, fence("a"))
            .await
            .unwrap();
        let mut b = Store::new(PartitionId(0), redis.connect().await, fence("b"))
            .await
            .unwrap();
        a.watch().await.unwrap();
        b.watch().await.unwrap();
        let start = Position::start("i");
        assert!(a.acquire(fence("a"), Some(&start)).await.unwrap());
        assert!(!b.acquire(fence("b"), Some(&start)).await.unwrap());
    }

    #[tokio::test]
    async fn no_write_of_the_old_owner_lands_after_the_fence_moved() {
        let redis = Redis::start().await;
        let mut aborted = 0;
        for round in 0..200u64 {
            let (mut old, position) = redis.owner(&format!("old{round}"), round * 2 + 1).await;
            let taker = async {
                for _ in 0..round % 20 {
                    tokio::task::yield_now().await;
                }
                let (mut new, position) = redis.owner(&format!("new{round}"), round * 2 + 2).await;
                let before = new.watch().await.unwrap().position.unwrap();
                assert_eq!(before.sequence, position.sequence, "round {round}");
                before.sequence
            };
            let committer = async {
                for n in 1..=50 {
                    if old
                        .commit(&Batch::default(), &at(&position, round * 100 + n), false)
                        .await
                        != Outcome::Applied
                    {
                        return true;
                    }
                }
                false
            };
            let (taken_at, lost) = tokio::join!(taker, committer);
            aborted += u32::from(lost);
            let (_, after) = redis.owner(&format!("check{round}"), round * 2 + 3).await;
            assert_eq!(
                after.sequence, taken_at,
                "round {round}: a write landed after the fence moved"
            );
        }
        assert!(aborted > 0, "no round raced");
    }

    #[tokio::test]
    async fn a_refused_commit_applies_nothing_and_the_same_batch_works_later() {
        let redis = Redis::start().await;
        let (mut store, start) = redis.owner("o", 1).await;
        let mut admin = redis.connect().await;
        let mut limit = async |bytes: &str| {
            let mut cmd = redis::cmd("CONFIG");
            cmd.arg("SET").arg("maxmemory").arg(bytes);
            cmd.query_async::<()>(&mut admin).await.unwrap();
        };
        limit("1").await;
        let mut batch = Batch::default();
        batch.dead(1, bytes::Bytes::from_static(b"x"));
        let refused = store.commit(&batch, &at(&start, 1), false).await;
        assert!(
            matches!(&refused, Outcome::Refused(why) if why.contains("OOM")),
            "{refused:?}"
        );
        limit("0").await;
        assert_eq!(
            store.commit(&batch, &at(&start, 1), false).await,
            Outcome::Applied
        );
    }
}
