//! From fields to an instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_common::{InstanceKey, Late, Problem, RawJson};
use millrace_dsl::Value;
use millrace_dsl::model::Flow;
use serde::Deserialize;

use super::row::{
    BodyRow, ConsumedRow, CursorRow, DetachedRow, FixedRow, FlowRow, FrameRow, HeaderRow, HeldRow,
    IdentityRow, PhaseRow, RoundsRow, StepRow, TimerRow,
};
use super::{LoadError, VERSION};
use crate::data::Data;
use crate::entries::Entries;
use crate::frame::{
    self, Body, ChildState, Cursor, EachState, Extended, Failed, ForLoop, ForkState, Frame, FrameId,
    HeldStep, ListenState, Parts, Phase, ROOT_FRAME, StepState, Timer, TryState, UndoState,
};
use crate::ids::Path;
use crate::listen::Interest;
use crate::state::{Changes, Ended, Header, Identity, Instance, Quarantine};

#[derive(Default)]
struct FrameFields {
    state: Option<FrameRow>,
    fixed: FixedRow,
    data: Option<RawJson>,
    context: Option<RawJson>,
    consumed: Option<RawJson>,
    entries: Entries,
    stored: [usize; frame::Part::ALL.len()],
}

/// All fields, decoded but not yet put together.
#[derive(Default)]
struct Fields {
    identity: Option<IdentityRow>,
    header: Option<HeaderRow>,
    input: Option<Data>,
    context: Option<Data>,
    output: Option<Data>,
    error: Option<Problem>,
    rounds: Option<RoundsRow>,
    detached: Option<DetachedRow>,
    frames: BTreeMap<FrameId, FrameFields>,
}

/// See [`Instance::load`].
pub(crate) fn load<K, V>(
    key: InstanceKey,
    fields: impl IntoIterator<Item = (K, V)>,
) -> Result<Instance, LoadError>
where
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let mut found = Fields::default();
    for (name, bytes) in fields {
        let name = String::from_utf8_lossy(name.as_ref());
        found.read(&name, bytes.as_ref())?;
    }
    found.build(key)
}

/// Decodes the header alone.
pub(crate) fn header(bytes: &[u8]) -> Result<HeaderRow, LoadError> {
    decode("h", bytes)
}

/// Decodes the identity alone.
pub(crate) fn identity(bytes: &[u8]) -> Result<IdentityRow, LoadError> {
    decode("i", bytes)
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(field: &str, bytes: &'a [u8]) -> Result<T, LoadError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    serde_json::from_slice(bytes).map_err(|e| match serde_json::from_slice::<Version>(bytes) {
        Ok(Version { v }) if v > VERSION => LoadError::Version {
            field: field.to_owned(),
            found: v,
        },
        Ok(Version { .. }) | Err(_) => bad(field, e),
    })
}

fn payload(field: &str, bytes: &[u8]) -> Result<Data, LoadError> {
    let raw = RawJson::parse(bytes).map_err(|e| bad(field, e))?;
    data(field, raw)
}

fn data(field: &str, raw: RawJson) -> Result<Data, LoadError> {
    Data::parse(raw).map_err(|e| bad(field, e))
}

fn bad(field: &str, reason: impl std::fmt::Display) -> LoadError {
    LoadError::Field {
        field: field.to_owned(),
        reason: reason.to_string(),
    }
}

impl Fields {
    fn read(&mut self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        match name {
            "i" => self.identity = Some(identity(bytes)?),
            "h" => self.header = Some(header(bytes)?),
            "in" => self.input = Some(payload(name, bytes)?),
            "c" => self.context = Some(payload(name, bytes)?),
            "out" => self.output = Some(payload(name, bytes)?),
            "err" => self.error = Some(decode(name, bytes)?),
            "r" => self.rounds = Some(decode(name, bytes)?),
            "dt" => self.detached = Some(decode(name, bytes)?),
            _ => self.read_frame(name, bytes)?,
        }
        Ok(())
    }

