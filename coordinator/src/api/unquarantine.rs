//! `POST /instances/{id}:unquarantine`: an instance that was set aside goes on, and the record on which the engine panicked
//! is applied now or skipped. One record for the owner of the partition, which holds the other one.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use millrace_common::{InstanceKey, RawJson, RecordBody, Unquarantine};
use serde::Deserialize;

use super::params::bad;
use super::problem::{ApiError, ApiResult, Code};
use super::{ApiState, body, control};
use crate::queries::DeadRecord;

const BODY_BYTES_MAX: usize = 16 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    record: What,
    #[serde(default)]
    reason: Option<String>,
}

/// What becomes of the record that panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum What {
    Retry,
    Skip,
}

pub(super) async fn lift(
    api: &ApiState,
    key: &InstanceKey,
    headers: &HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let bytes = body::read("the request", headers, body, BODY_BYTES_MAX).await?;
    if bytes.is_empty() {
        return Err(bad(
            "the request is empty: say `{\"record\": \"retry\"}` or `{\"record\": \"skip\"}`",
        ));
    }
    let request: Request = body::json(&bytes)?;
    let reason = control::check_reason(request.reason)?;
    let kept = api.queries().dead(api.log.partition_of(key), Some(key)).await?;
    let kept = kept.into_iter().next_back();
    if request.record == What::Retry && kept.is_none() {
        let detail = format!(
            "there is no record of instance {} that could be retried",
            key.id()
        );
        return Err(ApiError::new(Code::NotAllowedNow, detail)
            .hint("it was not kept, or applied already; `skip` goes on without it"));
    }
    let retry = match &kept {
        Some(record) if request.record == What::Retry => Some(readable(record)?),
        _ => None,
    };
    let sequence = kept.map(|record| record.sequence);
    let wish = |reply| {
        RecordBody::Unquarantine(Box::new(Unquarantine {
            sequence,
            retry: retry.clone(),
            reason: reason.clone(),
            reply: Some(reply),
        }))
    };
    let done = control::submit(api, key, "unquarantine", None, wish).await?;
    control::shown(api, key, done).await
}

fn readable(record: &DeadRecord) -> ApiResult<RawJson> {
    RawJson::parse(&record.raw).map_err(|e| {
        let detail = format!("record {} that is kept cannot be read: {e}", record.sequence);
        ApiError::new(Code::NotAllowedNow, detail).hint("`skip` goes on without it")
    })
}
