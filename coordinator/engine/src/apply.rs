//! The table of (state, record).

use millrace_common::Record;

use crate::effect::{Ignored, Outcome, Transition};
use crate::plan::Definitions;
use crate::state::Instance;

/// Folds one record into an instance. A start on `None` creates it. Total: every record on every state has a named
/// outcome.
pub fn apply(definitions: &dyn Definitions, instance: &mut Option<Instance>, record: &Record) -> Transition {
    let _ = (definitions, instance, record);
    Transition {
        outcome: Outcome::Ignored(Ignored::NoInstance),
        effects: Vec::new(),
    }
}
