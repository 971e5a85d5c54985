//! `/schedules`: what is due when, and the hand of an operator on it. Every change is a record for the owner of the
//! schedule's partition, who answers; the answer is a hint that may be lost, so the state is looked at too.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use millrace_common::{InstanceKey, RawJson, RecordBody, ReplyBody, ScheduleRecord, is_label, limits};
use millrace_dsl::calendar;
use millrace_engine::ScheduleView;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::params::{Params, bad};
use super::problem::{ApiError, ApiResult, Code};
use super::{ApiState, body, start};
use crate::log::AppendError;

/// Longest wait for the owner's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks at Redis while the answer is out.
const LOOK: Duration = Duration::from_millis(500);
/// A reason is shown with the schedule.
const REASON_BYTES_MAX: usize = 1024;
const BODY_BYTES_MAX: usize = limits::PAYLOAD_BYTES_MAX + 64 * 1024;

pub(super) async fn list(State(api): State<ApiState>, RawQuery(query): RawQuery) -> ApiResult {
    let mut params = Params::new(query.as_deref());
    let namespace = params.one("namespace")?;
    params.end()?;
    let mut items = api.queries().schedules().await?;
    items.retain(|s| namespace.as_ref().is_none_or(|n| *n == s.namespace));
    Ok(Json(json!({"items": items})).into_response())
}

