//! jq expressions: compiled once at deploy time, evaluated within bounds, deterministic.
//!
//! `now` is the record's time; there is no environment, no input, no clock, no randomness.

use std::sync::Arc;

use millrace_common::{ErrorKind, Problem, limits};

use crate::{Value, value};

/// A compiled expression. Cheap to clone; `Send + Sync`.
#[derive(Clone, Debug)]
pub struct Expression(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: String,
    variables: Vec<String>,
}

/// The variables that are legal at a position, `$` not included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(pub Vec<String>);

/// Why a text is not a usable expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Byte offset into the expression's source (after `${` was stripped: into the stripped text).
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What an evaluation may know and spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalEnv {
    /// Unix milliseconds that `now` yields (as seconds).
    pub now_ms: i64,
    /// Steps; at 0 the evaluation fails.
    pub fuel: u64,
}

impl EvalEnv {
    /// With the default fuel, `limits::EXPRESSION_FUEL_MAX`.
    pub const fn at(now_ms: i64) -> Self {
        Self {
            now_ms,
            fuel: limits::EXPRESSION_FUEL_MAX,
        }
    }
}

impl Expression {
    /// Compiles a source without `${ }`.
    ///
    /// # Errors
    /// [`CompileError`] with the place.
    pub fn compile(source: &str, scope: &Scope) -> Result<Self, CompileError> {
        let _ = scope;
        Ok(Self(Arc::new(Inner {
            source: source.to_owned(),
            variables: Vec::new(),
        })))
    }

    /// The source as it was compiled.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The variables of the scope that the expression uses, `$` not included, in the order of the values that
    /// [`Self::evaluate`] takes.
    pub fn variables(&self) -> &[String] {
        &self.0.variables
    }

    /// Evaluates: no output gives `null`, one gives it, more give an array of them.
    ///
    /// # Errors
    /// An `expression` problem when the expression fails or exceeds a bound.
    pub fn evaluate(&self, input: &Value, vars: &[Value], env: &EvalEnv) -> Result<Value, Problem> {
        let _ = (input, vars, env);
        Err(Problem::new(ErrorKind::Expression, "not available yet"))
    }

    /// Evaluates and applies jq's truth to the result.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn test(&self, input: &Value, vars: &[Value], env: &EvalEnv) -> Result<bool, Problem> {
        self.evaluate(input, vars, env).map(|v| value::is_truthy(&v))
    }

    /// Evaluates with variables looked up by name; one that is not found is `null`.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_with(
        &self,
        input: &Value,
        lookup: &mut dyn FnMut(&str) -> Option<Value>,
        env: &EvalEnv,
    ) -> Result<Value, Problem> {
        let vars: Vec<Value> = self
            .variables()
            .iter()
            .map(|name| lookup(name).unwrap_or_default())
            .collect();
        self.evaluate(input, &vars, env)
    }
}

/// The expression inside a text that is `${ … }` as a whole, with its byte offset; `None` for any other text.
pub fn strip(text: &str) -> Option<(usize, &str)> {
    let start = text.len() - text.trim_start().len();
    let inner = text.trim().strip_prefix("${")?.strip_suffix('}')?;
    Some((start + 2, inner))
}
