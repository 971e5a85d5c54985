//! What is inside of the fields: short names, because they are written again and again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use millrace_common::{DefinitionRef, InstanceKey, Late, ParentLink, Problem, RawJson};
use serde::{Deserialize, Serialize};

use crate::frame::{FrameId, UndoThen};
use crate::plan::NodeId;
use crate::status::Status;

#[derive(Serialize, Deserialize)]
pub(crate) struct IdentityRow {
    pub(crate) v: u32,
    #[serde(rename = "d")]
    pub(crate) definition: DefinitionRef,
    #[serde(rename = "l", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<ParentLink>,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    #[serde(rename = "at")]
    pub(crate) created_ms: i64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct HeaderRow {
    pub(crate) v: u32,
    /// For readers: the engine derives it.
    #[serde(rename = "s")]
    pub(crate) status: Status,
    #[serde(rename = "at")]
    pub(crate) started_ms: i64,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_ms: Option<i64>,
    #[serde(rename = "su", default, skip_serializing_if = "is_default")]
    pub(crate) suspended: bool,
    #[serde(rename = "q", default, skip_serializing_if = "Option::is_none")]
    pub(crate) quarantine: Option<(String, i64)>,
    #[serde(rename = "f")]
    pub(crate) next_frame: FrameId,
    #[serde(rename = "t")]
    pub(crate) next_timer: u32,
    #[serde(rename = "n")]
    pub(crate) traced: u64,
    #[serde(rename = "o")]
    pub(crate) ordinal: u64,
    #[serde(rename = "c", default, skip_serializing_if = "is_default")]
    pub(crate) continuation: u64,
    #[serde(rename = "cg", default, skip_serializing_if = "is_default")]
    pub(crate) continuing: bool,
    #[serde(rename = "sn", default, skip_serializing_if = "is_default")]
    pub(crate) recorded: u32,
    #[serde(rename = "sr", default, skip_serializing_if = "is_default")]
    pub(crate) rounds: u32,
    #[serde(rename = "sd", default, skip_serializing_if = "is_default")]
    pub(crate) undone: u32,
    #[serde(rename = "sf", default, skip_serializing_if = "is_default")]
    pub(crate) undo_failed: u32,
    #[serde(rename = "r", default, skip_serializing_if = "VecDeque::is_empty")]
    pub(crate) ready: VecDeque<FrameId>,
}

/// Undone sagas by path.
#[derive(Serialize, Deserialize)]
pub(crate) struct RoundsRow {
    pub(crate) v: u32,
    #[serde(rename = "r")]
    pub(crate) rounds: BTreeMap<u64, u32>,
}

/// Hashes of detached steps that have not ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct DetachedRow {
    pub(crate) v: u32,
    #[serde(rename = "d")]
    pub(crate) steps: VecDeque<u64>,
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
    pub(crate) v: u32,
    #[serde(rename = "n")]
    pub(crate) node: NodeId,
    #[serde(rename = "t")]
    pub(crate) pointer: Arc<str>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<FrameId>,
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub(crate) branch: Option<u32>,
    #[serde(rename = "h")]
    pub(crate) path: u64,
    #[serde(rename = "o")]
    pub(crate) ordinal: u64,
    #[serde(rename = "s")]
    pub(crate) started_ms: i64,
    #[serde(rename = "a", default = "one", skip_serializing_if = "is_one")]
    pub(crate) attempt: u32,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub(crate) peak: Option<u32>,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<RawJson>,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<TimerRow>,
    #[serde(rename = "g", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) kept: BTreeMap<u64, RawJson>,
    #[serde(rename = "u", default, skip_serializing_if = "is_default")]
    pub(crate) round: u32,
    #[serde(rename = "w")]
    pub(crate) body: BodyRow,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CursorRow {
    #[serde(rename = "i", default, skip_serializing_if = "is_default")]
    pub(crate) index: u32,
    #[serde(rename = "o", default, skip_serializing_if = "is_default")]
    pub(crate) ordinal: u64,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<RawJson>,
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
    Each {
        #[serde(rename = "n")]
        next: u32,
    },
    Item(CursorRow),
    Undo {
        #[serde(rename = "n")]
        entry: u32,
        #[serde(rename = "t")]
        task: NodeId,
        #[serde(rename = "f")]
        function: NodeId,
        #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
        arguments: Option<RawJson>,
        #[serde(rename = "e")]
        problem: Box<Problem>,
        #[serde(rename = "x", default, skip_serializing_if = "is_default")]
        is_final: bool,
        #[serde(rename = "h")]
        then: UndoThen,
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
    Extended {
        #[serde(rename = "m")]
        matched: Vec<u32>,
        #[serde(rename = "n")]
        position: u32,
        #[serde(rename = "l")]
        cursor: CursorRow,
        /// The output; large ones stand apart.
        #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
        arguments: Option<RawJson>,
        /// There is an output.
        #[serde(rename = "o", default, skip_serializing_if = "is_default")]
        through: bool,
        #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
        flow: Option<FlowRow>,
        #[serde(rename = "s", default, skip_serializing_if = "is_default")]
        told: bool,
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
    Listen {
        #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
        closed: Vec<u32>,
        #[serde(rename = "k", default, skip_serializing_if = "BTreeMap::is_empty")]
        keys: BTreeMap<String, RawJson>,
        #[serde(rename = "d", default, skip_serializing_if = "is_default")]
        done: bool,
        #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
        failed: Option<Box<Problem>>,
        #[serde(rename = "i", default, skip_serializing_if = "is_default")]
        index: u32,
        #[serde(rename = "o", default, skip_serializing_if = "is_default")]
        ordinal: u64,
    },
    Done {
        #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
        output: Option<RawJson>,
    },
    Failed(Box<Problem>),
    /// With an error that no `try` retries.
    FailedFinally(Box<Problem>),
}

/// What a `listen` has consumed. A field of its own, written again with each event, not with the tasks of `foreach`.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct ConsumedRow {
    #[serde(rename = "s", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) seen: Vec<u64>,
    #[serde(rename = "q", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) queue: Vec<RawJson>,
    #[serde(rename = "o", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) output: Vec<RawJson>,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub(crate) item: Option<RawJson>,
    /// Data of the list of `foreach`, in what earlier builds wrote; a field of its own since.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<RawJson>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct StepRow {
    #[serde(rename = "f")]
    pub(crate) function: Arc<str>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub(crate) arguments: Option<RawJson>,
    #[serde(rename = "g", default, skip_serializing_if = "is_default")]
    pub(crate) generation: u32,
    #[serde(rename = "dl", default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_ms: Option<i64>,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<TimerRow>,
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub(crate) worker: Option<String>,
    #[serde(rename = "n", default, skip_serializing_if = "is_default")]
    pub(crate) delivery: u32,
    #[serde(rename = "ms", default, skip_serializing_if = "Option::is_none")]
    pub(crate) duration_ms: Option<u64>,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<RawJson>,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<HeldRow>,
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
pub(crate) enum FlowRow {
    #[serde(rename = "c")]
    Continue,
    #[serde(rename = "x")]
    Exit,
    #[serde(rename = "e")]
    End,
    #[serde(rename = "t")]
    Task(usize),
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
pub(crate) struct FixedRow {
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<RawJson>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub(crate) arguments: Option<RawJson>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub(crate) late: Option<Late>,
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
