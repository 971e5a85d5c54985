//! `/queues`: each queue is a durable consumer of the steps stream, and its numbers are the consumer's. Pausing pauses
//! that consumer: steps are kept and delivered to nobody until it is resumed. Running steps go on.

use async_nats::jetstream::response::Response as Answer;
use axum::Json;
use axum::extract::{Path, State};
use millrace_common::{is_label, names};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::params::bad;
use super::problem::{ApiError, ApiResult, Code};

/// `CONSUMER_NOT_FOUND` and `STREAM_NOT_FOUND` of the JetStream API.
const NOT_FOUND: [u64; 2] = [10014, 10059];
/// A pause has an end in JetStream; ours has none that anybody lives to see.
const FOR_EVER: &str = "2262-01-01T00:00:00Z";
/// Consumers are listed in pages of 256; this bounds a broker that would never end.
const PAGES_MAX: usize = 100;

/// What JetStream says of a consumer, as far as it is shown. Read by hand, since `paused` exists from 2.11 only.
#[derive(Debug, Deserialize)]
struct Consumer {
    name: String,
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    num_redelivered: u64,
    #[serde(default)]
    num_waiting: u64,
    #[serde(default)]
    paused: bool,
}

#[derive(Debug, Deserialize)]
struct Page {
    total: usize,
    #[serde(default)]
    consumers: Vec<Consumer>,
}

pub(super) async fn list(State(api): State<ApiState>) -> ApiResult<Json<Value>> {
    let mut all: Vec<Consumer> = Vec::new();
    for _ in 0..PAGES_MAX {
        let subject = format!("CONSUMER.LIST.{}", names::STEPS_STREAM);
        let page: Page = ask(&api, subject, json!({"offset": all.len()})).await?;
        let done = page.consumers.is_empty() || all.len() + page.consumers.len() >= page.total;
        all.extend(page.consumers);
        if done {
            break;
        }
    }
    let mut items: Vec<_> = all.iter().filter_map(view).collect();
    items.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Ok(Json(json!({"items": items})))
}

pub(super) async fn one(State(api): State<ApiState>, Path(queue): Path<String>) -> ApiResult<Json<Value>> {
    if !is_label(&queue) {
        return Err(bad(format!("queue `{queue}` is not 1 to 63 of a-z, 0-9 and -")));
    }
    let subject = format!(
        "CONSUMER.INFO.{}.{}",
        names::STEPS_STREAM,
        names::queue_consumer(&queue)
    );
    let consumer: Consumer = ask(&api, subject, json!({}))
        .await
        .map_err(|e| missing(e, &queue))?;
    view(&consumer)
        .map(Json)
        .ok_or_else(|| ApiError::new(Code::Internal, "the consumer has another name"))
}

pub(super) async fn command(
    State(api): State<ApiState>,
    Path(target): Path<String>,
) -> ApiResult<Json<Value>> {
    let pause = match target.rsplit_once(':') {
        Some((_, "pause")) => json!({"pause_until": FOR_EVER}),
        Some((_, "resume")) => json!({}),
        _ => {
            let detail = format!("`{target}` names no action: expected queue:pause or queue:resume");
            return Err(ApiError::new(Code::NotFound, detail));
        }
    };
    let (queue, _) = target.rsplit_once(':').unwrap_or((&target, ""));
    let version = api.nats.client().server_info().version;
    if !can_pause(&version) {
        let detail = format!("nats-server {version} cannot pause a queue: 2.11 or newer is needed");
        return Err(ApiError::new(Code::NotSupported, detail));
    }
    // Asked first: it refuses bad names and tells a missing queue from a fault.
    drop(one(State(api.clone()), Path(queue.to_owned())).await?);
    let subject = format!(
        "CONSUMER.PAUSE.{}.{}",
        names::STEPS_STREAM,
        names::queue_consumer(queue)
    );
    ask::<Value>(&api, subject, pause).await?;
    one(State(api), Path(queue.to_owned())).await
}

async fn ask<T: serde::de::DeserializeOwned>(
    api: &ApiState,
    subject: String,
    request: Value,
) -> ApiResult<T> {
    let unavailable = |e: String| ApiError::new(Code::Unavailable, format!("jetstream: {e}")).retry_after(1);
    match api
        .nats
        .jetstream()
        .request::<_, _, Answer<T>>(subject, &request)
        .await
    {
        Ok(Answer::Ok(answer)) => Ok(answer),
        Ok(Answer::Err { error }) if NOT_FOUND.contains(&error.error_code().0) => {
            Err(ApiError::new(Code::QueueNotFound, error.to_string()))
        }
        Ok(Answer::Err { error }) => Err(unavailable(error.to_string())),
        Err(e) => Err(unavailable(e.to_string())),
    }
}

fn missing(error: ApiError, queue: &str) -> ApiError {
    match error.code() {
        Code::QueueNotFound => ApiError::new(Code::QueueNotFound, format!("queue {queue} does not exist"))
            .hint("a queue exists once a worker or a definition has named it"),
        _ => error,
    }
}

fn view(consumer: &Consumer) -> Option<Value> {
    let name = consumer.name.strip_prefix(&names::queue_consumer(""))?;
    Some(json!({
        "name": name, "paused": consumer.paused, "pending": consumer.num_pending,
        "running": consumer.num_ack_pending, "redelivered": consumer.num_redelivered,
        "freeSlotRequests": consumer.num_waiting,
    }))
}

fn can_pause(version: &str) -> bool {
    semver::Version::parse(version).is_ok_and(|v| (v.major, v.minor) >= (2, 11))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pausing_needs_a_recent_server() {
        assert!(can_pause("2.11.0") && can_pause("2.12.8") && can_pause("3.0.0"));
        assert!(!can_pause("2.10.29") && !can_pause(""));
    }

    #[test]
    fn foreign_consumers_are_not_queues() {
        let consumer =
            |name: &str| serde_json::from_value::<Consumer>(json!({"name": name, "num_pending": 3})).unwrap();
        assert_eq!(view(&consumer("q-default")).unwrap()["name"], "default");
        assert!(view(&consumer("other")).is_none());
    }
}
