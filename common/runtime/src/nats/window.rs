//! Messages on their way, in the order of sending. They share one time limit, so only the oldest is ever compared with the
//! clock.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Ack, PublishError};

/// Who waits for a confirmation.
pub(super) enum Waiter {
    /// Nobody any more.
    Closed,
    Tag(u64),
    Future(oneshot::Sender<Result<Ack, PublishError>>),
}

struct Slot {
    sent: Instant,
    waiter: Waiter,
}

/// Messages in flight in the order of sending: slot `i` holds message `first + i`.
#[derive(Default)]
pub(super) struct Window {
    first: u64,
    slots: VecDeque<Slot>,
    pub(super) open: usize,
    /// Nothing is in flight, so nobody looks at the clock.
    pub(super) is_clock_stopped: bool,
}

impl Window {
    pub(super) fn open(&mut self, waiter: Waiter) -> u64 {
        self.slots.push_back(Slot {
            sent: Instant::now(),
            waiter,
        });
        self.open += 1;
        self.first + self.slots.len() as u64 - 1
    }

    pub(super) fn close(&mut self, number: u64) -> Waiter {
        let slot = number
            .checked_sub(self.first)
            .and_then(|i| self.slots.get_mut(usize::try_from(i).ok()?));
        let waiter = slot.map_or(Waiter::Closed, |s| {
            std::mem::replace(&mut s.waiter, Waiter::Closed)
        });
        if !matches!(waiter, Waiter::Closed) {
            self.open -= 1;
        }
        self.shrink();
        waiter
    }

    fn shrink(&mut self) {
        while self
            .slots
            .front()
            .is_some_and(|s| matches!(s.waiter, Waiter::Closed))
        {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    /// Takes everything sent before `sent_before` or numbered below `lost_before`.
    pub(super) fn expire(&mut self, sent_before: Instant, lost_before: u64) -> Vec<Waiter> {
        let mut expired = Vec::new();
        while let Some(slot) = self.slots.front() {
            if slot.sent > sent_before && self.first >= lost_before {
                break;
            }
            let slot = self.slots.pop_front();
            self.first += 1;
            if let Some(Slot {
                waiter: waiter @ (Waiter::Tag(_) | Waiter::Future(_)),
                ..
            }) = slot
            {
                self.open -= 1;
                expired.push(waiter);
            }
        }
        self.shrink();
        expired
    }

    pub(super) fn stop_clock_if_idle(&mut self) -> bool {
        self.is_clock_stopped = self.open == 0;
        self.is_clock_stopped
    }

    pub(super) fn next_number(&self) -> u64 {
        self.first + self.slots.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tags(waiters: Vec<Waiter>) -> Vec<u64> {
        waiters
            .into_iter()
            .map(|w| if let Waiter::Tag(t) = w { t } else { u64::MAX })
            .collect()
    }

    #[test]
    fn late_and_repeated_confirmations_match_nothing() {
        let mut w = Window::default();
        let (a, b) = (w.open(Waiter::Tag(10)), w.open(Waiter::Tag(11)));
        assert!(matches!(w.close(b), Waiter::Tag(11)));
        assert!(matches!(w.close(b), Waiter::Closed));
        assert!(matches!(w.close(99), Waiter::Closed));
        assert!(matches!(w.close(a), Waiter::Tag(10)));
        assert!(w.slots.is_empty() && w.open == 0 && w.first == 2);
        assert!(matches!(w.close(a), Waiter::Closed));
        assert_eq!(w.open(Waiter::Tag(12)), 2);
    }

    #[test]
    fn only_old_or_lost_messages_expire() {
        let mut w = Window::default();
        for tag in 0..4 {
            w.open(Waiter::Tag(tag));
        }
        let long_ago = w.slots[0].sent.checked_sub(Duration::from_secs(1)).unwrap();
        assert!(tags(w.expire(long_ago, 0)).is_empty());
        w.close(1);
        assert_eq!(tags(w.expire(long_ago, 3)), [0, 2]);
        assert_eq!((w.first, w.open), (3, 1));
        assert_eq!(tags(w.expire(Instant::now(), 0)), [3]);
    }
}
