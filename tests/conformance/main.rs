//! The language on a real stack: the official conformance kit (`kit`), and one small file for each rule that the kit
//! leaves out or that we decided ourselves (`cases`), the examples of the specification (`examples`), and the page that
//! says what all this shows (`page`, by the table in `rows.yaml`).

#![expect(clippy::print_stdout, reason = "the counts of a run are its result")]

mod cases;
mod examples;
mod gherkin;
mod kit;
mod page;
mod rows;

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
                .worker_env("MILLRACE_SECRET_CLIENT", authority::CLIENT_SECRET)
                .worker_env("MILLRACE_PROCESSES", "shell,script");
            Ok(World {
                stack: stack.start().await?,
                stub,
            })
        })
        .await
}

/// Says why a test cannot run here, past the capture of libtest: `tools/test` counts these lines.
fn skipped(why: &str) -> anyhow::Result<()> {
    let line = format!("skipped test: {why}\n");
    Ok(std::io::Write::write_all(
        &mut std::io::stderr(),
        line.as_bytes(),
    )?)
}
