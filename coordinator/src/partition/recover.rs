//! Taking a partition over: wait for the lease, move the fence, announce in the log, verify the position, fold up to the
//! own announcement with effects suppressed, then let out what is still pending: `docs/guarantees.md`.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use millrace_common::{CloudEvent, PartitionId, RecordBody, names, wire};
use millrace_runtime::Shutdown;
use tracing::{info, warn};

use super::audit::Audit;
use super::cache::Cache;
use super::correlator::{self, Correlator};
use super::dispatch::Dispatcher;
use super::fence::{Fence, Position, fingerprint};
use super::outbox::{self, OpenStep};
use super::processor::Processor;
use super::reader::Reader;
use super::sabotage::{self, Bug};
use super::schedules::Schedules;
use super::store::{Held, Store};
use super::timers::{HORIZON, Skew, Timers};
use super::{Memory, Shared, Stop, repair};
use crate::clock::Clock;
use crate::orders::Action;
use crate::servers::{Extent, Sender, Session, Stream};

/// Takes the partition over and returns a processor that is ready to serve.
pub(crate) async fn acquire(
    shared: Arc<Shared>,
    p: PartitionId,
    memory: &mut Memory,
    shutdown: &Shutdown,
    order: Option<Action>,
) -> Result<Processor, Stop> {
    let adopt = order == Some(Action::Adopt);
    let incarnation = shared.servers.incarnation(p, adopt).await?;
    let incarnation = incarnation.map_err(|(code, text)| Stop::Halted { code, text })?;
    let Session {
        log,
        events,
        steps,
        sender,
        completions,
    } = shared.session(p).await?;
    let clock = shared.clock.clone();
    let mut store = open_store(&shared, p, memory).await?;
    let held = contend(&shared, p, &mut store, memory, shutdown).await?;
    let position = take(&shared, p, &mut store, held, &incarnation, &*log, memory, order).await?;
    let taken = clock.instant();
    info!(partition.id = %p, epoch = store.fence().counter, log.sequence = position.sequence, "partition taken over");
    let barrier = announce(&*sender, &store, p).await?;
    let position = match verify(&mut store, &*log, position.clone(), p).await {
        Err(Stop::Halted { code, .. }) if adopt && Action::Adopt.resolves(code) => {
            repair::adopt(&mut store, &*log, p, position, &incarnation).await?
        }
        verified => verified?,
    };
    let reader = Reader::start(&*log, position.sequence)
        .await
        .map_err(super::processor::stop_of)?;
    let cache = Cache::new(
        usize::try_from(shared.config.cache_bytes).unwrap_or(usize::MAX)
            / usize::from(shared.config.partitions.max(1)),
    );
    let schedules = Schedules::load(&mut store, p).await?;
    let mut processor = Processor {
        dispatcher: Dispatcher::new(Arc::clone(&shared), p, sender, completions),
        shared,
        partition: p,
        store,
        log,
        steps,
        reader,
        position,
        timers: Timers::default(),
        skew: Skew::new(clock.instant()),
        cache,
        audit: Audit::new(&clock),
        schedules,
        correlator: Correlator::new(events, &clock),
        pending: VecDeque::new(),
        poisonous: HashSet::new(),
        marked: (0, clock.instant()),
        committed_at: clock.instant(),
        since: clock.instant(),
        suppressed: !sabotage::has(Bug::NoBarrier),
    };
    processor.catch_up(barrier).await?;
    resume(&mut processor).await?;
    processor.report();
    let handover = &processor.shared.metrics.handover_duration;
    handover.observe(clock.since(taken).as_secs_f64());
    Ok(processor)
}

async fn open_store(shared: &Shared, p: PartitionId, memory: &mut Memory) -> Result<Store, Stop> {
    let connection = shared.connect_redis().await?;
    let nonce = format!("{:016x}{:016x}", shared.clock.random(), shared.clock.random());
    let fence = Fence {
        counter: 0,
        nonce,
        beat: 0,
        owner: shared.config.id.clone(),
        released: false,
    };
    let mut store = Store::new(p, connection, fence).await.map_err(broken)?;
    // A commit of this process may still be on its way on the old connection (H6).
    if let Some(old) = memory.client_id.replace(store.client_id) {
        store.kill(old).await.map_err(broken)?;
    }
    Ok(store)
}

