//! Operators' commands reach running instances.

use millrace_tests::Stack;
use serde_json::json;

use crate::definition;

#[tokio::test]
async fn instances_are_suspended_resumed_cancelled_and_retried() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let source = definition(
        "steer",
        "  - first: { call: 'sleep:1.0.0@default', with: { sleep: 700 } }\n  - second: { call: 'noop:1.0.0@default' }\n",
    );
    let steer = client.apply(&source).await?;

    let id = client.start(&steer, json!({})).await?;
    client
        .until(&id, "it runs", |v| v["waitingFor"][0]["kind"] == "step")
        .await?;
    client.control(&id, "suspend").await?.expect(200)?;
    client
        .until(&id, "it is suspended", |v| v["status"] == "suspended")
        .await?;
    client.control(&id, "resume").await?.expect(200)?;
    let view = client.wait(&id).await?;
    assert_eq!(view["status"], "completed", "{view}");

    let long = client
        .apply(&definition(
            "long",
            "  - s: { call: 'sleep:1.0.0@default', with: { sleep: 60000 } }\n",
        ))
        .await?;
    let id = client.start(&long, json!({})).await?;
    client
        .until(&id, "a worker runs it", |v| {
            v["waitingFor"][0]["worker"].is_string()
        })
        .await?;
    client.control(&id, "cancel").await?.expect(200)?;
    let view = client.wait(&id).await?;
    assert_eq!(view["status"], "cancelled", "{view}");

    let flaky = client
        .apply(&definition(
            "fails-once",
            "  - s: { call: 'flaky:1.0.0@default', with: { failures: 1 } }\n",
        ))
        .await?;
    let id = client.start(&flaky, json!({})).await?;
    let view = client.wait(&id).await?;
    assert_eq!(view["status"], "faulted", "{view}");
    client.control(&id, "retry").await?.expect(200)?;
    let view = client
        .until(&id, "it completed", |v| v["status"] == "completed")
        .await?;
    assert_eq!(view["error"], json!(null), "{view}");
    Ok(())
}