pub(super) async fn one(
    State(api): State<ApiState>,
    Path((namespace, name)): Path<(String, String)>,
) -> ApiResult<Json<ScheduleView>> {
    find(&api, &key(&namespace, &name)?).await.map(Json)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trigger {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    input: Option<RawJson>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backfill {
    from: String,
    to: String,
}

/// What is asked for, before the inbox for the answer is known.
enum Wish {
    Pause(Option<String>),
    Resume,
    Trigger { id: String, input: Option<RawJson> },
    Backfill { from_ms: i64, to_ms: i64 },
}

pub(super) async fn command(
    State(api): State<ApiState>,
    Path((namespace, name, action)): Path<(String, String, String)>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let key = key(&namespace, &name)?;
    let bytes = body::read("the request", &headers, body, BODY_BYTES_MAX).await?;
    let wish = wish(&key, &action, &bytes)?;
    // Asked first, so that a name that was never there is told apart from a record that nobody has read yet.
    find(&api, &key).await?;
    let done = submit(&api, &key, &wish).await?;
    let status = if done {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let schedule = find(&api, &key).await?;
    let mut answer = json!(schedule);
    if let Wish::Trigger { id, .. } = &wish {
        answer["instance"] = json!(id);
    }
    Ok((status, Json(answer)).into_response())
}

fn wish(key: &InstanceKey, action: &str, bytes: &[u8]) -> ApiResult<Wish> {
    match action {
        "pause" => pause(optional(bytes)?),
        "resume" => optional::<Empty>(bytes).map(|_| Wish::Resume),
        "trigger" => trigger(key, optional(bytes)?),
        "backfill" => backfill(&body::json(bytes)?),
        _ => {
            let detail = format!("`{action}` is no action: expected pause, resume, trigger or backfill");
            Err(ApiError::new(Code::NotFound, detail))
        }
    }
}

fn optional<T: Default + serde::de::DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    match bytes.is_empty() {
        true => Ok(T::default()),
        false => body::json(bytes),
    }
}

fn pause(request: Pause) -> ApiResult<Wish> {
    match request.reason {
        Some(reason) if reason.len() > REASON_BYTES_MAX => Err(bad(format!(
            "the reason has {} bytes, at most {REASON_BYTES_MAX} are allowed",
            reason.len()
        ))),
        reason => Ok(Wish::Pause(reason)),
    }
}

/// The run gets an id here, so that the record says everything.
fn trigger(key: &InstanceKey, request: Trigger) -> ApiResult<Wish> {
    let id = request
        .id
        .unwrap_or_else(|| format!("{}.manual.{}", key.id(), uuid::Uuid::now_v7().simple()));
    InstanceKey::new(key.namespace(), &id).map_err(|e| bad(e.to_string()))?;
    match request.input {
        Some(input) if input.len() > limits::PAYLOAD_BYTES_MAX => {
            let max = limits::PAYLOAD_BYTES_MAX;
            Err(body::too_large("the input", Some(input.len()), max))
        }
        input => Ok(Wish::Trigger { id, input }),
    }
}

fn backfill(request: &Backfill) -> ApiResult<Wish> {
    let moment = |what: &str, text: &str| {
        calendar::moment(text).ok_or_else(|| {
            bad(format!(
                "`{what}` is `{text}`, expected a time such as `2026-01-31T12:00:00Z`"
            ))
        })
    };
    let (from_ms, to_ms) = (moment("from", &request.from)?, moment("to", &request.to)?);
    match from_ms < to_ms {
        true => Ok(Wish::Backfill { from_ms, to_ms }),
        false => Err(bad("`from` must be before `to`")),
    }
}

impl Wish {
    fn record(&self, inbox: String) -> RecordBody {
        let reply = Some(inbox);
        RecordBody::Schedule(Box::new(match self {
            Self::Pause(reason) => ScheduleRecord::Pause {
                reason: reason.clone(),
                reply,
            },
            Self::Resume => ScheduleRecord::Resume { reply },
            Self::Trigger { id, input } => ScheduleRecord::Trigger {
                id: id.clone(),
                input: input.clone(),
                reply,
            },
            Self::Backfill { from_ms, to_ms } => ScheduleRecord::Backfill {
                from_ms: *from_ms,
                to_ms: *to_ms,
                reply,
            },
        }))
    }

    /// Whether the state alone proves that it was carried out.
    fn is_shown_by(&self, schedule: &ScheduleView) -> bool {
        match self {
            Self::Pause(_) => schedule.paused,
            Self::Resume => !schedule.paused,
            Self::Trigger { id, .. } => {
                schedule.running.contains(id) || schedule.last_started.as_ref().is_some_and(|s| s.id == *id)
            }
            // It may have been carried out and be over.
            Self::Backfill { .. } => false,
        }
    }

    const fn verb(&self) -> &'static str {
        match self {
            Self::Pause(_) => "pause",
            Self::Resume => "resume",
            Self::Trigger { .. } => "trigger",
            Self::Backfill { .. } => "backfill",
        }
    }
}

/// Appends the wish; true once it is carried out, false when it is stored and not read yet.
async fn submit(api: &ApiState, key: &InstanceKey, wish: &Wish) -> ApiResult<bool> {
    let mut expected = api.0.replies.expect();
    match api.log.append(key, &wish.record(expected.subject())).await {
        Ok(_) | Err(AppendError::Unknown(_)) => {}
        Err(e) => return Err(start::not_appended(e)),
    }
    let until = Instant::now() + ANSWER;
    while Instant::now() < until {
        tokio::select! {
            reply = expected.answer() => return judge(key, wish, reply.body),
            () = tokio::time::sleep(LOOK) => {}
        }
        // The answer may be lost: then the state shows the effect.
        if let Ok(Some(schedule)) = api.queries().schedule(key).await
            && wish.is_shown_by(&schedule)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn judge(key: &InstanceKey, wish: &Wish, reply: ReplyBody) -> ApiResult<bool> {
    match reply {
        ReplyBody::Done => Ok(true),
        ReplyBody::NotFound => Err(not_found(key)),
        ReplyBody::NotAllowed(why) => {
            let detail = format!("cannot {} schedule {key}: {why}", wish.verb());
            Err(ApiError::new(Code::NotAllowedNow, detail))
        }
        ReplyBody::Started | ReplyBody::Exists | ReplyBody::Conflict => Err(ApiError::new(
            Code::Internal,
            "the owner answered a schedule's change with something else",
        )),
    }
}

async fn find(api: &ApiState, key: &InstanceKey) -> ApiResult<ScheduleView> {
    api.queries().schedule(key).await?.ok_or_else(|| not_found(key))
}

fn key(namespace: &str, name: &str) -> ApiResult<InstanceKey> {
    for (what, text) in [("namespace", namespace), ("name", name)] {
        if !is_label(text) {
            return Err(bad(format!("{what} `{text}` is not 1 to 63 of a-z, 0-9 and -")));
        }
    }
    InstanceKey::new(namespace, name).map_err(|e| bad(e.to_string()))
}

fn not_found(key: &InstanceKey) -> ApiError {
    ApiError::new(Code::ScheduleNotFound, format!("there is no schedule {key}")).hint(
        "the newest version of the definition decides; it is in force a second or two after it was applied",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(action: &str, text: &str) -> ApiResult<Wish> {
        wish(&key("default", "report").unwrap(), action, text.as_bytes())
    }

    #[test]
    fn what_is_asked_for_is_read_strictly() {
        assert!(matches!(ask("pause", ""), Ok(Wish::Pause(None))));
        assert!(matches!(
            ask("pause", r#"{"reason":"x"}"#),
            Ok(Wish::Pause(Some(_)))
        ));
        assert!(matches!(ask("resume", "{}"), Ok(Wish::Resume)));
        for (action, text) in [
            ("pause", r#"{"why":"x"}"#),
            ("resume", r#"{"reason":"x"}"#),
            ("trigger", r#"{"id":"a b"}"#),
            ("backfill", ""),
            ("backfill", r#"{"from":"2026-01-01T00:00:00Z","to":"yesterday"}"#),
            (
                "backfill",
                r#"{"from":"2026-01-02T00:00:00Z","to":"2026-01-01T00:00:00Z"}"#,
            ),
            ("stop", ""),
        ] {
            assert!(ask(action, text).is_err(), "{action} {text}");
        }
    }

    #[test]
    fn a_run_asked_for_has_an_id_of_its_own_or_the_one_given() {
        let id = |text: &str| match ask("trigger", text) {
            Ok(Wish::Trigger { id, .. }) => id,
            _ => panic!("{text}"),
        };
        assert_eq!(id(r#"{"id":"mine","input":{"a":1}}"#), "mine");
        assert!(id("").starts_with("report.manual.") && id("") != id(""));
    }

    #[test]
    fn a_backfill_is_between_two_moments() {
        let text = r#"{"from":"2026-01-01T00:00:00Z","to":"2026-01-01T01:00:00+00:00"}"#;
        match ask("backfill", text) {
            Ok(Wish::Backfill { from_ms, to_ms }) => assert_eq!(to_ms - from_ms, 3_600_000),
            _ => panic!("not read"),
        }
    }
}
