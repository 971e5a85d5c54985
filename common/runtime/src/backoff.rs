//! Delays between attempts to reach a server: doubled up to a cap, with jitter so that a fleet does not return in
//! step, and the same for the same seed so that tests can state them.

use std::time::Duration;

use millrace_common::hash::StableHash;

/// The delays. [`Backoff::next_delay`] advances, [`Backoff::reset`] starts over after a success.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    seed: u64,
    attempt: u32,
}

impl Backoff {
    /// Delays from `first`, doubled each time, never above `cap`.
    pub fn new(first: Duration, cap: Duration, seed: u64) -> Self {
        Self {
            first,
            cap,
            seed,
            attempt: 0,
        }
    }

    /// 50 ms to 4 s, differently jittered in every process: for connections.
    pub fn for_servers() -> Self {
        Self::for_servers_seeded(crate::random::number())
    }

    /// The same with jitter that the caller draws.
    pub fn for_servers_seeded(seed: u64) -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(4), seed)
    }

    /// Attempts since the start or the last [`Self::reset`].
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// The next delay: between half of and the full doubled value.
    pub fn next_delay(&mut self) -> Duration {
        let delay = Self::at(self.first, self.cap, self.seed, self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        delay
    }

    /// The delay after `attempt` earlier ones: what [`Self::next_delay`] gives, for callers who count themselves.
    pub fn at(first: Duration, cap: Duration, seed: u64, attempt: u32) -> Duration {
        let full = first.saturating_mul(1 << attempt.min(20)).min(cap);
        let draw = StableHash::new().number(seed).number(u64::from(attempt)).finish();
        let half = full / 2;
        half + half.mul_f64((draw % 1024) as f64 / 1024.0)
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Sleeps for the next delay.
    pub async fn sleep(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_repeat_for_a_seed() {
        let mut a = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 7);
        let mut b = a.clone();
        let delays: Vec<_> = (0..8).map(|_| a.next_delay()).collect();
        assert_eq!(delays, (0..8).map(|_| b.next_delay()).collect::<Vec<_>>());
        assert!(delays[0] >= Duration::from_millis(50) && delays[0] < Duration::from_millis(100));
        assert!(delays[7] >= Duration::from_millis(500) && delays[7] <= Duration::from_secs(1));
        a.reset();
        assert_eq!(a.next_delay(), delays[0]);
    }

    #[test]
    fn endless_attempts_do_not_overflow() {
        let mut b = Backoff::new(Duration::from_secs(3600), Duration::from_secs(7200), 1);
        for _ in 0..1000 {
            assert!(b.next_delay() <= Duration::from_secs(7200));
        }
    }
}
