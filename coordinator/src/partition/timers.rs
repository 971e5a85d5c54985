//! The one timer mechanism: durable in a sorted set, due ones appended to the log, where the fold decides.
//!
//! Memory holds only what is due before a horizon; the rest stays in Redis until the horizon moves. A timer that was
//! fired stays known until the fold has removed it, so that a lost append is repeated.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How far ahead timers are held in memory.
pub(crate) const HORIZON: Duration = Duration::from_secs(60);
/// After this time without a fold the record of a fired timer is appended again.
const REPEAT: Duration = Duration::from_secs(10);

/// How long the smallest difference of two clocks is remembered.
const SKEW_WINDOW: Duration = Duration::from_secs(5);

/// By how much the own wall clock is ahead of the log's: the smallest difference seen of late between when a record was
/// stored and when it was read. Timers are due by the log's clock, whoever owns the partition (H23).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skew {
    since: Instant,
    now: Option<i64>,
    before: Option<i64>,
}

impl Skew {
    pub(crate) const fn new(since: Instant) -> Self {
        Self {
            since,
            now: None,
            before: None,
        }
    }

    /// A record was read.
    pub(crate) fn observe(&mut self, own_ms: i64, log_ms: i64, at: Instant) {
        if at.saturating_duration_since(self.since) >= SKEW_WINDOW {
            (self.before, self.now, self.since) = (self.now, None, at);
        }
        let ahead = own_ms.saturating_sub(log_ms);
        self.now = Some(self.now.map_or(ahead, |least| least.min(ahead)));
    }

    /// Milliseconds that the own clock is ahead; 0 before anything was read.
    pub(crate) fn ahead_ms(&self) -> i64 {
        [self.now, self.before].into_iter().flatten().min().unwrap_or(0)
    }
}

/// See the module. Members are `names::timer_member` texts.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(i64, String)>,
    known: HashMap<String, i64>,
    fired: HashMap<String, Instant>,
    horizon_ms: i64,
}

impl Timers {
    /// Timers due at or before this time are (or must be) in memory.
    pub(crate) const fn horizon_ms(&self) -> i64 {
        self.horizon_ms
    }

    /// Moves the horizon; the caller has inserted everything that Redis holds up to it.
    pub(crate) const fn set_horizon(&mut self, horizon_ms: i64) {
        self.horizon_ms = horizon_ms;
    }

    /// Number of timers in memory.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Arms a timer; beyond the horizon it is left to Redis.
    pub(crate) fn start(&mut self, member: String, due_ms: i64) {
        if due_ms > self.horizon_ms || self.fired.contains_key(&member) {
            return;
        }
        if let Some(old) = self.known.insert(member.clone(), due_ms) {
            self.due.remove(&(old, member.clone()));
        }
        self.due.insert((due_ms, member));
    }

    /// The log found a timer early: it is due again.
    pub(crate) fn again(&mut self, member: &str) {
        if let (Some(_), Some(due_ms)) = (self.fired.remove(member), self.known.get(member)) {
            self.due.insert((*due_ms, member.to_owned()));
        }
    }

    /// Forgets a timer, fired or not.
    pub(crate) fn cancel(&mut self, member: &str) {
        if let Some((member, due)) = self.known.remove_entry(member) {
            self.due.remove(&(due, member));
        }
        self.fired.remove(member);
    }

    /// When to look again.
    pub(crate) fn next_due_ms(&self) -> Option<i64> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes up to `max` timers that are due, never early, and those whose record was not folded in time; with the times
    /// at which they were due.
    pub(crate) fn fire(&mut self, now_ms: i64, now: Instant, max: usize) -> Vec<(String, i64)> {
        let mut members = Vec::new();
        while members.len() < max && self.due.first().is_some_and(|(due, _)| *due <= now_ms) {
            let Some((due, member)) = self.due.pop_first() else {
                break;
            };
            self.fired.insert(member.clone(), now);
            members.push((member, due));
        }
        for (member, at) in &mut self.fired {
            if members.len() < max && now.duration_since(*at) >= REPEAT {
                *at = now;
                members.push((member.clone(), self.known.get(member).copied().unwrap_or(now_ms)));
            }
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers(list: &[(&str, i64)]) -> Timers {
        let mut t = Timers::default();
        t.set_horizon(1_000);
        for (member, due) in list {
            t.start((*member).into(), *due);
        }
        t
    }

    fn fired(t: &mut Timers, now_ms: i64, now: Instant) -> Vec<String> {
        t.fire(now_ms, now, 10)
            .into_iter()
            .map(|(member, _)| member)
            .collect()
    }

    #[test]
    fn fires_in_order_and_never_early() {
        let mut t = timers(&[("b", 20), ("a", 10), ("c", 30)]);
        assert_eq!(fired(&mut t, 9, Instant::now()), Vec::<String>::new());
        assert_eq!(
            t.fire(20, Instant::now(), 10),
            [("a".to_owned(), 10), ("b".to_owned(), 20)]
        );
        assert_eq!(t.next_due_ms(), Some(30));
    }

    #[test]
    fn a_fired_timer_is_repeated_until_it_is_folded() {
        let mut t = timers(&[("a", 10)]);
        let start = Instant::now();
        assert_eq!(fired(&mut t, 10, start), ["a"]);
        assert!(fired(&mut t, 10, start).is_empty());
        assert_eq!(fired(&mut t, 10, start + REPEAT), ["a"]);
        t.cancel("a");
        assert!(fired(&mut t, 10, start + REPEAT * 2).is_empty());
        assert_eq!(t.len(), 0);
    }

    #[test]
    fn a_clock_that_is_ahead_is_found_out_and_an_early_timer_is_due_again() {
        let start = Instant::now();
        let mut skew = Skew::new(start);
        assert_eq!(skew.ahead_ms(), 0);
        skew.observe(60_500, 500, start);
        skew.observe(60_900, 898, start);
        assert_eq!(skew.ahead_ms(), 60_000, "the quickest record says most");
        skew.observe(6_000, 5_998, start + SKEW_WINDOW);
        skew.observe(12_000, 11_999, start + SKEW_WINDOW * 2);
        assert_eq!(skew.ahead_ms(), 1, "the clock was put right");
        let mut t = timers(&[("a", 10)]);
        assert_eq!(fired(&mut t, 10, start), ["a"]);
        t.again("a");
        assert_eq!(fired(&mut t, 9, start), Vec::<String>::new());
        assert_eq!(fired(&mut t, 10, start), ["a"]);
    }

    #[test]
    fn timers_beyond_the_horizon_are_left_to_redis() {
        let mut t = timers(&[("far", 1_001)]);
        assert_eq!(t.len(), 0);
        t.set_horizon(2_000);
        t.start("far".into(), 1_001);
        assert_eq!(t.len(), 1);
    }
}
