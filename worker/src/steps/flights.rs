//! The table of steps that this worker holds: what to answer to, and what is left to do for each.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::Subject;
use bytes::Bytes;
use millrace_common::hash::StableHash;
use millrace_common::{BEAT_RUNNING_MAX, RunningStep};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::flight::{Flight, Phase};
use super::message::Origin;
use super::slots::{Counts, Slots};
use crate::Context;

/// Names one flight: place in the table and a number that makes a reused place another flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    fn new(place: usize, number: u32) -> Self {
        Self(place as u64 | u64::from(number) << 32)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half holds the place")]
    fn place(self) -> usize {
        self.0 as u32 as usize
    }

    fn number(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }
}

/// What became of a message that carries a step.
pub(crate) enum Opened {
    /// It is new here: run it.
    New(Key),
    /// The same step is at it already; its answers now go to this message too.
    Held,
}

/// What [`Flights::turn`] wants done.
#[derive(Default)]
pub(crate) struct Turn {
    /// Send a progress answer to these.
    pub(crate) progress: Vec<Subject>,
    /// Write the record "who runs it" for these.
    pub(crate) announce: Vec<Context>,
    /// Whether any flight is left.
    pub(crate) is_idle: bool,
}

/// A report to send again.
pub(crate) struct Report {
    pub(crate) subject: String,
    pub(crate) payload: Bytes,
}

/// See the module.
pub(crate) struct Flights {
    table: Mutex<Table>,
    /// A slot that somebody waits for became free.
    pub(crate) freed: Notify,
    /// A flight was opened while the wheel slept.
    pub(crate) opened: Notify,
    /// No step runs any more, or nothing is held any more.
    pub(crate) settled: Notify,
}

struct Table {
    places: Vec<Place>,
    free: Vec<usize>,
    by_step: HashMap<u64, Key>,
    slots: Slots,
    is_wheel_asleep: bool,
}

#[derive(Default)]
struct Place {
    number: u32,
    flight: Option<Flight>,
}

