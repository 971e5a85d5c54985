//! `POST /instances`: check, append a start to the log, learn what the owner made of it.
//!
//! The append is what makes a start durable; the answer of the owner is a hint that may be lost, so the state in Redis
//! is looked at too, ever more rarely. The same id again is always safe.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use millrace_common::{DefinitionRef, InstanceKey, RawJson, RecordBody, ReplyBody, Start, is_label, limits};
use millrace_engine::InstanceView;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::endings::Ending;
use super::params::{Params, bad};
use super::problem::{ApiError, ApiResult, Code};
use super::replies::Expected;
use super::{ApiState, body, definitions, instances};
use crate::log::AppendError;

/// Longest wait for the owner's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest `?wait=`.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Around the input: definition, id, labels.
const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// First and longest time between two looks at Redis.
const LOOK_FIRST: Duration = Duration::from_millis(250);
const LOOK_LAST: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    definition: Wanted,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    input: Option<RawJson>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    namespace: Option<String>,
    name: String,
    #[serde(default)]
    version: Option<String>,
}

/// A start that has passed all checks.
struct Checked {
    key: InstanceKey,
    definition: DefinitionRef,
    /// The caller asked for the newest version: then a repeat matches whatever was the newest at its first time.
    any_version: bool,
    input: RawJson,
    labels: BTreeMap<String, String>,
    generated: bool,
}

/// What came of a start.
enum Outcome {
    Started,
    Exists,
    /// Durably in the log; nobody has read it yet.
    Accepted,
}

pub(super) async fn start(
    State(api): State<ApiState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let mut params = Params::new(query.as_deref());
    let wait = params.duration("wait")?;
    params.end()?;
    if wait.is_some_and(|wait| wait > WAIT_MAX) {
        return Err(bad(format!(
            "parameter `wait` is longer than {} s",
            WAIT_MAX.as_secs()
        )));
    }
    let max = limits::PAYLOAD_BYTES_MAX + ENVELOPE_BYTES_MAX;
    let bytes = body::read("the request", &headers, body, max).await?;
    let checked = check(&api, body::json(&bytes)?).await?;
    let until = wait.map(|wait| Instant::now() + wait);
    let traceparent = headers
        .get("traceparent")
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let mut ending = wait.map(|_| api.0.endings.expect(&checked.key));

    let outcome = match existing(&api, &checked).await? {
        true => Outcome::Exists,
        false => submit(&api, &checked, traceparent).await?,
    };
    if let (Some(until), Some(ending)) = (until, &mut ending) {
        ended(&api, &checked.key, ending, until, &outcome).await;
    }
    answer(&api, &checked, &outcome).await
}

async fn check(api: &ApiState, request: Request) -> ApiResult<Checked> {
    let input = request.input.unwrap_or_else(RawJson::null);
    if input.len() > limits::PAYLOAD_BYTES_MAX {
        return Err(body::too_large(
            "the input",
            Some(input.len()),
            limits::PAYLOAD_BYTES_MAX,
        ));
    }
    check_labels(&request.labels)?;
    let any_version = request
        .definition
        .version
        .as_deref()
        .is_none_or(|v| v == "latest");
    let definition = resolve(api, request.definition).await?;
    let generated = request.id.is_none();
    let id = request.id.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let key = instances::key(&definition.namespace, &id)?;
    Ok(Checked {
        key,
        definition,
        any_version,
        input,
        labels: request.labels,
        generated,
    })
}

fn check_labels(labels: &BTreeMap<String, String>) -> ApiResult<()> {
    if labels.len() > limits::LABELS_MAX {
        return Err(bad(format!(
            "{} labels are given, at most {} are allowed",
            labels.len(),
            limits::LABELS_MAX
        )));
    }
    let long = labels
        .iter()
        .flat_map(|(k, v)| [k, v])
        .find(|text| text.len() > limits::LABEL_BYTES_MAX);
    match (long, labels.contains_key("")) {
        (Some(text), _) => Err(bad(format!(
            "label `{text}` has {} bytes, at most {} are allowed",
            text.len(),
            limits::LABEL_BYTES_MAX
        ))),
        (None, true) => Err(bad("a label has an empty key")),
        (None, false) => Ok(()),
    }
}

