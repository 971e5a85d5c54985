//! From a step in the queue to its result in the log.
//!
//! - [`pull`] takes steps from a queue, never more than there are free slots.
//! - [`flights`] is the table of everything taken and not yet done with, [`slots`] says how much that may be.
//! - [`run`] decides about a step and runs its function.
//! - [`scope`] is what surrounds the function meanwhile: log fields and trace context.
//! - [`report`] brings the result into the log, then acknowledges the step.
//! - [`wheel`] keeps the leases of running steps alive, for all of them together.

pub(crate) mod flight;
pub(crate) mod flights;
pub(crate) mod message;
pub(crate) mod pull;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod scope;
pub(crate) mod slots;
pub(crate) mod wheel;
