//! Where texts come from, and the reader that collects every fault before it gives up.

use std::collections::BTreeMap;
use std::fmt;

use super::registry;
use super::value::Value;

/// Exit code of a process whose configuration is wrong (EX_USAGE).
pub const EXIT_CODE: u8 = 64;

/// Gives a variable's text.
pub trait Source {
    /// The text, or `None` when it is not set.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug)]
pub struct Environment;

impl Source for Environment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Source for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).cloned()
    }
}

impl Source for BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).map(|v| (*v).to_owned())
    }
}

/// One variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// What is wrong, and what is expected.
    pub reason: String,
}

/// Everything that is wrong with a configuration. The process ends with [`EXIT_CODE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid configuration")?;
        self.0
            .iter()
            .try_for_each(|fault| write!(f, "\n  {}: {}", fault.name, fault.reason))
    }
}

impl std::error::Error for Faults {}

/// Reads variables and remembers the faults.
pub(super) struct Reader<'a> {
    source: &'a dyn Source,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn Source) -> Self {
        Self {
            source,
            faults: Vec::new(),
        }
    }

    /// The value, or after a fault the default, so that reading goes on.
    pub(super) fn get<T: Value>(&mut self, name: &'static str) -> T {
        let default =
            || T::parse(registry::find(name).default).expect("defaults parse; a test reads all of them");
        self.optional(name).unwrap_or_else(default)
    }

    /// The value if it is set; an empty text counts as not set, as in charts and unit files.
    pub(super) fn optional<T: Value>(&mut self, name: &'static str) -> Option<T> {
        debug_assert_eq!(registry::find(name).name, name);
        let text = self.source.get(name)?;
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        T::parse(text).map_err(|reason| self.fault(name, reason)).ok()
    }

    /// As [`Self::get`], refused unless `accept` holds.
    pub(super) fn bounded<T: Value + Clone>(
        &mut self,
        name: &'static str,
        expected: &str,
        accept: impl FnOnce(&T) -> bool,
    ) -> T {
        let value: T = self.get(name);
        if !accept(&value) {
            let text = self.source.get(name).unwrap_or_default();
            self.fault(
                name,
                format!("`{}` is out of bounds: expected {expected}", text.trim()),
            );
        }
        value
    }

    pub(super) fn fault(&mut self, name: &'static str, reason: impl Into<String>) {
        self.faults.push(Fault {
            name,
            reason: reason.into(),
        });
    }

    /// The value that was read, unless anything was wrong.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Faults> {
        if self.faults.is_empty() {
            Ok(value)
        } else {
            Err(Faults(self.faults))
        }
    }
}