async fn resolve(api: &ApiState, wanted: Wanted) -> ApiResult<DefinitionRef> {
    let namespace = wanted.namespace.unwrap_or_else(|| "default".into());
    for (what, text) in [("namespace", &namespace), ("name", &wanted.name)] {
        if !is_label(text) {
            return Err(bad(format!(
                "definition {what} `{text}` is not 1 to 63 of a-z, 0-9 and -"
            )));
        }
    }
    let version = match wanted.version {
        Some(version) if version != "latest" => version,
        _ => definitions::find(api, &namespace, &wanted.name).await?.version,
    };
    let definition = DefinitionRef {
        namespace,
        name: wanted.name,
        version,
    };
    match api.registry.definitions.load(&definition).await? {
        Some(_) => Ok(definition),
        None => Err(definitions::not_found(&definition.to_string())),
    }
}

/// True when the instance is there already and is the one that is asked for. A generated id cannot be.
async fn existing(api: &ApiState, start: &Checked) -> ApiResult<bool> {
    if start.generated {
        return Ok(false);
    }
    match api.queries().instance(&start.key).await? {
        None => Ok(false),
        Some(view) => agree(start, &view).map(|()| true),
    }
}

fn agree(start: &Checked, view: &InstanceView) -> ApiResult<()> {
    let versions = start.any_version || view.definition.version == start.definition.version;
    let definition = view.definition.name == start.definition.name && versions;
    let inputs = view
        .input
        .as_ref()
        .is_none_or(|input| same_json(input, &start.input));
    if definition && inputs {
        return Ok(());
    }
    let what = if definition {
        "another input"
    } else {
        "another definition"
    };
    let detail = format!("instance {} exists with {what}", start.key.id());
    Err(ApiError::new(Code::InstanceConflict, detail).with("definition", json!(view.definition)))
}

fn same_json(a: &RawJson, b: &RawJson) -> bool {
    let value = |raw: &RawJson| raw.decode::<Value>().ok();
    a == b || value(a).is_some_and(|a| value(b).is_some_and(|b| a == b))
}

/// Appends the start and learns what came of it.
async fn submit(api: &ApiState, start: &Checked, traceparent: Option<String>) -> ApiResult<Outcome> {
    if let Some(pressure) = api.board.pressure() {
        return Err(
            overloaded(format!("{}: {}", pressure.bound, pressure.detail)).with("bound", pressure.bound)
        );
    }
    let mut expected = api.0.replies.expect();
    let record = RecordBody::Start(Box::new(Start {
        definition: start.definition.clone(),
        input: start.input.clone(),
        labels: start.labels.clone(),
        parent: None,
        traceparent,
        reply: Some(expected.subject()),
    }));
    let stored = match api.log.append(&start.key, &record).await {
        Ok(_) => true,
        Err(AppendError::Unknown(_)) => false,
        Err(e) => return Err(not_appended(e)),
    };
    match settle(api, start, &mut expected).await? {
        Some(outcome) => Ok(outcome),
        None if stored => Ok(Outcome::Accepted),
        None => Err(
            ApiError::new(Code::OutcomeUnknown, "the start may have been accepted")
                .hint("repeat with the same id: an instance starts once per id")
                .with("id", start.key.id())
                .retry_after(1),
        ),
    }
}

