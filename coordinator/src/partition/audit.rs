//! Finds steps that the work queue lost (H16b): gone from the stream, the log read to its end after that was seen, and
//! still no result. A long queue is never mistaken for loss, and nothing is dispatched again by the audit itself: it
//! appends a `lost` record, and the fold decides.

use std::time::{Duration, Instant};

use millrace_common::{InstanceKey, RecordBody};
use tracing::{info, warn};

use super::Stop;
use super::processor::Processor;
use super::sabotage::{self, Bug};
use crate::clock::Clock;
use crate::servers::{Silent, Stream};

const EVERY: Duration = Duration::from_secs(30);
/// A step younger than this is not looked at.
const AGE_MIN: Duration = Duration::from_secs(10);
/// Single messages asked for in one audit.
const GETS_MAX: usize = 100;

/// See the module.
#[derive(Debug)]
pub(crate) struct Audit {
    next: Instant,
    /// Where the look at single messages goes on: steps are looked at in order of their sequence, [`GETS_MAX`] a time.
    after: u64,
    suspects: Vec<Suspect>,
}

/// A step whose message is gone; judged once the log is folded up to `log_end`.
#[derive(Debug)]
struct Suspect {
    instance: InstanceKey,
    frame: u32,
    step: String,
    generation: u32,
    log_end: u64,
}

impl Audit {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            next: clock.instant() + EVERY,
            after: 0,
            suspects: Vec::new(),
        }
    }

    /// Something happened to the broker: look soon.
    pub(crate) fn hurry(&mut self, clock: &Clock) {
        self.next = clock.instant();
    }
}

/// Judges suspects, and looks for new ones when it is time.
pub(crate) async fn run(p: &mut Processor) -> Result<(), Stop> {
    judge(p).await?;
    let now = p.shared.clock.instant();
    if now < p.audit.next || sabotage::has(Bug::NoAudit) {
        return Ok(());
    }
    p.audit.next = now + EVERY;
    if let Err(e) = look(p).await {
        info!(partition.id = %p.partition, reason = %e, "audit is put off: nats does not answer");
    }
    Ok(())
}

async fn judge(p: &mut Processor) -> Result<(), Stop> {
    let applied = p.position.sequence;
    let (ripe, green) = std::mem::take(&mut p.audit.suspects)
        .into_iter()
        .partition(|s| s.log_end <= applied);
    p.audit.suspects = green;
    let ripe: Vec<Suspect> = ripe;
    for s in ripe {
        let open = p.dispatcher.outbox.step(&s.instance, s.frame);
        if !open.is_some_and(|o| o.step == s.step && o.generation == s.generation) {
            continue;
        }
        warn!(instance.id = %s.instance, step = s.step, partition.id = %p.partition, error.code = "MR-STEP-LOST",
            "the work queue lost a step; it is dispatched again");
        p.shared.metrics.steps_lost.inc();
        let body = RecordBody::Lost {
            frame: s.frame,
            step: s.step,
            generation: s.generation,
        };
        let field = super::outbox::send_field(&s.instance, &format!("lost{}.{}", s.frame, s.generation));
        p.dispatcher.send(field, &s.instance, &body, false).await;
    }
    Ok(())
}

async fn look(p: &mut Processor) -> Result<(), Silent> {
    let clock = &p.shared.clock;
    let old: Vec<_> = p
        .dispatcher
        .outbox
        .steps()
        .filter(|(_, open)| clock.since(open.since) >= AGE_MIN)
        .filter_map(|(key, open)| Some((key.clone(), open.step.clone(), open.generation, open.sequence?)))
        .collect();
    if old.is_empty() {
        return Ok(());
    }
    let old = in_turn(old, p.audit.after, |(_, _, _, sequence)| *sequence);
    let Some(state) = p.steps.extent().await? else {
        warn!(error.code = "MR-STEPS-GONE", "the stream of steps is gone");
        return Ok(());
    };
    let mut gone = Vec::new();
    let mut gets = 0;
    for ((instance, frame), step, generation, sequence) in old {
        let is_gone = if sequence < state.first || sequence > state.last || state.messages == 0 {
            true
        } else if gets < GETS_MAX {
            gets += 1;
            p.audit.after = sequence;
            is_absent(&*p.steps, sequence, &step).await?
        } else {
            false
        };
        if is_gone {
            gone.push((instance, frame, step, generation));
        }
    }
    let log_end = p.log.extent().await?.map_or(u64::MAX, |log| log.last);
    let suspects = gone
        .into_iter()
        .map(|(instance, frame, step, generation)| Suspect {
            instance,
            frame,
            step,
            generation,
            log_end,
        });
    p.audit.suspects.extend(suspects);
    Ok(())
}

/// In order of their numbers, those above `after` first: so that all get their turn, however many there are.
fn in_turn<T>(mut items: Vec<T>, after: u64, number: impl Fn(&T) -> u64) -> Vec<T> {
    items.sort_unstable_by_key(|item| {
        let number = number(item);
        (number <= after, number)
    });
    items
}

/// True when the message is not there, or is another step's (a re-created stream).
async fn is_absent(stream: &dyn Stream, sequence: u64, step: &str) -> Result<bool, Silent> {
    let stored = stream.get(sequence).await?;
    let step_at = |payload: &[u8]| millrace_common::wire::decode_step(payload).is_ok_and(|s| s.id == step);
    Ok(!stored.is_some_and(|message| step_at(&message.payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_get_their_turn_however_many_there_are() {
        let open: Vec<u64> = (1..=500).collect();
        let (mut after, mut seen) = (0, std::collections::BTreeSet::new());
        for _ in 0..5 {
            for number in in_turn(open.clone(), after, |n| *n).into_iter().take(GETS_MAX) {
                after = number;
                seen.insert(number);
            }
        }
        assert_eq!(seen.len(), 500);
        assert_eq!(in_turn(open, after, |n| *n)[0], 1, "from the beginning again");
    }
}
