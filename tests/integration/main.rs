//! tmp
use millrace_tests::*;
use serde_json::json;
#[tokio::test]
async fn hello() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let c = stack.client();
    let v = c.run("document: {dsl: '1.0.3', namespace: default, name: hello, version: '1.0.0'}\ndo:\n- a: {call: 'noop:1.0.0@default', with: {x: 1}}\n- b: {set: {y: '${ .x + 1 }'}}\n", json!({})).await?;
    println!("{v}\n{:?}", c.history(v["id"].as_str().unwrap()).await?);
    println!("{}", c.get("/api/v1/status").await?.body);
    println!("{}", c.get("/api/v1/workers").await?.body);
    println!("{}", c.get("/readyz").await?.body);
    Ok(())
}
