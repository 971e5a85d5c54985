//! The HTTP listener from the first moment on: health answers while the servers are waited for, everything else says
//! that the coordinator is starting.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_runtime::Shutdown;
use millrace_runtime::health::{self, Health};
use millrace_runtime::metrics::Metrics;
use tower_service::Service;

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    health: Health,
    metrics: Metrics,
    api: Arc<OnceLock<Router>>,
}

impl Gate {
    pub(crate) fn new(health: Health, metrics: Metrics) -> Self {
        Self {
            health,
            metrics,
            api: Arc::default(),
        }
    }

    /// From now on requests reach the API.
    pub(crate) fn open(&self, api: Router) {
        if self.api.set(api).is_err() {
            tracing::warn!("the api was opened twice");
        }
    }

    /// Serves until shutdown; open requests are finished.
    pub(crate) async fn serve(
        self,
        listener: tokio::net::TcpListener,
        shutdown: Shutdown,
    ) -> std::io::Result<()> {
        let router = Router::new().fallback(forward).with_state(self);
        let listener = axum::serve::ListenerExt::tap_io(listener, |tcp| {
            if let Err(e) = tcp.set_nodelay(true) {
                tracing::debug!(reason = %e, "cannot set TCP_NODELAY");
            }
        });
        axum::serve(listener, router)
            .with_graceful_shutdown(async move { shutdown.triggered().await })
            .await
    }
}

async fn forward(State(gate): State<Gate>, request: Request) -> Response {
    let path = request.uri().path();
    let mut router = match gate.api.get() {
        Some(api) => api.clone(),
        None if matches!(path, "/healthz" | "/readyz" | "/metrics") => {
            health::router(gate.health, gate.metrics)
        }
        None => return starting(),
    };
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn starting() -> Response {
    let body = serde_json::json!({
        "type": "about:blank", "title": "Service Unavailable", "status": 503, "code": "MR-STARTING",
        "detail": "the coordinator waits for nats and redis; /readyz says for which",
    });
    let headers = [
        (header::CONTENT_TYPE, "application/problem+json"),
        (header::RETRY_AFTER, "1"),
    ];
    (StatusCode::SERVICE_UNAVAILABLE, headers, body.to_string()).into_response()
}
