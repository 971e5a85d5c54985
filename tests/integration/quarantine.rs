//! A panic inside `apply` costs one instance, not its partition (H15).

use anyhow::ensure;
use millrace_tests::Stack;
use serde_json::json;

use crate::definition;

#[tokio::test]
async fn an_instance_whose_apply_panics_is_quarantined_and_the_rest_goes_on() -> anyhow::Result<()> {
    let builder = Stack::builder().coordinator_env("MILLRACE_PARTITIONS", "1");
    let stack = builder
        .coordinator_env("MILLRACE_TEST_PANIC_INSTANCE", "cursed")
        .start()
        .await?;
    let client = stack.client();
    let two =
        "- a: {call: 'noop:1.0.0@default', with: {x: 1}}\n- b: {call: 'noop:1.0.0@default', with: {x: 2}}";
    let two = client.apply(&definition("two", two)).await?;
    let mut others = vec![client.start(&two, json!({})).await?];
    let answer = client.start_as("cursed-1", &two, json!({})).await?;
    for _ in 0..20 {
        others.push(client.start(&two, json!({})).await?);
    }
    for id in &others {
        let done = client.wait(id).await?;
        ensure!(done["output"] == json!({"x": 2}), "{done}");
    }
    ensure!(matches!(answer.status, 201 | 202 | 503), "{answer:?}");
    let cursed = client
        .until("cursed-1", "it is quarantined", |v| v["status"] == "suspended")
        .await?;
    ensure!(cursed["waitingFor"][0]["kind"] == "quarantine", "{cursed}");
    // It stays so when the coordinator starts again without the fault, until an operator decides.
    ensure!(
        client.get("/readyz").await?.status == 200,
        "the partition is not served"
    );
    ensure!(stack.coordinators[0].is_running(), "the coordinator ended");
    Ok(())
}
