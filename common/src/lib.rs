//! The shared vocabulary of Millrace: what coordinator, worker and tests exchange, and the names under
//! which it is kept. No IO, no clock, no environment.
//!
//! A tour of the nouns:
//! - [`InstanceKey`] names one run of a definition; [`partition_of`] says which partition owns it.
//! - [`Record`] is one entry of a partition's log; [`RecordBody`] lists everything that can change state.
//! - [`Step`] is a task execution handed to the fleet; [`StepResult`] is what comes back.
//! - [`CloudEvent`] is an event, checked where it comes in.
//! - [`Problem`] is an error as the language defines it (RFC 9457 members).
//! - [`names`] builds every stream, subject, consumer and Redis key; nothing else spells one.
//! - [`percent`] undoes percent-encoding.
//! - [`limits`] holds every bound, with its reason and what happens there.
//! - [`wire`] encodes records, steps and results, versioned.

mod depth;
pub mod event;
mod fleet;
pub mod hash;
mod id;
pub mod limits;
pub mod names;
pub mod percent;
mod problem;
mod record;
mod schedule;
mod step;
pub mod wire;

pub use depth::json_depth;
pub use event::CloudEvent;
pub use fleet::{
    AskReply, AskRequest, BEAT_MS, BEAT_RUNNING_MAX, Beat, EVERY_WORKER, FunctionInfo, Register, Registered,
    RunningStep, WorkerCommand,
};
pub use id::{DefinitionRef, IdError, InstanceKey, PartitionId, PlacedInstance, is_label, partition_of};
pub use problem::{ErrorKind, Problem};
pub use record::{
    ChildOutcome, ControlKind, ParentLink, Progress, Record, RecordBody, Reply, ReplyBody, Start, TimerId,
    Unquarantine,
};
pub use schedule::{CatchUp, Cause, Overlap, SCHEDULE_FRAME, ScheduleRecord};
pub use step::{Hole, Late, RawJson, Step, StepOutcome, StepResult};
