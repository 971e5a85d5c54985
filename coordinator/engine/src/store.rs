//! An instance as fields of a hash.
//!
//! | field | holds | written |
//! | --- | --- | --- |
//! | `i` | definition, labels, parent, time of creation | once |
//! | `h` | status, counters, flags | when they change: about always |
//! | `in`, `out`, `err` | raw input, output, error | once |
//! | `c` | `$context`, absent while `{}` | when it changes |
//! | `f<N>` | state of frame N | when it changes |
//! | `d<N>` | what never changes in frame N, when large: input, items of a `for`, arguments | once |
//! | `v<N>` | current data of frame N, when large | when it changes |
//! | `x<N>` | `$context` of branch N, when it has its own | when it changes |
//!
//! Data that is the parent's is stored nowhere: absent means inherited. Every JSON object but payloads carries its
//! version in `v`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use millrace_common::{DefinitionRef, InstanceKey, ParentLink, Problem, RawJson};
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::effect::Writes;
use crate::frame::{
    self, Body, ChildState, Cursor, ForLoop, ForkState, Frame, FrameId, HeldStep, Parts, Phase, ROOT_FRAME,
    StepState, Timer, TryState,
};
use crate::ids::Path;
use crate::plan::NodeId;
use crate::state::{Change, Changes, Ended, Header, Identity, Instance, Part, Quarantine};
use crate::status::Status;

/// Version that is written.
const VERSION: u32 = 1;

/// Payloads up to this many bytes stay inside of `f<N>`: a field of their own costs more than writing them again.
const INLINE_BYTES_MAX: usize = 512;