impl Flights {
    pub(crate) fn new(slots: usize, queues: usize) -> Self {
        let table = Table {
            places: Vec::new(),
            free: Vec::new(),
            by_step: HashMap::new(),
            slots: Slots::new(slots, queues),
            is_wheel_asleep: false,
        };
        Self {
            table: Mutex::new(table),
            freed: Notify::new(),
            opened: Notify::new(),
            settled: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves slots for a pull of this queue; 0 when it has enough outstanding or there are none.
    pub(crate) fn reserve(&self, queue: usize) -> usize {
        self.lock().slots.reserve(queue)
    }

    /// Gives back what a pull reserved and did not bring.
    pub(crate) fn give_up(&self, queue: usize, number: usize) {
        let mut table = self.lock();
        table.slots.give_up(queue, number);
        self.tell(table);
    }

    /// A message came that needs no run: its reservation ends.
    pub(crate) fn arrived(&self, queue: usize) {
        let mut table = self.lock();
        table.slots.arrived(queue, 1);
        self.tell(table);
    }

    /// Wakes who waits for what was just freed.
    fn tell(&self, mut table: MutexGuard<'_, Table>) {
        let is_wanted = table.slots.take_wanted();
        let is_settled = table.slots.counts().used == 0;
        drop(table);
        if is_wanted {
            self.freed.notify_waiters();
        }
        if is_settled {
            self.settled.notify_waiters();
        }
    }

    /// Turns a reservation into a running step.
    pub(crate) fn open(&self, queue: usize, context: Context, reply: Subject, origin: Origin) -> Opened {
        let mut table = self.lock();
        table.slots.arrived(queue, 1);
        let hash = step_hash(&context.step().id);
        if let Some(held) = table.find(&context.step().id) {
            held.answer_also(reply, origin);
            return Opened::Held;
        }
        table.slots.occupy(queue);
        let key = table.insert(Flight::new(context, queue, reply, origin));
        table.by_step.insert(hash, key);
        let wake = std::mem::replace(&mut table.is_wheel_asleep, false);
        drop(table);
        if wake {
            self.opened.notify_one();
        }
        Opened::New(key)
    }

    /// The task that runs the step, to be ended when draining takes too long.
    pub(crate) fn runs_in(&self, key: Key, task: AbortHandle) {
        if let Some(flight) = self.lock().get(key) {
            flight.task = Some(task);
        }
    }

    /// The function ended; its result is about to be reported. False when the flight was given up meanwhile.
    pub(crate) fn report(&self, key: Key, report: Bytes) -> bool {
        let mut table = self.lock();
        let bytes = report.len();
        let Some(flight) = table.get(key) else {
            return false;
        };
        flight.task = None;
        let queue = flight.queue;
        let old = std::mem::replace(&mut flight.phase, Phase::Reporting { report, attempts: 0 });
        table.slots.report_begins(bytes);
        match old {
            Phase::Reporting { report, .. } => table.slots.report_ends(report.len()),
            Phase::Running => {
                table.slots.release(queue);
                self.tell(table);
            }
        }
        true
    }

    /// The queue through which a step came.
    pub(crate) fn queue_of(&self, key: Key) -> Option<usize> {
        self.lock().get(key).map(|f| f.queue)
    }

    /// A report that was not confirmed, to be sent again, and how often that happened before.
    pub(crate) fn unconfirmed(&self, key: Key) -> Option<u32> {
        let mut table = self.lock();
        match &mut table.get(key)?.phase {
            Phase::Reporting { attempts, .. } => {
                *attempts += 1;
                Some(*attempts - 1)
            }
            Phase::Running => None,
        }
    }

    /// What to send again.
    pub(crate) fn report_of(&self, key: Key) -> Option<Report> {
        let mut table = self.lock();
        let flight = table.get(key)?;
        match &flight.phase {
            Phase::Reporting { report, .. } => Some(Report {
                subject: flight.context.step().report.clone(),
                payload: report.clone(),
            }),
            Phase::Running => None,
        }
    }

    /// The context of a flight.
    pub(crate) fn context(&self, key: Key) -> Option<Context> {
        self.lock().get(key).map(|f| f.context.clone())
    }

    /// Ends a flight. Gives the subjects to answer to, unless the server may have given the step to somebody
    /// else meanwhile: then an answer would be taken for theirs.
    pub(crate) fn close(&self, key: Key, ack_wait: Duration) -> Vec<Subject> {
        let mut table = self.lock();
        let Some(flight) = table.remove(key) else {
            return Vec::new();
        };
        self.tell(table);
        flight.last_replies(ack_wait)
    }

    /// Ends every running step's task and gives up what is held; reports under way are left. For the end of a
    /// drain. The subjects to hand the steps back to.
    pub(crate) fn abandon_running(&self, ack_wait: Duration) -> Vec<Subject> {
        let running: Vec<Key> = self.lock().keys_where(|f| f.is_running());
        let mut replies = Vec::new();
        for key in running {
            if let Some(task) = self.lock().get(key).and_then(|f| f.task.take()) {
                task.abort();
            }
            replies.extend(self.close(key, ack_wait));
        }
        replies
    }

    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().by_step.is_empty()
    }

    /// Whether no step runs (reports may be under way).
    pub(crate) fn is_quiet(&self) -> bool {
        self.lock().slots.counts().used == 0
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().slots.counts()
    }

    /// Asks a running step to stop. False when it is not here.
    pub(crate) fn cancel(&self, step: &str) -> bool {
        let mut table = self.lock();
        let found = table.find(step).map(|f| f.context.clone());
        drop(table);
        found.is_some_and(|context| {
            context.cancel();
            true
        })
    }

    /// The longest running steps, oldest first.
    pub(crate) fn running(&self) -> Vec<RunningStep> {
        let table = self.lock();
        let mut running: Vec<&Flight> = table.flights().filter(|f| f.is_running()).collect();
        running.sort_by_key(|f| f.begun);
        running.truncate(BEAT_RUNNING_MAX);
        running.into_iter().map(Flight::running_step).collect()
    }

    /// One turn of the wheel: who needs a sign of life.
    pub(crate) fn turn(&self, every: Duration, announce_after: Duration, now_ms: i64) -> Turn {
        let mut table = self.lock();
        let now = Instant::now();
        let mut turn = Turn {
            is_idle: table.by_step.is_empty(),
            ..Turn::default()
        };
        for flight in table.places.iter_mut().filter_map(|p| p.flight.as_mut()) {
            let is_running = flight.is_running();
            let is_late = is_running && flight.context.step().deadline_ms.is_some_and(|d| d <= now_ms);
            if is_late {
                // The result no longer counts: stop, and let the lease run out if the function does not.
                flight.context.cancel();
            } else if now.duration_since(flight.heard) >= every {
                flight.heard = now;
                turn.progress.extend(flight.replies());
            }
            if is_running && !flight.is_announced && now.duration_since(flight.begun) >= announce_after {
                flight.is_announced = true;
                turn.announce.push(flight.context.clone());
            }
        }
        table.is_wheel_asleep = turn.is_idle;
        turn
    }

    /// Marks the record "who runs it" as written; false when it was already, or the flight is gone.
    pub(crate) fn announce(&self, key: Key) -> bool {
        self.lock()
            .get(key)
            .is_some_and(|f| !std::mem::replace(&mut f.is_announced, true))
    }
}

impl Table {
    fn insert(&mut self, flight: Flight) -> Key {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let slot = &mut self.places[place];
        slot.flight = Some(flight);
        Key::new(place, slot.number)
    }

    fn get(&mut self, key: Key) -> Option<&mut Flight> {
        let place = self.places.get_mut(key.place())?;
        if place.number == key.number() {
            place.flight.as_mut()
        } else {
            None
        }
    }

    fn find(&mut self, step: &str) -> Option<&mut Flight> {
        let key = *self.by_step.get(&step_hash(step))?;
        self.get(key).filter(|f| f.context.step().id == step)
    }

