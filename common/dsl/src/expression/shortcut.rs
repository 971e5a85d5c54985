//! The commonest expressions, evaluated without jaq: `.`, `.a.b`, `$var.a`, constants.
//!
//! They mean exactly what jaq would do with them; tests compare both.

use jaq_json::{Num, Val};

use super::bounded::Bounded;
use super::{Scope, number};
use crate::{Value, value};

/// See the module.
#[derive(Debug)]
pub(super) enum Shortcut {
    /// A constant.
    Literal(Value),
    /// A path from the input or a variable.
    Path(Root, Vec<Key>),
}

/// Where a path starts.
#[derive(Debug)]
pub(super) enum Root {
    /// `.`
    Input,
    /// The only variable.
    Variable(String),
}

/// One element of a path: a text or an integer.
#[derive(Debug)]
pub(super) struct Key(Value);

impl Shortcut {
    /// Recognises a source; anything unusual is left to jaq, its errors included.
    pub(super) fn parse(source: &str, scope: &Scope) -> Option<Self> {
        let source = source.trim();
        if let Some(literal) = literal(source) {
            return Some(Self::Literal(literal));
        }
        if let Some(rest) = source.strip_prefix('$') {
            let (name, rest) = rest.split_at(identifier(rest)?);
            scope.0.iter().find(|v| *v == name)?;
            return Some(Self::Path(Root::Variable(name.to_owned()), keys(rest)?));
        }
        match source {
            "." => Some(Self::Path(Root::Input, Vec::new())),
            path if path.starts_with('.') => Some(Self::Path(Root::Input, keys(path)?)),
            _ => None,
        }
    }

    /// The variables used: none or one.
    pub(super) fn variables(&self) -> &[String] {
        match self {
            Self::Path(Root::Variable(name), _) => std::slice::from_ref(name),
            _ => &[],
        }
    }

    /// True when it starts from the input.
    pub(super) const fn reads_input(&self) -> bool {
        matches!(self, Self::Path(Root::Input, _))
    }

    /// The value, or the message of jaq's error.
    pub(super) fn evaluate(&self, input: &Value, vars: &[Value]) -> Result<Value, String> {
        static NULL: Value = Val::Null;
        let (root, keys) = match self {
            Self::Literal(v) => return Ok(v.clone()),
            Self::Path(Root::Input, keys) => (input, keys),
            Self::Path(Root::Variable(_), keys) => (vars.first().unwrap_or(&NULL), keys),
        };
        let found = keys.iter().try_fold(root, |v, Key(key)| match (v, key) {
            (Val::Obj(members), Val::TStr(_)) => Ok(members.get(key).unwrap_or(&NULL)),
            (Val::Arr(items), Val::Num(n)) => Ok(number::position(n, items.len())
                .and_then(|at| items.get(at))
                .unwrap_or(&NULL)),
            (Val::Null, _) => Ok(&NULL),
            (v, key) => {
                let shown = |v: &Val| Bounded::outside(v.clone());
                Err(format!("cannot index {} with {}", shown(v), shown(key)))
            }
        });
        found.cloned()
    }
}

/// A constant that JSON and jq read alike.
fn literal(source: &str) -> Option<Value> {
    let text = source.strip_prefix('"').and_then(|s| s.strip_suffix('"'));
    match source {
        "null" | "true" | "false" | "[]" | "{}" => value::parse(source).ok(),
        _ if source.len() <= 15 && !source.is_empty() && source.bytes().all(|b| b.is_ascii_digit()) => {
            source.parse().ok().map(value::number_i64)
        }
        _ => text.filter(|t| !t.contains(['"', '\\'])).map(value::string),
    }
}

/// Keys of `.a.b[0]["c"]`.
fn keys(mut path: &str) -> Option<Vec<Key>> {
    let mut keys = Vec::new();
    while !path.is_empty() {
        let (key, rest) = match path.strip_prefix('.') {
            Some(rest) => {
                let (name, rest) = rest.split_at(identifier(rest)?);
                (value::string(name), rest)
            }
            None => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                (index_key(index)?, rest)
            }
        };
        keys.push(Key(key));
        path = rest;
    }
    Some(keys)
}

fn index_key(index: &str) -> Option<Value> {
    match literal(index)? {
        key @ (Val::TStr(_) | Val::Num(Num::Int(_))) => Some(key),
        _ => None,
    }
}

/// Bytes of the identifier at the start, if there is one.
fn identifier(text: &str) -> Option<usize> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        .then_some(end)
}
