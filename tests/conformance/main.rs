//! The language on a real stack: the official conformance kit (`kit`), and one small file for each rule that the kit
//! leaves out or that we decided ourselves (`cases`).

#![expect(clippy::print_stdout, reason = "the counts of a run are its result")]

mod cases;
mod gherkin;
mod kit;

use std::sync::Arc;

use millrace_tests::{Shared, Stack, Stub, authority};

/// One stack for all, and the services that definitions call.
struct World {
    stack: Stack,
    stub: Stub,
}

static WORLD: Shared<World> = Shared::new();

async fn world() -> anyhow::Result<Arc<World>> {
    WORLD
        .get(async || {
            let stub = Stub::start()?;
            let login = format!(r#"{{"username":"ann","password":"{}"}}"#, authority::PASSWORD);
            let stack = Stack::builder()
                .env("MILLRACE_HTTP_REDIRECTS", &stub.redirects())
                .worker_env("MILLRACE_SECRET_LOGIN", login)
                .worker_env("MILLRACE_SECRET_API_KEY", "key-of-the-api")
                .worker_env("MILLRACE_SECRET_CLIENT", authority::CLIENT_SECRET);
            Ok(World {
                stack: stack.start().await?,
                stub,
            })
        })
        .await
}