/// Waits until the partition is free: never owned, released, silent for the lease time, or held by this very process
/// before it lost its connection.
async fn contend(
    shared: &Shared,
    p: PartitionId,
    store: &mut Store,
    memory: &Memory,
    shutdown: &Shutdown,
) -> Result<Held, Stop> {
    let ttl = shared.config.lease_ttl;
    let mut seen: Option<String> = None;
    let clock = &shared.clock;
    let began = clock.instant();
    let mut since = began;
    loop {
        let held = store.watch().await.map_err(broken)?;
        // Where another coordinator is preferred it gets a head start; a silent owner is not counted any more.
        let owner = held
            .fence
            .as_ref()
            .filter(|f| !f.released)
            .map_or("", |f| f.owner.as_str());
        let patience = if shared.membership.is_next(p, owner) {
            Duration::ZERO
        } else {
            ttl / 2
        };
        let free = match &held.fence {
            None => clock.since(began) >= patience,
            Some(f) if memory.nonce.as_deref() == Some(&f.nonce) => true,
            Some(f) if f.released => clock.since(began) >= patience,
            Some(_) => {
                if held.fence_text != seen {
                    seen.clone_from(&held.fence_text);
                    since = clock.instant();
                }
                clock.since(since) >= ttl + patience
            }
        };
        if free {
            return Ok(held);
        }
        let unwatch = redis::cmd("UNWATCH");
        store.read::<()>(&unwatch).await.map_err(broken)?;
        if shutdown.unless(clock.sleep(ttl / 8)).await.is_none() {
            return Err(Stop::Shutdown);
        }
    }
}

/// Moves the fence. Its counter is above everything seen in Redis and in the log, because a failover of Redis can roll
/// the counter back (H4).
#[expect(clippy::too_many_arguments, reason = "what a take-over is made of")]
async fn take(
    shared: &Shared,
    p: PartitionId,
    store: &mut Store,
    held: Held,
    incarnation: &str,
    stream: &dyn Stream,
    memory: &mut Memory,
    order: Option<Action>,
) -> Result<Position, Stop> {
    let announced = last_announce(stream, p).await?;
    let rebuild = order == Some(Action::Rebuild);
    if rebuild {
        repair::check_complete(stream, p).await?;
    }
    let unfinished = held.position.as_ref().is_some_and(|x| x.rebuilding);
    if !rebuild
        && (unfinished
            || held.position.is_none() && announced.is_some() && !sabotage::has(Bug::EmptyRedisBelieved))
    {
        return Err(Stop::Halted {
            code: "REDIS-LOST",
            text: format!(
                "redis has no position of partition {p} but its log was read before: redis lost its data"
            ),
        });
    }
    let known = held.fence.as_ref().map_or(0, |f| f.counter);
    let in_position = held.position.as_ref().map_or(0, |x| x.announce);
    let counter = known.max(in_position).max(announced.unwrap_or(0)) + 1;
    let fence = Fence {
        counter,
        ..store.fence().clone()
    };
    let start = (rebuild || held.position.is_none()).then(|| Position {
        rebuilding: rebuild,
        ..Position::start(incarnation)
    });
    let nonce = fence.nonce.clone();
    if !store.acquire(fence, start.as_ref()).await.map_err(broken)? {
        return Err(Stop::Lost("another coordinator was faster".into()));
    }
    memory.nonce = Some(nonce);
    let reason = held
        .fence
        .as_ref()
        .map_or("first", |f| if f.released { "released" } else { "silent" });
    shared.metrics.takeovers.with_label_values(&[reason]).inc();
    if rebuild {
        return repair::wipe(store, p, Position::start(incarnation)).await;
    }
    held.position
        .or(start)
        .ok_or_else(|| Stop::Broken("no position".into()))
}

async fn last_announce(stream: &dyn Stream, p: PartitionId) -> Result<Option<u64>, Stop> {
    let last = stream.last_of(names::log_subject(p, "announce")).await?;
    Ok(last.map(|message| match wire::decode_record(&message.payload) {
        Ok((_, RecordBody::Announce { counter, .. })) => counter,
        _ => 0,
    }))
}

async fn announce(sender: &dyn Sender, store: &Store, p: PartitionId) -> Result<u64, Stop> {
    let fence = store.fence();
    let body = RecordBody::Announce {
        counter: fence.counter,
        nonce: fence.nonce.clone(),
        build: env!("CARGO_PKG_VERSION").into(),
        owner: fence.owner.clone(),
    };
    let subject = names::log_subject(p, "announce");
    let ack = sender
        .publish(subject, wire::encode_record(None, &body))
        .await
        .map_err(broken)?;
    Ok(ack.sequence)
}

