//! `/status`: what runs, how far it can be trusted, and what is wrong. What a server does not tell is named as unknown.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use millrace_common::{PartitionId, names};
use serde::Serialize;
use serde_json::{Value, json};

use super::ApiState;
use super::problem::ApiResult;
use super::time;
use crate::fleet::Health;
use crate::registry::StoreError;

pub(super) async fn status(State(api): State<ApiState>) -> ApiResult<Json<Value>> {
    let redis = redis_facts(&api).await;
    let replicas = replicas(&api).await;
    let server = api.nats.client().server_info();
    let durability = durability(redis.as_ref().ok(), replicas);
    let coordinators: HashMap<String, String> = api
        .store
        .query(redis::cmd("HGETALL").arg(names::COORDINATORS_KEY))
        .await
        .unwrap_or_default();
    let mut coordinators: Vec<_> = coordinators.into_keys().collect();
    coordinators.sort_unstable();
    let partitions: serde_json::Map<String, Value> = api
        .board
        .partitions()
        .into_iter()
        .map(|(p, state)| (p.to_string(), json!(state)))
        .collect();
    Ok(Json(json!({
        "coordinator": api.coordinator,
        "build": api.build,
        "uptimeSeconds": api.0.started.elapsed().as_secs(),
        "coordinators": coordinators,
        "nats": {"connected": api.nats.is_connected(), "version": server.version, "server": server.server_name},
        "redis": match &redis { Ok(facts) => json!(facts), Err(e) => json!({"error": e.to_string()}) },
        "durability": durability,
        "partitions": {"count": api.partitions, "here": partitions},
        "instances": api.queries().counts().await.ok(),
        "workers": workers(&api).await,
        "schedules": schedules(&api),
        "pressure": api.board.pressure(),
        "restarts": api.board.restarts(),
    })))
}

/// What Redis says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RedisFacts {
    flavour: String,
    version: String,
    /// `appendonly`.
    appendonly: bool,
    /// `appendfsync`; absent when the server does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    appendfsync: Option<String>,
    /// Replicas connected.
    replicas: u32,
}

async fn redis_facts(api: &ApiState) -> Result<RedisFacts, StoreError> {
    let info: String = api.store.query(&redis::cmd("INFO")).await?;
    // Forbidden on many managed servers: then it is not known.
    let fsync: Result<HashMap<String, String>, _> = api
        .store
        .query(redis::cmd("CONFIG").arg("GET").arg("appendfsync"))
        .await;
    Ok(RedisFacts {
        appendfsync: fsync.ok().and_then(|mut f| f.remove("appendfsync")),
        ..read_info(&info)
    })
}

fn read_info(info: &str) -> RedisFacts {
    let field = |name: &str| {
        info.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let (flavour, version) = match field("valkey_version") {
        Some(version) => ("Valkey", version),
        None => ("Redis", field("redis_version").unwrap_or("unknown")),
    };
    RedisFacts {
        flavour: flavour.into(),
        version: version.into(),
        appendonly: field("aof_enabled") == Some("1"),
        appendfsync: None,
        replicas: field("connected_slaves")
            .and_then(|n| n.parse().ok())
            .unwrap_or(0),
    }
}

/// Replicas of the log that has the fewest; `None` when JetStream does not answer.
async fn replicas(api: &ApiState) -> Option<usize> {
    let jetstream = api.nats.jetstream();
    let log = |p| async move {
        let stream = jetstream
            .get_stream(names::log_stream(PartitionId(p)))
            .await
            .ok()?;
        Some(stream.cached_info().config.num_replicas)
    };
    let all = futures_util::future::join_all((0..api.partitions).map(log)).await;
    // One that does not answer is not known to be good.
    all.into_iter().collect::<Option<Vec<usize>>>()?.into_iter().min()
}

/// The durability mode and what it promises (docs/guarantees.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Durability {
    /// The strongest mode that the servers' own words prove; `none` below all of them.
    mode: &'static str,
    /// What it keeps.
    promise: &'static str,
    /// `stream replicas`, `appendfsync`.
    settings: Value,
    /// What no server tells, and what it would change.
    unknown: Vec<String>,
}

