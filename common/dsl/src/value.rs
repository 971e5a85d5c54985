//! The data that flows through a workflow. It is jaq's own value, so that expressions need no conversion:
//! cloning is O(1) (shared arrays and objects), objects keep insertion order, big integers stay exact.

use millrace_common::{Problem, RawJson};

/// See the module.
pub type Value = jaq_json::Val;
