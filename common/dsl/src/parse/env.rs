//! What surrounds a task: its list, the variables of loops and handlers, its nesting.

use std::collections::HashMap;

use super::core::Parser;
use super::node::{At, Node};
use super::scope::{self, Locals, Position, RESERVED, Vars};
use crate::model::Flow;

/// The tasks that `then` may name.
#[derive(Debug)]
pub(super) enum Siblings<'n> {
    /// A list: name → index.
    List(HashMap<&'n str, usize>),
    /// Branches of a fork do not follow each other.
    Branches,
    /// A function stands alone.
    Function,
}

/// Surroundings of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Env<'e> {
    pub(super) locals: Option<&'e Locals<'e>>,
    pub(super) siblings: &'e Siblings<'e>,
    /// Surroundings of the task whose list this is.
    pub(super) outer: Option<&'e Self>,
    /// Task lists around it.
    pub(super) depth: usize,
    /// A saga is around it; in a function: may be.
    pub(super) saga: bool,
}

impl Env<'static> {
    /// Of a function, or of the whole workflow.
    pub(super) const OUTSIDE: Self = Env {
        locals: None,
        siblings: &Siblings::Function,
        outer: None,
        depth: 0,
        saga: true,
    };
}

impl<'a> Parser<'a> {
    pub(super) fn vars(&self, position: Position, env: &Env<'_>) -> Vars {
        Vars::new(position, env.locals, !self.uses.secrets.is_empty())
    }

    /// A flow directive.
    pub(super) fn flow(&mut self, node: &Node, at: &At<'_>, env: &Env<'_>) -> Option<Flow> {
        let name = self.constant(node, at, "`continue`, `exit`, `end` or the name of a task")?;
        match name {
            "continue" => return Some(Flow::Continue),
            "exit" => return Some(Flow::Exit),
            "end" => return Some(Flow::End),
            _ => {}
        }
        let (message, hint) = match env.siblings {
            Siblings::List(names) => match names.get(name) {
                Some(index) => return Some(Flow::Task(*index)),
                None => (
                    format!("unknown task `{name}`"),
                    self.unknown_target(name, names, env),
                ),
            },
            Siblings::Branches => (
                format!("a branch cannot go to `{name}`"),
                "branches run at the same time; use `continue`, `exit` or `end`".into(),
            ),
            Siblings::Function => (
                format!("a function cannot go to `{name}`"),
                "it has no siblings; use `continue`, `exit` or `end`".into(),
            ),
        };
        self.report(at.error_in(node, message).hint(hint));
        None
    }

    /// Name of a variable that a loop or handler introduces.
    pub(super) fn variable<'n>(&mut self, node: &'n Node, at: &At<'_>, env: &Env<'_>) -> Option<&'n str> {
        let name = self.constant(node, at, "the name of a variable")?;
        let fault = match name {
            _ if RESERVED.contains(&name) => at
                .error_in(node, format!("`{name}` cannot be the name of a variable"))
                .hint(format!(
                    "the language has a `${name}` already; choose another name"
                )),
            _ if name.starts_with('$') => at
                .error_in(node, format!("`{name}` is not the name of a variable"))
                .hint("write it without `$`"),
            _ if !scope::is_variable(name) => at
                .error_in(node, format!("`{name}` is not the name of a variable"))
                .hint("use letters, digits and `_`, starting with a letter"),
            _ => {
                if env.locals.is_some_and(|l| l.contains(name)) {
                    let message = format!("`${name}` hides the variable of the same name around it");
                    self.report(at.warning_in(node, message));
                }
                return Some(name);
            }
        };
        self.report(fault);
        None
    }

    fn unknown_target(&self, name: &str, names: &HashMap<&str, usize>, env: &Env<'_>) -> String {
        let mut around = env.outer;
        while let Some(env) = around {
            if matches!(env.siblings, Siblings::List(outer) if outer.contains_key(name)) {
                return format!(
                    "`{name}` is in a list around this one; `then` only reaches tasks of the same list"
                );
            }
            around = env.outer;
        }
        let mut sorted: Vec<(&str, usize)> = names.iter().map(|(name, index)| (*name, *index)).collect();
        sorted.sort_by_key(|(_, index)| *index);
        self.suggest(name, sorted.iter().map(|(name, _)| *name), "tasks in this list")
    }
}
