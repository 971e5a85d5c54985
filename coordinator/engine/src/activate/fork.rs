//! `fork`: branches begin one after the other, wait side by side, and are joined in the order of their declaration.
//!
//! A settled branch keeps its output in its own frame, so that a branch's end costs the same however many there are.

use std::sync::Arc;

use millrace_dsl::Value;
use millrace_dsl::model::Flow;

use crate::data::Data;
use crate::frame::{Body, Frame, FrameId, Parts};
use crate::plan::{Action, List};
use crate::scope::Scope;

use super::{Activation, Move};

impl Activation<'_> {
    /// Begins the next branch; the ones after it follow when this one waits.
    pub(crate) fn next_branch(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let (list, _) = self.branches(frame);
        let Body::Fork(state) = &frame.body else {
            return Move::Idle;
        };
        if state.again.is_empty() && state.next >= list.len {
            return Move::Idle;
        }
        if !self.has_budget() {
            self.spend(id);
            return Move::Idle;
        }
        let Some(Body::Fork(state)) = self.instance.edit(id, Parts::STATE).map(|f| &mut f.body) else {
            return Move::Idle;
        };
        let branch = state.again.pop().unwrap_or_else(|| {
            state.next += 1;
            state.next - 1
        });
        if !state.again.is_empty() || state.next < list.len {
            self.agenda.push(id);
        }
        self.begin(id, list.first + branch, Some(branch))
    }

    /// The branches of a fork, and whether they compete.
    pub(crate) fn branches(&self, frame: &Frame) -> (List, bool) {
        let Action::Fork { branches, compete } = &self.node(frame.node).action else {
            return (List::default(), false);
        };
        (*branches, *compete)
    }

    /// A branch is done: it wins, or it is the last one, or the others go on.
    pub(crate) fn leave_branch(&mut self, id: FrameId, branch: Option<u32>, flow: Flow) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let (list, compete) = self.branches(frame);
        let end = flow == Flow::End;
        if compete || end {
            return self.win(id, branch, end.then_some(Flow::End));
        }
        let Some(Body::Fork(state)) = self.instance.edit(id, Parts::STATE).map(|f| &mut f.body) else {
            return Move::Idle;
        };
        state.done += 1;
        match state.done >= list.len {
            true => self.join(id),
            false => Move::Idle,
        }
    }

    /// One branch decides: its output is the fork's, its context goes on, the others are cancelled.
    fn win(&mut self, id: FrameId, branch: Option<u32>, flow: Option<Flow>) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let is_winner = |c: &FrameId| self.instance.frame(*c).is_some_and(|f| f.branch == branch);
        let winner = frame.children.iter().copied().find(is_winner);
        let Some(settled) = winner.and_then(|w| self.instance.frame(w)) else {
            return Move::Idle;
        };
        let (output, context) = (settled.data().clone(), settled.context.clone());
        self.drop_below(id);
        if let Some(context) = context {
            self.set_context(id, context);
        }
        Move::Finish {
            frame: id,
            output,
            flow,
        }
    }

    /// All branches are done: outputs in the order of declaration, contexts merged in the same order.
    fn join(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let mut settled: Vec<&Frame> = frame
            .children
            .iter()
            .filter_map(|c| self.instance.frame(*c))
            .collect();
        settled.sort_by_key(|f| f.branch);
        let output = Data::new(settled.iter().map(|f| f.data().value().clone()).collect());
        let changed: Vec<&Value> = settled
            .iter()
            .filter_map(|f| f.context.as_ref().map(Data::value))
            .collect();
        let scope = Scope {
            frame: Some(id),
            ..self.workflow_scope()
        };
        let merged = (!changed.is_empty()).then(|| Data::new(merge(scope.context().value(), &changed)));
        if let Some(Err(problem)) = merged.as_ref().map(|c| c.check("the context after the fork")) {
            return self.fail_frame(id, problem);
        }
        self.drop_below(id);
        if let Some(context) = merged {
            self.set_context(id, context);
        }
        Move::Finish {
            frame: id,
            output,
            flow: None,
        }
    }
}

/// Applies each branch's changes of top-level members to what the context was when the fork began. A context that is
/// no object is replaced as a whole.
pub(crate) fn merge(base: &Value, changed: &[&Value]) -> Value {
    let mut merged = base.clone();
    for branch in changed {
        merged = match (base, merged, *branch) {
            (Value::Obj(base), Value::Obj(merged), Value::Obj(branch)) => {
                let mut merged = Arc::unwrap_or_clone(merged);
                for (key, v) in branch.iter().filter(|(key, v)| base.get(*key) != Some(*v)) {
                    merged.insert(key.clone(), v.clone());
                }
                for key in base.keys().filter(|key| !branch.contains_key(*key)) {
                    merged.shift_remove(key);
                }
                Value::obj(merged)
            }
            (base, merged, branch) if branch == base => merged,
            (_, _, branch) => branch.clone(),
        };
    }
    merged
}
