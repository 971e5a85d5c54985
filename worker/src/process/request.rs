//! What the engine asks for: `{process, await, return}` with every expression evaluated.

use std::collections::BTreeMap;

use millrace_common::ErrorKind;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::Failure;

/// A process and what is wanted of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Request<P> {
    pub(super) process: P,
    #[serde(default, rename = "return")]
    pub(super) output: Output,
}

/// `return`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Output {
    #[default]
    Stdout,
    Stderr,
    Code,
    All,
    None,
}

impl Output {
    /// Whether standard output is part of it.
    pub(super) const fn has_stdout(self) -> bool {
        matches!(self, Self::Stdout | Self::All)
    }

    /// Whether standard error is part of it.
    pub(super) const fn has_stderr(self) -> bool {
        matches!(self, Self::Stderr | Self::All)
    }

    /// Whether it tells the exit code, so that no code is an error.
    pub(super) const fn tells_code(self) -> bool {
        matches!(self, Self::Code | Self::All)
    }
}

/// What a process is given as text. An expression may give anything: what is no text goes as JSON, `null` as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(match Value::deserialize(d)? {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        }))
    }
}

/// What every process has.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Inputs {
    #[serde(default)]
    pub(super) stdin: Text,
    #[serde(default)]
    pub(super) arguments: Vec<Text>,
    #[serde(default)]
    pub(super) environment: BTreeMap<String, Text>,
}

impl Inputs {
    /// The arguments, none of which may hold a zero byte.
    pub(super) fn arguments(&self) -> Result<Vec<String>, Failure> {
        for (number, argument) in self.arguments.iter().enumerate() {
            if argument.0.contains('\0') {
                let text = format!("argument {number} holds a zero byte, which no process can be given");
                return Err(configuration(text));
            }
        }
        Ok(self.arguments.iter().map(|a| a.0.clone()).collect())
    }

    /// The variables, with names that can be set.
    pub(super) fn environment(&self) -> Result<BTreeMap<String, String>, Failure> {
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(configuration(format!(
                    "`{name}` cannot be the name of an environment variable"
                )));
            }
            if value.0.contains('\0') {
                return Err(configuration(format!(
                    "the environment variable `{name}` holds a zero byte"
                )));
            }
        }
        Ok(self
            .environment
            .iter()
            .map(|(n, v)| (n.clone(), v.0.clone()))
            .collect())
    }
}

/// The definition or the worker's configuration is at fault.
pub(super) fn configuration(text: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::Configuration, text)
}
