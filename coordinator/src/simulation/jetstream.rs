//! A model of JetStream that does what the real one may do in its worst hour: lose the tail of a stream, forget ids,
//! confirm nothing, confirm late, store late, stall a consumer, be away, or be cut off from one process only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use millrace_common::{PartitionId, names};
use millrace_runtime::nats::{Ack, Completion, Completions, PublishError};
use tokio::sync::mpsc::UnboundedSender;

use super::universe::{Sleep, Universe};
use crate::servers::{Begin, Extent, Messages, Sender, Silent, Stored, Stream};

/// No confirmation within this time: the outcome is unknown.
const CONFIRM: Duration = Duration::from_secs(5);
/// A reader without a message or heartbeat for this long is lost.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The server remembers ids for this long.
const DUPLICATES: Duration = Duration::from_secs(120);

/// How often the network and the server misbehave, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Temper {
    /// A message never arrives.
    pub(super) lost: u64,
    /// It is stored, and nobody is told.
    pub(super) untold: u64,
    /// It arrives seconds later.
    pub(super) late: u64,
    /// Nobody serves the stream at this moment.
    pub(super) unavailable: u64,
}

#[derive(Clone)]
pub(super) struct JetStream {
    pub(super) universe: Universe,
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for JetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JetStream")
    }
}

#[derive(Default)]
struct Inner {
    streams: BTreeMap<String, Log>,
    temper: Temper,
    down_until: Duration,
    /// Processes that cannot reach it, and until when.
    cut: BTreeMap<String, Duration>,
    /// No step is delivered until then.
    stuck_until: Duration,
    /// Raised by a restart: whoever reads must begin again.
    restarts: u64,
}

#[derive(Default)]
struct Log {
    last: u64,
    first: u64,
    messages: BTreeMap<u64, Stored>,
    ids: BTreeMap<String, (u64, Duration)>,
    wakers: Vec<Waker>,
    incarnation: String,
    is_full: bool,
    /// Work queue: delivered and not acknowledged.
    out: BTreeMap<u64, Delivered>,
    /// When each message left its sender.
    sent: BTreeMap<u64, Duration>,
}

#[derive(Clone, Copy)]
struct Delivered {
    until: Duration,
    count: u32,
}

/// A step as a worker gets it.
pub(super) struct Delivery {
    pub(super) sequence: u64,
    /// When its sender let it go.
    pub(super) sent: Duration,
    pub(super) count: u32,
    pub(super) payload: Bytes,
}

