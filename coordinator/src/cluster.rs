//! What a cluster is made of: streams and their identity, fixed at creation and checked at every boot.
//!
//! A stream is created only where Redis does not know one yet. When Redis knows an incarnation and the stream is gone
//! or another one, the partition halts (H2): creating an empty log there would lose every input silently.

use std::collections::HashMap;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, ErrorCode};
use millrace_common::{PartitionId, names};
use millrace_runtime::config::{CoordinatorConfig, Lifecycle};
use millrace_runtime::redis::SharedRedis;
use tracing::warn;

/// Layout of keys and streams. Raised when an old build could not read what a new one writes.
const LAYOUT: &str = "1";
/// Under this name a stream's metadata holds its identity.
pub(crate) const INCARNATION: &str = "millrace.incarnation";
const PARTITIONS: &str = "millrace.partitions";

/// Why a cluster cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server does not answer (yet). Repeat.
    #[error("cannot reach {server}: {reason}")]
    Unreachable {
        /// Which.
        server: &'static str,
        /// Why.
        reason: String,
    },
    /// The configuration differs from what the cluster was created with.
    #[error(
        "{what} is {found} in this cluster but {configured} in the configuration; it is fixed at creation"
    )]
    Differs {
        /// Setting.
        what: &'static str,
        /// In the cluster.
        found: String,
        /// In the configuration.
        configured: String,
    },
    /// Streams and Redis belong to different clusters, or one of them lost its data. Needs an operator.
    #[error("MR-HALT-{code}: {text}")]
    Halt {
        /// Stable code: its entry in `docs/operations/codes.md` says what to do.
        code: &'static str,
        /// What was found.
        text: String,
    },
}

