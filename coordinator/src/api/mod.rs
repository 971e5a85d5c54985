//! The HTTP API: accepts and answers. It owns no instance: it appends to logs, and reads what the owners have committed,
//! so every coordinator serves the whole cluster.

mod auth;
mod body;
mod control;
mod definitions;
mod endings;
mod events;
mod instances;
mod observe;
mod openapi;
mod params;
mod partitions;
mod problem;
mod queues;
mod replies;
mod schedules;
mod served;
mod start;
mod status;
mod time;
mod unquarantine;
mod workers;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use millrace_runtime::Shutdown;
use millrace_runtime::metrics::Metrics;
use millrace_runtime::nats::Nats;

use crate::board::Board;
use crate::events::Events;
use crate::fleet::Roster;
use crate::log::Log;
use crate::orders::Orders;
use crate::queries::Queries;
use crate::registry::{Registry, Store};

pub use auth::{ListenError, check_listen};
pub use endings::Endings;
pub use openapi::document as openapi_document;
pub use problem::{ApiError, Code};
pub use replies::Replies;

/// What the API is made of.
#[derive(Clone, Debug)]
pub struct ApiParts {
    /// Id of this coordinator.
    pub coordinator: String,
    /// Build of this binary.
    pub build: String,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// Bearer token that is asked for, if any.
    pub token: Option<String>,
    /// NATS.
    pub nats: Nats,
    /// Redis.
    pub store: Store,
    /// The logs.
    pub log: Log,
    /// The stream of events.
    pub events: Events,
    /// Definitions and functions.
    pub registry: Registry,
    /// The parts' state.
    pub board: Board,
    /// Orders for halted partitions.
    pub orders: Orders,
    /// Instruments.
    pub metrics: Metrics,
}

/// Shared by all handlers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: ApiParts,
    queries: Queries,
    roster: Roster,
    replies: Replies,
    endings: Endings,
    served: served::Served,
    started: std::time::Instant,
}

impl std::ops::Deref for ApiState {
    type Target = ApiParts;
    fn deref(&self) -> &ApiParts {
        &self.0.parts
    }
}

impl ApiState {
    /// Puts the parts together. [`Self::run`] must run beside the server.
    pub fn new(parts: ApiParts) -> Self {
        Self(Arc::new(Inner {
            queries: Queries::new(parts.store.clone(), parts.partitions),
            roster: Roster::new(parts.store.clone()),
            replies: Replies::new(parts.nats.client()),
            endings: Endings::default(),
            served: served::Served::default(),
            started: std::time::Instant::now(),
            parts,
        }))
    }

    /// Listens for answers and for ended instances until told to stop. While it does not run, requests are answered by
    /// polling.
    ///
    /// # Errors
    /// When a subscription cannot be made or ends; the supervisor starts again.
    pub async fn run(&self, shutdown: Shutdown) -> anyhow::Result<()> {
        let nats = self.nats.client();
        tokio::try_join!(
            self.0.replies.run(nats.clone(), shutdown.clone()),
            self.0.endings.run(nats.clone(), shutdown.clone()),
        )?;
        Ok(())
    }

    /// The read model.
    pub fn queries(&self) -> &Queries {
        &self.0.queries
    }

    fn roster(&self) -> &Roster {
        &self.0.roster
    }
}

/// Every path with its methods, as documented in `openapi.json`; a test compares both.
pub const ROUTES: &[(&str, &[&str])] = &[
    ("/api/v1/definitions", &["get", "post"]),
    ("/api/v1/definitions:validate", &["post"]),
    ("/api/v1/definitions/{namespace}/{name}", &["get"]),
    ("/api/v1/definitions/{namespace}/{name}/{version}", &["get"]),
    ("/api/v1/instances", &["get", "post"]),
    ("/api/v1/instances/{id}", &["get"]),
    ("/api/v1/instances/{id}:{action}", &["post"]),
    ("/api/v1/instances/{id}/history", &["get"]),
    ("/api/v1/partitions", &["get"]),
    ("/api/v1/partitions/{partition}", &["get"]),
    ("/api/v1/partitions/{partition}:{action}", &["post"]),
    ("/api/v1/workers", &["get"]),
    ("/api/v1/workers/{id}", &["get"]),
    ("/api/v1/workers/{id}:drain", &["post"]),
    ("/api/v1/queues", &["get"]),
    ("/api/v1/queues/{queue}", &["get"]),
    ("/api/v1/queues/{queue}:{action}", &["post"]),
    ("/api/v1/schedules", &["get"]),
    ("/api/v1/schedules/{namespace}/{name}", &["get"]),
    ("/api/v1/schedules/{namespace}/{name}/{action}", &["post"]),
    ("/api/v1/status", &["get"]),
    ("/api/v1/events", &["post"]),
    ("/api/v1/registry/transactions", &["post"]),
    ("/api/v1/registry/agents", &["get"]),
    ("/api/v1/registry/agents/{kind}/{id}", &["delete", "get", "put"]),
    ("/healthz", &["get"]),
    ("/metrics", &["get"]),
    ("/openapi.json", &["get"]),
    ("/readyz", &["get"]),
];

/// The whole API with probes and metrics.
pub fn router(state: ApiState) -> Router {
    let api = Router::new()
        .route("/definitions", get(definitions::list).post(definitions::apply))
        .route("/definitions:validate", post(definitions::validate))
        .route("/definitions/{namespace}/{name}", get(definitions::newest))
        .route(
            "/definitions/{namespace}/{name}/{version}",
            get(definitions::version),
        )
        .route("/instances", get(instances::list).post(start::start))
        .route("/instances/{id}", get(instances::one).post(control::control))
        .route("/instances/{id}/history", get(instances::history))
        .route("/partitions", get(partitions::list))
        .route(
            "/partitions/{partition}",
            get(partitions::one).post(partitions::command),
        )
        .route("/workers", get(workers::list))
        .route("/workers/{id}", get(workers::one).post(workers::command))
        .route("/queues", get(queues::list))
        .route("/queues/{queue}", get(queues::one).post(queues::command))
        .route("/schedules", get(schedules::list))
        .route("/schedules/{namespace}/{name}", get(schedules::one))
        .route("/schedules/{namespace}/{name}/{action}", post(schedules::command))
        .route("/status", get(status::status))
        .route("/events", post(events::publish))
        .route("/registry/transactions", post(observe::not_yet))
        .route("/registry/agents", get(observe::not_yet))
        .route(
            "/registry/agents/{kind}/{id}",
            get(observe::not_yet)
                .put(observe::not_yet)
                .delete(observe::not_yet),
        )
        .route_layer(axum::middleware::from_fn_with_state(state.clone(), auth::check));
    Router::new()
        .nest("/api/v1", api)
        .route("/healthz", get(observe::alive))
        .route("/readyz", get(observe::ready))
        .route("/metrics", get(observe::metrics))
        .route("/openapi.json", get(openapi::serve))
        .fallback(observe::no_such_path)
        .method_not_allowed_fallback(observe::no_such_method)
        .layer(axum::middleware::from_fn_with_state(
            state.clone(),
            observe::measure,
        ))
        .with_state(state)
}
