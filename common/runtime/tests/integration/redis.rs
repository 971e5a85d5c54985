//! Redis: what is checked at the start, and a connection that is replaced.

use millrace_runtime::config::RedisConfig;
use millrace_runtime::redis::{SharedRedis, check_server, connect};

use crate::servers::RedisServer;

#[tokio::test]
async fn a_suitable_server_tells_its_durability() {
    let Some(server) = RedisServer::start("appendonly yes\nappendfsync everysec") else {
        return;
    };
    let config = RedisConfig { url: server.url() };
    let facts = check_server(&mut connect(&config).await.unwrap()).await.unwrap();
    assert!(facts.aof && facts.warnings.is_empty(), "{facts:?}");
    assert_eq!(facts.fsync.as_deref(), Some("everysec"));
}

#[tokio::test]
async fn a_server_that_evicts_state_is_refused() {
    let Some(server) = RedisServer::start("maxmemory 100mb\nmaxmemory-policy allkeys-lru") else {
        return;
    };
    let config = RedisConfig { url: server.url() };
    let error = check_server(&mut connect(&config).await.unwrap())
        .await
        .unwrap_err();
    assert!(
        error.is_permanent() && error.to_string().contains("allkeys-lru"),
        "{error}"
    );
}

#[tokio::test]
async fn readers_survive_the_death_of_their_connection() {
    let Some(server) = RedisServer::start("") else {
        return;
    };
    let config = RedisConfig { url: server.url() };
    let shared = SharedRedis::new(config.clone());
    let id: u64 = shared.query(redis::cmd("CLIENT").arg("ID")).await.unwrap();
    let mut other = connect(&config).await.unwrap();
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("ID").arg(id);
    let killed: u64 = kill.query_async(&mut other).await.unwrap();
    assert_eq!(killed, 1);
    let next: u64 = shared.query(redis::cmd("CLIENT").arg("ID")).await.unwrap();
    assert_ne!(id, next);
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let port = crate::servers::free_port();
    let error = connect(&RedisConfig {
        url: format!("redis://127.0.0.1:{port}"),
    })
    .await
    .unwrap_err();
    assert!(
        !error.is_permanent() && error.to_string().starts_with("cannot reach Redis"),
        "{error}"
    );
    let error = connect(&RedisConfig {
        url: "nonsense".into(),
    })
    .await
    .unwrap_err();
    assert!(error.is_permanent(), "{error}");
}
