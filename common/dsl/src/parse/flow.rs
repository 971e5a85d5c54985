//! Which tasks of a list can be reached.

use super::core::Parser;
use crate::Diagnostic;
use crate::model::{Flow, Task, TaskKind, TaskList};

impl Parser<'_> {
    /// Warns of the first task of every run of tasks that no path leads to.
    pub(super) fn unreachable(&mut self, list: &TaskList) {
        let mut reached = vec![false; list.tasks.len()];
        let mut open = vec![0];
        while let Some(index) = open.pop() {
            let Some(seen) = reached.get_mut(index) else {
                continue;
            };
            if !std::mem::replace(seen, true) {
                open.extend(successors(index, &list.tasks[index]));
            }
        }
        let mut before = true;
        for (task, reached) in list.tasks.iter().zip(reached) {
            if before && !reached {
                let message = format!("the task `{}` is never reached", task.name);
                let fault = Diagnostic::warning(task.pointer.as_str(), task.span, message);
                self.report(fault.hint("no `then` leads here, and the task before does not continue"));
            }
            before = reached;
        }
    }
}

/// Tasks of the same list that can follow.
fn successors(index: usize, task: &Task) -> Vec<usize> {
    let target = |flow: Flow| match flow {
        Flow::Continue => Some(index + 1),
        Flow::Task(target) => Some(target),
        Flow::Exit | Flow::End => None,
    };
    let then = target(task.then.unwrap_or(Flow::Continue));
    let mut next: Vec<usize> = Vec::new();
    match &task.kind {
        TaskKind::Switch(cases) => {
            next.extend(cases.iter().filter_map(|c| target(c.then)));
            if cases.iter().all(|c| c.when.is_some()) {
                next.extend(then);
            }
        }
        TaskKind::Try(attempt) => {
            next.extend(then);
            next.extend(attempt.catch.then.and_then(target));
        }
        TaskKind::Raise(_) => {}
        _ => next.extend(then),
    }
    if task.condition.is_some() {
        next.push(index + 1);
    }
    next
}
