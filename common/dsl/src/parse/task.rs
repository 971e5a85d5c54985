//! Task lists and tasks: the keyword decides what a task is.

use std::collections::HashMap;

use millrace_common::limits;

use super::core::{Fields, Parser};
use super::env::{Env, Siblings};
use super::keys::closest;
use super::node::{At, Data, Entry, Node};
use super::scope::{Locals, Position, Vars};
use super::settings::Owner;
use crate::model::{Case, DataIn, DataOut, DurationValue, For, Fork, Task, TaskKind, TaskList};
use crate::template::Template;

const COMMON: [&str; 7] = ["if", "input", "output", "export", "timeout", "then", "metadata"];

/// Keyword of each kind of task, and the keys it brings along.
const KINDS: [(&str, &[&str]); 12] = [
    ("call", &["with"]),
    ("do", &[]),
    ("set", &[]),
    ("switch", &[]),
    ("for", &["while", "do"]),
    ("fork", &[]),
    ("try", &["catch"]),
    ("raise", &[]),
    ("emit", &[]),
    ("listen", &["foreach"]),
    ("wait", &[]),
    ("run", &[]),
];

/// Names that `then` gives another meaning. A task may have one (a use case of the specification does).
const DIRECTIVES: [&str; 3] = ["continue", "exit", "end"];

impl<'a> Parser<'a> {
    /// A task list, one scope for `then`.
    pub(super) fn tasks(&mut self, node: &Node, at: &At<'_>, outer: &Env<'_>) -> TaskList {
        self.tasks_with(node, at, outer, &[])
    }

    /// A task list with variables of its own.
    pub(super) fn tasks_with(
        &mut self,
        node: &Node,
        at: &At<'_>,
        outer: &Env<'_>,
        names: &[&str],
    ) -> TaskList {
        let mut list = TaskList {
            pointer: at.pointer(),
            tasks: Vec::new(),
        };
        let depth = outer.depth + 1;
        self.deepest = self.deepest.max(depth);
        if depth > limits::DEFINITION_DEPTH_MAX {
            let max = limits::DEFINITION_DEPTH_MAX;
            self.report(at.error(format!("task lists nest deeper than {max} levels")));
            return list;
        }
        let items = self.items(node, at);
        let targets = items
            .iter()
            .enumerate()
            .map(|(i, (_, entry))| (entry.key.as_str(), i));
        let siblings = Siblings::List(targets.rev().collect());
        let locals = Locals {
            outer: outer.locals,
            names,
        };
        let env = Env {
            locals: Some(&locals),
            siblings: &siblings,
            outer: Some(outer),
            depth,
            saga: outer.saga,
        };
        for (index, entry) in &items {
            let (item, index) = (&node.items().unwrap_or_default()[*index], *index);
            let at = at.index(index, item);
            list.tasks
                .extend(self.task(&entry.key, &entry.node, &at.entry(entry), &env));
        }
        if list.tasks.len() == node.items().map_or(0, <[Node]>::len) {
            self.unreachable(&list);
        }
        list
    }

