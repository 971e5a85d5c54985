//! `/workers`: the fleet.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use millrace_common::{WorkerCommand, names};
use serde_json::{Value, json};

use super::problem::{ApiError, ApiResult, Code};
use super::{ApiState, time};
use crate::fleet::WorkerView;

pub(super) async fn list(State(api): State<ApiState>) -> ApiResult<Json<Value>> {
    let items: Vec<_> = api.roster().all().await?.iter().map(view).collect();
    Ok(Json(json!({"items": items})))
}

pub(super) async fn one(State(api): State<ApiState>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(view(&find(&api, &id).await?)))
}

pub(super) async fn command(State(api): State<ApiState>, Path(target): Path<String>) -> ApiResult {
    let Some((id, "drain")) = target.rsplit_once(':') else {
        return Err(ApiError::new(
            Code::NotFound,
            format!("`{target}` names no action: expected id:drain"),
        ));
    };
    let worker = find(&api, id).await?;
    let command = serde_json::to_vec(&WorkerCommand::Drain).expect("a command is a string");
    let sent = api
        .nats
        .client()
        .publish(names::worker_subject(id), command.into())
        .await;
    sent.map_err(|e| ApiError::new(Code::Unavailable, format!("nats: {e}")).retry_after(1))?;
    Ok((StatusCode::ACCEPTED, Json(view(&worker))).into_response())
}

async fn find(api: &ApiState, id: &str) -> ApiResult<WorkerView> {
    let found = api.roster().get(id).await?;
    found.ok_or_else(|| ApiError::new(Code::WorkerNotFound, format!("worker {id} is not known")))
}

fn view(worker: &WorkerView) -> Value {
    let running: Vec<_> = worker
        .running
        .iter()
        .map(|r| json!({"step": r.step, "function": r.function, "since": time::rfc3339(r.since)}))
        .collect();
    json!({
        "id": worker.id, "health": worker.health, "draining": worker.draining, "build": worker.build,
        "host": worker.host, "queues": worker.queues, "functions": worker.functions,
        "capabilities": worker.capabilities, "labels": worker.labels, "slots": worker.slots,
        "slotsUsed": worker.slots_used, "running": running, "doneTotal": worker.done_total,
        "failedTotal": worker.failed_total, "registeredAt": time::rfc3339(worker.registered_ms),
        "lastBeatAt": time::rfc3339(worker.last_beat_ms),
    })
}
