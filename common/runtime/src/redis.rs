//! Connections to Redis or Valkey, with the settings that redis-rs 1.x leaves off, and the check of the server.
//!
//! The crate keeps a connection after time-outs and after the server became a replica; [`is_broken`] names the errors
//! after which a connection must be thrown away, and [`SharedRedis`] does so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind,
};
use tokio::sync::Mutex;

use crate::backoff::Backoff;
use crate::config::RedisConfig;
use crate::nats::parse_version;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Redis itself stalls writes up to 2 s while an fsync runs; the crate's default of 500 ms would trip on it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(4);
/// Unacknowledged data for this long breaks the connection: a cut cable is not a slow server.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be read.
    #[error("cannot use the Redis URL: {0}")]
    Url(#[source] RedisError),
    /// No connection, or it broke.
    #[error("cannot reach Redis: {0}")]
    Unreachable(#[source] RedisError),
    /// The server will never do.
    #[error("{0}")]
    Unsuitable(String),
}

impl Error {
    /// Whether waiting cannot help.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Unreachable(_))
    }
}

/// A new private connection: nothing else shares it, so it may WATCH.
///
/// # Errors
/// [`Error::Url`] or [`Error::Unreachable`].
pub async fn connect(config: &RedisConfig) -> Result<MultiplexedConnection, Error> {
    let client = client(config)?;
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    client
        .get_multiplexed_async_connection_with_config(&settings)
        .await
        .map_err(Error::Unreachable)
}

fn client(config: &RedisConfig) -> Result<redis::Client, Error> {
    use redis::IntoConnectionInfo;
    crate::tls::install_provider();
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(USER_TIMEOUT)
        .with_interval(Duration::from_secs(2));
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(USER_TIMEOUT);
    let info = config
        .url
        .as_str()
        .into_connection_info()
        .map_err(Error::Url)?
        .set_tcp_settings(tcp);
    redis::Client::open(info).map_err(Error::Url)
}

/// Whether a connection must be thrown away after this error: it may be dead, out of step, or lead to a server that
/// lost its role.
pub fn is_broken(error: &RedisError) -> bool {
    let wrong_role = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown
        )
    );
    wrong_role
        || error.is_timeout()
        || error.is_io_error()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `Redis` or `Valkey`.
    pub flavour: &'static str,
    /// Its version.
    pub version: String,
    /// `appendonly`.
    pub aof: bool,
    /// `appendfsync`, if it may be read.
    pub fsync: Option<String>,
    /// What an operator should change, in words.
    pub warnings: Vec<String>,
}

/// Checks version, role and eviction policy.
///
/// # Errors
/// [`Error::Unsuitable`] when the server can never do: too old, evicting, or not Redis at all.
/// [`Error::Unreachable`] when it is loading, a replica, or gone.
pub async fn check_server(connection: &mut MultiplexedConnection) -> Result<ServerFacts, Error> {
    let info: String = redis::cmd("INFO")
        .query_async(connection)
        .await
        .map_err(Error::Unreachable)?;
    let mut facts = facts(&info)?;
    let fsync: RedisResult<Vec<String>> = redis::cmd("CONFIG")
        .arg("GET")
        .arg("appendfsync")
        .query_async(connection)
        .await;
    // Not allowed for restricted users: then it is not known.
    facts.fsync = fsync.ok().and_then(|pair| pair.into_iter().nth(1));
    Ok(facts)
}

