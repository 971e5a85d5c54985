//! Redis as registry and queries use it: shared pipelined reads, and transactions on a connection of their own
//! (a WATCH on a shared connection would watch for everybody).

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, Value};
use tokio::sync::Mutex;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(3);
/// Tries of a transaction whose watched keys moved. Only registrations contend, so more means a fault.
const TRIES: usize = 20;

/// Why Redis gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Refused, unreachable, or no answer in time. After a write the outcome may be unknown; registry writes are safe
    /// to repeat.
    #[error("redis: {0}")]
    Redis(Arc<redis::RedisError>),
    /// What is stored has another shape than this build writes.
    #[error("redis: {0} is not readable: {1}")]
    Unreadable(String, String),
    /// The watched keys kept changing.
    #[error("redis: transaction on {0} lost every race")]
    Contended(String),
}

impl From<redis::RedisError> for StoreError {
    fn from(e: redis::RedisError) -> Self {
        Self::Redis(Arc::new(e))
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
#[derive(Clone)]
pub struct Store {
    client: redis::Client,
    shared: Arc<Mutex<Option<MultiplexedConnection>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Over a client; connects on first use and again after a loss.
    pub fn new(client: redis::Client) -> Self {
        Self { client, shared: Arc::default() }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER));
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    async fn shared(&self) -> Result<MultiplexedConnection, StoreError> {
        let mut shared = self.shared.lock().await;
        if let Some(connection) = shared.as_ref() {
            return Ok(connection.clone());
        }
        let connection = self.connect().await?;
        *shared = Some(connection.clone());
        Ok(connection)
    }

    async fn judge<T>(&self, result: Result<T, redis::RedisError>) -> Result<T, StoreError> {
        if result.as_ref().is_err_and(redis::RedisError::is_unrecoverable_error) {
            *self.shared.lock().await = None;
        }
        Ok(result?)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let mut connection = self.shared().await?;
        let result = command.query_async(&mut connection).await;
        self.judge(result).await
    }

    /// Runs several commands in one round trip, not atomically.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pipe<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, StoreError> {
        let mut connection = self.shared().await?;
        let result = commands.query_async(&mut connection).await;
        self.judge(result).await
    }

    /// WATCHes `keys`, lets `decide` read with the commands of `reads` and commits what it returns in one MULTI/EXEC:
    /// all or nothing, and only if no watched key moved since the reads. Decides again when one did.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn transact<T>(
        &self,
        keys: &[&str],
        reads: &Pipeline,
        decide: impl Fn(Vec<Value>) -> Result<Decision<T>, redis::RedisError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connect().await?;
        for _ in 0..TRIES {
            redis::cmd("WATCH").arg(keys).query_async::<()>(&mut connection).await?;
            let seen: Vec<Value> = reads.query_async(&mut connection).await?;
            let (mut commands, answer) = match decide(seen)? {
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
