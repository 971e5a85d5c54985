//! Instances held in memory by the owner. Valid only while fence and position match what Redis holds: dropped whole
//! when they do not. Bounded in bytes; the least recently used go first, ended ones at once.

use std::collections::HashMap;

use millrace_common::InstanceKey;
use millrace_engine::Instance;

#[derive(Debug)]
struct Slot {
    instance: Option<Instance>,
    bytes: usize,
    used: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cache {
    slots: HashMap<InstanceKey, Slot>,
    bytes: usize,
    bytes_max: usize,
    clock: u64,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            slots: HashMap::new(),
            bytes: 0,
            bytes_max,
            clock: 0,
        }
    }

    pub(crate) fn contains(&self, key: &InstanceKey) -> bool {
        self.slots.contains_key(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Puts what was read (`None`: there is no such instance).
    pub(crate) fn insert(&mut self, key: InstanceKey, instance: Option<Instance>) {
        self.clock += 1;
        let bytes = instance.as_ref().map_or(0, Instance::approx_bytes);
        self.bytes += bytes;
        if let Some(old) = self.slots.insert(
            key,
            Slot {
                instance,
                bytes,
                used: self.clock,
            },
        ) {
            self.bytes -= old.bytes;
        }
    }

    /// The slot of an instance that was inserted before.
    pub(crate) fn get(&mut self, key: &InstanceKey) -> Option<&mut Option<Instance>> {
        self.clock += 1;
        let clock = self.clock;
        self.slots.get_mut(key).map(|slot| {
            slot.used = clock;
            &mut slot.instance
        })
    }

    /// Forgets one.
    pub(crate) fn remove(&mut self, key: &InstanceKey) {
        if let Some(slot) = self.slots.remove(key) {
            self.bytes -= slot.bytes;
        }
    }

    /// After a commit: forgets an ended or absent instance, weighs a live one again.
    pub(crate) fn settle(&mut self, key: &InstanceKey) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        match &slot.instance {
            Some(instance) if !instance.is_ended() => {
                let bytes = instance.approx_bytes();
                self.bytes = self.bytes + bytes - slot.bytes;
                slot.bytes = bytes;
            }
            _ => self.remove(key),
        }
    }

    /// Keeps the bound: drops the least recently used eighth until it holds. Only between commits.
    pub(crate) fn evict(&mut self) {
        while self.bytes > self.bytes_max && !self.slots.is_empty() {
            let mut by_use: Vec<_> = self.slots.iter().map(|(k, s)| (s.used, k.clone())).collect();
            by_use.sort_unstable();
            for (_, key) in by_use.into_iter().take(self.slots.len().div_ceil(8)) {
                self.remove(&key);
            }
        }
    }
}
