//! jq expressions: compiled once at deploy time, evaluated within bounds, deterministic.
//!
//! `now` is the record's time; there is no environment, no input, no clock, no randomness.
//!
//! A tenant's expression runs inline in the coordinator, so it must not be able to hold it up or bring it down.
//! Five things make sure of that:
//! - `program` parses and compiles on a stack that is large enough for any source of the permitted length, and
//!   evaluates;
//! - `meter` counts steps and memory, watches the stack, and stops the evaluation at a bound;
//! - `bounded` is the value that jaq computes with: every operation is metered, no value gets too large or deep;
//! - `natives` and the prelude are the allow-list of what can be called;
//! - `rewrite` changes what jaq would evaluate wastefully.
//!
//! What differs from jq 1.7, beside what is left out:
//! - an operator whose sides both have several outputs varies the right one fastest: `[(1,2)+(10,20)]` is
//!   `[11,21,12,22]`;
//! - integers are exact beyond 2^53, up to the range of a double, where jq rounds;
//! - regular expressions have no look-around and no back-references, and `\d`, `\w`, `\s`, `\b` are ASCII;
//! - `sort`, `group_by`, … take NaN for equal to itself.

mod arithmetic;
mod bounded;
mod deletion;
mod hint;
pub(crate) mod meter;
mod natives;
mod number;
pub(crate) mod order;
mod pattern;
mod prelude;
mod program;
mod rewrite;
mod shortcut;
#[cfg(test)]
mod tests;
mod text;
mod update;
mod usage;

use std::fmt;
use std::sync::Arc;

use millrace_common::{ErrorKind, Problem, limits};

use self::program::{Failure, Program};
use self::shortcut::Shortcut;
use crate::{Value, value};

pub(crate) use self::text::percent_encode;

/// Bytes of an expression's source in a message.
const SOURCE_BYTES: usize = 120;

/// A compiled expression. Cheap to clone; `Send + Sync`.
#[derive(Clone)]
pub struct Expression(Arc<Inner>, Option<Arc<Value>>);

struct Inner {
    source: String,
    code: Code,
}

enum Code {
    Shortcut(Shortcut),
    Program(Program),
}

/// The variables that are legal at a position, `$` not included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(pub Vec<String>);

/// Why a text is not a usable expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Byte offset into the expression's source (after `${` was stripped: into the stripped text).
    pub offset: usize,
    /// What is wrong: lowercase, names in backticks, no full stop.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What an evaluation may know and spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalEnv {
    /// Unix milliseconds; `now` yields them as seconds.
    pub now_ms: i64,
    /// Steps: nodes of the expression that may be evaluated. When they are used up the evaluation fails. For a
    /// template: of all its expressions together.
    pub fuel: u64,
}

impl EvalEnv {
    /// At a time, with the default fuel, `limits::EXPRESSION_FUEL_MAX`.
    pub const fn at(now_ms: i64) -> Self {
        Self {
            now_ms,
            fuel: limits::EXPRESSION_FUEL_MAX,
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.0.source).finish()
    }
}

impl Expression {
    /// Compiles a source without `${ }`.
    ///
    /// # Errors
    /// [`CompileError`] with the place: not jq, longer than `limits::EXPRESSION_BYTES_MAX`, a function that does
    /// not exist or is not deterministic, a variable that is not in the scope.
    pub fn compile(source: &str, scope: &Scope) -> Result<Self, CompileError> {
        if let Some(error) = program::too_long(source) {
            return Err(error);
        }
        let code = match Shortcut::parse(source, scope) {
            Some(shortcut) => Code::Shortcut(shortcut),
            None => Code::Program(Program::compile(source, scope)?),
        };
        let inner = Inner {
            source: source.to_owned(),
            code,
        };
        Ok(Self(Arc::new(inner), None))
    }

    /// The same, but an evaluation that raises an error gives this value: texts in loose mode. One that passes a bound
    /// still fails.
    #[must_use]
    pub fn or(self, value: Value) -> Self {
        Self(self.0, Some(Arc::new(value)))
    }

