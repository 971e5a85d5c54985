//! What probes see: `/healthz` (the process answers), `/readyz` (every named check is good) and `/metrics`.
//!
//! Liveness never looks at NATS or Redis: a broker's outage must not restart the whole fleet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use crate::metrics::Metrics;

/// All checks of a process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<String, Result<(), String>>>>,
}

impl Health {
    /// No checks: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check that is bad until it is set otherwise. Dropping the handle removes the check.
    #[must_use = "the check is removed when its handle is dropped"]
    pub fn check(&self, name: impl Into<String>) -> Check {
        let check = Check {
            health: self.clone(),
            name: name.into(),
        };
        check.bad("starting");
        check
    }

    /// Every check's name and, if it is bad, why.
    pub fn report(&self) -> BTreeMap<String, Result<(), String>> {
        self.lock().clone()
    }

    /// Whether every check is good.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Result::is_ok)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One part's readiness.
#[derive(Debug)]
pub struct Check {
    health: Health,
    name: String,
}

impl Check {
    /// The part serves.
    pub fn good(&self) {
        self.set(Ok(()));
    }

    /// The part does not serve, and why.
    pub fn bad(&self, why: impl Into<String>) {
        self.set(Err(why.into()));
    }

    fn set(&self, state: Result<(), String>) {
        let mut checks = self.health.lock();
        if checks.get(&self.name) != Some(&state) {
            checks.insert(self.name.clone(), state);
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.health.lock().remove(&self.name);
    }
}

/// `GET /healthz`, `/readyz` and `/metrics`, to merge into an application or to serve alone.
pub fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(async || Json(serde_json::json!({"status": "alive"}))),
        )
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(scrape).with_state(metrics))
}

async fn ready(State(health): State<Health>) -> Response {
    let report = health.report();
    let is_ready = report.values().all(Result::is_ok);
    let checks: BTreeMap<_, _> = report
        .into_iter()
        .map(|(name, state)| (name, state.err().unwrap_or_else(|| "ok".into())))
        .collect();
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(serde_json::json!({"ready": is_ready, "checks": checks})),
    )
        .into_response()
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        metrics.render(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_check_is_good() {
        let health = Health::new();
        assert!(health.is_ready());
        let nats = health.check("nats");
        assert!(!health.is_ready());
        nats.good();
        let redis = health.check("redis");
        redis.bad("connection refused");
        assert_eq!(health.report()["redis"], Err("connection refused".into()));
        drop(redis);
        assert!(health.is_ready());
    }
}
