//! Which queue serves a function. Asked once per step by dispatch, so the answer comes from memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use millrace_common::names;
use serde::{Deserialize, Serialize};

use super::store::{Decision, Store, StoreError};

/// What every stock worker can do, without registration.
const BUILT_IN: [&str; 9] = [
    "noop:1.0.0",
    "flaky:1.0.0",
    "sleep:1.0.0",
    "call:http",
    "call:openapi",
    "call:grpc",
    "call:asyncapi",
    "call:mcp",
    "call:a2a",
];

/// Kinds of processes. Each has a queue of its own, which workers pull from when they may run the kind.
pub(crate) const PROCESS_KINDS: [&str; 3] = ["shell", "script", "container"];

/// One function of the fleet, as kept in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionEntry {
    /// The queue its steps go to.
    pub queue: String,
}

/// Clonable handle.
#[derive(Clone, Debug)]
pub struct Functions {
    store: Store,
    queues: Arc<RwLock<HashMap<String, String>>>,
}

impl Functions {
    /// Knows the built-in functions only; [`Self::refresh`] reads the rest.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            queues: Arc::new(RwLock::new(built_in())),
        }
    }

    /// The queue of a function as `name:semver`, or of a call type as `call:http`; `None` when no worker ever
    /// registered it.
    pub fn queue_of(&self, function: &str) -> Option<String> {
        self.queues
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(function)
            .cloned()
    }

    /// Every function and its queue, in order.
    pub fn all(&self) -> BTreeMap<String, String> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.iter().map(|(f, q)| (f.clone(), q.clone())).collect()
    }

    /// Stores the functions of a registering worker and returns true when anything changed. The latest registration
    /// decides the queue, so that a rollout can move a function.
    ///
    /// # Errors
    /// [`StoreError`]; registering again is safe.
    pub async fn register(&self, functions: &BTreeMap<String, FunctionEntry>) -> Result<bool, StoreError> {
        if self.knows(functions) {
            return Ok(false);
        }
        let mut reads = redis::pipe();
        reads.hgetall(names::FUNCTIONS_KEY);
        self.store
            .transact(&[names::FUNCTIONS_KEY], &reads, |_| {
                let mut write = redis::pipe();
                for (name, entry) in functions {
                    write.hset(names::FUNCTIONS_KEY, name, encode(entry)).ignore();
                }
                Ok(Decision::Commit(write, ()))
            })
            .await?;
        self.remember(functions.iter().map(|(f, e)| (f.clone(), e.queue.clone())));
        Ok(true)
    }

    /// Reads all functions anew.
    ///
    /// # Errors
    /// [`StoreError`]; what was known stays known.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let stored: HashMap<String, String> = self
            .store
            .query(redis::cmd("HGETALL").arg(names::FUNCTIONS_KEY))
            .await?;
        let mut queues = built_in();
        for (function, text) in stored {
            match serde_json::from_str::<FunctionEntry>(&text) {
                Ok(entry) => drop(queues.insert(function, entry.queue)),
                Err(error) => tracing::warn!(function, %error, "function entry is not readable"),
            }
        }
        *self.queues.write().unwrap_or_else(PoisonError::into_inner) = queues;
        Ok(())
    }

    fn knows(&self, functions: &BTreeMap<String, FunctionEntry>) -> bool {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        functions.iter().all(|(f, e)| queues.get(f) == Some(&e.queue))
    }

    fn remember(&self, functions: impl Iterator<Item = (String, String)>) {
        self.queues
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(functions);
    }
}

fn built_in() -> HashMap<String, String> {
    let processes = PROCESS_KINDS.map(|kind| (format!("run:{kind}"), names::process_queue(kind)));
    BUILT_IN
        .iter()
        .map(|f| ((*f).to_owned(), names::DEFAULT_QUEUE.to_owned()))
        .chain(processes)
        .collect()
}

fn encode(entry: &FunctionEntry) -> String {
    serde_json::to_string(entry).expect("an entry has string keys")
}
