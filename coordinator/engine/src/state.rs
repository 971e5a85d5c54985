//! One instance in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use millrace_common::{DefinitionRef, InstanceKey, ParentLink, Problem};
use millrace_dsl::Value;

use crate::data::Data;
use crate::effect::{Dispatch, Writes};
use crate::frame::{Body, Frame, FrameId, Open, Parts, ROOT_FRAME};
use crate::plan::Plan;
use crate::status::Status;
use crate::store::{self, LoadError};
use crate::{dispatch, view};

/// One run of a definition: what [`crate::apply`] changes.
#[derive(Clone, Debug)]
pub struct Instance {
    pub(crate) key: InstanceKey,
    pub(crate) identity: Identity,
    pub(crate) header: Header,
    /// Raw workflow input.
    pub(crate) input: Data,
    /// `$context` of everything outside of fork branches.
    pub(crate) context: Data,
    pub(crate) output: Option<Data>,
    pub(crate) error: Option<Problem>,
    pub(crate) frames: BTreeMap<FrameId, Frame>,
    /// The plan of the last `apply`: saves a look-up for each record.
    pub(crate) plan: Option<Arc<Plan>>,
    pub(crate) open_steps: usize,
    pub(crate) open_waits: usize,
    /// Completed tasks that its sagas remember, and their bytes.
    pub(crate) remembered: (usize, usize),
    /// Sagas that were undone, by path: the number of the last time. What they repeat gets other keys.
    pub(crate) rounds: BTreeMap<u64, u32>,
    /// Detached steps whose end nobody has told yet, oldest first.
    pub(crate) detached: VecDeque<u64>,
    pub(crate) changes: Changes,
}

/// What never changes after the start.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) definition: DefinitionRef,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) parent: Option<ParentLink>,
    pub(crate) traceparent: Option<String>,
    pub(crate) created_ms: i64,
}

/// Small and rewritten at each transition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) started_ms: i64,
    pub(crate) ended: Option<Ended>,
    pub(crate) suspended: bool,
    pub(crate) quarantine: Option<Quarantine>,
    pub(crate) next_frame: FrameId,
    pub(crate) next_timer: u32,
    /// Number of the last trace entry.
    pub(crate) traced: u64,
    /// Tasks begun.
    pub(crate) ordinal: u64,
    /// Number of the last continuation.
    pub(crate) continuation: u64,
    /// Its record is on its way.
    pub(crate) continuing: bool,
    /// Number of the last completed task that a saga recorded.
    pub(crate) recorded: u32,
    /// How often a saga of this instance was undone.
    pub(crate) rounds: u32,
    /// Compensations of this run that are done, and that failed.
    pub(crate) undone: u32,
    pub(crate) undo_failed: u32,
    /// Frames that go on with the next continuation, in this order.
    pub(crate) ready: VecDeque<FrameId>,
}

/// How and when an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: Status,
    pub(crate) at_ms: i64,
}

/// Why and since when an instance is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantine {
    pub(crate) reason: String,
    pub(crate) since_ms: i64,
}

/// What changed since the last [`Instance::take_writes`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) parts: [Option<Change>; Part::ALL.len()],
    /// Which fields there are.
    pub(crate) stored: [bool; Part::ALL.len()],
    pub(crate) frames: Vec<FrameId>,
    pub(crate) deleted: Vec<String>,
    pub(crate) trace: Vec<(u64, Bytes)>,
    pub(crate) trace_deleted: Vec<u64>,
    /// Bytes of all stored parts of frames.
    pub(crate) frame_bytes: usize,
}

/// Fields of the instance as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Identity,
    Header,
    Input,
    Context,
    Output,
    Error,
    Rounds,
    Detached,
}

impl Part {
    pub(crate) const ALL: [Self; 8] = [
        Self::Identity,
        Self::Header,
        Self::Input,
        Self::Context,
        Self::Output,
        Self::Error,
        Self::Rounds,
        Self::Detached,
    ];

    /// Name of its field.
    pub(crate) const fn field(self) -> &'static str {
        match self {
            Self::Identity => "i",
            Self::Header => "h",
            Self::Input => "in",
            Self::Context => "c",
            Self::Output => "out",
            Self::Error => "err",
            Self::Rounds => "r",
            Self::Detached => "dt",
        }
    }
}

/// What happens to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Set,
    Delete,
}