    /// The well-formed items of a task list; faults of the others and of the names are reported.
    pub(super) fn items<'n>(&mut self, node: &'n Node, at: &At<'_>) -> Vec<(usize, &'n Entry)> {
        if let Some([first, ..]) = node.entries() {
            let hint = format!("put `- ` before each name: `- {}: …`", first.key);
            self.expected_hint("a list of tasks", node, at, &hint);
            return Vec::new();
        }
        let mut items: Vec<(usize, &Entry)> = Vec::new();
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (i, item) in self.list(node, at, "a list of tasks").iter().enumerate() {
            let at = at.index(i, item);
            let Some(entry) = self.named(item, &at) else {
                continue;
            };
            self.check_name(entry, &at.entry(entry));
            if let Some(first) = seen.insert(&entry.key, i) {
                let first = items
                    .iter()
                    .find(|(index, _)| *index == first)
                    .map(|(_, e)| e.span);
                let first = first.unwrap_or_default();
                let message = format!("duplicate task name `{}`", entry.key);
                let hint = format!(
                    "another task of this list has it at {}:{}",
                    first.line, first.column
                );
                self.report(at.entry(entry).error(message).hint(hint));
            }
            items.push((i, entry));
        }
        items
    }

    fn named<'n>(&mut self, item: &'n Node, at: &At<'_>) -> Option<&'n Entry> {
        match item.entries() {
            Some([entry]) => Some(entry),
            Some([first, ..]) if is_task_key(&first.key) => {
                let hint = "put `- name:` in front of it, and the task below the name";
                self.report(at.entry(first).error("the task has no name").hint(hint));
                None
            }
            Some([first, rest @ ..]) if rest.iter().any(|e| is_task_key(&e.key)) => {
                let message = format!("the body of task `{}` stands beside its name", first.key);
                self.report(
                    at.entry(first)
                        .error(message)
                        .hint("indent the body deeper than the name"),
                );
                None
            }
            Some([_, second, ..]) => {
                let message = format!(
                    "an item of a task list has one task, found `{}` as well",
                    second.key
                );
                self.report(at.entry(second).error(message).hint("put `- ` before each name"));
                None
            }
            _ => {
                self.expected_hint("a named task", item, at, "write `- name: { set: … }`");
                None
            }
        }
    }

    fn check_name(&mut self, entry: &Entry, at: &At<'_>) {
        let name = entry.key.as_str();
        if DIRECTIVES.contains(&name) {
            let fault = at.warning(format!("no `then` can go to a task with the name `{name}`"));
            self.report(fault.hint(format!("`then: {name}` is a directive; choose another name")));
        } else if entry.key.is_empty() {
            self.report(at.error("the name of a task is empty"));
        }
    }

    /// One task. `at` is its name.
    pub(super) fn task(&mut self, name: &str, node: &Node, at: &At<'_>, env: &Env<'_>) -> Option<Task> {
        self.tasks += 1;
        if self.tasks > limits::DEFINITION_TASKS_MAX {
            if self.tasks == limits::DEFINITION_TASKS_MAX + 1 {
                let max = limits::DEFINITION_TASKS_MAX;
                self.report(at.error(format!("a definition has at most {max} tasks")));
            }
            return None;
        }
        let entries = node.entries().or_else(|| {
            self.expected_hint("a task", node, at, "write what it does: `set: …`, `call: …`");
            None
        })?;
        let (keyword, extra) = self.keyword(name, entries, at)?;
        let what = format!("the task `{name}`");
        let legal: Vec<&'static str> = [keyword].iter().chain(extra).chain(&COMMON).copied().collect();
        let fields = self.fields(node, at, &what, &legal)?;
        let before = self.vars(Position::TaskInput, env);
        let condition = fields
            .get("if")
            .map(|e| self.expression(&e.node, &at.entry(e), &before));
        let kind = self.kind(keyword, &fields, at, env);
        let (input, output, export) = self.flow_of_data(&fields, at, env);
        let vars = self.vars(Position::Definition, env);
        let timeout = fields
            .get("timeout")
            .map(|e| self.timeout(&e.node, &at.entry(e), &vars));
        let then = fields.get("then").map(|e| self.flow(&e.node, &at.entry(e), env));
        let settings = fields
            .get("metadata")
            .map(|e| self.settings(&e.node, &at.entry(e), Owner::Task { keyword, node, env }));
        Some(Task {
            name: name.to_owned(),
            pointer: at.pointer(),
            span: at.span,
            condition: condition.flatten(),
            input,
            output,
            export,
            timeout: timeout.flatten(),
            then: then.flatten(),
            settings: settings.unwrap_or_default(),
            kind: kind?,
            source: node.value.clone(),
        })
    }

    /// What kind of task it is.
    fn keyword(
        &mut self,
        name: &str,
        entries: &[Entry],
        at: &At<'_>,
    ) -> Option<(&'static str, &'static [&'static str])> {
        let has = |key: &str| entries.iter().any(|e| e.key == key);
        let found: Vec<_> = KINDS
            .iter()
            .filter(|(k, _)| has(k) && !(*k == "do" && has("for")))
            .copied()
            .collect();
        match found.as_slice() {
            [kind] => return Some(*kind),
            [] => self.no_keyword(name, entries, at),
            [first, second, ..] => {
                let mut both = [first.0, second.0];
                both.sort_by_key(|k| entries.iter().position(|e| e.key == **k));
                let place = entries
                    .iter()
                    .find(|e| e.key == both[1])
                    .map_or(*at, |e| at.key(&e.key, e.span));
                let message = format!("the task `{name}` has both `{}` and `{}`", both[0], both[1]);
                self.report(
                    place
                        .error(message)
                        .hint("a task does one thing; make it two tasks"),
                );
            }
        }
        None
    }

    fn no_keyword(&mut self, name: &str, entries: &[Entry], at: &At<'_>) {
        if self.is_full() {
            return;
        }
        let words = KINDS.map(|(k, _)| k);
        let unknown = entries.iter().filter(|e| !is_task_key(&e.key));
        let typo = unknown.filter_map(|e| Some((e, closest(&e.key, words)?))).next();
        let fault = match typo {
            Some((entry, word)) => at
                .entry(entry)
                .error(format!("unknown key `{}` in the task `{name}`", entry.key))
                .hint(format!("did you mean `{word}`?")),
            None if is_task_key(name) => at
                .error("the task has no name")
                .hint(format!("write `- name: {{ {name}: … }}`")),
            None => at
                .error(format!("the task `{name}` does not say what it does"))
                .hint(format!("it needs one of {}", words.join(", "))),
        };
        self.report(fault);
    }

    fn flow_of_data(
        &mut self,
        fields: &Fields<'_>,
        at: &At<'_>,
        env: &Env<'_>,
    ) -> (DataIn, DataOut, DataOut) {
        let mut data = (DataIn::default(), DataOut::default(), DataOut::default());
        if let Some(e) = fields.get("input") {
            let vars = self.vars(Position::TaskInput, env);
            data.0 = self.data_in(&e.node, &at.entry(e), &vars);
        }
        if let Some(e) = fields.get("output") {
            let vars = self.vars(Position::TaskOutput, env);
            data.1 = self.data_out(&e.node, &at.entry(e), "`output`", &vars);
        }
        if let Some(e) = fields.get("export") {
            let vars = self.vars(Position::Export, env);
            data.2 = self.data_out(&e.node, &at.entry(e), "`export`", &vars);
        }
        data
    }

    fn kind(&mut self, keyword: &str, fields: &Fields<'_>, at: &At<'_>, env: &Env<'_>) -> Option<TaskKind> {
        let entry = fields.get(keyword)?;
        let (node, inner) = (&entry.node, at.entry(entry));
        let vars = self.vars(Position::Definition, env);
        match keyword {
            "do" => Some(TaskKind::Do(self.tasks(node, &inner, env))),
            "set" => self.set(node, &inner, &vars).map(TaskKind::Set),
            "switch" => self.switch(node, &inner, env, &vars).map(TaskKind::Switch),
            "for" => self.for_task(node, fields, at, env, &vars).map(TaskKind::For),
            "fork" => self.fork(node, &inner, env).map(TaskKind::Fork),
            "try" => self
                .try_task(node, fields, at, env)
                .map(|t| TaskKind::Try(Box::new(t))),
            "raise" => self.raise(node, fields, &inner, &vars).map(TaskKind::Raise),
            "emit" => self.emit(node, &inner, &vars).map(TaskKind::Emit),
            "listen" => self
                .listen(node, fields, at, env)
                .map(|l| TaskKind::Listen(Box::new(l))),
            "wait" => self.wait(node, &inner, &vars).map(TaskKind::Wait),
            "run" => self.run(node, &inner, &vars).map(|r| TaskKind::Run(Box::new(r))),
            _ => self
                .call(node, fields, at, env, &vars)
                .map(|c| TaskKind::Call(Box::new(c))),
        }
    }

    fn wait(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<DurationValue> {
        self.duration(node, at, vars)
    }

    fn set(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Template> {
        match &node.data {
            Data::Object(entries) if entries.is_empty() => {
                self.report(
                    at.error_in(node, "`set` is empty")
                        .hint("set at least one member"),
                );
                None
            }
            Data::Object(_) | Data::Text(_) => Some(self.template(node, at, vars)),
            _ => {
                self.expected("an object or an expression", node, at);
                None
            }
        }
    }

    fn switch(&mut self, node: &Node, at: &At<'_>, env: &Env<'_>, vars: &Vars) -> Option<Vec<Case>> {
        let items = self.list(node, at, "a list of cases");
        if node.items().is_some_and(<[Node]>::is_empty) {
            self.report(at.error_in(node, "`switch` has no case"));
        }
        let (mut cases, mut default): (Vec<Case>, Option<&Entry>) = (Vec::new(), None);
        for (i, item) in items.iter().enumerate() {
            let at = at.index(i, item);
            let hint = "write `- name: { when: …, then: … }`";
            let Some(entry) = self.single(item, &at, "case", hint) else {
                continue;
            };
            let at = at.entry(entry);
            if entry.node.entries().is_some() && entry.node.get("when").is_none() {
                match default {
                    Some(first) => {
                        let message = format!("`{}` is a second default case", entry.key);
                        let hint = format!("`{}` has no `when` either", first.key);
                        self.report(at.error(message).hint(hint));
                    }
                    None => default = Some(entry),
                }
            }
            if cases.iter().any(|c| c.name == entry.key) {
                self.report(at.warning(format!("another case is called `{}`", entry.key)));
            }
            cases.extend(self.case(entry, &at, env, vars));
        }
        Some(cases)
    }

    /// The only member of a list's item: a name and what it stands for.
    pub(super) fn single<'n>(
        &mut self,
        item: &'n Node,
        at: &At<'_>,
        noun: &str,
        hint: &str,
    ) -> Option<&'n Entry> {
        match item.entries() {
            Some([entry]) => return Some(entry),
            Some([_, ..]) => self.report(at.error(format!("the {noun} has no name")).hint(hint)),
            _ => self.expected_hint(&format!("a named {noun}"), item, at, hint),
        }
        None
    }

    fn case(&mut self, entry: &Entry, at: &At<'_>, env: &Env<'_>, vars: &Vars) -> Option<Case> {
        let what = format!("the case `{}`", entry.key);
        let fields = self.fields(&entry.node, at, &what, &["when", "then"])?;
        let when = fields
            .get("when")
            .and_then(|e| self.expression(&e.node, &at.entry(e), vars));
        let then = self.required(&fields, at, &what, "then")?;
        let then = self.flow(&then.node, &at.entry(then), env)?;
        Some(Case {
            name: entry.key.clone(),
            when,
            then,
        })
    }

    fn for_task(
        &mut self,
        node: &Node,
        task: &Fields<'_>,
        at: &At<'_>,
        env: &Env<'_>,
        vars: &Vars,
    ) -> Option<For> {
        let inner = at.entry(task.get("for")?);
        let fields = self.fields(node, &inner, "`for`", &["each", "at", "in"])?;
        let (each, index) = self.loop_variables(&fields, &inner, env, ("each", "at"));
        let items = self
            .required(&fields, &inner, "`for`", "in")
            .and_then(|e| self.collection(&e.node, &inner.entry(e), vars));
        let names = [each, index];
        let locals = Locals {
            outer: env.locals,
            names: &names,
        };
        let own = self.vars(
            Position::Definition,
            &Env {
                locals: Some(&locals),
                ..*env
            },
        );
        let condition = task
            .get("while")
            .and_then(|e| self.expression(&e.node, &at.entry(e), &own));
        if task.get("do").is_none() && node.get("do").is_some() {
            return None;
        }
        let body = self
            .required(task, at, "a `for` task", "do")
            .map(|e| self.tasks_with(&e.node, &at.entry(e), env, &names));
        Some(For {
            each: each.to_owned(),
            at: index.to_owned(),
            items: items?,
            condition,
            body: body?,
        })
    }

    /// Names of the item and index variables: `each` or `item`, and `at`.
    pub(super) fn loop_variables<'n>(
        &mut self,
        fields: &Fields<'n>,
        at: &At<'_>,
        env: &Env<'_>,
        keys: (&str, &str),
    ) -> (&'n str, &'n str) {
        let mut name = |key: &str| {
            let entry = fields.get(key)?;
            self.variable(&entry.node, &at.entry(entry), env)
        };
        let (each, index) = (name(keys.0).unwrap_or("item"), name(keys.1).unwrap_or("index"));
        if !fields.has(keys.0) && env.locals.is_some_and(|l| l.contains("item")) {
            let fault = at.warning("`$item` hides the variable of the same name around it");
            self.report(fault.hint(format!("give it another name with `{}`", keys.0)));
        }
        if each == index {
            self.report(at.error(format!(
                "`{}` and `{}` have the same name `{each}`",
                keys.0, keys.1
            )));
        }
        (each, index)
    }

    fn collection(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Template> {
        match node.data {
            Data::Text(_) => self.expression(node, at, vars).map(Template::Expression),
            Data::Array(_) => Some(self.template(node, at, vars)),
            _ => {
                self.expected("an expression or a list", node, at);
                None
            }
        }
    }

    fn fork(&mut self, node: &Node, at: &At<'_>, env: &Env<'_>) -> Option<Fork> {
        let fields = self.fields(node, at, "`fork`", &["branches", "compete"])?;
        let compete = fields
            .get("compete")
            .and_then(|e| self.boolean(&e.node, &at.entry(e)));
        let entry = self.required(&fields, at, "`fork`", "branches")?;
        let at = at.entry(entry);
        let items = self.items(&entry.node, &at);
        if entry.node.items().is_some_and(<[Node]>::is_empty) {
            self.report(at.error_in(&entry.node, "`branches` is empty"));
        }
        let depth = env.depth + 1;
        self.deepest = self.deepest.max(depth);
        let env = Env {
            siblings: &Siblings::Branches,
            outer: Some(env),
            depth,
            locals: env.locals,
            saga: env.saga,
        };
        let mut branches = Vec::new();
        for (index, entry) in items {
            let at = at.index(index, &entry.node);
            branches.extend(self.task(&entry.key, &entry.node, &at.entry(entry), &env));
        }
        Some(Fork {
            branches,
            compete: compete.unwrap_or_default(),
        })
    }
}

fn is_task_key(key: &str) -> bool {
    COMMON.contains(&key)
        || KINDS
            .iter()
            .any(|(kind, extra)| *kind == key || extra.contains(&key))
}
