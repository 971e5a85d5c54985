//! A definition made ready to run: every task of every list flattened into nodes with small stable ids.

use std::sync::Arc;

use millrace_common::DefinitionRef;
use millrace_dsl::model::Document;

/// See the module.
#[derive(Debug)]
pub struct Plan {
    /// The tree.
    pub document: Arc<Document>,
}

impl Plan {
    /// Flattens a document. Ids follow document order, so that they are the same in every process and build.
    pub fn new(document: Arc<Document>) -> Self {
        Self { document }
    }
}

/// Where `apply` finds definitions. The shell answers from a cache that it filled before.
pub trait Definitions {
    /// The plan of an exact version; `None` faults the start with a configuration error.
    fn plan(&self, definition: &DefinitionRef) -> Option<Arc<Plan>>;

    /// The newest version of a definition, for a `run: workflow` that asks for `latest`. `None` faults the task with a
    /// configuration error. The answer is recorded in the instance, so a later deploy does not change it.
    fn latest(&self, namespace: &str, name: &str) -> Option<String>;
}
