//! `/partitions`: how each partition stands, what halts it, and the orders of an operator for a halted one. An order is
//! carried out by this coordinator's thread of the partition, which takes the fence first.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use millrace_common::{PartitionId, names};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::params::bad;
use super::problem::{ApiError, ApiResult, Code};
use super::{ApiState, body};
use crate::cluster;
use crate::orders::{Action, Remedy, remedies};
use crate::queries::Checkpoint;

/// Longest wait for an order to be carried out: a rebuild folds the whole log.
const ORDER: Duration = Duration::from_secs(600);
const BODY_BYTES_MAX: usize = 4 * 1024;
/// Who ordered, as it stands in the log.
const BY_BYTES_MAX: usize = 256;

/// One partition.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    partition: PartitionId,
    /// As this coordinator sees it; `elsewhere` when another one owns it.
    phase: String,
    #[serde(flatten)]
    checkpoint: Checkpoint,
    /// Absent when the stream is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<StreamView>,
    /// Records of the log that are not applied yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<Halted>,
}

#[derive(Debug, Serialize)]
struct StreamView {
    name: String,
    first: u64,
    last: u64,
    messages: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Halted {
    code: String,
    text: String,
    remedies: Vec<Value>,
}

pub(super) async fn list(State(api): State<ApiState>) -> ApiResult<Json<Value>> {
    let checkpoints = api.queries().checkpoints().await?;
    let views = api.queries().partitions().zip(checkpoints);
    let views = views.map(|(p, checkpoint)| view(&api, p, checkpoint));
    let items = futures_util::future::try_join_all(views).await?;
    Ok(Json(json!({"items": items})))
}

pub(super) async fn one(State(api): State<ApiState>, Path(text): Path<String>) -> ApiResult<Json<Value>> {
    let p = partition(&api, &text)?;
    details(&api, p).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The halt that the operator saw.
    halt: String,
    /// Who.
    by: String,
    /// That it may cost what `remedies` says.
    confirmed: bool,
}

pub(super) async fn command(
    State(api): State<ApiState>,
    Path(target): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<Value>> {
    let (text, verb) = target.rsplit_once(':').unwrap_or((&target, ""));
    let action = Action::of(verb).ok_or_else(|| {
        let detail = format!("`{target}` names no action: expected P:restore, P:adopt or P:rebuild");
        ApiError::new(Code::NotFound, detail)
    })?;
    let p = partition(&api, text)?;
    let bytes = body::read("the request", &headers, body, BODY_BYTES_MAX).await?;
    let request: Request = body::json(&bytes)?;
    let code = check(&api, p, action, &request)?;
    let order = api.orders.place(p, action, &request.by, &code);
    let mut order = order.ok_or_else(|| {
        ApiError::new(
            Code::NotAllowedNow,
            format!("another order for partition {p} is under way"),
        )
    })?;
    match tokio::time::timeout(ORDER, order.outcome()).await {
        Ok(Ok(())) => details(&api, p).await.map(Json),
        Ok(Err(why)) => {
            let detail = format!("cannot {} partition {p}: {why}", action.name());
            Err(ApiError::new(Code::NotAllowedNow, detail))
        }
        Err(_) => Err(ApiError::new(
            Code::OutcomeUnknown,
            format!("partition {p} is still at work; look at it again"),
        )),
    }
}

/// An order answers the halt that is there now, and only one that it resolves. Gives the code.
fn check(api: &ApiState, p: PartitionId, action: Action, request: &Request) -> ApiResult<String> {
    if request.by.is_empty() || request.by.len() > BY_BYTES_MAX {
        return Err(bad(format!(
            "`by` has {} bytes, expected 1 to {BY_BYTES_MAX}: who orders this",
            request.by.len()
        )));
    }
    if !request.confirmed {
        return Err(bad("`confirmed` is false: nothing is done unless it is true"));
    }
    let refused = |detail: String| ApiError::new(Code::NotAllowedNow, detail);
    let halted = halted(api, p)
        .ok_or_else(|| refused(format!("partition {p} is not halted; orders are for halted ones")))?;
    if halted.code != request.halt {
        let detail = format!(
            "partition {p} is halted with {}, not with {}",
            halted.code, request.halt
        );
        return Err(refused(detail));
    }
    let code = halted.code.trim_start_matches("MR-HALT-");
    match action.resolves(code) {
        true => Ok(code.to_owned()),
        false => Err(refused(format!(
            "{} does not resolve {}",
            action.name(),
            halted.code
        ))),
    }
}

fn partition(api: &ApiState, text: &str) -> ApiResult<PartitionId> {
    let number: Option<u16> = text.parse().ok();
    let here = number.filter(|n| *n < api.partitions).map(PartitionId);
    here.ok_or_else(|| {
        let detail = format!(
            "there is no partition `{text}`: they are 0 to {}",
            api.partitions - 1
        );
        ApiError::new(Code::NotFound, detail)
    })
}

/// With what a list has no room for.
async fn details(api: &ApiState, p: PartitionId) -> ApiResult<Value> {
    let checkpoint = api.queries().checkpoints_of(&[p]).await?.remove(0);
    let mut shown = json!(view(api, p, checkpoint).await?);
    shown["quarantined"] = json!(api.queries().quarantined(p).await?);
    shown["deadRecords"] = json!(api.queries().dead(p, None).await?);
    Ok(shown)
}

async fn view(api: &ApiState, p: PartitionId, checkpoint: Checkpoint) -> ApiResult<View> {
    let name = names::log_stream(p);
    let info = cluster::find(api.nats.jetstream(), &name)
        .await
        .map_err(|e| ApiError::new(Code::Unavailable, e.to_string()).retry_after(1))?;
    let stream = info.map(|info| StreamView {
        name,
        first: info.state.first_sequence,
        last: info.state.last_sequence,
        messages: info.state.messages,
        bytes: info.state.bytes,
    });
    let here = api.board.partitions().remove(&p).unwrap_or_default();
    let halted = halted(api, p);
    let is_elsewhere = here.phase == "contending"
        && !checkpoint.released
        && checkpoint.owner.as_ref().is_some_and(|o| *o != api.coordinator);
    Ok(View {
        partition: p,
        phase: match (&halted, is_elsewhere) {
            (Some(_), _) => "halted".into(),
            (None, true) => "elsewhere".into(),
            (None, false) => here.phase,
        },
        lag: stream
            .as_ref()
            .zip(checkpoint.applied)
            .map(|(s, applied)| s.last.saturating_sub(applied)),
        stream,
        checkpoint,
        halted,
    })
}

fn halted(api: &ApiState, p: PartitionId) -> Option<Halted> {
    let (code, text) = api.board.partitions().remove(&p)?.halt?;
    let remedy =
        |r: &Remedy| json!({"action": r.action, "command": command_line(r.action, p), "loses": r.loses});
    Some(Halted {
        code: format!("MR-HALT-{code}"),
        text,
        remedies: remedies(code).iter().map(remedy).collect(),
    })
}

/// What to type.
fn command_line(action: Action, p: PartitionId) -> String {
    match action {
        Action::Rebuild => format!("millrace rebuild {p} --yes"),
        Action::Restore | Action::Adopt => format!("millrace partition {} {p} --yes", action.name()),
    }
}