impl JetStream {
    pub(super) fn new(universe: &Universe, partitions: u16) -> Self {
        let jetstream = Self {
            universe: universe.clone(),
            inner: Arc::default(),
        };
        let logs = (0..partitions).map(|p| names::log_stream(PartitionId(p)));
        for name in logs.chain([names::STEPS_STREAM.into(), names::EVENTS_STREAM.into()]) {
            let log = Log {
                first: 1,
                incarnation: format!("{name}-1"),
                ..Log::default()
            };
            jetstream.lock().streams.insert(name, log);
        }
        jetstream
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    // ------------------------------------------------------------ faults

    pub(super) fn set_temper(&self, temper: Temper) {
        self.lock().temper = temper;
    }

    /// Away for a while; everything stored stays, readers are lost.
    pub(super) fn restart(&self, away: Duration) {
        let now = self.universe.now();
        let mut inner = self.lock();
        inner.down_until = now + away;
        inner.restarts += 1;
        inner.wake_all();
    }

    /// A power cut: the last `tail` messages of a stream were never synced.
    pub(super) fn lose_tail(&self, stream: &str, tail: u64) -> BTreeSet<u64> {
        let mut inner = self.lock();
        let log = inner.streams.get_mut(stream).unwrap();
        let keep = log.last.saturating_sub(tail).max(log.first.saturating_sub(1));
        let lost = (keep + 1..=log.last).collect();
        log.messages.retain(|sequence, _| *sequence <= keep);
        log.out.retain(|sequence, _| *sequence <= keep);
        log.ids.retain(|_, (sequence, _)| *sequence <= keep);
        log.last = keep;
        drop(inner);
        self.restart(Duration::from_millis(500));
        lost
    }

    /// Removes the older messages of a stream, up to its last one.
    pub(super) fn trim(&self, stream: &str) {
        let mut inner = self.lock();
        let log = inner.streams.get_mut(stream).unwrap();
        log.messages.clear();
        log.first = log.last + 1;
    }

    pub(super) fn forget_ids(&self) {
        self.lock().streams.values_mut().for_each(|log| log.ids.clear());
    }

    pub(super) fn cut(&self, site: &str, time: Duration) {
        let until = self.universe.now() + time;
        self.lock().cut.insert(site.into(), until);
        self.lock().wake_all();
    }

    pub(super) fn stick(&self, time: Duration) {
        let until = self.universe.now() + time;
        self.lock().stuck_until = until;
    }

    pub(super) fn set_full(&self, is_full: bool) {
        for log in self.lock().streams.values_mut() {
            log.is_full = is_full;
        }
    }

    /// The stream is deleted and another one made under its name.
    pub(super) fn replace(&self, stream: &str) {
        let mut inner = self.lock();
        let log = inner.streams.get_mut(stream).unwrap();
        *log = Log {
            first: 1,
            incarnation: format!("{}x", log.incarnation),
            ..Log::default()
        };
        drop(inner);
        self.restart(Duration::from_millis(100));
    }

    /// A message is stored once more, with no id: a client that repeats itself.
    pub(super) fn repeat(&self, stream: &str) {
        let pick = {
            let inner = self.lock();
            let messages = &inner.streams[stream].messages;
            match messages.len() as u64 {
                0 => return,
                n => {
                    let at = usize::try_from(self.universe.below(n)).unwrap();
                    messages.values().nth(at).unwrap().clone()
                }
            }
        };
        if !pick.subject.ends_with(".announce") {
            // Not sent by anybody now.
            let message = (None, Duration::ZERO);
            self.store(stream, pick.subject.as_str(), pick.payload, message)
                .ok();
        }
    }

    pub(super) fn heal(&self) {
        let mut inner = self.lock();
        inner.temper = Temper::default();
        inner.down_until = Duration::ZERO;
        inner.cut.clear();
        inner.stuck_until = Duration::ZERO;
        for log in inner.streams.values_mut() {
            log.is_full = false;
        }
        inner.wake_all();
    }

    // ------------------------------------------------------------ what it holds

    fn is_reachable(&self, site: &str) -> bool {
        let now = self.universe.now();
        let inner = self.lock();
        inner.down_until <= now && inner.cut.get(site).is_none_or(|until| *until <= now)
    }

    pub(super) fn incarnation(&self, stream: &str) -> String {
        self.lock().streams[stream].incarnation.clone()
    }

    pub(super) fn count(&self, stream: &str) -> usize {
        self.lock().streams[stream].messages.len()
    }

    /// Everything that a stream holds, in order.
    pub(super) fn messages(&self, stream: &str) -> Vec<Stored> {
        self.lock().streams[stream].messages.values().cloned().collect()
    }

    fn store(
        &self,
        stream: &str,
        subject: &str,
        payload: Bytes,
        (id, sent): (Option<&str>, Duration),
    ) -> Result<Ack, PublishError> {
        let (now, time_nanos) = (self.universe.now(), self.universe.wall_nanos());
        let mut inner = self.lock();
        let log = inner.streams.get_mut(stream).unwrap();
        if let Some((sequence, at)) = id.and_then(|id| log.ids.get(id))
            && now.saturating_sub(*at) < DUPLICATES
        {
            return Ok(Ack {
                sequence: *sequence,
                duplicate: true,
            });
        }
        if log.is_full {
            return Err(PublishError::Full("maximum bytes exceeded".into()));
        }
        log.last += 1;
        let sequence = log.last;
        if let Some(id) = id {
            log.ids.insert(id.into(), (sequence, now));
        }
        let stored = Stored {
            sequence,
            time_nanos,
            subject: subject.into(),
            payload,
        };
        log.messages.insert(sequence, stored);
        log.sent.insert(sequence, sent);
        log.wakers.drain(..).for_each(Waker::wake);
        Ok(Ack {
            sequence,
            duplicate: false,
        })
    }

    // ------------------------------------------------------------ the work queue

    /// The next step for a worker, if there is one and it can reach the server.
    pub(super) fn pull(&self, site: &str, ack_wait: Duration) -> Option<Delivery> {
        if !self.is_reachable(site) {
            return None;
        }
        let now = self.universe.now();
        let mut inner = self.lock();
        if inner.stuck_until > now {
            return None;
        }
        let log = inner.streams.get_mut(names::STEPS_STREAM).unwrap();
        let free = |sequence: &u64| log.out.get(sequence).is_none_or(|d| d.until <= now);
        let sequence = log.messages.keys().copied().find(free)?;
        let count = log.out.get(&sequence).map_or(0, |d| d.count) + 1;
        log.out.insert(
            sequence,
            Delivered {
                until: now + ack_wait,
                count,
            },
        );
        Some(Delivery {
            sequence,
            sent: log.sent.get(&sequence).copied().unwrap_or_default(),
            count,
            payload: log.messages[&sequence].payload.clone(),
        })
    }

    /// Removes a step; an acknowledgement may get lost on the way.
    pub(super) fn acknowledge(&self, site: &str, sequence: u64) {
        if !self.is_reachable(site) || self.universe.chance(10) {
            return;
        }
        let mut inner = self.lock();
        let log = inner.streams.get_mut(names::STEPS_STREAM).unwrap();
        log.messages.remove(&sequence);
        log.out.remove(&sequence);
        log.first = log.messages.keys().next().copied().unwrap_or(log.last + 1);
    }

    /// Sends a message and tells what became of it.
    pub(super) async fn publish(
        &self,
        site: &str,
        subject: &str,
        payload: Bytes,
        id: Option<String>,
    ) -> Result<Ack, PublishError> {
        let (sent, temper) = (self.universe.now(), self.lock().temper);
        let unknown = |universe: Universe| async move {
            let left = (sent + CONFIRM).saturating_sub(universe.now());
            universe.sleep(left).await;
            Err(PublishError::Unknown)
        };
        self.universe
            .sleep(self.universe.between(Duration::ZERO, Duration::from_micros(800)))
            .await;
        if self.universe.chance(temper.unavailable) {
            return Err(PublishError::Unavailable("no responders".into()));
        }
        if self.universe.chance(temper.lost) {
            return unknown(self.universe.clone()).await;
        }
        if self.universe.chance(temper.late) {
            self.universe
                .sleep(
                    self.universe
                        .between(Duration::from_secs(1), Duration::from_secs(20)),
                )
                .await;
        }
        // What a client has queued is sent when it is connected again, however late that is.
        let is_kept = self.universe.chance(500);
        while !self.is_reachable(site) {
            if !is_kept {
                return unknown(self.universe.clone()).await;
            }
            self.universe.sleep(Duration::from_millis(50)).await;
        }
        let outcome = self.store(stream_of(subject), subject, payload, (id.as_deref(), sent));
        if self.universe.now() > sent + CONFIRM || self.universe.chance(temper.untold) {
            return unknown(self.universe.clone()).await;
        }
        self.universe
            .sleep(self.universe.between(Duration::ZERO, Duration::from_micros(800)))
            .await;
        outcome
    }

    pub(super) fn stream(&self, site: &str, name: String) -> Arc<dyn Stream> {
        Arc::new(Handle {
            jetstream: self.clone(),
            site: site.into(),
            name,
        })
    }

    pub(super) fn sender(&self, site: &str) -> (Arc<dyn Sender>, Completions) {
        let (completed, completions) = Completions::channel();
        let line = Line {
            jetstream: self.clone(),
            site: site.into(),
            completed,
        };
        (Arc::new(line), completions)
    }
}

impl Inner {
    fn wake_all(&mut self) {
        for log in self.streams.values_mut() {
            log.wakers.drain(..).for_each(Waker::wake);
        }
    }
}

fn stream_of(subject: &str) -> &'static str {
    match subject {
        s if s.starts_with("mr.steps.") => names::STEPS_STREAM,
        s if s.starts_with("mr.events.") => names::EVENTS_STREAM,
        s => {
            let p = s.split('.').nth(2).and_then(|p| p.parse::<usize>().ok());
            LOGS[p.expect("a log's subject")]
        }
    }
}

