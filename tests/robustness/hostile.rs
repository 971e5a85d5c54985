//! Definitions and payloads that mean harm, or are just too large.

use std::time::{Duration, Instant};

use millrace_tests::Stack;
use serde_json::json;

use crate::{all_complete, definition, noops, start_many};

const HOSTILE: [&str; 5] = [
    "[range(1e12)]",
    "def f: f; f",
    r#"\"x\" * 1e9"#,
    "def f: 1 + f; f",
    "reduce range(60) as $i (1; [., .])",
];

#[tokio::test]
async fn a_runaway_expression_faults_its_own_instance_and_harms_nobody() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let good = client.apply(&noops("good", 2)).await?;
    let mut bad = Vec::new();
    for (n, expression) in HOSTILE.iter().enumerate() {
        let source = definition(
            &format!("bad{n}"),
            &format!("  - x: {{ set: {{ a: \"${{ {expression} }}\" }} }}\n"),
        );
        bad.push(client.apply(&source).await?);
    }
    let ids = start_many(&client, &good, "good-a", 500).await?;
    for (n, definition) in bad.iter().enumerate() {
        let begun = Instant::now();
        let id = client.start(definition, json!({})).await?;
        let view = client.wait(&id).await?;
        let took = begun.elapsed();
        assert_eq!(view["status"], "faulted", "{view}");
        let kind = view["error"]["type"].as_str().unwrap_or_default();
        assert!(kind.ends_with("/expression"), "{}: {view}", HOSTILE[n]);
        assert!(took < Duration::from_secs(5), "{} took {took:?}", HOSTILE[n]);
    }
    let more = start_many(&client, &good, "good-b", 500).await?;
    all_complete(&client, &ids).await?;
    all_complete(&client, &more).await
}

#[tokio::test]
async fn an_instance_whose_apply_panics_is_set_aside_and_the_rest_goes_on() -> anyhow::Result<()> {
    let stack = Stack::builder()
        .coordinator_env("MILLRACE_TEST_PANIC_INSTANCE", "poison")
        .start()
        .await?;
    let client = stack.client();
    let definition = client.apply(&noops("calm", 3)).await?;
    let ids = start_many(&client, &definition, "calm-a", 20).await?;
    client
        .start_as("poison-1", &definition, json!({}))
        .await?
        .expect(201)?;
    let more = start_many(&client, &definition, "calm-b", 20).await?;
    all_complete(&client, &ids).await?;
    all_complete(&client, &more).await?;
    let view = client.instance("poison-1").await?;
    assert_eq!(view["status"], "suspended", "{view}");
    assert_eq!(view["waitingFor"][0]["kind"], "quarantine", "{view}");
    let counted: f64 = client.metric("millrace_instances_quarantined_total").await?;
    assert!((counted - 1.0).abs() < f64::EPSILON, "{counted}");
    Ok(())
}

#[tokio::test]
async fn oversized_payloads_are_refused_with_both_sizes() -> anyhow::Result<()> {
    let stack = Stack::builder().start().await?;
    let client = stack.client();
    let small = client.apply(&noops("small", 1)).await?;
    let body = json!({"definition": small, "input": {"x": "y".repeat(10 << 20)}});
    let answer = client.post("/api/v1/instances", &body).await?;
    assert_eq!(answer.status, 413, "{}", answer.body);
    assert!(
        answer.detail().contains("10485") && answer.detail().contains("851968"),
        "{}",
        answer.body
    );
    // A step's output grows beyond the bound: two texts of 500 kB in one value.
    let grow = definition(
        "grow",
        "  - half: { set: { a: '${ \"x\" * 500000 }' } }\n  - whole: { call: 'noop:1.0.0@default', with: { a: '${ .a }', b: '${ .a }' } }\n",
    );
    let view = client.run(&grow, json!({})).await?;
    assert_eq!(view["status"], "faulted", "{view}");
    let detail = view["error"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("786432") && detail.contains("10000"), "{detail}");
    Ok(())
}
