//! Which variables are legal where.

use crate::expression::{CompileError, Scope};

/// Where an expression stands (the availability table of the specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// `input.from` of the workflow.
    WorkflowInput,
    /// `output.as` of the workflow, and its timeout.
    WorkflowOutput,
    /// `if` and `input.from` of a task.
    TaskInput,
    /// Everything that makes up a task.
    Definition,
    /// `output.as` of a task. It may use `$output`, for its raw output.
    TaskOutput,
    /// `export.as`.
    Export,
    /// `schedule`: no instance exists yet.
    Schedule,
}

impl Position {
    const fn variables(self) -> &'static [&'static str] {
        match self {
            Self::WorkflowInput => &["secrets", "workflow", "runtime"],
            Self::WorkflowOutput => &["context", "secrets", "workflow", "runtime"],
            Self::TaskInput => &["context", "secrets", "task", "workflow", "runtime"],
            Self::Definition => &[
                "context",
                "input",
                "secrets",
                "authorization",
                "task",
                "workflow",
                "runtime",
            ],
            Self::TaskOutput | Self::Export => &[
                "context",
                "input",
                "output",
                "secrets",
                "authorization",
                "task",
                "workflow",
                "runtime",
            ],
            Self::Schedule => &["secrets", "runtime"],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::WorkflowInput => "`input.from` of the workflow",
            Self::WorkflowOutput => "`output.as` and `timeout` of the workflow",
            Self::TaskInput => "`if` and `input.from`",
            Self::Definition => "a task's body",
            Self::TaskOutput => "`output.as`",
            Self::Export => "`export.as`",
            Self::Schedule => "`schedule`",
        }
    }
}

/// Names that mean something already.
pub(super) const RESERVED: [&str; 9] = [
    "context",
    "input",
    "output",
    "secrets",
    "authorization",
    "task",
    "workflow",
    "runtime",
    "ENV",
];

/// Variables of the loops and handlers around a position, innermost first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Locals<'e> {
    pub(super) outer: Option<&'e Self>,
    pub(super) names: &'e [&'e str],
}

impl Locals<'_> {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains(&name) || self.outer.is_some_and(|l| l.contains(name))
    }

    fn collect(&self, into: &mut Vec<String>) {
        if let Some(outer) = self.outer {
            outer.collect(into);
        }
        for name in self.names {
            if !into.iter().any(|n| n == name) {
                into.push((*name).to_owned());
            }
        }
    }
}

/// What an expression may refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vars {
    pub(super) position: Position,
    pub(super) scope: Scope,
    /// What is computed here goes to a worker and is stored nowhere: secrets may be used.
    pub(super) late: bool,
}

impl Vars {
    pub(super) fn new(position: Position, locals: Option<&Locals<'_>>, secrets: bool) -> Self {
        let legal = position
            .variables()
            .iter()
            .filter(|v| secrets || **v != "secrets");
        let mut names: Vec<String> = legal.map(|v| (*v).to_owned()).collect();
        if let Some(locals) = locals {
            locals.collect(&mut names);
        }
        Self {
            position,
            scope: Scope(names),
            late: false,
        }
    }

    /// The same where a worker fills in what uses secrets.
    pub(super) fn filled_in_late(&self) -> Self {
        Self {
            late: true,
            ..self.clone()
        }
    }

    fn has(&self, name: &str) -> bool {
        self.scope.0.iter().any(|v| v == name)
    }
}

/// Advice for an expression that does not compile: knows the language where the compiler only knows jq.
pub(super) fn hint(source: &str, error: &CompileError, vars: &Vars, stripped: usize) -> Option<String> {
    if stripped == 0 && source.trim_start().starts_with("${") && !source.contains('}') {
        return Some("add the closing `}`".into());
    }
    if stripped == 0 && source.contains("${") {
        return Some("put the whole expression into one `${ }`, or leave it out".into());
    }
    let at = source.get(error.offset..)?;
    let name = at.strip_prefix('$').unwrap_or(at);
    let name = name
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .filter(|n| !n.is_empty())?;
    let named = at.starts_with('$') || source[..error.offset].ends_with('$');
    if !named || vars.has(name) {
        return None;
    }
    if name == "secrets" || name == "secret" {
        return Some("list the secret in `use.secrets` and write `$secrets.name`".into());
    }
    let legal: Vec<String> = vars.scope.0.iter().map(|v| format!("${v}")).collect();
    Some(match RESERVED.contains(&name) {
        true => format!("{} may use {}", vars.position.name(), legal.join(", ")),
        false => match super::keys::closest(name, vars.scope.0.iter().map(String::as_str)) {
            Some(close) => format!("did you mean `${close}`?"),
            None => format!("variables here: {}", legal.join(", ")),
        },
    })
}

/// True for a text that looks like jq: `.name`, `.[0]`, `$context.x`.
pub(super) fn looks_bare(text: &str, vars: &Vars) -> bool {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('.') {
        return rest.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '[' | '"'));
    }
    let Some(rest) = text.strip_prefix('$') else {
        return false;
    };
    let end = rest
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    vars.has(&rest[..end])
}

/// True for what jq takes as a variable name.
pub(super) fn is_variable(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}
