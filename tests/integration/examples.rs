//! What is shipped under `examples/` does what it says, as it is.

use std::path::Path;

use anyhow::{Context, ensure};
use millrace_tests::Stack;
use serde_json::{Value, json};

fn example(name: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Runs an example on the shared stack; gives its output.
async fn output(name: &str, input: Value) -> anyhow::Result<Value> {
    let world = crate::world().await?;
    let done = world.stack.client().run(&example(name)?, input).await?;
    ensure!(done["status"] == "completed", "{done}");
    Ok(done["output"].clone())
}

#[tokio::test]
async fn hello_greets_the_world_or_whom_it_is_told() -> anyhow::Result<()> {
    let world = output("hello.yaml", Value::Null).await?;
    ensure!(world == json!({"greeting": "hello, world"}), "{world}");
    let you = output("hello.yaml", json!({"name": "you"})).await?;
    ensure!(you == json!({"greeting": "hello, you"}), "{you}");
    Ok(())
}

#[tokio::test]
async fn order_flaky_pays_on_the_third_attempt() -> anyhow::Result<()> {
    let done = output("order-flaky.yaml", json!({"order": "o-9"})).await?;
    ensure!(
        done["order"] == "o-9" && done["carrier"] == "o-9 by rail",
        "{done}"
    );
    ensure!(done["payment"]["attempts"] == 3, "{done}");
    ensure!(
        done["payment"]["idempotencyKey"]
            .as_str()
            .is_some_and(|k| !k.is_empty()),
        "{done}"
    );
    ensure!(done["deliveries"] == 1 && done["packedBy"].is_string(), "{done}");
    Ok(())
}

#[tokio::test]
async fn fanout_gathers_its_branches_with_a_service_and_without() -> anyhow::Result<()> {
    let gathered =
        |service: &str| json!({"price": 42, "warehouses": ["north", "south", "west"], "service": service});
    // Held to the end: the stack with this address is gone with its last user.
    let world = crate::world().await?;
    // Nobody listens on port 9.
    let without = output("fanout.yaml", Value::Null).await?;
    ensure!(without == gathered("unknown"), "{without}");
    let url = format!("{}/healthz", world.stack.url(0));
    let with = output("fanout.yaml", json!({"url": url})).await?;
    ensure!(with == gathered("alive"), "{with}");
    Ok(())
}

#[tokio::test]
async fn the_orders_worker_carries_its_workflow_out() -> anyhow::Result<()> {
    let stack = Stack::builder().worker_program("orders-worker").start().await?;
    let client = stack.client();
    let applied = client.try_apply(&example("orders-worker/orders.yaml")?).await?;
    ensure!(
        applied.status == 201 && applied.body["warnings"] == json!([]),
        "both functions are offered: {}",
        applied.body
    );
    let orders = json!({"namespace": "default", "name": "orders"});
    let id = client.start(&orders, json!({"order": "o-1"})).await?;
    let done = client.wait(&id).await?;
    ensure!(done["status"] == "completed", "{done}");
    let output = &done["output"];
    ensure!(
        output["paid"] == 4200 && output["labels"] == json!(["o-1-1", "o-1-2", "o-1-3"]),
        "{output}"
    );
    ensure!(
        output["payment"]
            .as_str()
            .is_some_and(|p| p.starts_with("payment-")),
        "{output}"
    );
    Ok(())
}
