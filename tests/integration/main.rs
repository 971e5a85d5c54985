//! Whole stacks: one module a behaviour. What one process can show is tested beside that process; here is what takes
//! several, and real servers.

#![expect(clippy::print_stdout, reason = "measured times are worth seeing")]

mod absence;
mod bounds;
mod catalog;
mod durable;
mod events;
mod examples;
mod fork;
mod hostile;
mod lost;
mod ownership;
mod processes;
mod quarantine;
mod schedules;
mod secrets;
mod settings;
mod telemetry;
mod workers;

use std::sync::Arc;

use millrace_tests::{Shared, Stack, Stub};

/// One stack for the tests that break nothing, with the outside world.
struct World {
    stack: Stack,
    stub: Stub,
}

static WORLD: Shared<World> = Shared::new();

async fn world() -> anyhow::Result<Arc<World>> {
    WORLD
        .get(async || {
            let stub = Stub::start()?;
            let stack = Stack::builder()
                .env("MILLRACE_HTTP_REDIRECTS", &stub.redirects())
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", &stub.url());
            Ok(World {
                stack: stack.start().await?,
                stub,
            })
        })
        .await
}

/// A definition `default/<name>@1.0.0` with these tasks, written from the margin.
fn definition(name: &str, tasks: &str) -> String {
    format!("document: {{dsl: '1.0.3', namespace: default, name: {name}, version: 1.0.0}}\ndo:\n{tasks}")
}
