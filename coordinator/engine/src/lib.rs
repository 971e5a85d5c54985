//! The sans-IO core of Millrace: `apply(state, record) -> Transition`.
//!
//! The promise: deterministic and total. No IO, no clock, no randomness, no environment; time is the record's time;
//! ids derive from instance, task, iteration and attempt. The same records in the same order give the same bytes,
//! however they are split into batches. A duplicate or stale record is a named no-op.
//!
//! The driving loop (the coordinator's `processor`):
//! 1. load an [`Instance`] from its fields, or none;
//! 2. [`apply`] records to it, in log order; collect the effects;
//! 3. [`Instance::take_writes`] gives what changed since the last call, to be stored in one transaction together with
//!    the outbox, timers and the log position;
//! 4. only after the commit the effects leave. After a crash they are found in the outbox; a step's message is
//!    rebuilt from the state by [`Instance::step`].

mod activate;
mod apply;
mod data;
mod dispatch;
pub mod effect;
mod frame;
mod ids;
pub mod plan;
mod scope;
mod state;
mod status;
mod store;
mod time;
mod trace;
pub mod view;

pub use apply::apply;
pub use effect::{Dispatch, Effect, Ignored, Outcome, Transition, Writes};
pub use plan::{Definitions, Plan};
pub use state::Instance;
pub use status::Status;
pub use store::LoadError;
pub use view::{InstanceView, Waiting, WaitingKind};