/// The owner's answer, or what Redis shows; `None` when neither comes in time.
async fn settle(api: &ApiState, start: &Checked, expected: &mut Expected) -> ApiResult<Option<Outcome>> {
    let until = Instant::now() + ANSWER;
    let mut look = LOOK_FIRST;
    loop {
        tokio::select! {
            reply = expected.answer() => return judge(api, start, reply.body).await.map(Some),
            () = tokio::time::sleep(look) => look = LOOK_LAST.min(look * 2),
        }
        // A Redis that does not answer now may do so at the next look.
        if let Ok(Some(view)) = api.queries().instance(&start.key).await {
            agree(start, &view)?;
            return Ok(Some(if start.generated {
                Outcome::Started
            } else {
                Outcome::Exists
            }));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
    }
}

async fn judge(api: &ApiState, start: &Checked, reply: ReplyBody) -> ApiResult<Outcome> {
    match reply {
        ReplyBody::Started => Ok(Outcome::Started),
        ReplyBody::Exists => Ok(Outcome::Exists),
        ReplyBody::Conflict => match api.queries().instance(&start.key).await? {
            Some(view) => agree(start, &view).map(|()| Outcome::Exists),
            None => Err(ApiError::new(
                Code::InstanceConflict,
                format!("instance id {} was taken", start.key.id()),
            )),
        },
        ReplyBody::Done | ReplyBody::NotFound | ReplyBody::NotAllowed(_) => Err(ApiError::new(
            Code::Internal,
            "the owner answered a start with something else",
        )),
    }
}

/// Waits until the instance has ended, or the time is over. One that is only accepted may not be there yet.
async fn ended(api: &ApiState, key: &InstanceKey, ending: &mut Ending, until: Instant, outcome: &Outcome) {
    let is_awaited = matches!(outcome, Outcome::Accepted);
    let mut look = LOOK_FIRST;
    let mut hinted = false;
    loop {
        let next = until.min(Instant::now() + look);
        tokio::select! {
            () = ending.hinted(), if !hinted => hinted = true,
            () = tokio::time::sleep_until(next) => look = LOOK_LAST.min(look * 2),
        }
        let over = Instant::now() >= until;
        match api.queries().summary(key).await {
            Ok(Some(view)) if !view.status.is_ended() && !over => {}
            Ok(None) if is_awaited && !over => {}
            Err(_unreachable) if !over => {}
            _ => return,
        }
    }
}

async fn answer(api: &ApiState, start: &Checked, outcome: &Outcome) -> ApiResult {
    // The start stands whatever this read says.
    let view = instances::view(api, &start.key).await.ok().flatten();
    let status = match (outcome, &view) {
        (Outcome::Started, _) => StatusCode::CREATED,
        (Outcome::Exists, _) => StatusCode::OK,
        (Outcome::Accepted, None) => StatusCode::ACCEPTED,
        (Outcome::Accepted, Some(view)) => {
            agree(start, view)?;
            StatusCode::CREATED
        }
    };
    let location = format!(
        "/api/v1/instances/{}?namespace={}",
        start.key.id(),
        start.key.namespace()
    );
    let headers = [(header::LOCATION, location)];
    let body = match view {
        Some(view) => Json(view).into_response(),
        None => Json(instances::pending(&start.key, &start.definition, &start.input)).into_response(),
    };
    Ok((status, headers, body).into_response())
}

pub(super) fn not_appended(error: AppendError) -> ApiError {
    match error {
        AppendError::Full => overloaded("the log is full".into()),
        AppendError::Unavailable(e) => {
            ApiError::new(Code::Unavailable, format!("the log is unavailable: {e}")).retry_after(1)
        }
        AppendError::Oversize { bytes, max } => body::too_large("the record in the log", Some(bytes), max)
            .hint("send a smaller input, or raise `max_payload` of nats-server if it is below its default of 1 MB"),
        AppendError::Unknown(e) => ApiError::new(Code::OutcomeUnknown, e).retry_after(1),
    }
}

fn overloaded(detail: String) -> ApiError {
    ApiError::new(Code::Overloaded, detail)
        .hint("the cluster takes new instances again when it has caught up")
        .retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> RawJson {
        RawJson::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn unknown_fields_are_refused() {
        let read = |text: &str| body::json::<Request>(text.as_bytes()).is_ok();
        assert!(read(r#"{"definition":{"name":"a"}}"#));
        assert!(read(
            r#"{"definition":{"namespace":"n","name":"a","version":"1.0.0"},"id":"x","input":[1],"labels":{"a":"b"}}"#
        ));
        assert!(!read(r#"{"definition":{"name":"a"},"inputs":1}"#));
        assert!(!read(r#"{"definition":{"name":"a","tag":1}}"#));
        assert!(!read(r#"{"definition":"a"}"#));
    }

    #[test]
    fn labels_are_bounded() {
        let labels = |n: usize, bytes: usize| (0..n).map(|i| (format!("k{i}"), "v".repeat(bytes))).collect();
        assert!(check_labels(&labels(limits::LABELS_MAX, limits::LABEL_BYTES_MAX)).is_ok());
        assert!(check_labels(&labels(limits::LABELS_MAX + 1, 1)).is_err());
        assert!(check_labels(&labels(1, limits::LABEL_BYTES_MAX + 1)).is_err());
        assert!(check_labels(&BTreeMap::from([(String::new(), String::new())])).is_err());
    }

    #[test]
    fn inputs_are_equal_as_json() {
        assert!(same_json(
            &raw(r#"{"a":1,"b":[2]}"#),
            &raw(r#"{ "b": [2], "a": 1 }"#)
        ));
        assert!(!same_json(&raw("1"), &raw("2")));
    }
}
