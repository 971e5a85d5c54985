//! Events: in over HTTP and NATS, out to every client, and to each listening instance exactly once.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, stream};
use millrace_common::{PartitionId, names};
use millrace_tests::{Client, Rng, Stack, eventually, eventually_within};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{definition, world};

fn event(id: &str, kind: &str, data: &Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/test", "type": kind, "data": data})
}

/// An instance that listens, as everybody can see.
async fn listening(client: &Client, name: &str, tasks: &str, input: Value) -> anyhow::Result<String> {
    let wanted = client.apply(&definition(name, tasks)).await?;
    let id = client.start(&wanted, input).await?;
    client
        .until(&id, "it listens", |view| view["waitingFor"][0]["kind"] == "event")
        .await?;
    Ok(id)
}

#[tokio::test]
async fn events_come_in_over_http_in_every_mode_and_over_nats() -> anyhow::Result<()> {
    let world = world().await?;
    let client = world.stack.client();
    let tasks = "- l: {listen: {to: {any: [{with: {type: 'ways\\..*'}}], until: '${ length == 5 }'}, read: envelope}}";
    let id = listening(&client, "event-ways", tasks, json!({})).await?;
    let path = "/api/v1/events";
    let send = async |media: &str, body: String| client.send(Method::POST, path, Some((media, body))).await;
    let one = event("1", "ways.one", &json!(1)).to_string();
    let answer = send("application/cloudevents+json", one.clone())
        .await?
        .expect(202)?;
    ensure!(
        answer.body == json!({"accepted": 1, "duplicates": 0}),
        "{}",
        answer.body
    );
    let again = send("application/cloudevents+json", one).await?.expect(202)?;
    ensure!(again.body["duplicates"] == 1, "{}", again.body);
    let batch = json!([
        event("2", "ways.two", &json!(2)),
        event("3", "ways.three", &json!(3))
    ]);
    send("application/cloudevents-batch+json", batch.to_string())
        .await?
        .expect(202)?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let binary = http.post(format!("{}{path}", world.stack.url(0)));
    let binary = binary
        .header("ce-specversion", "1.0")
        .header("ce-id", "4")
        .header("ce-source", "/test");
    let binary = binary
        .header("ce-type", "ways.four")
        .header("content-type", "application/json")
        .body("4");
    ensure!(
        binary.send().await?.status().as_u16() == 202,
        "binary mode was refused"
    );
    let jetstream = world.stack.nats.jetstream().await?;
    let five = event("5", "ways.five", &json!(5)).to_string();
    jetstream
        .publish("mr.events.anything", five.into())
        .await?
        .await?;
    let done = client.wait(&id).await?;
    let mut seen: Vec<_> = done["output"]
        .as_array()
        .context("an array")?
        .iter()
        .map(|e| e["data"].clone())
        .collect();
    ensure!(
        seen == [json!(1), json!(2), json!(3), json!(4), json!(5)] || {
            // The events of a batch have no order among each other.
            seen.sort_by_key(Value::as_u64);
            seen == [json!(1), json!(2), json!(3), json!(4), json!(5)]
        },
        "{done}"
    );

    for (media, body, status, says) in [
        (
            "application/cloudevents+json",
            json!({"specversion": "1.0", "source": "/s", "type": "t"}).to_string(),
            400,
            "`id` is missing",
        ),
        (
            "application/cloudevents-batch+json",
            json!([event("1", "t", &json!(1)), {"id": 1}]).to_string(),
            400,
            "event 1 of the batch",
        ),
        ("text/html", "x".into(), 415, "text/html"),
        (
            "application/cloudevents+json",
            event("1", "t", &json!("x".repeat(300_000))).to_string(),
            413,
            "at most",
        ),
    ] {
        let answer = send(media, body).await?.expect(status)?;
        ensure!(answer.detail().contains(says), "{}", answer.body);
    }
    Ok(())
}

