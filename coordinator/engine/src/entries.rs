//! Values that belong to a frame one by one, each in a field of its own, so that the hundred thousandth costs what the
//! first one did. A page whose values are all there becomes one field, once.
//!
//! Completed tasks of sagas are found by their path, and by the sagas that handed them on: see `activate::saga`.

use std::collections::{BTreeMap, BTreeSet};

use millrace_dsl::{Value, value};

/// Values of a page.
pub(crate) const PAGE: u32 = 256;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    /// With its bytes, unless it is part of a page.
    values: BTreeMap<u32, (Value, usize)>,
    /// Completed tasks of sagas by their path, and by the path of each saga that handed them on.
    by_path: BTreeMap<u64, u32>,
    by_saga: BTreeMap<u64, BTreeSet<u32>>,
    /// Not stored yet.
    fresh: BTreeSet<u32>,
    /// Stored, and taken out since.
    gone: BTreeSet<u32>,
    /// Stored as pages.
    pages: BTreeSet<u32>,
    /// Bytes of all as JSON.
    bytes: usize,
}

/// What of the entries must be stored or deleted.
pub(crate) enum Write<'a> {
    Value(u32, &'a Value),
    Page(u32, Vec<&'a Value>),
    DeleteValue(u32),
    DeletePage(u32),
}

impl Entries {
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, &Value)> {
        self.values.iter().map(|(n, (v, _))| (*n, v))
    }

    /// Of the completed task with this path.
    pub(crate) fn of_path(&self, path: u64) -> Option<u32> {
        self.by_path.get(&path).copied()
    }

    /// Of the tasks that the saga with this path handed on, oldest first.
    pub(crate) fn of_saga(&self, saga: u64) -> Vec<u32> {
        self.by_saga.get(&saga).into_iter().flatten().copied().collect()
    }

    /// Puts one in; gives its bytes as JSON, which are the ones it has when it is loaded again.
    pub(crate) fn insert(&mut self, n: u32, value: Value) -> usize {
        let bytes = value::to_raw(&value).len();
        self.load(n, value, bytes);
        self.gone.remove(&n);
        self.fresh.insert(n);
        bytes
    }

    /// Takes one out, with its bytes. Not for entries that become pages.
    pub(crate) fn remove(&mut self, n: u32) -> Option<(Value, usize)> {
        let (value, bytes) = self.values.remove(&n)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        if !self.fresh.remove(&n) {
            self.gone.insert(n);
        }
        let task = Completed::of(&value);
        if task.path.and_then(|path| self.of_path(path)) == Some(n) {
            task.path.map(|path| self.by_path.remove(&path));
        }
        for saga in task.sagas {
            if let Some(found) = self.by_saga.get_mut(&saga) {
                found.remove(&n);
                if found.is_empty() {
                    self.by_saga.remove(&saga);
                }
            }
        }
        Some((value, bytes))
    }

    /// One that is stored as it is.
    pub(crate) fn load(&mut self, n: u32, value: Value, bytes: usize) {
        let task = Completed::of(&value);
        self.by_path.extend(task.path.map(|path| (path, n)));
        for saga in task.sagas {
            self.by_saga.entry(saga).or_default().insert(n);
        }
        self.bytes += bytes;
        self.values.insert(n, (value, bytes));
    }

    /// A stored page: `bytes` with its brackets and commas, which the values one by one do not have.
    pub(crate) fn load_page(
        &mut self,
        page: u32,
        values: impl ExactSizeIterator<Item = Value>,
        bytes: usize,
    ) {
        self.bytes += bytes.saturating_sub(values.len() + 1);
        self.pages.insert(page);
        let values = values.map(|v| (v, 0));
        self.values.extend((page.saturating_mul(PAGE)..).zip(values));
    }

    /// Calls `write` with everything that changed. `paged`: nothing is ever taken out.
    pub(crate) fn take(&mut self, paged: bool, mut write: impl FnMut(Write<'_>)) {
        for n in std::mem::take(&mut self.gone) {
            write(Write::DeleteValue(n));
        }
        let fresh = std::mem::take(&mut self.fresh);
        for n in &fresh {
            let page = n / PAGE;
            if self.pages.contains(&page) {
                continue;
            }
            let first = page * PAGE;
            let whole = || self.values.range(first..first.saturating_add(PAGE));
            if paged && whole().count() == PAGE as usize {
                write(Write::Page(page, whole().map(|(_, (v, _))| v).collect()));
                for (old, _) in whole().filter(|(old, _)| !fresh.contains(*old)) {
                    write(Write::DeleteValue(*old));
                }
                self.pages.insert(page);
            } else if let Some((value, _)) = self.values.get(n) {
                write(Write::Value(*n, value));
            }
        }
    }

    /// Calls `write` with what must be deleted when the frame goes.
    pub(crate) fn deleted(&self, mut write: impl FnMut(Write<'_>)) {
        self.gone.iter().for_each(|n| write(Write::DeleteValue(*n)));
        self.pages.iter().for_each(|p| write(Write::DeletePage(*p)));
        let single = |n: &&u32| !self.fresh.contains(*n) && !self.pages.contains(&(**n / PAGE));
        self.values
            .keys()
            .filter(single)
            .for_each(|n| write(Write::DeleteValue(*n)));
    }
}

/// What the entry of a completed task is found by; nothing for a result of a parallel `for`.
#[derive(Default)]
struct Completed {
    path: Option<u64>,
    sagas: Vec<u64>,
}

impl Completed {
    fn of(entry: &Value) -> Self {
        let Value::Obj(members) = entry else {
            return Self::default();
        };
        let number = |v: &Value| value::as_str(v).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let sagas = match members.get(&value::string("s")) {
            Some(Value::Arr(sagas)) => sagas.iter().filter_map(number).collect(),
            _ => Vec::new(),
        };
        Self {
            path: members.get(&value::string("p")).and_then(number),
            sagas,
        }
    }
}