    fn read_frame(&mut self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        if let Some((page, rest)) = name
            .strip_prefix('e')
            .map(|r| (false, r))
            .or_else(|| name.strip_prefix('p').map(|r| (true, r)))
        {
            return self.read_entry(name, page, rest, bytes);
        }
        let found = frame::Part::ALL.into_iter().find_map(|part| {
            let id = name.strip_prefix(part.letter())?.parse::<FrameId>().ok()?;
            Some((part, id))
        });
        let Some((part, id)) = found else {
            return Err(bad(name, "no such field"));
        };
        let frame = self.frames.entry(id).or_default();
        let raw = || RawJson::parse(bytes).map_err(|e| bad(name, e));
        match part {
            frame::Part::State => frame.state = Some(decode(name, bytes)?),
            frame::Part::Fixed => frame.fixed = decode(name, bytes)?,
            frame::Part::Data => frame.data = Some(raw()?),
            frame::Part::Context => frame.context = Some(raw()?),
            frame::Part::Consumed => frame.consumed = Some(raw()?),
        }
        frame.stored[part as usize] = bytes.len();
        Ok(())
    }

    fn read_entry(&mut self, name: &str, page: bool, rest: &str, bytes: &[u8]) -> Result<(), LoadError> {
        let numbers = rest
            .split_once('.')
            .and_then(|(id, n)| Some((id.parse().ok()?, n.parse().ok()?)));
        let (id, n): (FrameId, u32) = numbers.ok_or_else(|| bad(name, "no such field"))?;
        let found = payload(name, bytes)?.value().clone();
        let entries = &mut self.frames.entry(id).or_default().entries;
        match (page, found) {
            (false, found) => entries.load(n, found, bytes.len()),
            (true, Value::Arr(values)) => entries.load_page(n, values.iter().cloned(), bytes.len()),
            (true, _) => return Err(bad(name, "not an array")),
        }
        Ok(())
    }

    fn build(self, key: InstanceKey) -> Result<Instance, LoadError> {
        let identity = self.identity.ok_or(LoadError::Missing("i"))?;
        let row = self.header.ok_or(LoadError::Missing("h"))?;
        let identity = Identity {
            definition: identity.definition,
            labels: identity.labels,
            parent: identity.parent,
            traceparent: identity.traceparent,
            created_ms: identity.created_ms,
        };
        let mut instance = Instance::new(key, identity, self.input.ok_or(LoadError::Missing("in"))?);
        instance.changes = Changes::default();
        instance.header = read_header(row);
        instance.changes.stored = [
            true,
            true,
            true,
            self.context.is_some(),
            self.output.is_some(),
            self.error.is_some(),
            self.rounds.is_some(),
            self.detached.is_some(),
        ];
        instance.rounds = self.rounds.map(|row| row.rounds).unwrap_or_default();
        instance.detached = self.detached.map(|row| row.steps).unwrap_or_default();
        instance.context = self.context.unwrap_or_else(Data::empty_object);
        (instance.output, instance.error) = (self.output, self.error);
        for (id, fields) in self.frames {
            add_frame(&mut instance, id, fields)?;
        }
        Ok(instance)
    }
}

fn read_header(row: HeaderRow) -> Header {
    Header {
        started_ms: row.started_ms,
        ended: row.ended_ms.map(|at_ms| Ended {
            status: row.status,
            at_ms,
        }),
        suspended: row.suspended,
        quarantine: row
            .quarantine
            .map(|(reason, since_ms)| Quarantine { reason, since_ms }),
        next_frame: row.next_frame,
        next_timer: row.next_timer,
        traced: row.traced,
        ordinal: row.ordinal,
        continuation: row.continuation,
        continuing: row.continuing,
        recorded: row.recorded,
        rounds: row.rounds,
        undone: row.undone,
        undo_failed: row.undo_failed,
        ready: row.ready,
    }
}

