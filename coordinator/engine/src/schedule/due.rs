//! Which due times have passed, which of them are started, and which comes next.

use millrace_common::{CatchUp, limits};
use millrace_dsl::calendar::Calendar;

use super::{Options, When};

/// What a moment means for `every` and `cron`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Due times to start, oldest first.
    pub(super) start: Vec<i64>,
    /// Due times that are given up.
    pub(super) missed: u64,
    /// The first due time after the moment.
    pub(super) next: Option<i64>,
}

impl When {
    /// The first due time after a moment, for a trigger that begins then.
    pub(super) fn first(&self, now_ms: i64) -> Option<i64> {
        match self {
            Self::Every { period_ms } => now_ms.checked_add(*period_ms),
            Self::After { delay_ms } => now_ms.checked_add(*delay_ms),
            Self::Cron { .. } => self.calendar()?.after(now_ms),
        }
    }

    /// The first due time after a moment, in the rhythm that `next_ms` belongs to.
    pub(super) fn following(&self, next_ms: Option<i64>, now_ms: i64) -> Option<i64> {
        match (self, next_ms) {
            (Self::Every { .. } | Self::After { .. }, Some(next)) if next > now_ms => Some(next),
            (Self::Every { period_ms }, Some(next)) => {
                let periods = (now_ms - next) / period_ms + 1;
                next.checked_add(periods.checked_mul(*period_ms)?)
            }
            (Self::Every { .. } | Self::After { .. } | Self::Cron { .. }, _) => self.first(now_ms),
        }
    }

    /// Due times from `from_ms` up to, not including, `to_ms`, at most `max` of them. `next_ms` gives the rhythm of
    /// `every`; `after` has no due times of its own.
    pub(super) fn between(&self, next_ms: Option<i64>, from_ms: i64, to_ms: i64, max: usize) -> Vec<i64> {
        let first = match (self, next_ms) {
            (Self::Every { period_ms }, Some(next)) => {
                let behind = (from_ms - next).rem_euclid(*period_ms);
                from_ms.checked_add((period_ms - behind) % period_ms)
            }
            (Self::Cron { .. }, _) => self.calendar().and_then(|c| c.after(from_ms.saturating_sub(1))),
            (Self::Every { .. } | Self::After { .. }, _) => None,
        };
        let calendar = self.calendar();
        let step = |due: &i64| match self {
            Self::Every { period_ms } => due.checked_add(*period_ms),
            Self::Cron { .. } => calendar.as_ref()?.after(*due),
            Self::After { .. } => None,
        };
        std::iter::successors(first, step)
            .take_while(|due| *due < to_ms)
            .take(max)
            .collect()
    }

    fn calendar(&self) -> Option<Calendar> {
        match self {
            // Both were checked at deploy; a build that no longer knows the zone is due no more, and shows no next time.
            Self::Cron { cron, timezone } => Calendar::parse(cron, timezone).ok(),
            Self::Every { .. } | Self::After { .. } => None,
        }
    }
}

/// What is to be done when `next_ms` has passed at `now_ms`.
pub(super) fn passed(when: &When, next_ms: i64, now_ms: i64, options: &Options) -> Passed {
    let keep = match options.catch_up {
        CatchUp::None | CatchUp::One => 1,
        CatchUp::All => usize::try_from(options.catch_up_max.max(1)).unwrap_or(usize::MAX),
    };
    let (mut start, total, next) = match when {
        When::Every { period_ms } => every(*period_ms, next_ms, now_ms, keep),
        When::Cron { .. } => match when.calendar() {
            Some(calendar) => cron(&calendar, next_ms, now_ms, keep),
            None => (vec![next_ms], 1, None),
        },
        When::After { .. } => {
            return Passed {
                start: vec![next_ms],
                missed: 0,
                next: None,
            };
        }
    };
    let late = |due: &i64| now_ms.saturating_sub(*due) > limits::SCHEDULE_LATE_MS_MAX;
    if options.catch_up == CatchUp::None && start.last().is_some_and(late) {
        start.clear();
    }
    let missed = total.saturating_sub(start.len() as u64);
    Passed { start, missed, next }
}

/// The newest due times that passed, how many passed in all, and the next one.
type Found = (Vec<i64>, u64, Option<i64>);

fn every(period_ms: i64, next_ms: i64, now_ms: i64, keep: usize) -> Found {
    let more = (now_ms.saturating_sub(next_ms)).max(0) / period_ms;
    let newest = next_ms.saturating_add(more.saturating_mul(period_ms));
    let kept = i64::try_from(keep)
        .unwrap_or(i64::MAX)
        .min(more.saturating_add(1));
    let start = (0..kept).rev().map(|n| newest - n * period_ms).collect();
    (
        start,
        more.unsigned_abs().saturating_add(1),
        newest.checked_add(period_ms),
    )
}

fn cron(calendar: &Calendar, next_ms: i64, now_ms: i64, keep: usize) -> Found {
    let mut passed = std::collections::VecDeque::from([next_ms]);
    let mut total = 1_usize;
    let mut next = calendar.after(next_ms);
    while let Some(due) = next.filter(|due| *due <= now_ms) {
        if passed.len() == keep {
            passed.pop_front();
        }
        passed.push_back(due);
        total += 1;
        next = calendar.after(due);
        if total >= limits::SCHEDULE_MISSED_COUNTED_MAX {
            return (
                newest(calendar, now_ms, keep),
                total as u64,
                calendar.after(now_ms),
            );
        }
    }
    (passed.into(), total as u64, next)
}

