//! Values with expressions inside: `set`, `with`, `body`, …
//!
//! Only texts that are `${ … }` as a whole are expressions; keys never are.

use millrace_common::Problem;

use crate::Value;
use crate::expression::{EvalEnv, Expression};

/// A value with expressions at some of its places.
#[derive(Clone, Debug)]
pub enum Template {
    /// A constant.
    Literal(Value),
    /// Computed.
    Expression(Expression),
    /// An array with a computed part.
    Array(Vec<Self>),
    /// An object with a computed part, in the order of the source.
    Object(Vec<(String, Self)>),
}

impl Template {
    /// An array; a literal when all its items are.
    pub fn array(items: Vec<Self>) -> Self {
        Self::Array(items)
    }

    /// An object; a literal when all its members are.
    pub fn object(members: Vec<(String, Self)>) -> Self {
        Self::Object(members)
    }

    /// True when nothing is computed.
    pub fn is_literal(&self) -> bool {
        matches!(self, Self::Literal(_))
    }

    /// All expressions, in the order of the source.
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let mut found = Vec::new();
        self.collect(&mut found);
        found.into_iter()
    }

    fn collect<'a>(&'a self, found: &mut Vec<&'a Expression>) {
        match self {
            Self::Literal(_) => {}
            Self::Expression(e) => found.push(e),
            Self::Array(items) => items.iter().for_each(|t| t.collect(found)),
            Self::Object(members) => members.iter().for_each(|(_, t)| t.collect(found)),
        }
    }

    /// Evaluates every expression; `lookup` gives the value of a variable (without `$`).
    ///
    /// # Errors
    /// The `expression` problem of the first expression that fails.
    pub fn evaluate(
        &self,
        input: &Value,
        lookup: &mut dyn FnMut(&str) -> Option<Value>,
        env: &EvalEnv,
    ) -> Result<Value, Problem> {
        match self {
            Self::Literal(v) => Ok(v.clone()),
            Self::Expression(e) => e.evaluate_with(input, lookup, env),
            Self::Array(items) => items.iter().map(|t| t.evaluate(input, lookup, env)).collect(),
            Self::Object(members) => {
                let pair = |(k, t): &(String, Self)| Ok((k.clone().into(), t.evaluate(input, lookup, env)?));
                Ok(Value::obj(
                    members.iter().map(pair).collect::<Result<_, Problem>>()?,
                ))
            }
        }
    }
}
