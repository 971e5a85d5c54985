//! Ids that derive from where something runs, never from when: the same in every refold and interleaving.

use millrace_common::hash::StableHash;
use millrace_common::{InstanceKey, limits};

use crate::plan::NodeId;

/// Place of one task execution: hashes the path of lists, the iteration, the how-manieth task of its list it is, and
/// the node. The same for every attempt of the language's retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(pub(crate) u64);

impl Path {
    /// The task executed as `ordinal`-th of a list (or as that branch of a fork) in this iteration.
    pub(crate) fn task(self, iteration: u32, ordinal: u64, node: NodeId) -> Self {
        let hash = StableHash::new()
            .number(self.0)
            .number(iteration.into())
            .number(ordinal)
            .number(node.into());
        Self(hash.finish())
    }

    /// Idempotency key: the same for every attempt, delivery and re-dispatch.
    pub(crate) fn key(self, instance: &InstanceKey) -> String {
        format!("{}:{:016x}", instance.as_str(), self.0)
    }

    /// Id of a child: of the parent and the place; a retry starts another child. Too long ids of parents are cut and
    /// made unique by a hash.
    pub(crate) fn child_id(self, parent: &str, attempt: u32) -> String {
        let suffix = match attempt {
            1 => format!(":{:016x}", self.0),
            n => format!(":{:016x}.{n}", self.0),
        };
        if parent.len() + suffix.len() <= limits::INSTANCE_ID_BYTES_MAX {
            return format!("{parent}{suffix}");
        }
        let hash = format!("~{:016x}", StableHash::new().part(parent).finish());
        let room = limits::INSTANCE_ID_BYTES_MAX.saturating_sub(suffix.len() + hash.len());
        let head: String = parent.chars().take(room).collect();
        format!("{head}{hash}{suffix}")
    }

    /// A number between 0 and `span`, the same whenever the same retry is computed again.
    pub(crate) fn jitter(self, instance: &InstanceKey, retry: u32, span: u64) -> u64 {
        let hash = StableHash::new()
            .part(instance.as_str())
            .number(self.0)
            .number(retry.into())
            .finish();
        span.checked_add(1).map_or(hash, |n| hash % n)
    }
}

/// Id of a step: the key and the attempt.
pub(crate) fn step(key: &str, attempt: u32) -> String {
    format!("{key}.{attempt}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_never_change() {
        let path = Path::default().task(0, 1, 1);
        assert_eq!(path.task(3, 2, 7), path.task(3, 2, 7));
        assert_ne!(path.task(3, 2, 7), path.task(2, 3, 7));
        let key: InstanceKey = "default/a".parse().unwrap();
        assert_eq!(step(&Path(0xab).key(&key), 2), "default/a:00000000000000ab.2");
    }

    #[test]
    fn ids_of_deep_children_stay_valid() {
        let mut id = "x".repeat(100);
        for n in 0..20_u32 {
            id = Path(n.into()).child_id(&id, 1 + n % 2);
            assert!(InstanceKey::new("default", &id).is_ok(), "{id}");
        }
        assert_ne!(
            Path(1).child_id(&"y".repeat(128), 1),
            Path(1).child_id(&format!("{}z", "y".repeat(127)), 1)
        );
    }

    #[test]
    fn jitter_stays_in_its_span() {
        let key: InstanceKey = "default/a".parse().unwrap();
        for n in 0..100 {
            assert!(Path(n).jitter(&key, 1, 10) <= 10);
            assert_eq!(Path(n).jitter(&key, 1, 0), 0);
        }
        Path(1).jitter(&key, 1, u64::MAX);
    }
}