/// Frames come in ascending order, so the parent, from which data is inherited, is there already.
fn add_frame(instance: &mut Instance, id: FrameId, fields: FrameFields) -> Result<(), LoadError> {
    let name = format!("f{id}");
    let row = fields.state.ok_or_else(|| bad(&name, "missing"))?;
    let parent = match row.parent {
        None if id == ROOT_FRAME => None,
        None => return Err(bad(&name, "has no parent")),
        Some(p) => Some(
            instance
                .frames
                .get_mut(&p)
                .ok_or_else(|| bad(&name, format!("parent {p} is missing")))?,
        ),
    };
    let raw = match parent {
        Some(parent) => {
            parent.children.push(id);
            parent.data().clone()
        }
        None => instance.input.clone(),
    };
    let own = |raw: Option<RawJson>| raw.map(|r| data(&name, r)).transpose();
    let input = own(row.input.or(fields.fixed.input))?.unwrap_or_else(|| raw.clone());
    let late = fields.fixed.late.map(Arc::new);
    let arguments = |inline: Option<RawJson>| {
        Ok(own(inline.or(fields.fixed.arguments))?.unwrap_or_else(|| input.clone()))
    };
    // Earlier builds kept all that a `listen` holds where only the data of its list is now.
    let is_listen = matches!(row.body, BodyRow::Listen { .. });
    let is_old = is_listen && fields.consumed.is_none() && fields.data.is_some();
    let (large, consumed) = match is_old {
        true => (None, fields.data),
        false => (fields.data, fields.consumed),
    };
    let apart = Apart {
        large,
        consumed,
        late,
    };
    let body = read_body(&name, row.body, (&raw, &input), apart, arguments)?;
    let frame = Frame {
        node: row.node,
        pointer: row.pointer,
        parent: row.parent,
        branch: row.branch,
        path: Path(row.path),
        ordinal: row.ordinal,
        started_ms: row.started_ms,
        attempt: row.attempt,
        peak: row.peak.unwrap_or(row.attempt),
        context: own(fields.context)?,
        timeout: row.timeout.map(read_timer),
        kept: row.kept,
        round: row.round,
        entries: fields.entries,
        children: Vec::new(),
        dirty: Parts::default(),
        stored: fields.stored,
        raw,
        input,
        body,
    };
    instance.changes.frame_bytes += frame.stored.iter().sum::<usize>() + frame.entries.bytes();
    if frame.remembers_tasks() {
        instance.remembered.0 += frame.entries.len();
        instance.remembered.1 += frame.entries.bytes();
    }
    instance.count(frame.open(), true);
    instance.frames.insert(id, frame);
    if is_old {
        instance.edit(id, Parts::CONSUMED);
    }
    Ok(())
}

/// What stands in fields of its own.
struct Apart {
    /// Current data.
    large: Option<RawJson>,
    /// What a `listen` holds.
    consumed: Option<RawJson>,
    late: Option<Arc<Late>>,
}

fn read_body(
    name: &str,
    row: BodyRow,
    (raw, input): (&Data, &Data),
    apart: Apart,
    arguments: impl FnOnce(Option<RawJson>) -> Result<Data, LoadError>,
) -> Result<Body, LoadError> {
    let Apart {
        large,
        consumed,
        late,
    } = apart;
    let cursor = |row: CursorRow, large: Option<RawJson>| -> Result<Cursor, LoadError> {
        let own = row.data.or(large).map(|r| data(name, r)).transpose()?;
        Ok(Cursor {
            index: row.index,
            ordinal: row.ordinal,
            data: own.unwrap_or_else(|| input.clone()),
        })
    };
    Ok(match row {
        BodyRow::List(row) => Body::List(cursor(row, large)?),
        BodyRow::For {
            cursor: row,
            index,
            entered,
        } => Body::For(ForLoop {
            cursor: cursor(row, large)?,
            items: arguments(None)?,
            index,
            entered,
        }),
        BodyRow::Each { next } => Body::Each(EachState {
            items: arguments(None)?,
            next,
        }),
        BodyRow::Item(row) => Body::Item(cursor(row, large)?),
        BodyRow::Undo {
            entry,
            task,
            function,
            arguments: inline,
            problem,
            is_final,
            then,
        } => Body::Undo(UndoState {
            entry,
            task,
            function,
            arguments: arguments(inline)?,
            failed: Box::new(Failed {
                problem: *problem,
                is_final,
            }),
            then,
        }),
        BodyRow::Fork {
            next,
            again,
            done,
            failed,
        } => Body::Fork(ForkState {
            next,
            again,
            done,
            failed,
        }),
        BodyRow::Try {
            phase,
            cursor: row,
            retries,
            since_ms,
            error,
            attempt_ms,
            attempt_timer,
            delay,
        } => Body::Try(TryState {
            phase: match phase {
                PhaseRow::Body => Phase::Body,
                PhaseRow::Delay => Phase::Delay,
                PhaseRow::Handler => Phase::Handler,
            },
            cursor: cursor(row, large)?,
            retries,
            since_ms,
            error: error.map(|e| data(name, e)).transpose()?,
            attempt_ms,
            attempt_timer: attempt_timer.map(read_timer),
            delay: delay.map(read_timer),
        }),
        BodyRow::Inline { arguments: inline } => Body::Inline(arguments(inline)?),
        BodyRow::Extended {
            matched,
            position,
            cursor: row,
            arguments: inline,
            through,
            flow,
            told,
        } => Body::Extended(Extended {
            matched,
            position,
            cursor: cursor(row, large)?,
            output: through.then(|| arguments(inline)).transpose()?,
            flow: flow.map(read_flow),
            told,
        }),
        BodyRow::Step(row) => Body::Step(read_step(name, row, late, arguments)?),
        BodyRow::Wait(timer) => Body::Wait(read_timer(timer)),
        BodyRow::Child {
            child,
            version,
            arguments: inline,
            held,
        } => Body::Child(ChildState {
            child,
            version,
            arguments: arguments(inline)?,
            held: match held {
                Some(HeldRow::Output(raw)) => Some(Ok(data(name, raw)?)),
                Some(HeldRow::Error(problem)) => Some(Err(problem)),
                Some(HeldRow::Lost) | None => None,
            },
        }),
        BodyRow::Listen {
            closed,
            keys,
            done,
            failed,
            index,
            ordinal,
        } => {
            let consumed = consumed.map_or_else(|| Ok(ConsumedRow::default()), |raw| raw.decode());
            let consumed: ConsumedRow = consumed.map_err(|e| bad(name, e))?;
            let consumed = ConsumedRow {
                data: consumed.data.or(large),
                ..consumed
            };
            let interest = arguments(None)?.raw().decode().map_err(|e| bad(name, e))?;
            let mut state = read_listen(name, consumed, interest, input)?;
            (state.cursor.index, state.cursor.ordinal) = (index, ordinal);
            (state.closed, state.keys, state.done, state.failed) = (closed, keys, done, failed);
            Body::Listen(Box::new(state))
        }
        BodyRow::Done { output } => Body::Done(
            output
                .map(|o| data(name, o))
                .transpose()?
                .unwrap_or_else(|| raw.clone()),
        ),
        BodyRow::Failed(problem) => failed(*problem, false),
        BodyRow::FailedFinally(problem) => failed(*problem, true),
    })
}

