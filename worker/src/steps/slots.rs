//! How many steps may be pulled, and for which queue.
//!
//! A step holds a slot from the pull that may bring it until its function ends; the report of its result needs none. So
//! a pull asks for free slots only, and nothing waits in this process to be started. Unreported results have a bound of
//! their own: at [`REPORTS_MAX`] nothing new is pulled.

/// Results not yet confirmed by the log; at the bound the worker pulls no more. Reached when the log is full or NATS
/// is away, so the bound is what a worker may hold in memory then, with [`REPORT_BYTES_MAX`].
pub(crate) const REPORTS_MAX: usize = 2048;
/// Bytes of such results; at the bound the worker pulls no more.
pub(crate) const REPORT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Slots that run a step.
    pub(crate) used: usize,
    /// Slots that a pull may fill.
    pub(crate) reserved: usize,
    /// Results on their way to the log.
    pub(crate) reporting: usize,
}

/// Slots held through one queue.
#[derive(Clone, Copy, Debug, Default)]
struct QueueUse {
    used: usize,
    reserved: usize,
    /// How many slots one pull may ask for: doubled when as many steps came, halved when a pull expires. A single queue
    /// may always ask for everything.
    share: usize,
    /// Steps that came since the share changed.
    arrivals: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: usize,
    queues: Vec<QueueUse>,
    counts: Counts,
    report_bytes: usize,
    /// A queue has nothing outstanding and got no slot: whoever frees one must wake it.
    is_wanted: bool,
}

