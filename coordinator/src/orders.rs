//! Orders of an operator for halted partitions: what can be asked for, for which halt, at what price; and the way from
//! the api to the partition's thread, which carries an order out under the fence.
//!
//! An order is for one look: the thread takes it when it looks at the halted partition the next time, and it is gone
//! with whoever waits for its answer. So none is carried out later, in another situation than the operator saw.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_common::PartitionId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

/// What an operator can order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// The stores were restored: look again, at once, and go on if they agree. Changes nothing by itself.
    Restore,
    /// The log as it is now is the truth from now on; the state is kept.
    Adopt,
    /// The state is made anew from the log; what Redis holds of the partition is dropped.
    Rebuild,
}

/// An action that makes sense for a halt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// What to ask for.
    pub action: Action,
    /// What it costs, in words.
    pub loses: &'static str,
}

const RESTORE: Remedy = Remedy {
    action: Action::Restore,
    loses: "nothing: the stores are compared again, and the partition goes on if they agree; put the restored store in \
            place first",
};
const ADOPT: Remedy = Remedy {
    action: Action::Adopt,
    loses: "every record that the old log held and redis has not applied: accepted starts, results, controls. Steps \
            whose result is among them run again, under the same idempotency keys. What the present log holds is \
            applied to the state from its first record on",
};
const REBUILD: Remedy = Remedy {
    action: Action::Rebuild,
    loses: "what redis still holds of this partition. The log is folded again from its first record, which must be 1. \
            Running steps run again, under the same idempotency keys; children that nobody waits for, detached steps \
            and emitted events leave again; instances that listened wait for events that the stream still holds",
};

impl Action {
    /// As typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Adopt => "adopt",
            Self::Rebuild => "rebuild",
        }
    }

    /// The action of a name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Restore, Self::Adopt, Self::Rebuild]
            .into_iter()
            .find(|a| a.name() == name)
    }

    /// Whether it resolves a halt, by its code without the prefix.
    pub fn resolves(self, code: &str) -> bool {
        remedies(code).iter().any(|r| r.action == self)
    }
}

/// What can be ordered for a halt, by its code without the prefix. Empty: nothing here helps.
pub const fn remedies(code: &str) -> &'static [Remedy] {
    match code.as_bytes() {
        b"LOG-LOST" | b"LOG-REPLACED" | b"LOG-TRIMMED" | b"LOG-FORK" => &[RESTORE, ADOPT],
        b"LOG-HOLE" | b"LOG-FOREIGN" => &[RESTORE],
        b"REDIS-LOST" | b"STATE" | b"LISTENERS" | b"OUTBOX" | b"TORN" => &[RESTORE, REBUILD],
        _ => &[],
    }
}

/// An order on its way.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub action: Action,
    /// Who.
    pub by: String,
    /// The halt it answers, without the prefix.
    pub code: String,
    done: oneshot::Sender<Result<(), String>>,
}

impl Order {
    /// Tells whoever waits what came of it.
    pub fn answer(self, outcome: Result<(), String>) {
        // Nobody waits any more: the outcome stands in the log.
        let _gone = self.done.send(outcome);
    }
}

/// Shared by api and partitions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Orders(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: Mutex<BTreeMap<PartitionId, Order>>,
    placed: Notify,
}

impl Orders {
    /// Leaves an order for a partition; `None` when there is one already.
    pub fn place(&self, p: PartitionId, action: Action, by: &str, code: &str) -> Option<Placed> {
        let (done, outcome) = oneshot::channel();
        let order = Order {
            action,
            by: by.into(),
            code: code.into(),
            done,
        };
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.contains_key(&p) {
            return None;
        }
        open.insert(p, order);
        drop(open);
        self.0.placed.notify_waiters();
        Some(Placed {
            orders: self.clone(),
            partition: p,
            outcome,
        })
    }

    /// Takes the order for a partition.
    pub fn take(&self, p: PartitionId) -> Option<Order> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&p).filter(|order| !order.done.is_closed())
    }

    /// Waits until some order is placed.
    pub async fn placed(&self) {
        self.0.placed.notified().await;
    }
}

/// An order that somebody waits for. Dropped, it is withdrawn if nobody has taken it.
#[derive(Debug)]
pub struct Placed {
    orders: Orders,
    partition: PartitionId,
    outcome: oneshot::Receiver<Result<(), String>>,
}

impl Placed {
    /// What came of it.
    ///
    /// # Errors
    /// Why it was not carried out.
    pub async fn outcome(&mut self) -> Result<(), String> {
        match (&mut self.outcome).await {
            Ok(outcome) => outcome,
            Err(_) => Err("the partition was started again meanwhile; look at it and repeat".into()),
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.outcome.close();
        let open = &self.orders.0.open;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(&self.partition).is_some_and(|o| o.done.is_closed()) {
            open.remove(&self.partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0);

    #[tokio::test]
    async fn an_order_is_taken_once_and_answered() {
        let orders = Orders::default();
        let mut placed = orders.place(P, Action::Adopt, "ann", "LOG-LOST").unwrap();
        assert!(orders.place(P, Action::Adopt, "bob", "LOG-LOST").is_none());
        orders.take(P).unwrap().answer(Ok(()));
        assert!(orders.take(P).is_none());
        assert_eq!(placed.outcome().await, Ok(()));
    }

    #[test]
    fn an_order_that_nobody_waits_for_is_not_carried_out() {
        let orders = Orders::default();
        drop(orders.place(P, Action::Rebuild, "ann", "REDIS-LOST"));
        assert!(orders.take(P).is_none());
    }

    #[test]
    fn only_what_helps_can_be_ordered() {
        assert!(Action::Adopt.resolves("LOG-FORK") && Action::Rebuild.resolves("REDIS-LOST"));
        assert!(!Action::Adopt.resolves("REDIS-LOST") && !Action::Rebuild.resolves("LOG-LOST"));
        assert!(remedies("NOT-ONE").is_empty());
    }
}