#[tokio::test]
async fn emitted_events_reach_other_instances_and_other_clients() -> anyhow::Result<()> {
    let world = world().await?;
    let client = world.stack.client();
    let listener = "- l: {listen: {to: {one: {with: {type: out.paid}, correlate: {o: {from: .data.order, expect: '${ .order }'}}}}}}";
    let id = listening(&client, "event-out-listener", listener, json!({"order": "x1"})).await?;
    let emitter = definition(
        "event-out-emitter",
        "- e: {emit: {event: {with: {type: out.paid, data: {order: '${ .order }'}}}}}",
    );
    let emitted = client.run(&emitter, json!({"order": "x1"})).await?;
    let done = client.wait(&id).await?;
    ensure!(done["output"] == json!([{"order": "x1"}]), "{done}");
    let jetstream = world.stack.nats.jetstream().await?;
    let events = jetstream.get_stream(names::EVENTS_STREAM).await?;
    let message = events
        .get_last_raw_message_by_subject("mr.events.out.paid")
        .await?;
    let found: Value = serde_json::from_slice(&message.payload)?;
    ensure!(found == emitted["output"], "{found} is not {}", emitted["output"]);
    Ok(())
}

#[tokio::test]
async fn an_event_is_emitted_once_although_the_coordinator_dies() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .env("MILLRACE_LEASE_TTL", "500ms")
        .start()
        .await?;
    let client = stack.client();
    let emit = client
        .apply(&definition(
            "emit",
            "- e: {emit: {event: {with: {type: once, data: '${ .n }'}}}}",
        ))
        .await?;
    let mut ids = Vec::new();
    for round in 0..5_u32 {
        for n in 0..40_u32 {
            let id = format!("e{round}-{n}");
            let accepted = async || {
                let answer = client
                    .start_as(&id, &emit, json!({"n": round * 40 + n}))
                    .await
                    .ok()?;
                matches!(answer.status, 200..=202).then_some(())
            };
            eventually("the start is accepted", accepted).await?;
            ids.push(id);
        }
        stack.coordinators[0].kill9();
        stack.coordinators[0].restart()?;
    }
    for id in &ids {
        let done = client.wait(id).await?;
        ensure!(done["status"] == "completed", "{done}");
    }
    // What is still to be sent would come after the count.
    let mut redis = stack.redis.connection().await?;
    for partition in 0..2 {
        let key = names::outbox_key(PartitionId(partition));
        eventually("the outbox is empty", async || {
            let held = redis::cmd("HLEN")
                .arg(&key)
                .query_async::<usize>(&mut redis)
                .await;
            held.ok().filter(|held| *held == 0)
        })
        .await?;
    }
    let jetstream = stack.nats.jetstream().await?;
    let mut events = jetstream.get_stream(names::EVENTS_STREAM).await?;
    let count = events.info().await?.state.messages;
    ensure!(count == 200, "200 events were emitted, {count} are in the stream");
    Ok(())
}

#[tokio::test]
async fn lifecycle_events_tell_what_happens_to_workflows_and_tasks() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .workers(0)
        .coordinator_env("MILLRACE_LIFECYCLE_EVENTS", "all")
        .start()
        .await?;
    let client = stack.client();
    let tasks = "- a: {set: {n: 1}}\n- l: {listen: {to: {one: {with: {type: t}}}}}\n- f: {raise: {error: {type: 'https://x.test/e', status: 500}}}";
    let id = listening(&client, "lives", tasks, json!({})).await?;
    client
        .post("/api/v1/events", &event("1", "t", &json!(1)))
        .await?
        .expect(202)?;
    client.wait(&id).await?;
    let jetstream = stack.nats.jetstream().await?;
    let stream = jetstream.get_stream(names::LIFECYCLE_STREAM).await?;
    let mut found: Vec<String> = Vec::new();
    eventually("the end is told", async || {
        let end = stream.get_info().await.ok()?.state.last_sequence;
        found.clear();
        for sequence in 1..=end {
            let message = stream.get_raw_message(sequence).await.ok()?;
            let event: Value = serde_json::from_slice(&message.payload).ok()?;
            let kind = event["type"]
                .as_str()?
                .trim_start_matches("io.serverlessworkflow.")
                .to_owned();
            let task = event["data"]["task"]
                .as_str()
                .map(|t| format!(" {t}"))
                .unwrap_or_default();
            found.push(kind + &task);
        }
        found.contains(&"workflow.faulted.v1".to_owned()).then_some(())
    })
    .await?;
    for wanted in [
        "workflow.started.v1",
        "task.started.v1 /do/0/a",
        "task.completed.v1 /do/0/a",
        "task.started.v1 /do/1/l",
        "workflow.correlation-started.v1",
        "workflow.correlation-completed.v1",
        "task.completed.v1 /do/1/l",
        "task.faulted.v1 /do/2/f",
        "workflow.faulted.v1",
    ] {
        let times = found.iter().filter(|f| *f == wanted).count();
        ensure!(times == 1, "{wanted} is there {times} times: {found:?}");
    }
    Ok(())
}