impl Slots {
    pub(crate) fn new(limit: usize, queues: usize) -> Self {
        let share = if queues == 1 {
            limit
        } else {
            (limit / (queues * 2)).max(1)
        };
        let queues = vec![
            QueueUse {
                share,
                ..QueueUse::default()
            };
            queues
        ];
        Self {
            limit,
            queues,
            counts: Counts::default(),
            report_bytes: 0,
            is_wanted: false,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Reserves slots for a pull of this queue; 0 when it has enough outstanding or there are none.
    pub(crate) fn reserve(&mut self, queue: usize) -> usize {
        self.queues[queue].grow(self.limit);
        let own = self.queues[queue];
        let low_water = own.share.min(self.limit) / 2;
        if own.reserved > low_water {
            return 0;
        }
        let number = self.available(queue).min(own.share);
        // A pull costs the server about as much as a step: while one is outstanding, wait for some slots.
        let is_worth_it = if own.reserved == 0 {
            number > 0
        } else {
            number >= (self.limit / 8).max(1)
        };
        if !is_worth_it {
            self.is_wanted |= own.reserved == 0;
            return 0;
        }
        self.queues[queue].reserved += number;
        self.counts.reserved += number;
        number
    }

    fn available(&self, queue: usize) -> usize {
        if self.report_bytes >= REPORT_BYTES_MAX {
            return 0;
        }
        let held = self.counts.used + self.counts.reserved;
        let free = self
            .limit
            .saturating_sub(held)
            .saturating_sub(self.kept_for_others(queue));
        free.min(REPORTS_MAX.saturating_sub(self.counts.reporting + held))
    }

    /// Slots below each other queue's floor: a busy queue leaves them free, so that no queue starves.
    fn kept_for_others(&self, queue: usize) -> usize {
        let floor = (self.limit / (self.queues.len() * 4)).max(1);
        let missing = |q: &QueueUse| floor.saturating_sub(q.used + q.reserved);
        self.queues
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != queue)
            .map(|(_, q)| missing(q))
            .sum()
    }

    /// A pull ended without bringing these.
    pub(crate) fn give_up(&mut self, queue: usize, number: usize) {
        self.take_back(queue, number);
        if self.queues.len() > 1 && number > 0 {
            let q = &mut self.queues[queue];
            q.share = (q.share / 2).max(1);
            q.arrivals = 0;
        }
    }

    /// These came: their reservation ends.
    pub(crate) fn arrived(&mut self, queue: usize, number: usize) {
        self.queues[queue].arrivals += number;
        self.take_back(queue, number);
    }

    fn take_back(&mut self, queue: usize, number: usize) {
        let q = &mut self.queues[queue];
        let number = number.min(q.reserved);
        q.reserved -= number;
        self.counts.reserved -= number;
    }

    /// A step begins to run.
    pub(crate) fn occupy(&mut self, queue: usize) {
        self.counts.used += 1;
        self.queues[queue].used += 1;
    }

    /// A step ended.
    pub(crate) fn release(&mut self, queue: usize) {
        self.counts.used -= 1;
        self.queues[queue].used -= 1;
    }

    /// A result is on its way.
    pub(crate) fn report_begins(&mut self, bytes: usize) {
        self.counts.reporting += 1;
        self.report_bytes += bytes;
    }

    /// A result was confirmed, or replaced.
    pub(crate) fn report_ends(&mut self, bytes: usize) {
        self.counts.reporting -= 1;
        self.report_bytes -= bytes;
    }

    /// Whether somebody waits for what was just freed; true once.
    pub(crate) fn take_wanted(&mut self) -> bool {
        std::mem::take(&mut self.is_wanted)
    }
}

impl QueueUse {
    fn grow(&mut self, limit: usize) {
        if self.arrivals >= self.share {
            self.share = (self.share * 2).min(limit);
            self.arrivals = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that was asked for comes and runs.
    fn fill(slots: &mut Slots, queue: usize, number: usize) {
        for _ in 0..number {
            slots.arrived(queue, 1);
            slots.occupy(queue);
        }
    }

    #[test]
    fn a_pull_never_asks_for_more_than_free_slots() {
        let mut slots = Slots::new(4, 1);
        assert_eq!(slots.reserve(0), 4);
        assert_eq!(slots.reserve(0), 0);
        assert!(!slots.take_wanted());
        fill(&mut slots, 0, 4);
        assert_eq!(slots.reserve(0), 0);
        assert!(slots.take_wanted());
        slots.release(0);
        assert_eq!(slots.reserve(0), 1);
        assert_eq!(
            slots.counts(),
            Counts {
                used: 3,
                reserved: 1,
                reporting: 0
            }
        );
    }

    #[test]
    fn an_outstanding_pull_is_topped_up_in_useful_numbers() {
        let mut slots = Slots::new(64, 1);
        assert_eq!(slots.reserve(0), 64);
        fill(&mut slots, 0, 40);
        slots.release(0);
        assert_eq!(slots.reserve(0), 0);
        for _ in 0..9 {
            slots.release(0);
        }
        assert_eq!(slots.reserve(0), 10);
    }

    #[test]
    fn a_busy_queue_leaves_room_for_an_idle_one() {
        let mut slots = Slots::new(8, 2);
        let mut got = 0;
        for _ in 0..10 {
            let number = slots.reserve(0);
            fill(&mut slots, 0, number);
            got += number;
        }
        assert_eq!(got, 7);
        assert_eq!(slots.reserve(1), 1);
    }

    #[test]
    fn idle_queues_reserve_little_and_busy_ones_much() {
        let mut slots = Slots::new(64, 2);
        for _ in 0..10 {
            let number = slots.reserve(1);
            slots.give_up(1, number);
        }
        assert_eq!(slots.reserve(1), 1);
        let mut last = 0;
        for _ in 0..10 {
            last = slots.reserve(0);
            slots.arrived(0, last);
        }
        assert_eq!(last, 63 - 7);
    }

    #[test]
    fn unconfirmed_results_stop_the_pull() {
        let mut slots = Slots::new(4, 1);
        for _ in 0..REPORTS_MAX {
            slots.report_begins(1);
        }
        assert_eq!(slots.reserve(0), 0);
        assert!(slots.take_wanted());
        slots.report_ends(1);
        assert_eq!(slots.reserve(0), 1);
        let mut slots = Slots::new(4, 1);
        slots.report_begins(REPORT_BYTES_MAX);
        assert_eq!(slots.reserve(0), 0);
    }
}
