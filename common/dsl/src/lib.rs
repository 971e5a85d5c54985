//! The Open Workflow Specification DSL 1.0.3 as data: parser with source positions, typed tree, diagnostics,
//! deploy-time checks, expressions. No IO, no clock, no randomness; used by coordinator, worker and CLI.
//!
//! - [`parse`] turns YAML or JSON into a [`model::Document`], or into every fault of the text at once.
//! - [`model`] is the typed tree of the whole language; every node knows its JSON Pointer and [`Span`].
//! - [`expression`] compiles jq once and evaluates it within bounds (steps, size, memory, depth).
//! - [`calendar`] says when a cron expression is due in a time zone.
//! - [`value`] is the data that flows through a workflow.

pub mod calendar;
pub mod diagnostic;
pub mod duration;
pub mod expression;
pub mod model;
mod parse;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod template;
pub mod uri;
pub mod value;

pub use diagnostic::{Diagnostic, Severity, Span};
pub use parse::{External, Parsed, Resources, closest, data, parse, parse_with, portability, unsupported};
pub use value::Value;