fn facts(info: &str) -> Result<ServerFacts, Error> {
    let field = |name: &str| {
        info.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let unsuitable = |text: String| Err(Error::Unsuitable(text));
    if field("dragonfly_version").is_some() {
        return unsuitable(
            "Dragonfly is not supported: it has no append-only file and its WATCH is not atomic".into(),
        );
    }
    let (flavour, version, min) = match field("valkey_version") {
        Some(version) => ("Valkey", version, (7, 2, 0)),
        None => ("Redis", field("redis_version").unwrap_or_default(), (6, 2, 0)),
    };
    if parse_version(version).is_none_or(|v| v < min) {
        return unsuitable(format!(
            "{flavour} {version} is too old: Redis 6.2 or Valkey 7.2 or newer is needed"
        ));
    }
    let policy = field("maxmemory_policy").unwrap_or("noeviction");
    if policy.starts_with("allkeys") {
        return unsuitable(format!(
            "Redis has maxmemory-policy {policy}, which deletes state: set noeviction"
        ));
    }
    let mut warnings = Vec::new();
    if policy != "noeviction" {
        warnings.push(format!(
            "maxmemory-policy is {policy}; noeviction is the only safe one"
        ));
    }
    let aof = field("aof_enabled") == Some("1");
    if !aof {
        warnings.push("appendonly is off: a crash of Redis loses state since its last snapshot".into());
    }
    Ok(ServerFacts {
        flavour,
        version: version.into(),
        aof,
        fsync: None,
        warnings,
    })
}

/// One connection for many readers, replaced when it breaks; cheap to clone. Never WATCH on it.
#[derive(Clone)]
pub struct SharedRedis {
    config: Arc<RedisConfig>,
    state: Arc<Mutex<SharedState>>,
}

struct SharedState {
    connection: Option<MultiplexedConnection>,
    /// Raised with every connection, so that one breakage discards one connection.
    generation: u64,
    backoff: Backoff,
    next_attempt: Instant,
}

impl SharedRedis {
    /// Connects at the first use.
    pub fn new(config: RedisConfig) -> Self {
        let state = SharedState {
            connection: None,
            generation: 0,
            backoff: Backoff::for_servers(),
            next_attempt: Instant::now(),
        };
        Self {
            config: Arc::new(config),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Runs one reading command; after a broken connection once more on a new one.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with Redis' own error.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        let (generation, mut connection) = self.connection().await?;
        match command.query_async(&mut connection).await {
            Err(error) if is_broken(&error) => {
                self.discard(generation).await;
                let (_, mut connection) = self.connection().await?;
                command
                    .query_async(&mut connection)
                    .await
                    .map_err(Error::Unreachable)
            }
            other => other.map_err(Error::Unreachable),
        }
    }

    /// Runs a pipeline of reading commands; after a broken connection once more on a new one.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with Redis' own error.
    pub async fn query_pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Error> {
        let (generation, mut connection) = self.connection().await?;
        match pipeline.query_async(&mut connection).await {
            Err(error) if is_broken(&error) => {
                self.discard(generation).await;
                let (_, mut connection) = self.connection().await?;
                pipeline
                    .query_async(&mut connection)
                    .await
                    .map_err(Error::Unreachable)
            }
            other => other.map_err(Error::Unreachable),
        }
    }

    async fn connection(&self) -> Result<(u64, MultiplexedConnection), Error> {
        let mut state = self.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok((state.generation, connection.clone()));
        }
        tokio::time::sleep_until(state.next_attempt.into()).await;
        match connect(&self.config).await {
            Ok(connection) => {
                state.backoff.reset();
                state.generation += 1;
                state.connection = Some(connection.clone());
                Ok((state.generation, connection))
            }
            Err(error) => {
                state.next_attempt = Instant::now() + state.backoff.next_delay();
                Err(error)
            }
        }
    }

    async fn discard(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.generation == generation {
            state.connection = None;
        }
    }
}

impl std::fmt::Debug for SharedRedis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedRedis").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsuitable_servers_are_named() {
        let info = |rest: &str| format!("# Server\r\nredis_version:7.0.15\r\naof_enabled:1\r\n{rest}\r\n");
        assert_eq!(facts(&info("")).unwrap().warnings, Vec::<String>::new());
        assert_eq!(facts(&info("valkey_version:8.0.1")).unwrap().flavour, "Valkey");
        assert_eq!(
            facts(&info("maxmemory_policy:volatile-lru"))
                .unwrap()
                .warnings
                .len(),
            1
        );
        for bad in [
            "maxmemory_policy:allkeys-lru",
            "valkey_version:7.1.0",
            "dragonfly_version:df-1.2",
        ] {
            assert!(facts(&info(bad)).unwrap_err().is_permanent(), "{bad}");
        }
        let old = facts("redis_version:6.0.16").unwrap_err().to_string();
        assert!(old.contains("6.0.16") && old.contains("6.2"), "{old}");
    }
}
