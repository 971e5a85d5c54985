//! Whether and when a caught error is tried again.

use millrace_common::{Problem, limits};
use millrace_dsl::Value;
use millrace_dsl::duration::Duration;
use millrace_dsl::model::{Backoff, DurationValue, Retry};

use crate::frame::{Failed, FrameId};

use super::{Activation, Run};

/// First delay of an exponential backoff that states none.
const EXPONENTIAL_BASE_MS: i64 = 1000;

/// What becomes of a caught error.
pub(crate) enum Verdict {
    Retry {
        delay_ms: i64,
    },
    /// Handle the error, or pass it on.
    GiveUp(Failed),
}

impl Activation<'_> {
    /// Decides by the policy of a `try`.
    pub(crate) fn verdict(&self, id: FrameId, error: &Value, failed: &Failed) -> Result<Verdict, Problem> {
        let give_up = || Ok(Verdict::GiveUp(failed.clone()));
        let Some(policy) = self.try_node(id).and_then(|n| n.retry.as_ref()) else {
            return give_up();
        };
        if failed.is_final {
            return give_up();
        }
        let Some(state) = self.try_state(id) else {
            return give_up();
        };
        if !self.holds(id, error, policy.when.as_ref(), policy.except_when.as_ref())? {
            return give_up();
        }
        if policy.count.is_some_and(|count| state.retries >= count) {
            return give_up();
        }
        if state.retries >= limits::RETRY_ATTEMPTS_MAX {
            let problem = capped(&failed.problem);
            return Ok(Verdict::GiveUp(Failed {
                problem,
                is_final: failed.is_final,
            }));
        }
        let delay_ms = self.delay(id, policy, state.retries.saturating_add(1))?;
        if let Some(total) = &policy.total {
            let spent = self.now_ms.saturating_sub(state.since_ms);
            if spent.saturating_add(delay_ms) > self.retry_duration(id, total)? {
                return give_up();
            }
        }
        Ok(Verdict::Retry { delay_ms })
    }

    /// Delay before the n-th retry, n from 1.
    fn delay(&self, id: FrameId, policy: &Retry, n: u32) -> Result<i64, Problem> {
        let base = policy
            .delay
            .as_ref()
            .map(|d| self.retry_duration(id, d))
            .transpose()?;
        let delay = backoff(&policy.backoff, base, n);
        let Some((from, to)) = &policy.jitter else {
            return Ok(delay);
        };
        let (from, to) = (self.retry_duration(id, from)?, self.retry_duration(id, to)?);
        let span = u64::try_from(to.saturating_sub(from)).unwrap_or(0);
        let Some(frame) = self.instance.frame(id) else {
            return Ok(delay);
        };
        let extra = frame.path.jitter(&self.instance.key, n, span);
        Ok(delay
            .saturating_add(from)
            .saturating_add(i64::try_from(extra).unwrap_or(i64::MAX)))
    }

    /// A duration of a retry policy: sees the input of the `try`.
    pub(crate) fn retry_duration(&self, id: FrameId, duration: &DurationValue) -> Result<i64, Problem> {
        let Some(frame) = self.instance.frame(id) else {
            return Ok(0);
        };
        let Some(run) = Run::of(frame) else { return Ok(0) };
        self.scope(&run, None, Some(&frame.input), None)
            .duration(duration, frame.input.value())
    }
}

/// Constant `d`, linear `d·n`, exponential `d·factor^(n-1)`; never above the longest duration.
fn backoff(backoff: &Backoff, base: Option<i64>, n: u32) -> i64 {
    let longest = i64::try_from(Duration::MAX.as_millis()).unwrap_or(i64::MAX);
    match backoff {
        Backoff::Constant => base.unwrap_or(0),
        Backoff::Linear => base.unwrap_or(0).saturating_mul(n.into()),
        Backoff::Exponential { factor, max_delay } => {
            let cap = max_delay
                .map_or(longest, |d| i64::try_from(d.as_millis()).unwrap_or(longest))
                .min(longest);
            exponential(base.unwrap_or(EXPONENTIAL_BASE_MS), *factor, n, cap)
        }
    }
    .min(longest)
}

/// Multiplies step by step: `powi` may differ between platforms.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "below the cap, which is below 2^53"
)]
fn exponential(base: i64, factor: f64, n: u32, cap: i64) -> i64 {
    let mut delay = base as f64;
    for _ in 1..n {
        delay *= factor;
        if delay >= cap as f64 || delay < 1.0 {
            break;
        }
    }
    (delay.clamp(0.0, cap as f64)) as i64
}

/// The error with a word about the cap.
fn capped(problem: &Problem) -> Problem {
    let mut problem = problem.clone();
    let text = problem
        .detail
        .take()
        .or_else(|| problem.title.clone())
        .unwrap_or_default();
    let max = limits::RETRY_ATTEMPTS_MAX;
    problem.detail = Some(format!(
        "{text} (gave up after {max} retries: the policy states no limit)"
    ));
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_the_formulas() {
        let exponential = |factor, max: Option<u64>| Backoff::Exponential {
            factor,
            max_delay: max.map(Duration),
        };
        for (kind, base, expected) in [
            (Backoff::Constant, Some(100), [100, 100, 100, 100]),
            (Backoff::Constant, None, [0, 0, 0, 0]),
            (Backoff::Linear, Some(100), [100, 200, 300, 400]),
            (exponential(2.0, None), Some(100), [100, 200, 400, 800]),
            (exponential(2.0, None), None, [1000, 2000, 4000, 8000]),
            (exponential(3.0, Some(500)), Some(100), [100, 300, 500, 500]),
        ] {
            let found: Vec<i64> = (1..=4).map(|n| backoff(&kind, base, n)).collect();
            assert_eq!(found, expected, "{kind:?}");
        }
        assert_eq!(
            backoff(&exponential(2.0, None), None, 10_000),
            10 * 365 * 86_400_000
        );
    }
}
