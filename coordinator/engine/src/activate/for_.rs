//! `for`: one iteration after the other, each with the output of the one before.

use millrace_common::{ErrorKind, Problem, limits};
use millrace_dsl::{Value, value};

use crate::data::Data;
use crate::frame::{Body, Cursor, ForLoop, FrameId, Parts};
use crate::plan::{Action, ForNode};
use crate::scope::Scope;

use super::{Activation, Move, Run};

/// Bytes of the collection of one `for`: it is stored as one field.
const ITEMS_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Activation<'_> {
    pub(crate) fn begin_for(&mut self, run: &Run, input: &Data, node: &ForNode) -> Result<Move, Problem> {
        let found = self
            .scope(run, None, Some(input), None)
            .template(&node.items, input.value())?;
        let found = collection(found)?;
        if node.parallel.is_some() {
            return self.begin_each(run, input, found);
        }
        let Some(items) = found else {
            return Ok(self.complete(run.clone(), input.clone(), input.clone(), None, None));
        };
        let state = ForLoop {
            cursor: Cursor::new(input.clone()),
            items,
            index: 0,
            entered: false,
        };
        self.enter(run, input, Body::For(state)).map(Move::Run)
    }

    /// Begins an iteration if its `while` holds, or goes on within one.
    pub(crate) fn next_in_for(&mut self, id: FrameId) -> Move {
        let Some(Body::For(state)) = self.instance.frame(id).map(|f| &f.body) else {
            return Move::Idle;
        };
        if state.entered {
            return self.next_in_list(id);
        }
        if !self.spend(id) {
            return Move::Idle;
        }
        match self.may_iterate(id) {
            Ok(true) => {
                if let Some(Body::For(state)) = self.instance.edit(id, Parts::STATE).map(|f| &mut f.body) {
                    state.entered = true;
                }
                self.next_in_list(id)
            }
            Ok(false) => self.finish_for(id),
            Err(problem) => self.fail_frame(id, problem),
        }
    }

    /// `while`, with the variables of the iteration to come; `.` is what the iterations before gave.
    fn may_iterate(&self, id: FrameId) -> Result<bool, Problem> {
        let Some(frame) = self.instance.frame(id) else {
            return Ok(false);
        };
        let node = self.node(frame.node);
        let Action::For(node) = &node.action else {
            return Ok(true);
        };
        let Some(condition) = &node.condition else {
            return Ok(true);
        };
        let Some(run) = Run::of(frame) else {
            return Ok(false);
        };
        let scope = Scope {
            frame: Some(id),
            ..self.scope(&run, None, Some(&frame.input), None)
        };
        scope.test(condition, frame.data().value())
    }

    /// An iteration is through.
    pub(crate) fn next_iteration(&mut self, id: FrameId) -> Move {
        let Some(Body::For(state)) = self.instance.edit(id, Parts::CURSOR).map(|f| &mut f.body) else {
            return Move::Idle;
        };
        state.index = state.index.saturating_add(1);
        state.entered = false;
        state.cursor = Cursor::new(state.cursor.data.clone());
        match (state.index as usize) < length(&state.items) {
            true => Move::Run(id),
            false => self.finish_for(id),
        }
    }

    fn finish_for(&self, id: FrameId) -> Move {
        match self.instance.frame(id) {
            Some(frame) => Move::Finish {
                frame: id,
                output: frame.data().clone(),
                flow: None,
            },
            None => Move::Idle,
        }
    }
}

/// The items to go through; `None` when there are none.
fn collection(found: Value) -> Result<Option<Data>, Problem> {
    let count = match &found {
        Value::Null => 0,
        Value::Arr(items) => items.len(),
        other => {
            let text = format!(
                "`for.in` must give an array, the expression gave a value of type `{}`",
                value::type_name(other)
            );
            return Err(Problem::new(ErrorKind::Expression, text));
        }
    };
    if count > limits::FOR_ITEMS_MAX {
        let text = format!(
            "`for.in` gave {count} items, at most {} are allowed",
            limits::FOR_ITEMS_MAX
        );
        return Err(Problem::new(ErrorKind::Runtime, text));
    }
    if count == 0 {
        return Ok(None);
    }
    let items = Data::new(found);
    items.check_within("the collection of `for`", ITEMS_BYTES_MAX)?;
    Ok(Some(items))
}

pub(crate) fn length(items: &Data) -> usize {
    match items.value() {
        Value::Arr(items) => items.len(),
        _ => 0,
    }
}