    /// The source as it was compiled.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The variables of the scope that the expression uses, `$` not included, in the order of the values that
    /// [`Self::evaluate`] takes.
    pub fn variables(&self) -> &[String] {
        match &self.0.code {
            Code::Shortcut(shortcut) => shortcut.variables(),
            Code::Program(program) => program.variables(),
        }
    }

    /// False when the input makes no difference to the result.
    pub fn reads_input(&self) -> bool {
        match &self.0.code {
            Code::Shortcut(shortcut) => shortcut.reads_input(),
            Code::Program(program) => program.reads_input(),
        }
    }

    /// Evaluates: no output gives `null`, one gives it, more give an array of them.
    ///
    /// `input` and `vars` must be within `limits::EXPRESSION_NODES_MAX` and `limits::VALUE_DEPTH_MAX`, which every
    /// value is that was parsed here or evaluated here. There must be as many `vars` as [`Self::variables`].
    ///
    /// Needs at most about 1 MiB of stack; what recurses deeper is evaluated on a thread of its own.
    ///
    /// # Errors
    /// An `expression` problem when the expression fails or exceeds a bound.
    pub fn evaluate(&self, input: &Value, vars: &[Value], env: &EvalEnv) -> Result<Value, Problem> {
        self.spend(input, vars, &mut env.clone())
    }

    /// As [`Self::evaluate`], and takes the fuel that was used.
    fn spend(&self, input: &Value, vars: &[Value], env: &mut EvalEnv) -> Result<Value, Problem> {
        debug_assert_eq!(
            vars.len(),
            self.variables().len(),
            "values of {:?}",
            self.variables()
        );
        let raised = |text: String| match &self.1 {
            Some(instead) => Ok(Value::clone(instead)),
            None => Err(self.problem(&text)),
        };
        match &self.0.code {
            Code::Shortcut(shortcut) => shortcut.evaluate(input, vars).or_else(raised),
            Code::Program(program) => program.run(input, vars, env).or_else(|failure| match failure {
                Failure::Error(text) => raised(text),
                Failure::Fault(fault) => Err(self.problem(&fault.text())),
            }),
        }
    }

    /// Evaluates and applies jq's truth to the result.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn test(&self, input: &Value, vars: &[Value], env: &EvalEnv) -> Result<bool, Problem> {
        self.evaluate(input, vars, env).map(|v| value::is_truthy(&v))
    }

    /// Evaluates with variables looked up by name (without `$`); one that is not found is `null`.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_with(
        &self,
        input: &Value,
        lookup: &mut dyn FnMut(&str) -> Option<Value>,
        env: &EvalEnv,
    ) -> Result<Value, Problem> {
        self.spend_with(input, lookup, &mut env.clone())
    }

    /// As [`Self::evaluate_with`], and takes the fuel that was used.
    pub(crate) fn spend_with(
        &self,
        input: &Value,
        lookup: &mut dyn FnMut(&str) -> Option<Value>,
        env: &mut EvalEnv,
    ) -> Result<Value, Problem> {
        let vars: Vec<Value> = self
            .variables()
            .iter()
            .map(|name| lookup(name).unwrap_or_default())
            .collect();
        self.spend(input, &vars, env)
    }

    fn problem(&self, text: &str) -> Problem {
        let source = self.source().trim();
        let shown = &source[..source.floor_char_boundary(SOURCE_BYTES)];
        let more = if shown.len() < source.len() { "…" } else { "" };
        Problem::new(ErrorKind::Expression, format!("`{shown}{more}`: {text}"))
    }
}

/// The expression inside a text that is `${ … }` as a whole, with its byte offset; `None` for any other text.
/// Space around is allowed.
pub fn strip(text: &str) -> Option<(usize, &str)> {
    let start = text.len() - text.trim_start().len();
    let inner = text.trim().strip_prefix("${")?.strip_suffix('}')?;
    Some((start + 2, inner))
}