fn durability(redis: Option<&RedisFacts>, replicas: Option<usize>) -> Durability {
    let aof = redis.is_some_and(|r| r.appendonly);
    let fsync = redis.and_then(|r| r.appendfsync.as_deref());
    let (mode, promise) = match (replicas, aof) {
        (None, _) => ("unknown", "a server does not answer"),
        _ if redis.is_none() => ("unknown", "a server does not answer"),
        (Some(_), true) if fsync == Some("no") => (
            "none",
            "redis leaves it to the system when its append-only file is written: a power cut may take minutes of state",
        ),
        (Some(_), false) => (
            "none",
            "redis has no append-only file: a crash of redis takes the state since its last snapshot",
        ),
        (Some(0..=2), true) => (
            "A",
            "nothing is lost when any process is killed; a power cut may take the last seconds",
        ),
        (Some(_), true) if redis.is_some_and(|r| r.replicas == 0) => (
            "A",
            "the logs are replicated, redis is not: its disk is the single copy of the state",
        ),
        (Some(_), true) => (
            "C",
            "nothing is lost with one node; a power cut of all may take the unsynced tail",
        ),
    };
    let stronger = match mode {
        "A" => Some("B"),
        "C" => Some("D"),
        _ => None,
    };
    let mut unknown: Vec<String> = stronger
        .map(|better| {
            format!("nats-server does not tell its sync_interval; with `always` this is mode {better}")
        })
        .into_iter()
        .collect();
    if redis.is_some() && fsync.is_none() {
        unknown.push("redis does not tell its appendfsync to this user".into());
    }
    Durability {
        mode,
        promise,
        settings: json!({"streamReplicas": replicas, "appendonly": aof, "appendfsync": fsync}),
        unknown,
    }
}

/// Of the partitions served here.
fn schedules(api: &ApiState) -> Value {
    let partitions = api.board.partitions();
    let serving = || partitions.values().filter(|p| p.phase == "serving");
    let next_due = serving().filter_map(|p| p.next_schedule_due_ms).min();
    json!({
        "here": serving().map(|p| p.schedules).sum::<u64>(),
        "nextDue": next_due.map(time::rfc3339),
    })
}

async fn workers(api: &ApiState) -> Value {
    let Ok(all) = api.roster().all().await else {
        return Value::Null;
    };
    let count = |health| all.iter().filter(|w| w.health == health).count();
    json!({"alive": count(Health::Alive), "late": count(Health::Late), "gone": count(Health::Gone)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(appendonly: bool, replicas: u32) -> RedisFacts {
        RedisFacts {
            appendonly,
            replicas,
            appendfsync: Some("everysec".into()),
            ..RedisFacts::default()
        }
    }

    #[test]
    fn the_mode_is_what_the_servers_prove() {
        assert_eq!(durability(Some(&redis(true, 0)), Some(1)).mode, "A");
        assert_eq!(durability(Some(&redis(false, 0)), Some(3)).mode, "none");
        assert_eq!(durability(Some(&redis(true, 0)), Some(3)).mode, "A");
        assert_eq!(durability(Some(&redis(true, 1)), Some(3)).mode, "C");
        assert_eq!(durability(None, None).mode, "unknown");
        assert_eq!(durability(None, Some(1)).mode, "unknown");
        assert_eq!(durability(Some(&redis(true, 0)), None).mode, "unknown");
        let lazy = RedisFacts {
            appendfsync: Some("no".into()),
            ..redis(true, 0)
        };
        assert_eq!(durability(Some(&lazy), Some(1)).mode, "none");
    }

    #[test]
    fn what_no_server_tells_is_named() {
        let told = durability(Some(&redis(true, 0)), Some(1));
        assert!(told.unknown[0].contains("mode B"), "{:?}", told.unknown);
        let silent = RedisFacts {
            appendfsync: None,
            ..redis(true, 0)
        };
        assert_eq!(durability(Some(&silent), Some(1)).unknown.len(), 2);
    }

    #[test]
    fn valkey_is_recognised() {
        let facts = read_info(
            "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.0\r\naof_enabled:1\r\nconnected_slaves:2\r\n",
        );
        assert_eq!(
            (facts.flavour.as_str(), facts.version.as_str(), facts.replicas),
            ("Valkey", "8.1.0", 2)
        );
        assert!(facts.appendonly);
    }
}
