//! One run is one trace: start, every attempt, the worker's span under it, the HTTP call of the step under that.

use millrace_tests::{Stack, Stub, eventually, traces::Span};
use serde_json::json;

use crate::definition;

#[tokio::test]
async fn a_run_is_one_trace_also_over_a_killed_worker() -> anyhow::Result<()> {
    let stub = Stub::start()?;
    let stack = Stack::builder()
        .workers(2)
        .coordinator_env("MILLRACE_ACK_WAIT", "2s")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &stub.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "200")
        .worker_env("MILLRACE_HTTP_REDIRECTS", stub.redirects())
        .start()
        .await?;
    let client = stack.client();
    let source = definition(
        "traced",
        "  - again:
      try:
        - unsteady: { call: 'flaky:1.0.0@default', with: { failures: 1 } }
      catch: { retry: { delay: { milliseconds: 10 }, limit: { attempt: { count: 3 } } } }
  - slow: { call: 'sleep:1.0.0@default', with: { sleep: 1500 } }
  - ask: { call: http, with: { method: get, endpoint: 'http://petstore.swagger.io/v2/pet/1' } }
",
    );
    let definition = client.apply(&source).await?;
    let id = client.start(&definition, json!({})).await?;
    let view = client
        .until(&id, "a worker runs the slow step", |v| {
            v["waitingFor"][0]["task"]
                .as_str()
                .is_some_and(|t| t.ends_with("/slow"))
                && v["waitingFor"][0]["worker"].is_string()
        })
        .await?;
    let worker = view["waitingFor"][0]["worker"].as_str().unwrap_or_default();
    stack
        .workers
        .iter()
        .find(|w| w.name() == worker)
        .expect("one of ours")
        .kill9();
    let view = client.wait(&id).await?;
    assert_eq!(view["status"], "completed", "{view}");

    let named = |spans: &[Span], name: &str| -> Vec<Span> {
        spans.iter().filter(|s| s.name == name).cloned().collect()
    };
    let spans = eventually("all spans arrived", async || {
        let spans = stub.spans();
        let complete = named(&spans, "run.end traced").len() == 1
            && named(&spans, "step ask").len() == 1
            && spans.iter().filter(|s| s.name == "process work.default").count() >= 4;
        complete.then_some(spans)
    })
    .await?;
    let start = named(&spans, "run.start traced").pop().expect("the start");
    let of_run: Vec<Span> = spans.iter().filter(|s| s.trace == start.trace).cloned().collect();
    assert_eq!(named(&of_run, "step unsteady").len(), 2, "each attempt is a span");
    assert_eq!(named(&of_run, "step slow").len(), 1);
    for step in of_run.iter().filter(|s| s.name.starts_with("step ")) {
        assert_eq!(step.parent, start.id, "{step:?}");
        let under: Vec<_> = of_run.iter().filter(|s| s.parent == step.id).collect();
        assert!(
            under.iter().any(|s| s.name == "process work.default"),
            "{step:?} has no worker's span: {under:?}"
        );
    }
    let ask = named(&of_run, "step ask").pop().expect("the call");
    let worker = of_run
        .iter()
        .find(|s| s.parent == ask.id)
        .expect("the worker's span");
    assert!(
        of_run.iter().any(|s| s.parent == worker.id),
        "no span of the HTTP call under {worker:?}: {of_run:?}"
    );
    Ok(())
}
