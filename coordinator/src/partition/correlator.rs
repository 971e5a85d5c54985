//! Brings events to the tasks of a partition that listen (ADR 0007).
//!
//! The owner reads the stream of events itself, finds in its index whom an event concerns, folds the event into those
//! instances, and moves its mark in the stream in the same commit. So an event changes each of them exactly once, and
//! there is no message between reading and state that could be lost or repeated. While nothing listens nothing is
//! read.
//!
//! A round is some whole events, or a part of one that concerns more tasks than one commit should hold: then the mark
//! stays before that event until its last task is served, and a repeat after a crash is dropped by the tasks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_common::{CloudEvent, DefinitionRef, InstanceKey, RawJson, Record, RecordBody, limits, names};
use millrace_engine::Interest;
use millrace_engine::listen::EventView;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use super::processor::Processor;
use super::{Stop, fence::Position};
use crate::clock::Clock;
use crate::events::index::{Index, Listener, Place, Stored};
use crate::events::source::{self, Mark, Message, Source};
use crate::servers::Stream;

/// Events looked at in one round.
const ROUND_MAX: usize = 256;
/// Without any listening task the stream is read no longer than this.
const LINGER: Duration = Duration::from_secs(30);
/// Tells sequences of events from those of the log, where a panic is remembered by sequence.
const EVENT_BIT: u64 = 1 << 63;

/// See the module.
#[derive(Debug)]
pub(crate) struct Correlator {
    stream: Arc<dyn Stream>,
    index: Index,
    source: Option<Source>,
    /// Read, not yet looked at.
    queue: VecDeque<Message>,
    /// An event with tasks that are not served yet.
    partial: Option<Partial>,
    /// Events of the next round: fewer while rounds are cut short.
    window: usize,
    /// Since when nothing listens.
    idle: Instant,
    counted: u64,
}

#[derive(Debug)]
struct Partial {
    event: Known,
    rest: VecDeque<Place>,
}

/// An event that was looked at.
#[derive(Clone, Debug)]
struct Known {
    message: Message,
    raw: RawJson,
}

/// What is folded together.
#[derive(Debug, Default)]
struct Round {
    /// All messages looked at, in order.
    messages: Vec<Message>,
    deliveries: Vec<Delivery>,
    /// The round is a part of one event, and more is left of it.
    is_open: bool,
}

/// An event for a task.
#[derive(Debug)]
struct Delivery {
    event: Arc<Known>,
    place: Place,
}

/// A listening task as it is stored in `{mr:p}:listeners`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListenerRow {
    v: u32,
    #[serde(rename = "d")]
    definition: DefinitionRef,
    #[serde(rename = "s")]
    since_nanos: i64,
    #[serde(rename = "f")]
    fence: u64,
    #[serde(rename = "i")]
    interest: Interest,
}

/// What a batch changes of the index, applied after its commit.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) place: Place,
    /// `None`: it listens no more.
    pub(crate) interest: Option<Interest>,
    pub(crate) is_new: bool,
    pub(crate) moment: Moment,
}

/// When a record or event was stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) nanos: i64,
    /// Its sequence, if it is an event.
    pub(crate) event: Option<u64>,
}

impl Correlator {
    pub(crate) fn new(stream: Arc<dyn Stream>, clock: &Clock) -> Self {
        Self {
            stream,
            index: Index::default(),
            source: None,
            queue: VecDeque::new(),
            partial: None,
            window: ROUND_MAX,
            idle: clock.instant(),
            counted: 0,
        }
    }