fn failed(problem: Problem, is_final: bool) -> Body {
    Body::Failed(Box::new(Failed { problem, is_final }))
}

fn read_listen(
    name: &str,
    row: ConsumedRow,
    interest: Interest,
    input: &Data,
) -> Result<ListenState, LoadError> {
    let all = |list: Vec<RawJson>| {
        list.into_iter()
            .map(|raw| data(name, raw))
            .collect::<Result<Vec<_>, _>>()
    };
    let (queue, output) = (all(row.queue)?, all(row.output)?);
    let bytes = queue.iter().chain(&output).map(|d| d.raw().len() + 1).sum();
    let item = row.item.map(|raw| data(name, raw)).transpose()?;
    let current = match (row.data, &item) {
        (Some(raw), _) => data(name, raw)?,
        (None, Some(item)) => item.clone(),
        (None, None) => input.clone(),
    };
    Ok(ListenState {
        interest: Arc::new(interest),
        closed: Vec::new(),
        keys: BTreeMap::new(),
        seen: row.seen,
        queue: queue.into(),
        output,
        bytes,
        done: false,
        item,
        failed: None,
        cursor: Cursor::new(current),
    })
}

fn read_step(
    name: &str,
    row: StepRow,
    late: Option<Arc<Late>>,
    arguments: impl FnOnce(Option<RawJson>) -> Result<Data, LoadError>,
) -> Result<StepState, LoadError> {
    Ok(StepState {
        function: row.function,
        arguments: arguments(row.arguments)?,
        late,
        generation: row.generation,
        deadline_ms: row.deadline_ms,
        key: row.key,
        start: row.start.map(read_timer),
        worker: row.worker,
        delivery: row.delivery,
        duration_ms: row.duration_ms,
        progress: row.progress,
        held: match row.held {
            Some(HeldRow::Output(raw)) => Some(HeldStep::Output(data(name, raw)?)),
            Some(HeldRow::Error(problem)) => Some(HeldStep::Error(problem)),
            Some(HeldRow::Lost) => Some(HeldStep::Lost),
            None => None,
        },
    })
}

const fn read_flow(row: FlowRow) -> Flow {
    match row {
        FlowRow::Continue => Flow::Continue,
        FlowRow::Exit => Flow::Exit,
        FlowRow::End => Flow::End,
        FlowRow::Task(index) => Flow::Task(index),
    }
}

fn read_timer(row: TimerRow) -> Timer {
    match row {
        TimerRow::Armed(number, due_ms) => Timer {
            number,
            due_ms,
            fired: false,
        },
        TimerRow::Fired(number, due_ms, fired) => Timer {
            number,
            due_ms,
            fired,
        },
    }
}