impl Instance {
    /// A new one, without frames.
    pub(crate) fn new(key: InstanceKey, identity: Identity, input: Data) -> Self {
        let header = Header {
            started_ms: identity.created_ms,
            next_frame: ROOT_FRAME,
            ..Header::default()
        };
        let mut new = Self {
            key,
            identity,
            header,
            input,
            context: Data::empty_object(),
            output: None,
            error: None,
            frames: BTreeMap::new(),
            plan: None,
            open_steps: 0,
            open_waits: 0,
            remembered: (0, 0),
            rounds: BTreeMap::new(),
            detached: VecDeque::new(),
            changes: Changes::default(),
        };
        for part in [Part::Identity, Part::Header, Part::Input] {
            new.touch(part);
        }
        new
    }

    /// Reads an instance from the fields of its state hash.
    ///
    /// # Errors
    /// [`LoadError`]; the same fields fail again.
    pub fn load<K, V>(key: InstanceKey, fields: impl IntoIterator<Item = (K, V)>) -> Result<Self, LoadError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        store::load(key, fields)
    }

    /// What changed since the last call, to be stored in one transaction. An instance that ended since keeps only
    /// header, input, output and error; a faulted one also what a retry needs.
    pub fn take_writes(&mut self) -> Writes {
        store::take_writes(self)
    }

    /// `namespace/id`.
    pub const fn key(&self) -> &InstanceKey {
        &self.key
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        if let Some(ended) = self.header.ended {
            ended.status
        } else if self.header.suspended || self.header.quarantine.is_some() {
            Status::Suspended
        } else if self.open_steps == 0 && self.open_waits > 0 && self.header.ready.is_empty() {
            Status::Waiting
        } else {
            Status::Running
        }
    }

    /// True when completed, faulted or cancelled.
    pub const fn is_ended(&self) -> bool {
        self.header.ended.is_some()
    }

    /// What it runs.
    pub const fn definition(&self) -> &DefinitionRef {
        &self.identity.definition
    }

    /// W3C trace context of the start call.
    pub fn traceparent(&self) -> Option<&str> {
        self.identity.traceparent.as_deref()
    }

    /// Labels given at the start.
    pub const fn labels(&self) -> &BTreeMap<String, String> {
        &self.identity.labels
    }

    /// The task of another instance that started it.
    pub const fn parent(&self) -> Option<&ParentLink> {
        self.identity.parent.as_ref()
    }

    /// Unix ms of the start record.
    pub const fn created_at_ms(&self) -> i64 {
        self.identity.created_ms
    }

    /// Unix ms of the end, if it ended.
    pub fn ended_at_ms(&self) -> Option<i64> {
        self.header.ended.map(|e| e.at_ms)
    }

    /// The error, when faulted.
    pub const fn error(&self) -> Option<&Problem> {
        self.error.as_ref()
    }

    /// Rebuilds the message of an open step: the same bytes as the [`crate::Effect::Dispatch`] that announced it, but
    /// with the newest saved progress. `None` when the step is closed.
    pub fn step(&self, plan: &Plan, frame: u32) -> Option<Dispatch> {
        dispatch::rebuild(self, plan, frame)
    }

    /// Frames of all open steps, in order.
    pub fn open_steps(&self) -> Vec<u32> {
        let open = |(id, frame): (&FrameId, &Frame)| (frame.open() == Open::Step).then_some(*id);
        self.frames.iter().filter_map(open).collect()
    }

    /// What it waits for, all of it, in the order in which it was started.
    pub fn waiting_for(&self) -> Vec<view::Waiting> {
        view::waiting_for(self)
    }

    /// Memory in use, roughly: for the bound of the owner's cache.
    pub fn approx_bytes(&self) -> usize {
        const FIXED: usize = 1024;
        const FRAME: usize = 512;
        /// A value in memory is about this many times as large as its text, the text itself included.
        const VALUE: usize = 4;
        let whole = self.input.known_bytes() + self.context.known_bytes();
        let output = self.output.as_ref().map_or(0, Data::known_bytes);
        FIXED + FRAME * self.frames.len() + VALUE * (self.changes.frame_bytes + whole + output)
    }

    /// Sets the instance aside after a panic: it shows as suspended with the reason, and [`crate::apply`] ignores every
    /// record but cancel and resume. Load it afresh before; a state in which `apply` panicked must not be stored.
    pub fn quarantine(&mut self, reason: &str, now_ms: i64) {
        self.header.quarantine = Some(Quarantine {
            reason: reason.to_owned(),
            since_ms: now_ms,
        });
        self.touch(Part::Header);
        crate::trace::status(self, "instance.quarantined", Some(reason), now_ms);
    }

    /// Why it is quarantined, if it is.
    pub fn quarantined(&self) -> Option<&str> {
        self.header.quarantine.as_ref().map(|q| q.reason.as_str())
    }
}

