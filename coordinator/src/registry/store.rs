//! Redis as registry and queries use it: shared pipelined reads, and transactions on a connection of their own
//! (a WATCH on a shared connection would watch for everybody).

use std::sync::Arc;

use millrace_runtime::config::RedisConfig;
use millrace_runtime::redis::{SharedRedis, connect};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, Value};

/// Tries of a transaction whose watched keys moved. Only registrations contend, so more means a fault.
const TRIES: usize = 20;

/// Why Redis gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Refused, unreachable, or no answer in time. After a write the outcome may be unknown; registry writes are safe
    /// to repeat.
    #[error(transparent)]
    Redis(Arc<millrace_runtime::redis::Error>),
    /// What is stored has another shape than this build writes.
    #[error("cannot read {0} in redis: {1}")]
    Unreadable(String, String),
    /// The watched keys kept changing.
    #[error("transaction on {0} in redis lost every race")]
    Contended(String),
}

impl From<millrace_runtime::redis::Error> for StoreError {
    fn from(e: millrace_runtime::redis::Error) -> Self {
        Self::Redis(Arc::new(e))
    }
}

impl From<RedisError> for StoreError {
    fn from(e: RedisError) -> Self {
        millrace_runtime::redis::Error::Unreachable(e).into()
    }
}

/// What a transaction wants after it has read the watched keys.
#[derive(Debug)]
pub enum Decision<T> {
    /// Run these commands atomically, then answer.
    Commit(Pipeline, T),
    /// Change nothing and answer.
    Leave(T),
}

/// Clonable handle.
#[derive(Clone, Debug)]
pub struct Store {
    config: Arc<RedisConfig>,
    shared: SharedRedis,
}

impl Store {
    /// Over the process's shared connection; transactions make connections of their own.
    pub fn new(config: RedisConfig, shared: SharedRedis) -> Self {
        Self {
            config: Arc::new(config),
            shared,
        }
    }

    /// Runs one command that is safe to repeat.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        Ok(self.shared.query(command).await?)
    }

    /// Runs several commands that are safe to repeat in one round trip, not atomically.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pipe<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, StoreError> {
        Ok(self.shared.query_pipeline(commands).await?)
    }

    /// WATCHes `keys`, runs `reads`, lets `decide` see their answers and commits what it returns in one MULTI/EXEC:
    /// all or nothing, and only if no watched key moved since. Decides again when one did.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn transact<T>(
        &self,
        keys: &[&str],
        reads: &Pipeline,
        decide: impl Fn(Vec<Value>) -> Result<Decision<T>, redis::ParsingError>,
    ) -> Result<T, StoreError> {
        let mut connection = connect(&self.config).await?;
        for _ in 0..TRIES {
            redis::cmd("WATCH")
                .arg(keys)
                .query_async::<()>(&mut connection)
                .await?;
            let seen: Vec<Value> = reads.query_async(&mut connection).await?;
            let unreadable = |e: redis::ParsingError| StoreError::Unreadable(keys.join(" "), e.to_string());
            let (mut commands, answer) = match decide(seen).map_err(unreadable)? {
                Decision::Leave(answer) => return Ok(answer),
                Decision::Commit(commands, answer) => (commands, answer),
            };
            commands.atomic();
            let done: Option<Vec<Value>> = commands.query_async(&mut connection).await?;
            if done.is_some() {
                return Ok(answer);
            }
        }
        Err(StoreError::Contended(keys.join(" ")))
    }
}
