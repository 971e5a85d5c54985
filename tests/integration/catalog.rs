//! Functions and schemas of elsewhere are fetched once, when a definition is deployed, and kept with it.

use anyhow::{Context, ensure};
use millrace_common::{DefinitionRef, names};
use millrace_tests::{Stack, Stub};
use serde_json::{Value, json};

use crate::world;

fn source(name: &str, call: &str) -> String {
    format!(
        "document: {{dsl: '1.0.3', namespace: default, name: {name}, version: 1.0.0}}
use: {{catalogs: {{shop: {{endpoint: 'http://stub.test/own/catalog'}}, default: {{endpoint: {{uri: 'http://stub.test/own/catalog/'}}}}}}}}
do:
- t: {{call: '{call}', with: {{n: '${{ .n }}'}}}}
"
    )
}

#[tokio::test]
async fn functions_of_catalogs_and_by_address_run() -> anyhow::Result<()> {
    let world = world().await?;
    let client = world.stack.client();
    let rows = [
        ("of-a-catalog", "twice:1.0.0@shop", json!({"twice": 42})),
        ("of-default", "twice:1.0.0@default", json!({"twice": 42})),
        (
            "by-address",
            "http://stub.test/own/catalog/functions/twice/1.0.0/function.yaml",
            json!({"twice": 42}),
        ),
        ("that-calls-another", "four-times:1.0.0@shop", json!({"four": 84})),
    ];
    for (name, call, expected) in rows {
        let done = client.run(&source(name, call), json!({"n": 21})).await?;
        ensure!(done["output"] == expected, "{name}: {done}");
    }
    let failed = client
        .run(&source("of-a-catalog-2", "twice:1.0.0@shop"), json!({}))
        .await?;
    ensure!(
        failed["error"]["status"] == 400,
        "the schema of the function is checked: {failed}"
    );
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_fetched_or_is_wrong_is_a_fault_of_the_call() -> anyhow::Result<()> {
    let world = world().await?;
    let client = world.stack.client();
    let rows = [
        ("none", "nothing:1.0.0@shop", "404"),
        ("wrong", "wrong:1.0.0@shop", "is wrong at 2:1: unknown key `thn`"),
        ("circle", "circle:1.0.0@shop", "circle"),
        ("host", "http://127.0.0.1:1/function.yaml", "cannot fetch"),
    ];
    for (name, call, says) in rows {
        let answer = client.try_apply(&source(name, call)).await?;
        ensure!(answer.status == 422, "{name}: {}", answer.body);
        let first = &answer.body["diagnostics"][0];
        let message = first["message"].as_str().unwrap_or_default();
        ensure!(message.contains(says), "{name}: {first}");
        ensure!(
            (first["line"].as_u64(), first["column"].is_u64()) == (Some(4), true),
            "{name}: {first}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_deployed_definition_needs_the_catalog_no_more() -> anyhow::Result<()> {
    let stub = Stub::start()?;
    let stack = Stack::builder()
        .env("MILLRACE_HTTP_REDIRECTS", &stub.redirects())
        .start()
        .await?;
    let client = stack.client();
    let text = "document: {dsl: '1.0.3', namespace: default, name: pinned, version: 1.0.0}
input: {schema: {resource: {endpoint: 'http://stub.test/own/schema'}}}
use: {catalogs: {shop: {endpoint: 'http://stub.test/own/catalog'}}}
do:
- t: {call: 'four-times:1.0.0@shop', with: {n: '${ .n }'}}
";
    let definition = client.apply(text).await?;
    ensure!(
        stub.calls("function twice") == 1,
        "{}",
        stub.calls("function twice")
    );
    drop(stub);
    stack.coordinators[0].kill9();
    stack.coordinators[0].restart()?;
    stack.ready().await?;
    let id = client.start(&definition, json!({"n": 1})).await?;
    let done = client.wait(&id).await?;
    ensure!(done["output"] == json!({"four": 4}), "{done}");
    let id = client.start(&definition, json!({})).await?;
    let failed = client.wait(&id).await?;
    ensure!(failed["error"]["instance"] == "/input", "{failed}");
    client.try_apply(text).await?.expect(200)?;

    let key = DefinitionRef {
        namespace: "default".into(),
        name: "pinned".into(),
        version: "1.0.0".into(),
    };
    let stream = stack
        .nats
        .jetstream()
        .await?
        .get_stream(names::DEFINITIONS_STREAM)
        .await?;
    let kept = stream
        .get_last_raw_message_by_subject(&names::definition_subject(&key))
        .await?;
    let kept: Value = serde_json::from_slice(&kept.payload)?;
    ensure!(kept["source"] == text, "{kept}");
    let resources = kept["resources"].as_object().context("resources are kept")?;
    ensure!(resources.len() == 3, "{kept}");
    Ok(())
}
