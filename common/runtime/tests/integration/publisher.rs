//! The publisher against a real JetStream.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use millrace_runtime::nats::{
    Completions, Nats, PublishError, Publisher, PublisherOptions, connect, expected_stream,
};

use crate::nats::config;
use crate::servers::{LIMIT, NatsServer};

async fn start(server: &NatsServer, options: PublisherOptions) -> (Nats, Publisher, Completions) {
    let nats = connect(&config(&server.url()), "test").await.unwrap();
    nats.ready().await.unwrap();
    let (publisher, completions) = Publisher::start(&nats, options).await.unwrap();
    (nats, publisher, completions)
}

async fn create(nats: &Nats, max_messages: i64) {
    let stream = Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        max_messages,
        discard: DiscardPolicy::New,
        ..Default::default()
    };
    nats.jetstream().create_stream(stream).await.unwrap();
}

async fn collect(completions: &mut Completions, number: usize) -> Vec<(u64, Result<u64, PublishError>)> {
    let mut all = Vec::new();
    while all.len() < number {
        let batch = tokio::time::timeout(LIMIT, completions.recv())
            .await
            .unwrap()
            .unwrap();
        all.extend(
            batch
                .into_iter()
                .map(|(tag, outcome)| (tag, outcome.map(|ack| ack.sequence))),
        );
    }
    all
}

#[tokio::test]
async fn every_message_gets_one_confirmation_and_the_bound_holds() {
    let Some(server) = NatsServer::start() else { return };
    let options = PublisherOptions {
        in_flight_max: 16,
        ..Default::default()
    };
    let (nats, publisher, mut completions) = start(&server, options).await;
    create(&nats, -1).await;
    let sender = publisher.clone();
    let sending = tokio::spawn(async move {
        for tag in 0..2000 {
            sender.publish_tagged("s.a", None, "x".into(), tag).await;
            assert!(sender.in_flight() <= 16);
        }
    });
    let all = collect(&mut completions, 2000).await;
    sending.await.unwrap();
    let tags: BTreeSet<u64> = all.iter().map(|(tag, _)| *tag).collect();
    let sequences: BTreeSet<u64> = all
        .iter()
        .map(|(_, sequence)| *sequence.as_ref().unwrap())
        .collect();
    assert_eq!((tags.len(), sequences.len()), (2000, 2000));
    assert_eq!(sequences.last(), Some(&2000));
    assert_eq!(publisher.in_flight(), 0);
    assert_eq!(
        publisher.publish("s.a", None, "x".into()).await.unwrap().sequence,
        2001
    );
}

#[tokio::test]
async fn errors_come_in_kinds_that_can_be_acted_on() {
    let Some(server) = NatsServer::start() else { return };
    let (nats, publisher, mut completions) = start(&server, PublisherOptions::default()).await;
    let missing = publisher.publish("s.a", None, "x".into()).await.unwrap_err();
    assert!(matches!(missing, PublishError::Unavailable(_)), "{missing:?}");
    create(&nats, 1).await;
    publisher.publish("s.a", None, "x".into()).await.unwrap();
    let full = publisher.publish("s.a", None, "x".into()).await.unwrap_err();
    assert!(matches!(full, PublishError::Full(_)), "{full:?}");
    publisher
        .publish_tagged("s.a", None, vec![0u8; 2 << 20].into(), 7)
        .await;
    let (tag, outcome) = collect(&mut completions, 1).await.remove(0);
    assert!(
        tag == 7 && matches!(outcome, Err(PublishError::Oversize(_))),
        "{outcome:?}"
    );
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Expected-Last-Sequence", "9");
    let moved = publisher
        .publish("s.a", Some(headers), "x".into())
        .await
        .unwrap_err();
    assert!(matches!(moved, PublishError::WrongLastSequence(_)), "{moved:?}");
    let foreign = publisher
        .publish("s.a", Some(expected_stream("OTHER")), "x".into())
        .await
        .unwrap_err();
    assert!(
        matches!(foreign, PublishError::Other { code: 10060, .. }),
        "{foreign:?}"
    );
}

#[tokio::test]
async fn repeats_are_told_as_duplicates() {
    let Some(server) = NatsServer::start() else { return };
    let (nats, publisher, _completions) = start(&server, PublisherOptions::default()).await;
    create(&nats, -1).await;
    let mut acks = Vec::new();
    for _ in 0..2 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "one");
        acks.push(publisher.publish("s.a", Some(headers), "x".into()).await.unwrap());
    }
    assert_eq!((acks[0].duplicate, acks[1].duplicate), (false, true));
    assert_eq!(acks[0].sequence, acks[1].sequence);
}

#[tokio::test]
async fn what_a_dead_server_took_is_unknown_soon_after_the_reconnect() {
    let Some(mut server) = NatsServer::start() else {
        return;
    };
    let options = PublisherOptions {
        timeout: Duration::from_secs(300),
        ..Default::default()
    };
    let (nats, publisher, _completions) = start(&server, options).await;
    create(&nats, -1).await;
    // A subject that a plain subscriber holds: the message leaves, nobody confirms it.
    let _silent = nats.client().subscribe("void").await.unwrap();
    nats.client().flush().await.unwrap();
    let waiting = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish("void", None, "x".into()).await }
    });
    nats.client().flush().await.unwrap();
    server.restart();
    let outcome = tokio::time::timeout(LIMIT, waiting).await.unwrap().unwrap();
    assert_eq!(outcome, Err(PublishError::Unknown));
    assert!(nats.link().borrow().connects > 1);
}

#[tokio::test]
async fn silence_is_unknown_after_the_time_limit() {
    let Some(server) = NatsServer::start() else { return };
    let options = PublisherOptions {
        timeout: Duration::from_millis(200),
        ..Default::default()
    };
    let (nats, publisher, _completions) = start(&server, options).await;
    let _silent = nats.client().subscribe("void").await.unwrap();
    nats.client().flush().await.unwrap();
    let outcome = tokio::time::timeout(LIMIT, publisher.publish("void", None, "x".into()))
        .await
        .unwrap();
    assert_eq!(outcome, Err(PublishError::Unknown));
    assert_eq!(publisher.in_flight(), 0);
}