/// Why a partition is halted: code and what was found.
pub type Halt = (&'static str, String);

/// Checks everything, creating what a new cluster needs. Safe to run from several coordinators at once.
///
/// # Errors
/// [`Error::Unreachable`] can be repeated; the others need an operator.
pub async fn open(
    config: &CoordinatorConfig,
    jetstream: &jetstream::Context,
    redis: &SharedRedis,
) -> Result<(), Error> {
    check_fixed(config, redis).await?;
    for p in (0..config.partitions).map(PartitionId) {
        match identify(config, jetstream, redis, p, May::Create).await {
            // Found again by whoever takes the partition over.
            Ok(_) | Err(Error::Halt { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    ensure(jetstream, steps(config)).await?;
    ensure(jetstream, definitions(config)).await?;
    ensure(jetstream, events(config)).await?;
    if config.lifecycle != Lifecycle::Off {
        ensure(jetstream, lifecycle(config)).await?;
    }
    Ok(())
}

/// The stream of events; made anew where somebody deleted it: it holds nothing that only it knows.
pub async fn ensure_events(config: &CoordinatorConfig, jetstream: &jetstream::Context) -> Result<(), Error> {
    ensure(jetstream, events(config)).await
}

async fn check_fixed(config: &CoordinatorConfig, redis: &SharedRedis) -> Result<(), Error> {
    let configured = config.partitions.to_string();
    for (field, value, what) in [
        ("partitions", configured.as_str(), "partition count"),
        ("layout", LAYOUT, "layout"),
    ] {
        let mut set = redis::cmd("HSETNX");
        set.arg(names::CLUSTER_KEY).arg(field).arg(value);
        redis
            .query::<i64>(&set)
            .await
            .map_err(|e| unreachable("redis", e))?;
        let mut get = redis::cmd("HGET");
        get.arg(names::CLUSTER_KEY).arg(field);
        let found: String = redis.query(&get).await.map_err(|e| unreachable("redis", e))?;
        if found != value {
            return Err(Error::Differs {
                what,
                found,
                configured: value.into(),
            });
        }
    }
    Ok(())
}

/// What [`identify`] may do beside looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// Nothing.
    Look,
    /// Make a log of which nobody knows: at boot, when the cluster is new.
    Create,
    /// Take the present log as the one that is known, or make one where it is gone: by an operator's order only.
    Adopt,
}

/// The incarnation of a partition's log. It must be the one that Redis knows; where Redis knows none it is noted. Looked at
/// by every boot, and by whoever takes the partition over.
///
/// # Errors
/// [`Error::Halt`] when it is gone, foreign or another one; [`Error::Unreachable`] can be repeated.
pub(crate) async fn identify(
    config: &CoordinatorConfig,
    jetstream: &jetstream::Context,
    redis: &SharedRedis,
    p: PartitionId,
    may: May,
) -> Result<String, Error> {
    let field = format!("incarnation:{p}");
    let mut get = redis::cmd("HGET");
    get.arg(names::CLUSTER_KEY).arg(&field);
    let known: Option<String> = redis.query(&get).await.map_err(|e| unreachable("redis", e))?;
    let info = find(jetstream, &names::log_stream(p)).await?;
    let found = match (compare(p, known.as_deref(), info.as_ref()), may) {
        (Err(Error::Halt { code: "LOG-LOST", .. }), May::Create) if known.is_none() => {
            incarnation(&create(jetstream, log(config, p)).await?)?
        }
        (Err(Error::Halt { code, text }), May::Adopt) if matches!(code, "LOG-LOST" | "LOG-REPLACED") => {
            warn!(partition.id = %p, halt.code = code, found = text, "the log is adopted by order of an operator");
            match info {
                Some(info) => incarnation(&info)?,
                None => incarnation(&create(jetstream, log(config, p)).await?)?,
            }
        }
        (compared, _) => compared?,
    };
    if known.as_ref() != Some(&found) {
        // At boot several coordinators may be at it; an order overwrites what was known.
        let mut set = redis::cmd(if may == May::Adopt { "HSET" } else { "HSETNX" });
        set.arg(names::CLUSTER_KEY).arg(&field).arg(&found);
        redis
            .query::<i64>(&set)
            .await
            .map_err(|e| unreachable("redis", e))?;
    }
    Ok(found)
}

fn compare(p: PartitionId, known: Option<&str>, info: Option<&Info>) -> Result<String, Error> {
    let name = names::log_stream(p);
    let Some(info) = info else {
        let known = known.unwrap_or("nothing");
        return Err(Error::Halt {
            code: "LOG-LOST",
            text: format!("stream {name} is gone but redis knows it as {known}"),
        });
    };
    let found = incarnation(info)?;
    match known {
        Some(known) if known != found => Err(Error::Halt {
            code: "LOG-REPLACED",
            text: format!("stream {name} is incarnation {found} but redis knows {known}"),
        }),
        _ => Ok(found),
    }
}

fn incarnation(info: &Info) -> Result<String, Error> {
    info.config
        .metadata
        .get(INCARNATION)
        .cloned()
        .ok_or_else(|| Error::Halt {
            code: "LOG-FOREIGN",
            text: format!(
                "stream {} was not created by millrace: it has no incarnation",
                info.config.name
            ),
        })
}

/// Looks a stream up. `None` only when the server says that it does not exist; silence is an error.
pub async fn find(jetstream: &jetstream::Context, name: &str) -> Result<Option<Info>, Error> {
    use async_nats::jetstream::context::GetStreamErrorKind;
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(e) => match e.kind() {
            GetStreamErrorKind::JetStream(ref e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(unreachable("nats", e)),
        },
    }
}

/// A handle without a round trip; the stream was seen at boot.
pub async fn handle(jetstream: &jetstream::Context, name: &str) -> Result<Stream<()>, Error> {
    jetstream
        .get_stream_no_info(name)
        .await
        .map_err(|e| unreachable("nats", e))
}

async fn create(jetstream: &jetstream::Context, config: Config) -> Result<Info, Error> {
    let name = config.name.clone();
    match jetstream.create_stream(config).await {
        Ok(stream) => Ok(stream.cached_info().clone()),
        // Another coordinator was faster: its stream has other metadata, so the server refuses ours.
        Err(e) => find(jetstream, &name)
            .await?
            .ok_or_else(|| unreachable("nats", e)),
    }
}

async fn ensure(jetstream: &jetstream::Context, config: Config) -> Result<(), Error> {
    if find(jetstream, &config.name).await?.is_none() {
        create(jetstream, config).await?;
    }
    Ok(())
}

fn log(config: &CoordinatorConfig, p: PartitionId) -> Config {
    let metadata = HashMap::from([
        (INCARNATION.into(), uuid::Uuid::now_v7().simple().to_string()),
        (PARTITIONS.into(), config.partitions.to_string()),
    ]);
    Config {
        name: names::log_stream(p),
        subjects: vec![names::log_subjects(p)],
        retention: RetentionPolicy::Limits,
        max_bytes: bytes(config.log_bytes_max),
        deny_delete: true,
        metadata,
        ..base(config)
    }
}

fn steps(config: &CoordinatorConfig) -> Config {
    Config {
        name: names::STEPS_STREAM.into(),
        subjects: vec![names::STEPS_SUBJECTS.into()],
        retention: RetentionPolicy::WorkQueue,
        max_bytes: bytes(config.steps_bytes_max),
        ..base(config)
    }
}

fn definitions(config: &CoordinatorConfig) -> Config {
    Config {
        name: names::DEFINITIONS_STREAM.into(),
        subjects: vec![names::DEFINITIONS_SUBJECTS.into()],
        retention: RetentionPolicy::Limits,
        max_messages_per_subject: 1,
        max_bytes: -1,
        discard: DiscardPolicy::Old,
        ..base(config)
    }
}

/// Events are for whoever listens now: the oldest go when the stream is full or they are too old.
fn events(config: &CoordinatorConfig) -> Config {
    Config {
        name: names::EVENTS_STREAM.into(),
        subjects: vec![names::EVENTS_SUBJECTS.into()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_bytes: bytes(config.events_bytes_max),
        max_age: config.events_age_max,
        ..base(config)
    }
}

fn lifecycle(config: &CoordinatorConfig) -> Config {
    Config {
        name: names::LIFECYCLE_STREAM.into(),
        subjects: vec![names::LIFECYCLE_SUBJECTS.into()],
        ..events(config)
    }
}

/// Never aged out, refuse when full, on disk. The dedupe window is short because ids are used on few messages.
fn base(config: &CoordinatorConfig) -> Config {
    Config {
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: config.stream_replicas,
        max_messages: -1,
        max_messages_per_subject: -1,
        duplicate_window: std::time::Duration::from_secs(120),
        ..Config::default()
    }
}

fn bytes(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unreachable(server: &'static str, e: impl std::fmt::Display) -> Error {
    Error::Unreachable {
        server,
        reason: e.to_string(),
    }
}