    /// Listening tasks.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Waits for an event; for ever while the stream is not read.
    pub(crate) async fn next(&mut self) -> Result<Message, source::Error> {
        match &mut self.source {
            Some(source) => source.next().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what was waited for. A lost reader starts again with the next chores.
    pub(crate) fn take(&mut self, read: Result<Message, source::Error>) {
        match read {
            Ok(message) => self.queue.push_back(message),
            Err(e) => {
                debug!(reason = %e, "reader of events is started again");
                self.source = None;
            }
        }
    }

    /// True when there is something to look at; takes what is ready.
    pub(crate) fn gather(&mut self) -> bool {
        let mut bytes: usize = self.queue.iter().map(|m| m.payload.len()).sum();
        while self.queue.len() < self.window && bytes < limits::COMMIT_BYTES_MAX {
            let Some(read) = self.source.as_mut().and_then(Source::ready) else {
                break;
            };
            bytes += read.as_ref().map_or(0, |m| m.payload.len());
            let is_lost = read.is_err();
            self.take(read);
            if is_lost {
                break;
            }
        }
        self.partial.is_some() || !self.queue.is_empty()
    }

    /// The next round.
    fn round(&mut self) -> Round {
        if let Some(partial) = self.partial.take() {
            return self.part(partial);
        }
        let mut round = Round::default();
        while round.messages.len() < self.window && round.deliveries.len() < limits::COMMIT_RECORDS_MAX {
            let Some(message) = self.queue.pop_front() else {
                break;
            };
            let Some((known, places)) = self.look(&message) else {
                round.messages.push(message);
                continue;
            };
            if round.deliveries.len() + places.len() > limits::COMMIT_RECORDS_MAX {
                if !round.messages.is_empty() {
                    self.queue.push_front(message);
                    break;
                }
                let rest = places.into();
                return self.part(Partial { event: known, rest });
            }
            let event = Arc::new(known);
            let deliver = |place| Delivery {
                event: Arc::clone(&event),
                place,
            };
            round.deliveries.extend(places.into_iter().map(deliver));
            round.messages.push(message);
        }
        round
    }

    fn part(&mut self, mut partial: Partial) -> Round {
        let event = Arc::new(partial.event.clone());
        let count = partial.rest.len().min(limits::COMMIT_RECORDS_MAX);
        let deliver = |place| Delivery {
            event: Arc::clone(&event),
            place,
        };
        let deliveries = partial.rest.drain(..count).map(deliver).collect();
        let is_open = !partial.rest.is_empty();
        let messages = vec![partial.event.message.clone()];
        if is_open {
            self.partial = Some(partial);
        }
        Round {
            messages,
            deliveries,
            is_open,
        }
    }

    /// Whom a message concerns. What is no event concerns nobody.
    fn look(&mut self, message: &Message) -> Option<(Known, Vec<Place>)> {
        if self.index.is_empty() {
            return None;
        }
        let event = match CloudEvent::parse(&message.payload) {
            Ok(event) => event,
            Err(fault) => {
                debug!(events.sequence = message.sequence, reason = %fault, "message is no event");
                return None;
            }
        };
        let view = EventView::new(&event.raw, message.time_nanos / 1_000_000).ok()?;
        let places = self.index.concerned(&Stored {
            event: &view,
            sequence: message.sequence,
            time_nanos: message.time_nanos,
        });
        let known = Known {
            message: message.clone(),
            raw: event.raw,
        };
        (!places.is_empty()).then(|| (known, places.into_iter().collect()))
    }

    /// What was not served goes back: the rest of an event, and the events after it, which are looked at again.
    fn put_back(&mut self, round: Round, served: usize) {
        let Round {
            messages, deliveries, ..
        } = round;
        let last = served.checked_sub(1).and_then(|at| deliveries.get(at));
        let last_sequence = last.map_or(0, |d| d.event.message.sequence);
        let mut rest: VecDeque<Place> = VecDeque::new();
        let mut event = None;
        for delivery in deliveries.into_iter().skip(served) {
            if delivery.event.message.sequence == last_sequence {
                event.get_or_insert_with(|| (*delivery.event).clone());
                rest.push_back(delivery.place);
            }
        }
        if let Some(event) = event {
            match &mut self.partial {
                Some(partial) => rest.into_iter().rev().for_each(|p| partial.rest.push_front(p)),
                None => self.partial = Some(Partial { event, rest }),
            }
        }
        for message in messages.into_iter().rev().filter(|m| m.sequence > last_sequence) {
            self.queue.push_front(message);
        }
    }

    fn adapt(&mut self, was_cut: bool) {
        self.window = match was_cut {
            true => (self.window / 2).max(4),
            false => (self.window * 2).min(ROUND_MAX),
        };
    }
}

impl Round {
    fn records(&self, position: &Position) -> Vec<Option<Record>> {
        let record = |d: &Delivery| {
            Some(Record {
                sequence: EVENT_BIT | d.event.message.sequence,
                time_ms: position.clock_ms.max(d.event.message.time_nanos / 1_000_000),
                instance: Some(d.place.0.clone()),
                body: RecordBody::Event {
                    frame: d.place.1,
                    event: d.event.raw.clone(),
                },
            })
        };
        self.deliveries.iter().map(record).collect()
    }

    /// The mark behind the first `served` deliveries, or behind the whole round; `None`: as before.
    fn mark(&self, served: usize, is_cut: bool) -> Option<Mark> {
        if self.is_open {
            return None;
        }
        if !is_cut {
            return self.messages.last().map(Message::mark);
        }
        let sequence = |at: usize| self.deliveries.get(at).map(|d| d.event.message.sequence);
        let last = sequence(served.checked_sub(1)?)?;
        let is_half = sequence(served) == Some(last);
        let through = |m: &&Message| m.sequence < last || (m.sequence == last && !is_half);
        self.messages.iter().take_while(through).last().map(Message::mark)
    }
}

/// Looks at what is ready and folds it.
pub(crate) async fn fold(p: &mut Processor) -> Result<(), Stop> {
    let round = p.correlator.round();
    p.shared.metrics.events_read.inc_by(round.messages.len() as u64);
    p.shared
        .metrics
        .events_evaluations
        .inc_by(p.correlator.index.evaluations() - p.correlator.counted);
    p.correlator.counted = p.correlator.index.evaluations();
    if round.deliveries.is_empty() {
        // Written with the next commit: what is looked at again after a crash concerns nobody then, too.
        p.position.events = round.mark(0, false).or(p.position.events);
        return Ok(());
    }
    let records = round.records(&p.position);
    p.load(&records).await?;
    let moments: Vec<Moment> = round.deliveries.iter().map(Delivery::moment).collect();
    let folded = loop {
        if let Some(folded) = p.apply_events(&records, &moments) {
            break folded;
        }
        p.load(&records).await?;
    };
    let served = folded.records;
    let mut position = p.position.clone();
    // Events after one that made a task listen are looked at again: they may concern that task.
    let was_cut = served < records.len() || folded.has_new_listener();
    position.events = round.mark(served, was_cut).or(position.events);
    for record in records.iter().take(served).flatten() {
        position.clock_ms = position.clock_ms.max(record.time_ms);
    }
    p.shared.metrics.events_delivered.inc_by(served as u64);
    p.finish(folded, position).await?;
    p.correlator.adapt(was_cut);
    if was_cut {
        p.correlator.put_back(round, served);
    }
    Ok(())
}

impl Delivery {
    fn moment(&self) -> Moment {
        Moment {
            // The event itself does not count for a task that begins to listen because of it.
            nanos: self.event.message.time_nanos + 1,
            event: Some(self.event.message.sequence),
        }
    }
}

/// Turns what a batch changes into what is stored, and into listeners for the index.
pub(crate) async fn prepare(
    p: &mut Processor,
    changes: Vec<Change>,
) -> Result<Vec<(Place, Option<Listener>)>, Stop> {
    // An event that somebody publishes when the commit is visible has a later sequence than this one.
    let needs_end = |c: &Change| c.is_new && c.interest.is_some() && c.moment.event.is_none();
    let end = match changes.iter().any(needs_end) {
        true => Some(
            source::end(&*p.correlator.stream, &p.shared.clock)
                .await
                .map_err(|e| Stop::Broken(e.to_string()))?,
        ),
        false => None,
    };
    let mut prepared = Vec::with_capacity(changes.len());
    for change in changes {
        let listener = change
            .interest
            .and_then(|interest| listener(p, &change.place, interest, change.is_new, change.moment, end));
        prepared.push((change.place, listener));
    }
    Ok(prepared)
}

fn listener(
    p: &mut Processor,
    place: &Place,
    interest: Interest,
    is_new: bool,
    moment: Moment,
    end: Option<u64>,
) -> Option<Listener> {
    let before = p.correlator.index.get(place).map(|l| (l.since_nanos, l.fence));
    let fresh = (moment.nanos, moment.event.or(end).unwrap_or(0));
    let (since_nanos, fence) = before.filter(|_| !is_new).unwrap_or(fresh);
    let instance = p.cache.get(&place.0)?.as_ref()?;
    let plan = p.shared.definitions.plan(instance.definition())?;
    Some(Listener {
        interest,
        plan,
        since_nanos,
        fence,
    })
}

/// The stored form of a listener.
pub(crate) fn row(definition: &DefinitionRef, listener: &Listener) -> String {
    let row = ListenerRow {
        v: 1,
        definition: definition.clone(),
        since_nanos: listener.since_nanos,
        fence: listener.fence,
        interest: listener.interest.clone(),
    };
    serde_json::to_string(&row).expect("listeners have text keys and no failing serialiser")
}

/// After the commit: the index follows, and the stream is read if something listens.
pub(crate) async fn settle(p: &mut Processor, changes: Vec<(Place, Option<Listener>)>) {
    if changes.is_empty() {
        return;
    }
    for (place, listener) in changes {
        match listener {
            Some(listener) => p.correlator.index.insert(place, listener),
            None => p.correlator.index.remove(&place),
        }
    }
    if !p.suppressed {
        read(p).await;
    }
}

/// Starts reading if something listens; stops when nothing did for a while.
pub(crate) async fn read(p: &mut Processor) {
    let clock = &p.shared.clock;
    let c = &mut p.correlator;
    if !c.index.is_empty() {
        c.idle = clock.instant();
    } else if clock.since(c.idle) > LINGER && c.source.take().is_some() {
        c.queue.clear();
        p.position.events = None;
    }
    let (Some(mark), true, false) = (p.position.events, c.source.is_none(), c.index.is_empty()) else {
        return;
    };
    // What was read is behind the mark and comes again.
    c.queue.clear();
    c.partial = None;
    match Source::start(&*c.stream, clock, mark).await {
        Ok(source) => c.source = Some(source),
        Err(e) => info!(partition.id = %p.partition, reason = %e, "events cannot be read yet"),
    }
}

/// Where reading begins when nothing was read before: at the oldest of what begins to listen now.
pub(crate) fn begin(position: &mut Position, changes: &[(Place, Option<Listener>)]) {
    let oldest = changes
        .iter()
        .filter_map(|(_, l)| l.as_ref())
        .map(|l| l.since_nanos)
        .min();
    if let (None, Some(oldest)) = (position.events, oldest) {
        position.events = Some(Mark::at(oldest));
    }
}

/// After a take-over: who listens, as Redis holds it.
pub(crate) async fn load(p: &mut Processor) -> Result<(), Stop> {
    p.correlator.index = Index::default();
    let mut cursor = 0_u64;
    loop {
        let mut cmd = redis::cmd("HSCAN");
        cmd.arg(names::listeners_key(p.partition))
            .arg(cursor)
            .arg("COUNT")
            .arg(1000);
        let (next, found): (u64, Vec<(String, Vec<u8>)>) = p
            .store
            .read(&cmd)
            .await
            .map_err(|e| Stop::Broken(e.to_string()))?;
        for (field, value) in found {
            load_one(p, &field, &value).await?;
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    if p.correlator.index.is_empty() {
        p.position.events = None;
    }
    read(p).await;
    Ok(())
}

async fn load_one(p: &mut Processor, field: &str, value: &[u8]) -> Result<(), Stop> {
    let bad = |reason: String| Stop::Halted {
        code: "LISTENERS",
        text: format!("listener {field} cannot be read: {reason}"),
    };
    let place: (InstanceKey, u32) =
        names::parse_listener_field(field).ok_or_else(|| bad("not one of ours".into()))?;
    let row: ListenerRow = serde_json::from_slice(value).map_err(|e| bad(e.to_string()))?;
    p.definition(&row.definition).await?;
    let plan = p
        .shared
        .definitions
        .plan(&row.definition)
        .ok_or_else(|| bad(format!("there is no definition {}", row.definition)))?;
    let listener = Listener {
        interest: row.interest,
        plan,
        since_nanos: row.since_nanos,
        fence: row.fence,
    };
    p.correlator.index.insert(place, listener);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64) -> Message {
        Message {
            sequence,
            time_nanos: i64::try_from(sequence).unwrap(),
            payload: "{}".into(),
        }
    }

    /// Messages 1 to 4, of which the second concerns two tasks and the third one.
    fn round(is_open: bool) -> Round {
        let delivery = |sequence, id: &str| Delivery {
            event: Arc::new(Known {
                message: message(sequence),
                raw: RawJson::null(),
            }),
            place: (format!("default/{id}").parse().unwrap(), 1),
        };
        Round {
            messages: (1..5).map(message).collect(),
            deliveries: vec![delivery(2, "a"), delivery(2, "b"), delivery(3, "a")],
            is_open,
        }
    }

    #[test]
    fn the_mark_never_passes_an_event_that_somebody_did_not_get() {
        let sequence = |served, is_cut| round(false).mark(served, is_cut).map(|m| m.sequence);
        assert_eq!(sequence(3, false), Some(4), "all served");
        assert_eq!(sequence(1, true), Some(1), "in the middle of an event");
        assert_eq!(sequence(2, true), Some(2), "behind an event");
        assert_eq!(sequence(3, true), Some(3), "the rest is looked at again");
        assert_eq!(round(true).mark(3, false), None, "more is left of the event");
    }
}