/// Everything that waits, in all partitions; `None` while one is not served.
async fn waiting(client: &Client) -> Option<u64> {
    let status = client.get("/api/v1/status").await.ok()?.body;
    let here = status["partitions"]["here"].as_object()?;
    if here.values().any(|p| p["phase"] != "serving") {
        return None;
    }
    here.values().map(|p| p["listening"].as_u64()).sum()
}

const INSTANCES: usize = 10_000;
const BATCH: usize = 100;

#[tokio::test]
async fn ten_thousand_instances_get_exactly_their_event_although_the_coordinator_dies() -> anyhow::Result<()>
{
    let seed = Rng::fresh_seed();
    println!("seed {seed}");
    let stack = Stack::builder()
        .workers(0)
        .coordinator_env("MILLRACE_LEASE_TTL", "500ms")
        .start()
        .await?;
    let client = &stack.client();
    let tasks = "- l: {listen: {to: {one: {with: {type: paid}, correlate: {order: {from: .data.order, expect: '${ .order }'}}}}}}";
    let wanted = &client.apply(&definition("many", tasks)).await?;
    let begun = Instant::now();
    let starts = stream::iter(0..INSTANCES).map(|n| async move {
        client
            .start_new(&format!("m{n}"), wanted, json!({"order": n}))
            .await
    });
    let started: Vec<_> = starts.buffer_unordered(64).collect().await;
    started.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
    eventually("all of them listen", async || {
        (waiting(client).await? == INSTANCES as u64).then_some(())
    })
    .await?;
    println!("{INSTANCES} instances listen after {:?}", begun.elapsed());

    let events = shuffled(seed);
    let kills = [
        events.len() / BATCH / 4,
        events.len() / BATCH / 2,
        events.len() / BATCH * 3 / 4,
    ];
    let jetstream = stack.nats.jetstream().await?;
    let mut left = INSTANCES as u64;
    for (at, batch) in events.chunks(BATCH).enumerate() {
        if kills.contains(&at) {
            // Each reign consumes some of them.
            left = eventually("some are consumed", async || {
                waiting(client).await.filter(|n| *n < left)
            })
            .await?;
            println!("killed with {left} waiting");
            stack.coordinators[0].kill9();
            stack.coordinators[0].restart()?;
        }
        if at % 10 == 3 {
            // Another client, that gives no ids to the stream: its repeats are in the stream twice.
            for event in batch {
                jetstream
                    .publish("mr.events.paid", event.to_string().into())
                    .await?
                    .await?;
            }
            continue;
        }
        let sent = async || {
            let answer = client.post("/api/v1/events", &json!(batch)).await.ok()?;
            (answer.status == 202).then_some(())
        };
        eventually("the events are accepted", sent).await?;
    }
    println!("{} events are sent after {:?}", events.len(), begun.elapsed());
    eventually_within(Duration::from_secs(90), "nobody listens any more", async || {
        (waiting(client).await? == 0).then_some(())
    })
    .await?;
    println!("all are consumed after {:?}", begun.elapsed());
    let views = stream::iter(0..INSTANCES).map(|n| async move { (n, client.wait(&format!("m{n}")).await) });
    let views: Vec<_> = views.buffer_unordered(64).collect().await;
    for (n, view) in views {
        let output = &view?["output"];
        ensure!(*output == json!([{"order": n}]), "instance m{n} got {output}");
    }
    println!("checked after {:?}", begun.elapsed());
    Ok(())
}

/// One event for each instance and a tenth of them again, in random order.
fn shuffled(seed: u64) -> Vec<Value> {
    let mut random = Rng::new(seed);
    let event = |n: u64| event(&format!("p{n}"), "paid", &json!({"order": n}));
    let mut events: Vec<Value> = (0..INSTANCES as u64).map(event).collect();
    for _ in 0..INSTANCES / 10 {
        events.push(event(random.between(0..INSTANCES as u64)));
    }
    for at in (1..events.len()).rev() {
        let other = usize::try_from(random.between(0..at as u64 + 1)).unwrap_or(0);
        events.swap(at, other);
    }
    events
}
