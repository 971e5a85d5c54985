//! Probes, metrics, and answers where there is nothing.

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use tracing::warn;

use super::ApiState;
use super::problem::{ApiError, Code};
use crate::fleet::Health;

/// The process answers. Says nothing of the servers: their outage must not restart coordinators.
pub(super) async fn alive() -> Json<serde_json::Value> {
    Json(json!({"status": "alive"}))
}

/// Both servers answer, and every partition is served by somebody.
pub(super) async fn ready(State(api): State<ApiState>) -> Response {
    let nats = if api.nats.is_connected() {
        "ok".to_owned()
    } else {
        "not connected".to_owned()
    };
    let (redis, partitions) = match api.0.served.missing(&api).await {
        Ok(missing) if missing.is_empty() => ("ok".to_owned(), "ok".to_owned()),
        Ok(missing) => {
            let list: Vec<_> = missing.iter().map(ToString::to_string).collect();
            ("ok".to_owned(), format!("not served: {}", list.join(", ")))
        }
        Err(error) => (error.to_string(), "unknown".to_owned()),
    };
    let is_ready = [&nats, &redis, &partitions]
        .into_iter()
        .all(|state| state == "ok");
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let checks = json!({"nats": nats, "redis": redis, "partitions": partitions});
    (status, Json(json!({"ready": is_ready, "checks": checks}))).into_response()
}

/// Metrics in the text format of Prometheus. The fleet is counted when it is asked for: beats cost nothing.
pub(super) async fn metrics(State(api): State<ApiState>) -> Response {
    match api.roster().all().await {
        Ok(workers) => {
            let alive = workers.iter().filter(|w| w.health == Health::Alive).count();
            api.metrics
                .workers_connected
                .set(i64::try_from(alive).unwrap_or(i64::MAX));
        }
        // The figure stays as it was.
        Err(error) => warn!(%error, "workers cannot be counted for the metrics"),
    }
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        api.metrics.render(),
    )
        .into_response()
}

/// A path of a later release.
pub(super) async fn not_yet(uri: Uri) -> ApiError {
    ApiError::new(Code::NotSupported, format!("{} is not supported yet", uri.path()))
}

pub(super) async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::new(Code::NotFound, format!("{} is no path of this API", uri.path()))
        .hint("`/openapi.json` lists them all")
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        Code::MethodNotAllowed,
        format!("{} does not take {method}", uri.path()),
    )
}

/// Middleware: time of every request, by route and never by path.
pub(super) async fn measure(State(api): State<ApiState>, request: Request, next: Next) -> Response {
    let started = std::time::Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    api.metrics
        .http_duration
        .with_label_values(&[method.as_str(), route, response.status().as_str()])
        .observe(started.elapsed().as_secs_f64());
    response
}