/// The position must belong to this stream, and the message at it must be the one that was folded.
async fn verify(
    store: &mut Store,
    stream: &dyn Stream,
    position: Position,
    p: PartitionId,
) -> Result<Position, Stop> {
    match compare(stream, &position).await? {
        Compared::Same => Ok(position),
        Compared::Replaced { by } => Err(Stop::Halted {
            code: "LOG-REPLACED",
            text: format!(
                "position is of log {} but the stream is {by}",
                position.incarnation
            ),
        }),
        Compared::Hole { first } => Err(Stop::Halted {
            code: "LOG-TRIMMED",
            text: format!("log starts at {first} but only {} is folded", position.sequence),
        }),
        Compared::Other => {
            let fork = fork_point(store, stream, p, &position).await?;
            warn!(partition.id = %p, log.sequence = position.sequence, fork = fork.0, error.code = "MR-LOG-TAIL-LOST",
                "the log lost a tail that was folded already; state is kept, reading goes on from the fork point");
            Ok(Position {
                sequence: fork.0,
                fingerprint: fork.1,
                generation: position.generation + 1,
                ..position
            })
        }
    }
}

enum Compared {
    Same,
    Other,
    Hole {
        first: u64,
    },
    /// Another stream under the same name (H2).
    Replaced {
        by: String,
    },
}

async fn compare(stream: &dyn Stream, position: &Position) -> Result<Compared, Stop> {
    let Extent {
        first,
        last,
        incarnation: found,
        ..
    } = extent(stream).await?;
    let sequence = position.sequence;
    let found = found.unwrap_or_default();
    if found != position.incarnation && !sabotage::has(Bug::IncarnationIgnored) {
        return Ok(Compared::Replaced { by: found });
    }
    if last < sequence && !sabotage::has(Bug::ShortLogBelieved) {
        return Ok(Compared::Other);
    }
    if first > sequence + 1 && !sabotage::has(Bug::HoleIgnored) {
        return Ok(Compared::Hole { first });
    }
    if sequence == 0 || sequence < first {
        return Ok(Compared::Same);
    }
    match stream.get(sequence).await? {
        _ if sabotage::has(Bug::BareSequence) => Ok(Compared::Same),
        Some(m) if fingerprint(&m.subject, m.time_nanos, &m.payload) == position.fingerprint => {
            Ok(Compared::Same)
        }
        Some(_) => Ok(Compared::Other),
        // Trimmed between the two requests: what was folded is behind the start of the log.
        None => Ok(Compared::Same),
    }
}

pub(super) async fn extent(stream: &dyn Stream) -> Result<Extent, Stop> {
    let extent = stream.extent().await?;
    extent.ok_or_else(|| Stop::Broken("the log is gone".into()))
}

/// The newest remembered boundary that the log still has as it was.
async fn fork_point(
    store: &mut Store,
    stream: &dyn Stream,
    p: PartitionId,
    position: &Position,
) -> Result<(u64, u64), Stop> {
    let mut cmd = redis::cmd("HVALS");
    cmd.arg(names::marks_key(p));
    let marks: Vec<String> = store.read(&cmd).await.map_err(broken)?;
    let mut marks: Vec<(u64, u64)> = marks
        .iter()
        .filter_map(|m| parse_mark(m))
        .filter(|m| m.0 < position.sequence)
        .collect();
    marks.sort_unstable_by(|a, b| b.cmp(a));
    for (sequence, fingerprint) in marks {
        let mark = Position {
            sequence,
            fingerprint,
            ..position.clone()
        };
        if matches!(compare(stream, &mark).await?, Compared::Same) {
            return Ok((sequence, fingerprint));
        }
    }
    let first = extent(stream).await?.first;
    if first <= 1 {
        return Ok((0, 0));
    }
    Err(Stop::Halted {
        code: "LOG-FORK",
        text: format!("log of partition {p} lost more than the remembered boundaries; it starts at {first}"),
    })
}

fn parse_mark(text: &str) -> Option<(u64, u64)> {
    let (sequence, fingerprint) = text.split_once(' ')?;
    Some((sequence.parse().ok()?, fingerprint.parse().ok()?))
}

/// A reader that goes on after `position`, once the position was found true.
pub(crate) async fn read_from(
    stream: &dyn Stream,
    clock: &Clock,
    position: &Position,
) -> Result<Reader, Stop> {
    let checked = clock.limit(Duration::from_secs(2), compare(stream, position));
    match checked.await {
        Err(_) => return Err(Stop::Broken("nats does not answer".into())),
        Ok(Err(stop)) => return Err(stop),
        Ok(Ok(Compared::Same)) => {}
        // The owner starts over: the take-over path handles a lost tail and a hole.
        Ok(Ok(Compared::Other | Compared::Hole { .. } | Compared::Replaced { .. })) => {
            return Err(Stop::Lost("the log is not the one that was read".into()));
        }
    }
    let started = clock.limit(Duration::from_secs(2), Reader::start(stream, position.sequence));
    match started.await {
        Err(_) => Err(Stop::Broken("nats does not answer".into())),
        Ok(reader) => reader.map_err(super::processor::stop_of),
    }
}