const LOGS: [&str; 2] = ["MR_LOG_0", "MR_LOG_1"];

#[derive(Debug)]
struct Handle {
    jetstream: JetStream,
    site: String,
    name: String,
}

impl Handle {
    async fn ask<T>(&self, answer: impl FnOnce(&mut Log) -> T) -> Result<T, Silent> {
        let universe = &self.jetstream.universe;
        universe
            .sleep(universe.between(Duration::ZERO, Duration::from_micros(500)))
            .await;
        if !self.jetstream.is_reachable(&self.site) {
            universe.sleep(Duration::from_secs(1)).await;
            return Err(Silent("timed out".into()));
        }
        Ok(answer(self.jetstream.lock().streams.get_mut(&self.name).unwrap()))
    }
}

impl Stream for Handle {
    fn extent(&self) -> BoxFuture<'_, Result<Option<Extent>, Silent>> {
        Box::pin(self.ask(|log| {
            Some(Extent {
                first: log.first,
                last: log.last,
                messages: log.messages.len() as u64,
                incarnation: Some(log.incarnation.clone()),
            })
        }))
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<Stored>, Silent>> {
        Box::pin(self.ask(move |log| log.messages.get(&sequence).cloned()))
    }

    fn last_of(&self, subject: String) -> BoxFuture<'_, Result<Option<Stored>, Silent>> {
        Box::pin(self.ask(move |log| {
            let found = log
                .messages
                .values()
                .rev()
                .find(|m| m.subject.as_str() == subject);
            found.cloned()
        }))
    }

    fn follow(&self, from: Begin, _batch: usize) -> BoxFuture<'_, Result<Messages, Silent>> {
        Box::pin(async move {
            let next = self
                .ask(|log| match from {
                    Begin::Sequence(sequence) => sequence,
                    Begin::Time(nanos) => {
                        let later = log.messages.values().find(|m| m.time_nanos >= nanos.into());
                        later.map_or(log.last + 1, |m| m.sequence)
                    }
                })
                .await?;
            let follow = Follow {
                jetstream: self.jetstream.clone(),
                site: self.site.clone(),
                name: self.name.clone(),
                next,
                restarts: self.jetstream.lock().restarts,
                deaf: None,
                is_lost: false,
            };
            Ok(follow.boxed())
        })
    }
}