/// Frames.
impl Instance {
    pub(crate) fn frame(&self, id: FrameId) -> Option<&Frame> {
        self.frames.get(&id)
    }

    /// A frame to change these parts of.
    pub(crate) fn edit(&mut self, id: FrameId, parts: Parts) -> Option<&mut Frame> {
        let frame = self.frames.get_mut(&id)?;
        if frame.dirty.is_empty() {
            self.changes.frames.push(id);
        }
        frame.dirty.add(parts);
        Some(frame)
    }

    pub(crate) fn insert(&mut self, mut frame: Frame) -> FrameId {
        let id = self.header.next_frame;
        self.header.next_frame = self.header.next_frame.saturating_add(1);
        self.touch(Part::Header);
        if let Some(parent) = frame.parent.and_then(|p| self.frames.get_mut(&p)) {
            parent.children.push(id);
        }
        frame.dirty = Parts::ALL;
        self.changes.frames.push(id);
        self.count(frame.open(), true);
        self.frames.insert(id, frame);
        id
    }

    /// Puts an entry into a frame.
    pub(crate) fn add_entry(&mut self, id: FrameId, n: u32, value: Value) {
        if let Some(frame) = self.edit(id, Parts::STATE) {
            let is_task = frame.remembers_tasks();
            let bytes = frame.entries.insert(n, value);
            self.changes.frame_bytes += bytes;
            if is_task {
                self.remembered = (self.remembered.0 + 1, self.remembered.1 + bytes);
            }
        }
    }

    /// Takes an entry out of a frame.
    pub(crate) fn take_entry(&mut self, id: FrameId, n: u32) -> Option<Value> {
        let frame = self.edit(id, Parts::STATE)?;
        let is_task = frame.remembers_tasks();
        let (taken, bytes) = frame.entries.remove(n)?;
        self.changes.frame_bytes = self.changes.frame_bytes.saturating_sub(bytes);
        if is_task {
            self.forgets(1, bytes);
        }
        Some(taken)
    }

    fn forgets(&mut self, tasks: usize, bytes: usize) {
        let (all, total) = self.remembered;
        self.remembered = (all.saturating_sub(tasks), total.saturating_sub(bytes));
    }

    /// Forgets the entries of a frame that stays.
    pub(crate) fn clear_entries(&mut self, id: FrameId) {
        if let Some(frame) = self.frames.get_mut(&id).filter(|f| !f.entries.is_empty()) {
            store::delete_entries(&mut self.changes, id, frame);
            let gone = std::mem::take(&mut frame.entries);
            if frame.remembers_tasks() {
                self.forgets(gone.len(), gone.bytes());
            }
        }
    }

    /// Takes a frame out; its children must be gone. Timers, steps and the like are the caller's.
    pub(crate) fn remove(&mut self, id: FrameId) -> Option<Frame> {
        let frame = self.frames.remove(&id)?;
        self.count(frame.open(), false);
        store::delete(&mut self.changes, id, &frame);
        if frame.remembers_tasks() {
            self.forgets(frame.entries.len(), frame.entries.bytes());
        }
        if let Some(parent) = frame.parent.and_then(|p| self.frames.get_mut(&p))
            && let Some(at) = parent.children.iter().rposition(|c| *c == id)
        {
            parent.children.remove(at);
        }
        if !self.header.ready.is_empty() {
            self.header.ready.retain(|r| *r != id);
            self.touch(Part::Header);
        }
        Some(frame)
    }

    /// Changes what a frame does, and with it what it counts as.
    pub(crate) fn become_body(&mut self, id: FrameId, body: Body) {
        let Some(before) = self.frame(id).map(Frame::open) else {
            return;
        };
        let after = self.edit(id, Parts::ALL).map(|frame| {
            frame.body = body;
            frame.open()
        });
        self.count(before, false);
        self.count(after.unwrap_or(Open::Nothing), true);
    }

    pub(crate) fn count(&mut self, open: Open, up: bool) {
        let counter = match open {
            Open::Step => &mut self.open_steps,
            Open::Wait => &mut self.open_waits,
            Open::Nothing => return,
        };
        *counter = if up {
            *counter + 1
        } else {
            counter.saturating_sub(1)
        };
    }

    pub(crate) fn touch(&mut self, part: Part) {
        self.changes.parts[part as usize] = Some(Change::Set);
    }

    pub(crate) fn drop_part(&mut self, part: Part) {
        self.changes.parts[part as usize] = Some(Change::Delete);
    }
}