/// At the barrier: publish what may not have left, arm timers.
async fn resume(p: &mut Processor) -> Result<(), Stop> {
    p.suppressed = false;
    let mut cmd = redis::cmd("HGETALL");
    cmd.arg(names::outbox_key(p.partition));
    let entries: Vec<(String, Vec<u8>)> = p.store.read(&cmd).await.map_err(broken)?;
    for (field, value) in entries {
        if sabotage::has(Bug::NothingResumed) {
            break;
        }
        match outbox::parse(&field, &value) {
            Some(outbox::Entry::Step {
                instance,
                frame,
                generation,
                sequence: Some(sequence),
            }) => {
                // Already in the work queue: only remembered, for the audit.
                if let Some(d) = p.rebuild(&instance, frame).await? {
                    let attempt = p.shared.trace.attempt(&instance, &d);
                    let since = p.shared.clock.instant();
                    let (sequence, function) = (Some(sequence), d.function.into());
                    let open = OpenStep {
                        step: d.step,
                        generation,
                        sequence,
                        since,
                        function,
                        attempt,
                    };
                    p.dispatcher.outbox.open(instance, frame, open);
                }
            }
            Some(outbox::Entry::Step { instance, frame, .. }) => p.publish_step(&instance, frame).await?,
            Some(outbox::Entry::Send) => resend(p, field, value).await?,
            Some(entry @ (outbox::Entry::Event | outbox::Entry::Lifecycle)) => {
                emit_again(p, &entry, field, &value).await?;
            }
            Some(outbox::Entry::Detached) => p.dispatcher.detach(field, value.into(), false).await,
            None => warn!(field, "outbox entry is not ours"),
        }
    }
    match sabotage::has(Bug::NoTimersLoaded) {
        false => load_timers(p).await?,
        true => p.timers.set_horizon(i64::MAX),
    }
    correlator::load(p).await?;
    let clock = p.shared.clock.clone();
    p.audit.hurry(&clock);
    Ok(())
}

async fn resend(p: &mut Processor, field: String, value: Vec<u8>) -> Result<(), Stop> {
    match wire::decode_record(&value) {
        Ok((Some(to), body)) => {
            p.dispatcher
                .send_encoded(field, &to, body.kind(), value.into(), false)
                .await;
            Ok(())
        }
        _ => Err(Stop::Halted {
            code: "OUTBOX",
            text: format!("outbox entry {field} cannot be read"),
        }),
    }
}

async fn emit_again(
    p: &mut Processor,
    entry: &outbox::Entry,
    field: String,
    value: &[u8],
) -> Result<(), Stop> {
    match CloudEvent::parse(value) {
        Ok(event) => {
            match entry {
                outbox::Entry::Lifecycle => p.dispatcher.tell(field, &event, false).await,
                _ => p.dispatcher.emit(field, &event, false).await,
            }
            Ok(())
        }
        Err(fault) => Err(Stop::Halted {
            code: "OUTBOX",
            text: format!("outbox entry {field} cannot be read: {fault}"),
        }),
    }
}

/// Brings timers up to the horizon into memory, when it is near.
pub(crate) async fn load_timers(p: &mut Processor) -> Result<(), Stop> {
    let now = p.log_now_ms();
    let span = i64::try_from(HORIZON.as_millis()).unwrap_or(60_000);
    let old = p.timers.horizon_ms();
    if old > now + span / 2 {
        return Ok(());
    }
    let horizon = now + span;
    let mut cmd = redis::cmd("ZRANGEBYSCORE");
    let from = if old == 0 {
        "-inf".to_owned()
    } else {
        format!("({old}")
    };
    cmd.arg(names::timers_key(p.partition))
        .arg(from)
        .arg(horizon)
        .arg("WITHSCORES");
    let timers: Vec<(String, i64)> = p.store.read(&cmd).await.map_err(broken)?;
    p.timers.set_horizon(horizon);
    for (member, due) in timers {
        p.timers.start(member, due);
    }
    Ok(())
}

fn broken(e: impl std::fmt::Display) -> Stop {
    Stop::Broken(e.to_string())
}
