//! Starts instances, one after the other and for as long as things break. A start whose outcome is unknown is repeated
//! with the same id until it is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use millrace_tests::{Client, Rng, Stack};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::check::task_name;
use crate::{INSTANCES_MAX, INSTANCES_MIN, STEPS};

/// Time between two starts: 200 instances in 15 s.
const PACE: Duration = Duration::from_millis(75);
/// One in so many steps takes [`SLOW_MS`], so that workers are killed in the middle of some.
const SLOW_ONE_IN: u64 = 12;
const SLOW_MS: u64 = 700;
/// A caller that gets no answer for so long asks again, or another coordinator.
const ANSWER_MAX: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(250);
/// From the first start of an instance to its acceptance.
const ACCEPT_MAX: Duration = Duration::from_secs(90);

/// What was started.
#[derive(Debug, Default)]
pub(crate) struct Started {
    /// Ids, and the sum each was given.
    pub(crate) totals: BTreeMap<String, u64>,
    /// Answers by status; 0 for none.
    pub(crate) answers: BTreeMap<u16, u64>,
}

/// Steps in a row; each adds 1 to the sum, so that the last sum tells how often results were applied.
pub(crate) fn definition() -> String {
    let call = |step: u32| {
        let before = if step == 1 {
            "$workflow.input.total"
        } else {
            ".total"
        };
        format!(
            "  - {}: {{ call: 'ledger:1.0.0@default', with: {{ step: {step}, total: '${{ {before} }}', ms: '${{ $workflow.input.ms[{}] }}' }} }}\n",
            task_name(step),
            step - 1
        )
    };
    let calls: String = (1..=STEPS).map(call).collect();
    format!("document: {{ dsl: 1.0.3, namespace: default, name: ten-steps, version: 1.0.0 }}\ndo:\n{calls}")
}

/// Starts instances until `enough` is set, at least [`INSTANCES_MIN`].
pub(crate) async fn run(
    stack: &Stack,
    definition: Value,
    mut rng: Rng,
    enough: &AtomicBool,
) -> anyhow::Result<Started> {
    let clients: Arc<Vec<Client>> = Arc::new(
        (0..stack.coordinators.len())
            .map(|n| stack.client_of(n))
            .collect(),
    );
    let definition = Arc::new(definition);
    let mut starts = JoinSet::new();
    let mut started = Started::default();
    let mut tick = tokio::time::interval(PACE);
    for number in 0..INSTANCES_MAX {
        if number >= INSTANCES_MIN && enough.load(Ordering::Relaxed) {
            break;
        }
        tick.tick().await;
        let (id, total) = (format!("i{number}"), u64::from(number) * 1_000);
        started.totals.insert(id.clone(), total);
        let ms = (0..STEPS).map(|_| {
            if rng.between(0..SLOW_ONE_IN) == 0 {
                SLOW_MS
            } else {
                2
            }
        });
        let input = json!({"total": total, "ms": ms.collect::<Vec<_>>()});
        starts.spawn(start(
            Arc::clone(&clients),
            Arc::clone(&definition),
            id,
            input,
            rng.clone(),
        ));
    }
    while let Some(done) = starts.join_next().await {
        for status in done?? {
            *started.answers.entry(status).or_default() += 1;
        }
    }
    Ok(started)
}

/// Repeats a start until it is known to have been accepted; gives the statuses of all answers.
async fn start(
    clients: Arc<Vec<Client>>,
    definition: Arc<Value>,
    id: String,
    input: Value,
    mut rng: Rng,
) -> anyhow::Result<Vec<u16>> {
    let begun = Instant::now();
    let mut statuses = Vec::new();
    loop {
        let answer = rng.pick(&clients).start_as(&id, &definition, input.clone());
        let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
        let answer = answer.ok().and_then(Result::ok);
        let status = answer.as_ref().map_or(0, |a| a.status);
        statuses.push(status);
        match status {
            200 | 201 => return Ok(statuses),
            // Not known yet, or not now.
            0 | 202 | 429 | 500.. => tokio::time::sleep(PAUSE).await,
            _ => bail!("start of {id} was refused: {answer:?}"),
        }
        if begun.elapsed() > ACCEPT_MAX {
            bail!(
                "start of {id} was not accepted within {ACCEPT_MAX:?}: answers {statuses:?}, last {answer:?}"
            );
        }
    }
}
