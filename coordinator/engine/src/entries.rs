//! Values that belong to a frame one by one, each in a field of its own, so that the hundred thousandth costs what the
//! first one did. A page whose values are all there becomes one field, once.

use std::collections::{BTreeMap, BTreeSet};

use millrace_dsl::Value;

/// Values of a page.
pub(crate) const PAGE: u32 = 256;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    values: BTreeMap<u32, Value>,
    /// Not stored yet.
    fresh: BTreeSet<u32>,
    /// Stored, and taken out since.
    gone: Vec<u32>,
    /// Stored as pages.
    pages: BTreeSet<u32>,
    /// Bytes of all, as whoever put them in counted.
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
        self.values.iter().map(|(n, v)| (*n, v))
    }

    pub(crate) fn insert(&mut self, n: u32, value: Value, bytes: usize) {
        self.bytes += bytes;
        self.values.insert(n, value);
        self.fresh.insert(n);
    }

    /// Takes one out. Not for entries that become pages.
    pub(crate) fn remove(&mut self, n: u32, bytes: usize) -> Option<Value> {
        let value = self.values.remove(&n)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        if !self.fresh.remove(&n) {
            self.gone.push(n);
        }
        Some(value)
    }

    /// One that is stored as it is.
    pub(crate) fn load(&mut self, n: u32, value: Value, bytes: usize) {
        self.bytes += bytes;
        self.values.insert(n, value);
    }

    /// A stored page.
    pub(crate) fn load_page(&mut self, page: u32, values: impl IntoIterator<Item = Value>, bytes: usize) {
        self.bytes += bytes;
        self.pages.insert(page);
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
                write(Write::Page(page, whole().map(|(_, v)| v).collect()));
                for (old, _) in whole().filter(|(old, _)| !fresh.contains(*old)) {
                    write(Write::DeleteValue(*old));
                }
                self.pages.insert(page);
            } else if let Some(value) = self.values.get(n) {
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
