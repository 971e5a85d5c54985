//! A panic inside `apply` costs one instance, not its partition (H15).

use anyhow::ensure;
use millrace_tests::{Client, Stack};
use serde_json::{Value, json};

use crate::definition;

const FAULT: &str = "MILLRACE_TEST_PANIC_INSTANCE";
const TWO: &str = "- a: {wait: PT1S}\n- b: {call: 'noop:1.0.0@default', with: {x: 2}}";

#[tokio::test]
async fn an_instance_whose_apply_panics_is_quarantined_and_the_rest_goes_on() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .coordinator_env("MILLRACE_PARTITIONS", "1")
        .start()
        .await?;
    let client = stack.client();
    let two = client.apply(&definition("two", TWO)).await?;
    client.start_new("cursed-1", &two, json!({})).await?;
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart_with(FAULT, "cursed")?;
    stack.ready().await?;
    others_go_on(&client, &two).await?;
    let is_set_aside = |v: &Value| v["status"] == "suspended" && v["waitingFor"][0]["kind"] == "quarantine";
    client
        .until("cursed-1", "it is quarantined", is_set_aside)
        .await?;
    ensure!(
        client.get("/readyz").await?.status == 200,
        "the partition is not served"
    );

    // Without the fault an operator can let it go on.
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    stack.ready().await?;
    let still = client.instance("cursed-1").await?;
    ensure!(is_set_aside(&still), "{still}");
    client.control("cursed-1", "cancel").await?.expect(200)?;
    let done = client.wait("cursed-1").await?;
    ensure!(done["status"] == "cancelled", "{done}");
    Ok(())
}

#[tokio::test]
async fn a_start_whose_apply_panics_makes_a_quarantined_instance_that_can_begin_later() -> anyhow::Result<()>
{
    let builder = Stack::builder().coordinator_env("MILLRACE_PARTITIONS", "1");
    let stack = builder.coordinator_env(FAULT, "cursed").start().await?;
    let client = stack.client();
    let two = client.apply(&definition("two", TWO)).await?;
    client.start_as("cursed-1", &two, json!({})).await?.expect(201)?;
    others_go_on(&client, &two).await?;
    let set_aside = client.instance("cursed-1").await?;
    ensure!(set_aside["waitingFor"][0]["kind"] == "quarantine", "{set_aside}");

    stack.coordinators[0].kill9();
    stack.coordinators[0].restart_with(FAULT, "nobody")?;
    stack.ready().await?;
    client.control("cursed-1", "resume").await?.expect(200)?;
    let done = client.wait("cursed-1").await?;
    ensure!(done["output"] == json!({"x": 2}), "{done}");
    Ok(())
}

async fn others_go_on(client: &Client, definition: &Value) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(client.start(definition, json!({})).await?);
    }
    for id in &ids {
        let done = client.wait(id).await?;
        ensure!(done["output"] == json!({"x": 2}), "{done}");
    }
    Ok(())
}
