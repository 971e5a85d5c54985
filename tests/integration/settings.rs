//! Settings that are not what their author meant.

use anyhow::ensure;
use millrace_tests::{Stack, eventually};

#[tokio::test]
async fn a_misspelt_variable_is_named_by_coordinator_and_worker() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .coordinator_env("MILLRACE_LEASE_TLL", "1s")
        .worker_env("MILLRACE_SLOT", "7")
        .prepare()?;
    for (process, name) in [
        (&stack.coordinators[0], "MILLRACE_LEASE_TLL"),
        (&stack.workers[0], "MILLRACE_SLOT"),
    ] {
        process.restart()?;
        let warning = format!("warning: {name} is not a variable of Millrace");
        eventually(&warning, async || process.log().contains(&warning).then_some(())).await?;
        ensure!(
            process.log().matches("is not a variable of Millrace").count() == 1,
            "only that one: {}",
            process.log()
        );
    }
    Ok(())
}