/// After an outage so long that due times are not counted one by one: found from its end.
fn newest(calendar: &Calendar, now_ms: i64, keep: usize) -> Vec<i64> {
    let back = |due: &i64| calendar.last(due.saturating_sub(1));
    let mut found: Vec<i64> = std::iter::successors(calendar.last(now_ms), back)
        .take(keep)
        .collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn options(catch_up: CatchUp, catch_up_max: u32) -> Options {
        Options {
            catch_up,
            catch_up_max,
            ..Options::default()
        }
    }

    fn minutely() -> When {
        When::Cron {
            cron: "* * * * *".into(),
            timezone: "UTC".into(),
        }
    }

    #[test]
    fn what_is_seen_in_time_starts_once_whatever_the_policy() {
        for when in [When::Every { period_ms: MINUTE }, minutely()] {
            for catch_up in CatchUp::ALL_OF_THEM {
                let found = passed(&when, MINUTE, MINUTE + 5_000, &options(catch_up, 100));
                assert_eq!(
                    (found.start, found.missed, found.next),
                    (vec![MINUTE], 0, Some(2 * MINUTE)),
                    "{when:?}"
                );
            }
        }
    }

    #[test]
    fn an_outage_by_policy() {
        // Due at 1, 2, … 10 minutes; seen at 10 minutes and 5 seconds.
        let now = 10 * MINUTE + 5_000;
        for when in [When::Every { period_ms: MINUTE }, minutely()] {
            for (catch_up, max, start, missed) in [
                (CatchUp::None, 100, vec![10], 9),
                (CatchUp::One, 100, vec![10], 9),
                (CatchUp::All, 100, (1..=10).collect(), 0),
                (CatchUp::All, 3, vec![8, 9, 10], 7),
            ] {
                let found = passed(&when, MINUTE, now, &options(catch_up, max));
                let start: Vec<i64> = start.into_iter().map(|n: i64| n * MINUTE).collect();
                assert_eq!(
                    (found.start, found.missed),
                    (start, missed),
                    "{when:?} {catch_up:?}"
                );
                assert_eq!(found.next, Some(11 * MINUTE));
            }
        }
    }

    #[test]
    fn nothing_starts_late_unless_asked_for() {
        let hourly = When::Every {
            period_ms: 60 * MINUTE,
        };
        let now = 60 * MINUTE + limits::SCHEDULE_LATE_MS_MAX;
        let seen = |now, catch_up| passed(&hourly, 60 * MINUTE, now, &options(catch_up, 100));
        assert_eq!(seen(now, CatchUp::None).start, [60 * MINUTE]);
        let late = seen(now + 1, CatchUp::None);
        assert_eq!(
            (late.start.len(), late.missed, late.next),
            (0, 1, Some(120 * MINUTE))
        );
        assert_eq!(seen(now + 1, CatchUp::One).start, [60 * MINUTE]);
    }

    #[test]
    fn a_very_long_outage_is_bounded() {
        let secondly = When::Cron {
            cron: "* * * * * *".into(),
            timezone: "UTC".into(),
        };
        let now = 100_000_000;
        let found = passed(&secondly, 1_000, now, &options(CatchUp::All, 3));
        assert_eq!(found.start, [now - 2_000, now - 1_000, now]);
        assert_eq!(found.next, Some(now + 1_000));
        assert_eq!(found.missed + 3, limits::SCHEDULE_MISSED_COUNTED_MAX as u64);
    }

    #[test]
    fn after_a_pause_the_rhythm_is_the_old_one() {
        let every = When::Every { period_ms: MINUTE };
        assert_eq!(every.following(Some(30_000), 20_000), Some(30_000));
        assert_eq!(every.following(Some(30_000), 30_000), Some(90_000));
        assert_eq!(
            every.following(Some(30_000), 10 * MINUTE),
            Some(10 * MINUTE + 30_000)
        );
        assert_eq!(
            minutely().following(Some(MINUTE), 10 * MINUTE + 1),
            Some(11 * MINUTE)
        );
        let after = When::After { delay_ms: 5_000 };
        assert_eq!(after.following(Some(30_000), 10_000), Some(30_000));
        assert_eq!(after.following(Some(30_000), MINUTE), Some(MINUTE + 5_000));
    }

    #[test]
    fn due_times_between_two_moments() {
        let every = When::Every { period_ms: MINUTE };
        let next = Some(100 * MINUTE + 30_000);
        assert_eq!(every.between(next, 0, 3 * MINUTE, 10), [30_000, 90_000, 150_000]);
        assert_eq!(every.between(next, 30_000, 90_000, 10), [30_000]);
        assert_eq!(every.between(next, 0, 100 * MINUTE, 4).len(), 4);
        assert_eq!(
            minutely().between(None, MINUTE, 3 * MINUTE, 10),
            [MINUTE, 2 * MINUTE]
        );
        assert!(
            When::After { delay_ms: 1 }
                .between(next, 0, MINUTE, 10)
                .is_empty()
        );
    }
}