/// A reader.
struct Follow {
    jetstream: JetStream,
    site: String,
    name: String,
    next: u64,
    restarts: u64,
    /// Since when nothing is heard: it is lost after a while.
    deaf: Option<Sleep>,
    is_lost: bool,
}

impl futures_util::Stream for Follow {
    type Item = Result<Stored, Silent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_lost {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        if !this.jetstream.is_reachable(&this.site) {
            let universe = this.jetstream.universe.clone();
            let deaf = this.deaf.get_or_insert_with(|| universe.sleep(HEARTBEAT));
            if Pin::new(deaf).poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.is_lost = true;
            return Poll::Ready(Some(Err(Silent("missed heartbeats".into()))));
        }
        this.deaf = None;
        let mut inner = this.jetstream.lock();
        if inner.restarts != this.restarts {
            drop(inner);
            this.is_lost = true;
            return Poll::Ready(Some(Err(Silent("the consumer is gone".into()))));
        }
        let log = inner.streams.get_mut(&this.name).unwrap();
        // The server moves a reader silently to what is still there.
        match log.messages.range(this.next..).next() {
            Some((sequence, stored)) => {
                this.next = sequence + 1;
                Poll::Ready(Some(Ok(stored.clone())))
            }
            None => {
                log.wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A connection that sends.
#[derive(Debug)]
struct Line {
    jetstream: JetStream,
    site: String,
    completed: UnboundedSender<Vec<Completion>>,
}

impl Sender for Line {
    fn publish(&self, subject: String, payload: Bytes) -> BoxFuture<'_, Result<Ack, PublishError>> {
        Box::pin(async move { self.jetstream.publish(&self.site, &subject, payload, None).await })
    }

    fn publish_tagged(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        tag: u64,
    ) -> BoxFuture<'_, ()> {
        let id = headers.and_then(|h| h.get("Nats-Msg-Id").map(|id| id.as_str().to_owned()));
        let (jetstream, site, completed) =
            (self.jetstream.clone(), self.site.clone(), self.completed.clone());
        // On its way even if the sender dies now.
        self.jetstream.universe.spawn(async move {
            let outcome = jetstream.publish(&site, &subject, payload, id).await;
            drop(completed.send(vec![(tag, outcome)]));
        });
        Box::pin(std::future::ready(()))
    }

    fn hint(&self, _subject: String, _payload: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
