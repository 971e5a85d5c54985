//! Keeps the leases of all steps alive: one timer for the worker instead of one per step, asleep while nothing is held.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::flight::unix_ms;
use super::flights::Turn;
use super::message::answer;
use super::run::Runner;
use crate::Context;

/// Between two looks at the table.
const TURN: Duration = Duration::from_millis(50);
/// A step that runs this long is shown to operators with its worker's name.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(250);
/// Time for the announcements of one turn; they must never keep signs of life back.
const ANNOUNCE_TIME_MAX: Duration = Duration::from_millis(100);

/// Turns until it is dropped.
pub(crate) async fn turn(runner: Arc<Runner>) {
    loop {
        let every = (runner.shortest_ack_wait() / 3).saturating_sub(TURN);
        // A sign of life that cannot leave does not count as one.
        let every = if runner.nats.is_connected() {
            every
        } else {
            Duration::MAX
        };
        let turn = runner
            .flights
            .turn(every, ANNOUNCE_AFTER, unix_ms(SystemTime::now()));
        if turn.is_idle {
            runner.flights.opened.notified().await;
        } else {
            act(&runner, turn).await;
        }
        tokio::time::sleep(TURN).await;
    }
}

async fn act(runner: &Runner, turn: Turn) {
    for reply in turn.progress {
        if let Err(error) = runner.nats.client().publish(reply, answer::PROGRESS).await {
            tracing::debug!(%error, "a sign of life was not sent");
        }
    }
    let announced = announce(runner, &turn.announce);
    if tokio::time::timeout(ANNOUNCE_TIME_MAX, announced).await.is_err() {
        tracing::debug!("too busy to show who runs which step");
    }
}

async fn announce(runner: &Runner, contexts: &[Context]) {
    for context in contexts {
        runner.reporter.announce(context).await;
    }
}
