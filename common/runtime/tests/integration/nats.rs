//! Connecting, losing the link, and servers that will not do.

use millrace_runtime::config::NatsConfig;
use millrace_runtime::nats::{ServerFault, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::servers::{LIMIT, NatsServer, free_port};

pub(crate) fn config(url: &str) -> NatsConfig {
    NatsConfig {
        urls: vec![url.into()],
        credentials: None,
        ca: None,
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for_and_a_restart_is_noticed() {
    let Some(mut server) = NatsServer::start() else {
        return;
    };
    server.stop();
    let nats = connect(&config(&server.url()), "test").await.unwrap();
    assert!(!nats.is_connected());
    server.restart();
    tokio::time::timeout(LIMIT, nats.ready()).await.unwrap().unwrap();
    let connects = nats.link().borrow().connects;
    server.restart();
    let mut link = nats.link();
    let back = link.wait_for(|l| l.connected && l.connects > connects);
    tokio::time::timeout(LIMIT, back).await.unwrap().unwrap();
}

/// Greets as a server of this version and then says nothing.
async fn impostor(version: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let info = serde_json::json!({
        "server_id": "x", "server_name": "x", "version": version, "go": "x", "host": "127.0.0.1", "port": port,
        "headers": true, "max_payload": 1_048_576, "proto": 1, "jetstream": true, "client_id": 1,
    });
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let info = info.clone();
            tokio::spawn(async move {
                peer.write_all(format!("INFO {info}\r\n").as_bytes())
                    .await
                    .unwrap();
                let mut buffer = [0u8; 4096];
                while peer.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    peer.write_all(b"PONG\r\n").await.unwrap();
                }
            });
        }
    });
    format!("nats://127.0.0.1:{port}")
}

#[tokio::test]
async fn a_server_below_the_floor_is_refused_for_good() {
    let nats = connect(&config(&impostor("2.9.10").await), "test").await.unwrap();
    let fault = tokio::time::timeout(LIMIT, nats.ready())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&fault, ServerFault::TooOld { found } if found == "2.9.10"),
        "{fault}"
    );
}

#[tokio::test]
async fn credentials_in_the_url_are_used() {
    let Some(server) = NatsServer::start_with(&["--user", "me", "--pass", "p@ss"]) else {
        return;
    };
    let url = server.url().replace("nats://", "nats://me:p%40ss@");
    let nats = connect(&config(&url), "test").await.unwrap();
    tokio::time::timeout(LIMIT, nats.ready()).await.unwrap().unwrap();
    let wrong = connect(
        &config(&server.url().replace("nats://", "nats://me:wrong@")),
        "test",
    )
    .await
    .unwrap();
    let refused = tokio::time::timeout(std::time::Duration::from_millis(300), wrong.ready()).await;
    assert!(refused.is_err() && !wrong.is_connected());
}

#[tokio::test]
async fn unreadable_credentials_are_a_fault_and_not_a_retry() {
    let mut config = config(&format!("nats://127.0.0.1:{}", free_port()));
    config.credentials = Some("/nonexistent/worker.creds".into());
    let text = connect(&config, "test").await.unwrap_err().to_string();
    assert!(text.contains("/nonexistent/worker.creds"), "{text}");
}