/// Why stored fields are not an instance.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A field that every instance has is not there.
    #[error("stored instance has no field `{0}`")]
    Missing(&'static str),
    /// A field cannot be decoded.
    #[error("cannot decode field `{field}` of a stored instance: {reason}")]
    Field {
        /// Its name.
        field: String,
        /// serde_json's reason, or what does not fit.
        reason: String,
    },
    /// Written by a newer build.
    #[error(
        "field `{field}` of a stored instance has version {found}, newer than {VERSION}; upgrade this process"
    )]
    Version {
        /// Its name.
        field: String,
        /// Version found.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
pub(crate) struct IdentityRow {
    v: u32,
    #[serde(rename = "d")]
    pub(crate) definition: DefinitionRef,
    #[serde(rename = "l", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    parent: Option<ParentLink>,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(rename = "at")]
    pub(crate) created_ms: i64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct HeaderRow {
    v: u32,
    /// For readers: the engine derives it.
    #[serde(rename = "s")]
    pub(crate) status: Status,
    #[serde(rename = "at")]
    pub(crate) started_ms: i64,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_ms: Option<i64>,
    #[serde(rename = "su", default, skip_serializing_if = "is_default")]
    suspended: bool,
    #[serde(rename = "q", default, skip_serializing_if = "Option::is_none")]
    pub(crate) quarantine: Option<(String, i64)>,
    #[serde(rename = "f")]
    next_frame: FrameId,
    #[serde(rename = "t")]
    next_timer: u32,
    #[serde(rename = "n")]
    traced: u64,
    #[serde(rename = "o")]
    ordinal: u64,
    #[serde(rename = "c", default, skip_serializing_if = "is_default")]
    continuation: u64,
    #[serde(rename = "cg", default, skip_serializing_if = "is_default")]
    continuing: bool,
    #[serde(rename = "r", default, skip_serializing_if = "VecDeque::is_empty")]
    pub(crate) ready: VecDeque<FrameId>,
}

/// `[number, due]`, with a third element when it came due during a suspension.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum TimerRow {
    Armed(u32, i64),
    Fired(u32, i64, bool),
}

impl TimerRow {
    pub(crate) const fn due_ms(self) -> i64 {
        match self {
            Self::Armed(_, due) | Self::Fired(_, due, _) => due,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct FrameRow {
    v: u32,
    #[serde(rename = "n")]
    node: NodeId,
    #[serde(rename = "t")]
    pub(crate) pointer: Arc<str>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    parent: Option<FrameId>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    branch: Option<u32>,
    #[serde(rename = "h")]
    path: u64,
    #[serde(rename = "o")]
    pub(crate) ordinal: u64,
    #[serde(rename = "s")]
    pub(crate) started_ms: i64,
    #[serde(rename = "a", default = "one", skip_serializing_if = "is_one")]
    pub(crate) attempt: u32,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    peak: Option<u32>,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    input: Option<RawJson>,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<TimerRow>,
    #[serde(rename = "g", default, skip_serializing_if = "BTreeMap::is_empty")]
    kept: BTreeMap<u64, RawJson>,
    #[serde(rename = "w")]
    pub(crate) body: BodyRow,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CursorRow {
    #[serde(rename = "i", default, skip_serializing_if = "is_default")]
    index: u32,
    #[serde(rename = "o", default, skip_serializing_if = "is_default")]
    ordinal: u64,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    data: Option<RawJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum BodyRow {
    List(CursorRow),
    For {
        #[serde(rename = "l")]
        cursor: CursorRow,
        #[serde(rename = "i")]
        index: u32,
        #[serde(rename = "e", default, skip_serializing_if = "is_default")]
        entered: bool,
    },
    Fork {
        #[serde(rename = "n")]
        next: u32,
        #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
        again: Vec<u32>,
        #[serde(rename = "d", default, skip_serializing_if = "is_default")]
        done: u32,
        #[serde(rename = "f", default, skip_serializing_if = "is_default")]
        failed: u32,
    },
    Try {
        #[serde(rename = "ph")]
        phase: PhaseRow,
        #[serde(rename = "l")]
        cursor: CursorRow,
        #[serde(rename = "r", default, skip_serializing_if = "is_default")]
        retries: u32,
        #[serde(rename = "s")]
        since_ms: i64,
        #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
        error: Option<RawJson>,
        #[serde(rename = "as")]
        attempt_ms: i64,
        #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
        attempt_timer: Option<TimerRow>,
        #[serde(rename = "dl", default, skip_serializing_if = "Option::is_none")]
        delay: Option<TimerRow>,
    },
    Inline {
        #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
        arguments: Option<RawJson>,
    },
    Step(StepRow),
    Wait(TimerRow),
    Child {
        #[serde(rename = "c")]
        child: InstanceKey,
        #[serde(rename = "v")]
        version: String,
        #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
        arguments: Option<RawJson>,
        #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
        held: Option<HeldRow>,
    },
    Done {
        #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
        output: Option<RawJson>,
    },
    Failed(Box<Problem>),
}

#[derive(Serialize, Deserialize)]
pub(crate) struct StepRow {
    #[serde(rename = "f")]
    pub(crate) function: Arc<str>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    arguments: Option<RawJson>,
    #[serde(rename = "g", default, skip_serializing_if = "is_default")]
    generation: u32,
    #[serde(rename = "dl", default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_ms: Option<i64>,
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub(crate) worker: Option<String>,
    #[serde(rename = "n", default, skip_serializing_if = "is_default")]
    delivery: u32,
    #[serde(rename = "ms", default, skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    progress: Option<RawJson>,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    held: Option<HeldRow>,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum HeldRow {
    #[serde(rename = "o")]
    Output(RawJson),
    #[serde(rename = "e")]
    Error(Box<Problem>),
    #[serde(rename = "l")]
    Lost,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum PhaseRow {
    #[serde(rename = "b")]
    Body,
    #[serde(rename = "d")]
    Delay,
    #[serde(rename = "h")]
    Handler,
}

#[derive(Default, Serialize, Deserialize)]
struct FixedRow {
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    input: Option<RawJson>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    arguments: Option<RawJson>,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_one(n: &u32) -> bool {
    *n == 1
}

fn is_default<T: Default + PartialEq>(v: &T) -> bool {
    *v == T::default()
}

// ---------------------------------------------------------------- writing

/// See [`Instance::take_writes`].
pub(crate) fn take_writes(instance: &mut Instance) -> Writes {
    let mut writes = Writes {
        set: Vec::with_capacity(4),
        ..Writes::default()
    };
    let parts = std::mem::take(&mut instance.changes.parts);
    for part in Part::ALL {
        match parts[part as usize] {
            Some(Change::Set) => {
                if let Some(bytes) = encode_part(instance, part) {
                    instance.changes.stored[part as usize] = true;
                    writes.set.push((part.field().to_owned(), bytes));
                }
            }
            Some(Change::Delete) => {
                if std::mem::take(&mut instance.changes.stored[part as usize]) {
                    writes.delete.push(part.field().to_owned());
                }
            }
            None => {}
        }
    }
    let mut frames = std::mem::take(&mut instance.changes.frames);
    frames.sort_unstable();
    frames.dedup();
    for id in frames {
        if let Some(frame) = instance.frames.get_mut(&id) {
            write_frame(id, frame, &mut writes, &mut instance.changes.frame_bytes);
        }
    }
    writes.delete.append(&mut instance.changes.deleted);
    writes.trace = std::mem::take(&mut instance.changes.trace);
    writes.trace_delete = std::mem::take(&mut instance.changes.trace_deleted);
    writes
}

/// Notes the fields of a frame that is gone.
pub(crate) fn delete(changes: &mut Changes, id: FrameId, frame: &Frame) {
    for part in frame::Part::ALL {
        if frame.stored[part as usize] > 0 {
            changes.deleted.push(format!("{}{id}", part.letter()));
        }
    }
    changes.frame_bytes = changes.frame_bytes.saturating_sub(frame.stored.iter().sum());
}

fn encode_part(instance: &Instance, part: Part) -> Option<Bytes> {
    match part {
        Part::Identity => Some(json(&identity_row(&instance.identity))),
        Part::Header => Some(json(&header_row(instance))),
        Part::Input => Some(text(instance.input.raw())),
        Part::Context => Some(text(instance.context.raw())),
        Part::Output => instance.output.as_ref().map(|o| text(o.raw())),
        Part::Error => instance.error.as_ref().map(|e| json(e)),
    }
}

fn write_frame(id: FrameId, frame: &mut Frame, writes: &mut Writes, total: &mut usize) {
    let dirty = std::mem::take(&mut frame.dirty);
    for part in frame::Part::ALL {
        if !dirty.has(part) {
            continue;
        }
        let bytes = encode_frame(frame, part);
        let (before, now) = (frame.stored[part as usize], bytes.as_ref().map_or(0, Bytes::len));
        frame.stored[part as usize] = now;
        *total = total.saturating_sub(before) + now;
        match bytes {
            Some(bytes) => writes.set.push((format!("{}{id}", part.letter()), bytes)),
            None if before > 0 => writes.delete.push(format!("{}{id}", part.letter())),
            None => {}
        }
    }
}

fn encode_frame(frame: &Frame, part: frame::Part) -> Option<Bytes> {
    match part {
        frame::Part::State => Some(json(&frame_row(frame))),
        frame::Part::Fixed => fixed_row(frame).map(|row| json(&row)),
        frame::Part::Data => large_data(frame).map(|d| text(d.raw())),
        frame::Part::Context => frame.context.as_ref().map(|c| text(c.raw())),
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes.into(),
        Err(e) => unreachable!("rows have text keys and no failing serialiser: {e}"),
    }
}

fn text(raw: &RawJson) -> Bytes {
    Bytes::copy_from_slice(raw.text().as_bytes())
}

fn identity_row(identity: &Identity) -> IdentityRow {
    IdentityRow {
        v: VERSION,
        definition: identity.definition.clone(),
        labels: identity.labels.clone(),
        parent: identity.parent.clone(),
        traceparent: identity.traceparent.clone(),
        created_ms: identity.created_ms,
    }
}

pub(crate) fn header_row(instance: &Instance) -> HeaderRow {
    let h = &instance.header;
    HeaderRow {
        v: VERSION,
        status: instance.status(),
        started_ms: h.started_ms,
        ended_ms: h.ended.map(|e| e.at_ms),
        suspended: h.suspended,
        quarantine: h.quarantine.as_ref().map(|q| (q.reason.clone(), q.since_ms)),
        next_frame: h.next_frame,
        next_timer: h.next_timer,
        traced: h.traced,
        ordinal: h.ordinal,
        continuation: h.continuation,
        continuing: h.continuing,
        ready: h.ready.clone(),
    }
}

fn timer_row(timer: Timer) -> TimerRow {
    match timer.fired {
        false => TimerRow::Armed(timer.number, timer.due_ms),
        true => TimerRow::Fired(timer.number, timer.due_ms, true),
    }
}

/// The input, unless it is inherited.
fn own_input(frame: &Frame) -> Option<&Data> {
    (!frame.input.is(&frame.raw)).then_some(&frame.input)
}

/// Arguments of a call, unless they are its input; the items of a `for`.
fn own_arguments(frame: &Frame) -> Option<&Data> {
    match &frame.body {
        Body::For(f) => Some(&f.items),
        Body::Inline(arguments) => Some(arguments),
        Body::Step(step) => Some(&step.arguments),
        Body::Child(child) => Some(&child.arguments),
        Body::List(_) | Body::Fork(_) | Body::Try(_) | Body::Wait(_) | Body::Done(_) | Body::Failed(_) => {
            None
        }
    }
    .filter(|d| !d.is(&frame.input))
}

fn is_small(data: &Data) -> bool {
    data.raw().len() <= INLINE_BYTES_MAX
}

fn small(data: &Data) -> Option<RawJson> {
    is_small(data).then(|| data.raw().clone())
}

/// Items are written once however small they are: the frame is written again for every iteration.
fn fixed_row(frame: &Frame) -> Option<FixedRow> {
    let apart = |data: &&Data| matches!(frame.body, Body::For(_)) || !is_small(data);
    let row = FixedRow {
        input: own_input(frame).filter(|d| !is_small(d)).map(|d| d.raw().clone()),
        arguments: own_arguments(frame).filter(apart).map(|d| d.raw().clone()),
    };
    (row.input.is_some() || row.arguments.is_some()).then_some(row)
}

fn large_data(frame: &Frame) -> Option<&Data> {
    frame
        .cursor()
        .map(|c| &c.data)
        .filter(|d| !d.is(&frame.input) && !is_small(d))
}

pub(crate) fn frame_row(frame: &Frame) -> FrameRow {
    FrameRow {
        v: VERSION,
        node: frame.node,
        pointer: frame.pointer.clone(),
        parent: frame.parent,
        branch: frame.branch,
        path: frame.path.0,
        ordinal: frame.ordinal,
        started_ms: frame.started_ms,
        attempt: frame.attempt,
        peak: (frame.peak != frame.attempt).then_some(frame.peak),
        input: own_input(frame).and_then(small),
        timeout: frame.timeout.map(timer_row),
        kept: frame.kept.clone(),
        body: body_row(frame),
    }
}

fn cursor_row(frame: &Frame, cursor: &Cursor) -> CursorRow {
    let own = (!cursor.data.is(&frame.input)).then_some(&cursor.data);
    CursorRow {
        index: cursor.index,
        ordinal: cursor.ordinal,
        data: own.and_then(small),
    }
}

fn body_row(frame: &Frame) -> BodyRow {
    let arguments = || own_arguments(frame).and_then(small);
    match &frame.body {
        Body::List(cursor) => BodyRow::List(cursor_row(frame, cursor)),
        Body::For(f) => BodyRow::For {
            cursor: cursor_row(frame, &f.cursor),
            index: f.index,
            entered: f.entered,
        },
        Body::Fork(f) => BodyRow::Fork {
            next: f.next,
            again: f.again.clone(),
            done: f.done,
            failed: f.failed,
        },
        Body::Try(t) => try_row(frame, t),
        Body::Inline(_) => BodyRow::Inline {
            arguments: arguments(),
        },
        Body::Step(step) => BodyRow::Step(step_row(step, arguments())),
        Body::Wait(timer) => BodyRow::Wait(timer_row(*timer)),
        Body::Child(c) => BodyRow::Child {
            child: c.child.clone(),
            version: c.version.clone(),
            arguments: arguments(),
            held: c.held.as_ref().map(|h| match h {
                Ok(data) => HeldRow::Output(data.raw().clone()),
                Err(problem) => HeldRow::Error(problem.clone()),
            }),
        },
        Body::Done(output) => BodyRow::Done {
            output: (!output.is(&frame.raw)).then(|| output.raw().clone()),
        },
        Body::Failed(problem) => BodyRow::Failed(problem.clone()),
    }
}

fn try_row(frame: &Frame, t: &TryState) -> BodyRow {
    BodyRow::Try {
        phase: match t.phase {
            Phase::Body => PhaseRow::Body,
            Phase::Delay => PhaseRow::Delay,
            Phase::Handler => PhaseRow::Handler,
        },
        cursor: cursor_row(frame, &t.cursor),
        retries: t.retries,
        since_ms: t.since_ms,
        error: t.error.as_ref().map(|e| e.raw().clone()),
        attempt_ms: t.attempt_ms,
        attempt_timer: t.attempt_timer.map(timer_row),
        delay: t.delay.map(timer_row),
    }
}

fn step_row(step: &StepState, arguments: Option<RawJson>) -> StepRow {
    StepRow {
        function: step.function.clone(),
        arguments,
        generation: step.generation,
        deadline_ms: step.deadline_ms,
        worker: step.worker.clone(),
        delivery: step.delivery,
        duration_ms: step.duration_ms,
        progress: step.progress.clone(),
        held: step.held.as_ref().map(|h| match h {
            HeldStep::Output(data) => HeldRow::Output(data.raw().clone()),
            HeldStep::Error(problem) => HeldRow::Error(problem.clone()),
            HeldStep::Lost => HeldRow::Lost,
        }),
    }
}

// ---------------------------------------------------------------- reading

/// The fields of one frame, as they come.
#[derive(Default)]
struct FrameFields {
    state: Option<FrameRow>,
    fixed: FixedRow,
    data: Option<RawJson>,
    context: Option<RawJson>,
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
            _ => self.read_frame(name, bytes)?,
        }
        Ok(())
    }

    fn read_frame(&mut self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
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
        }
        frame.stored[part as usize] = bytes.len();
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
        ];
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
    let arguments = |inline: Option<RawJson>| {
        Ok(own(inline.or(fields.fixed.arguments))?.unwrap_or_else(|| input.clone()))
    };
    let body = read_body(&name, row.body, &raw, &input, fields.data, arguments)?;
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
        children: Vec::new(),
        dirty: Parts::default(),
        stored: fields.stored,
        raw,
        input,
        body,
    };
    instance.changes.frame_bytes += frame.stored.iter().sum::<usize>();
    instance.count(frame.open(), true);
    instance.frames.insert(id, frame);
    Ok(())
}

fn read_body(
    name: &str,
    row: BodyRow,
    raw: &Data,
    input: &Data,
    large: Option<RawJson>,
    arguments: impl FnOnce(Option<RawJson>) -> Result<Data, LoadError>,
) -> Result<Body, LoadError> {
    let cursor = |row: CursorRow| -> Result<Cursor, LoadError> {
        let own = row.data.or(large).map(|r| data(name, r)).transpose()?;
        Ok(Cursor {
            index: row.index,
            ordinal: row.ordinal,
            data: own.unwrap_or_else(|| input.clone()),
        })
    };
    Ok(match row {
        BodyRow::List(row) => Body::List(cursor(row)?),
        BodyRow::For {
            cursor: row,
            index,
            entered,
        } => Body::For(ForLoop {
            cursor: cursor(row)?,
            items: arguments(None)?,
            index,
            entered,
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
            cursor: cursor(row)?,
            retries,
            since_ms,
            error: error.map(|e| data(name, e)).transpose()?,
            attempt_ms,
            attempt_timer: attempt_timer.map(read_timer),
            delay: delay.map(read_timer),
        }),
        BodyRow::Inline { arguments: inline } => Body::Inline(arguments(inline)?),
        BodyRow::Step(row) => Body::Step(read_step(name, row, arguments)?),
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
        BodyRow::Done { output } => Body::Done(
            output
                .map(|o| data(name, o))
                .transpose()?
                .unwrap_or_else(|| raw.clone()),
        ),
        BodyRow::Failed(problem) => Body::Failed(problem),
    })
}

fn read_step(
    name: &str,
    row: StepRow,
    arguments: impl FnOnce(Option<RawJson>) -> Result<Data, LoadError>,
) -> Result<StepState, LoadError> {
    Ok(StepState {
        function: row.function,
        arguments: arguments(row.arguments)?,
        generation: row.generation,
        deadline_ms: row.deadline_ms,
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