    fn remove(&mut self, key: Key) -> Option<Flight> {
        self.get(key)?;
        let place = &mut self.places[key.place()];
        let flight = place.flight.take()?;
        place.number = place.number.wrapping_add(1);
        self.free.push(key.place());
        self.by_step.remove(&step_hash(&flight.context.step().id));
        match &flight.phase {
            Phase::Running => self.slots.release(flight.queue),
            Phase::Reporting { report, .. } => self.slots.report_ends(report.len()),
        }
        Some(flight)
    }

    fn flights(&self) -> impl Iterator<Item = &Flight> {
        self.places.iter().filter_map(|p| p.flight.as_ref())
    }

    fn keys_where(&self, accept: impl Fn(&Flight) -> bool) -> Vec<Key> {
        let key = |(i, p): (usize, &Place)| {
            p.flight
                .as_ref()
                .filter(|f| accept(f))
                .map(|_| Key::new(i, p.number))
        };
        self.places.iter().enumerate().filter_map(key).collect()
    }
}

fn step_hash(step: &str) -> u64 {
    StableHash::new().bytes(step.as_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use millrace_common::RawJson;

    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn context(id: &str) -> Context {
        let mut step = Context::detached("f:1.0.0", RawJson::null()).step().clone();
        step.id = id.into();
        Context::for_step(step)
    }

    fn origin(sequence: u64) -> Origin {
        Origin {
            stored_ms: 0,
            delivered: 1,
            sequence,
        }
    }

    fn open(flights: &Flights, queue: usize, id: &str, sequence: u64) -> Key {
        match flights.open(
            queue,
            context(id),
            format!("r.{sequence}").into(),
            origin(sequence),
        ) {
            Opened::New(key) => key,
            Opened::Held => panic!("{id} is held"),
        }
    }

    #[test]
    fn a_slot_is_held_until_the_function_ends() {
        let flights = Flights::new(4, 1);
        let key = open(&flights, 0, "a.1", 1);
        assert_eq!(
            flights.counts(),
            Counts {
                used: 1,
                reserved: 0,
                reporting: 0
            }
        );
        assert!(flights.report(key, Bytes::from_static(b"r")));
        assert_eq!(
            flights.counts(),
            Counts {
                used: 0,
                reserved: 0,
                reporting: 1
            }
        );
        assert_eq!(flights.close(key, WAIT), ["r.1".into()]);
        assert!(flights.is_empty());
        assert!(!flights.report(key, Bytes::new()));
    }

    #[test]
    fn a_step_that_comes_again_is_answered_on_both_messages() {
        let flights = Flights::new(4, 1);
        let key = open(&flights, 0, "a.1", 1);
        assert!(matches!(
            flights.open(0, context("a.1"), "again".into(), origin(1)),
            Opened::Held
        ));
        assert!(matches!(
            flights.open(0, context("a.1"), "other".into(), origin(9)),
            Opened::Held
        ));
        assert_eq!(flights.counts().used, 1);
        assert_eq!(flights.close(key, WAIT), ["again".into(), "other".into()]);
        assert!(flights.is_empty());
        assert_eq!(flights.close(key, WAIT), Vec::<Subject>::new());
        open(&flights, 0, "a.1", 10);
    }

    #[test]
    fn nothing_is_answered_after_the_lease() {
        let flights = Flights::new(1, 1);
        let key = open(&flights, 0, "a.1", 1);
        assert!(flights.close(key, Duration::ZERO).is_empty());
    }

    #[test]
    fn the_wheel_sees_who_needs_a_sign_of_life() {
        let flights = Flights::new(4, 1);
        assert!(flights.turn(WAIT, WAIT, 0).is_idle);
        let key = open(&flights, 0, "a.1", 1);
        let turn = flights.turn(Duration::ZERO, Duration::ZERO, 0);
        assert_eq!(
            (turn.progress.len(), turn.announce.len(), turn.is_idle),
            (1, 1, false)
        );
        assert!(flights.turn(WAIT, Duration::ZERO, 0).announce.is_empty());
        assert!(!flights.announce(key));
        flights.report(key, Bytes::new());
        let turn = flights.turn(Duration::ZERO, Duration::ZERO, 0);
        assert_eq!((turn.progress.len(), turn.announce.len()), (1, 0));
    }

    #[test]
    fn a_step_past_its_deadline_is_asked_to_stop_and_loses_its_lease() {
        let flights = Flights::new(4, 1);
        let mut step = context("a.1").step().clone();
        step.deadline_ms = Some(1000);
        let late = Context::for_step(step);
        flights.open(0, late.clone(), "r".into(), origin(1));
        assert_eq!(flights.turn(Duration::ZERO, WAIT, 999).progress.len(), 1);
        assert!(!late.is_cancelled());
        assert!(flights.turn(Duration::ZERO, WAIT, 1000).progress.is_empty());
        assert!(late.is_cancelled());
    }
}
