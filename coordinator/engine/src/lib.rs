//! The sans-IO core of Millrace: `apply(state, record) -> Transition`.
//!
//! The promise: deterministic and total. No IO, no clock, no randomness, no environment; time is the record's time;
//! ids derive from instance, task, iteration and attempt. The same records in the same order give the same bytes,
//! however they are split into batches. A duplicate or stale record is a named no-op.
//!
//! The driving loop (the coordinator's `processor`):
//! 1. load an [`Instance`] from its fields, or none;
//! 2. [`apply`] records to it, in log order; collect the effects, also those of ignored records;
//! 3. [`Instance::take_writes`] gives what changed since the last call, to be stored in one transaction together with
//!    the outbox, timers and the log position;
//! 4. only after the commit the effects leave. After a crash they are found in the outbox; a step's message is
//!    rebuilt from the state by [`Instance::step`].
//!
//! # Where what is
//! `apply` is the table of states and records. `plan` flattens a definition into nodes; `state` is an instance, `frame`
//! an active task of it, `listen` what events concern it, `data` what flows, `store` all of that as fields. `activate`
//! runs what a record made runnable: one file a construct. `schedule` is the other thing that records are folded into.
//! `scope` says what expressions see, `ids` how ids derive, `trace` what humans read afterwards,
//! `view` what the API shows.
//!
//! # What it does where the language is silent
//! Besides the decisions in the project's language notes:
//! - A call without `with` gets the task's input.
//! - `end` in a branch of a fork: that branch's output becomes the fork's, its context goes on, the others are cancelled.
//! - A context that a branch replaced without some member drops that member at the join.
//! - A competing fork of which every branch failed fails with the error of its first branch.
//! - The attempt number of a step rises with every retry of every `try` around it, so that ids of steps never repeat;
//!   the idempotency key stays. A retried `run: workflow` starts another child.
//! - A result of an earlier generation of a step counts like one of the current: it is the same step.
//! - An operator's retry goes on from what failed and from what was called off with it; branches that were done stay
//!   done. Keys stay, attempts are new, retry limits and timeouts begin anew. An error of a composite task (its own
//!   timeout, its output) begins that task anew.
//! - A timeout that comes due during a suspension counts when the instance is resumed.
//! - Expressions that take long count as many tasks of an activation's budget.

mod activate;
mod apply;
mod data;
mod dispatch;
pub mod effect;
mod entries;
mod frame;
mod ids;
pub mod listen;
pub mod plan;
pub mod schedule;
mod scope;
mod settings;
mod state;
mod status;
mod store;
mod time;
mod trace;
pub mod view;

pub use apply::{apply, set_aside};
pub use effect::{Dispatch, Effect, Ignored, Outcome, Transition, Writes};
pub use listen::Interest;
pub use plan::{Definitions, Plan};
pub use schedule::{Schedule, ScheduleView, apply_schedule};
pub use state::Instance;
pub use status::Status;
pub use store::LoadError;
pub use view::{InstanceView, Waiting, WaitingKind};
