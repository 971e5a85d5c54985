//! `POST /instances/{id}:cancel`, `:suspend`, `:resume`, `:retry`, and the way of `:unquarantine`.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use millrace_common::{ControlKind, InstanceKey, RecordBody, ReplyBody};
use millrace_engine::Status;
use serde::Deserialize;
use tokio::time::Instant;

use super::params::{Params, bad};
use super::problem::{ApiError, ApiResult, Code};
use super::{ApiState, body, instances, start, unquarantine};
use crate::log::AppendError;

/// Longest wait for the owner's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks at Redis while the answer is out.
const LOOK: Duration = Duration::from_millis(500);
/// A reason is shown in the trace.
const REASON_BYTES_MAX: usize = 1024;
const BODY_BYTES_MAX: usize = 16 * 1024;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn control(
    State(api): State<ApiState>,
    Path(target): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let lifted = target.strip_suffix(":unquarantine");
    let (id, action) = match lifted {
        Some(id) => (id, None),
        None => action(&target).map(|(id, action)| (id, Some(action)))?,
    };
    let mut params = Params::new(query.as_deref());
    let namespace = params.one("namespace")?;
    params.end()?;
    let key = instances::locate(&api, id, namespace.as_deref()).await?;
    let Some(action) = action else {
        return unquarantine::lift(&api, &key, &headers, body).await;
    };
    let reason = reason(&headers, body).await?;
    let wish = |reply| RecordBody::Control {
        action,
        reason: reason.clone(),
        reply: Some(reply),
    };
    let done = submit(&api, &key, verb(action), shown_as(action), wish).await?;
    shown(&api, &key, done).await
}

/// The instance after a wish that is carried out, or stored and not read yet.
pub(super) async fn shown(api: &ApiState, key: &InstanceKey, done: bool) -> ApiResult {
    let view = api
        .queries()
        .instance(key)
        .await?
        .ok_or_else(|| instances::not_found(key))?;
    let status = if done {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(view)).into_response())
}

fn action(target: &str) -> ApiResult<(&str, ControlKind)> {
    // Ids may hold colons; the action stands behind the last one.
    let (id, verb) = target.rsplit_once(':').unwrap_or((target, ""));
    let action = match verb {
        "cancel" => ControlKind::Cancel,
        "suspend" => ControlKind::Suspend,
        "resume" => ControlKind::Resume,
        "retry" => ControlKind::Retry,
        _ => {
            let detail = format!(
                "`{target}` names no action: expected id:cancel, id:suspend, id:resume, id:retry or id:unquarantine"
            );
            return Err(ApiError::new(Code::NotFound, detail));
        }
    };
    Ok((id, action))
}

async fn reason(headers: &HeaderMap, body: Body) -> ApiResult<Option<String>> {
    let bytes = body::read("the request", headers, body, BODY_BYTES_MAX).await?;
    let request = if bytes.is_empty() {
        Request::default()
    } else {
        body::json(&bytes)?
    };
    check_reason(request.reason)
}

pub(super) fn check_reason(reason: Option<String>) -> ApiResult<Option<String>> {
    match reason {
        Some(reason) if reason.len() > REASON_BYTES_MAX => Err(bad(format!(
            "the reason has {} bytes, at most {REASON_BYTES_MAX} are allowed",
            reason.len()
        ))),
        reason => Ok(reason),
    }
}

/// Appends the wish; true once it is carried out, false when it is stored and not read yet. `shown_as`: the status that
/// proves it.
pub(super) async fn submit(
    api: &ApiState,
    key: &InstanceKey,
    verb: &str,
    shown_as: Option<Status>,
    wish: impl Fn(String) -> RecordBody,
) -> ApiResult<bool> {
    let mut expected = api.0.replies.expect();
    match api.log.append(key, &wish(expected.subject())).await {
        Ok(_) | Err(AppendError::Unknown(_)) => {}
        Err(e) => return Err(start::not_appended(e)),
    }
    let until = Instant::now() + ANSWER;
    while Instant::now() < until {
        tokio::select! {
            reply = expected.answer() => return judge(key, verb, reply.body),
            () = tokio::time::sleep(LOOK) => {}
        }
        // The answer may be lost: then the state shows the effect.
        if let Some(status) = shown_as
            && let Ok(Some(view)) = api.queries().summary(key).await
            && view.status == status
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn judge(key: &InstanceKey, verb: &str, reply: ReplyBody) -> ApiResult<bool> {
    match reply {
        ReplyBody::Done => Ok(true),
        ReplyBody::NotFound => Err(instances::not_found(key)),
        ReplyBody::NotAllowed(status) => {
            let detail = format!("cannot {verb} instance {}: it is {status}", key.id());
            Err(ApiError::new(Code::NotAllowedNow, detail).with("instanceStatus", status))
        }
        ReplyBody::Started | ReplyBody::Exists | ReplyBody::Conflict => Err(ApiError::new(
            Code::Internal,
            "the owner answered a control with something else",
        )),
    }
}

const fn shown_as(action: ControlKind) -> Option<Status> {
    match action {
        ControlKind::Cancel => Some(Status::Cancelled),
        ControlKind::Suspend => Some(Status::Suspended),
        // Before the record is read it would look the same for an instance that was not suspended or faulted; then
        // the owner's answer, or the end of the time, decides.
        ControlKind::Resume | ControlKind::Retry => None,
    }
}

const fn verb(action: ControlKind) -> &'static str {
    match action {
        ControlKind::Cancel => "cancel",
        ControlKind::Suspend => "suspend",
        ControlKind::Resume => "resume",
        ControlKind::Retry => "retry",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_action_stands_behind_the_last_colon() {
        assert_eq!(action("a:b:cancel").unwrap(), ("a:b", ControlKind::Cancel));
        assert!(action("a").is_err() && action("a:stop").is_err());
    }
}
