//! Lists of tasks: the cursor moves as the flow directives say.

use millrace_dsl::model::Flow;

use crate::data::Data;
use crate::frame::{Body, Frame, FrameId, Parts, Phase};
use crate::plan::{Action, List};

use super::{Activation, Move};

impl Activation<'_> {
    /// Begins the task at the cursor, or leaves the list behind its last one.
    pub(crate) fn next_in_list(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let list = self.list_of(frame);
        match frame.cursor().map(|c| c.index) {
            Some(index) if index < list.len => self.begin(id, list.first + index, None),
            Some(_) => self.leave_list(id, false),
            None => Move::Idle,
        }
    }

    /// The list that a frame runs now.
    fn list_of(&self, frame: &Frame) -> List {
        match (&self.node(frame.node).action, &frame.body) {
            (_, Body::Extended(state)) => self.extension_list(state),
            (Action::Do(list), _) => *list,
            (_, Body::Undo(_) | Body::Each(_)) => List::default(),
            (Action::For(node), _) => node.body,
            (Action::Listen(node), _) => node.foreach.as_ref().map(|f| f.body).unwrap_or_default(),
            (Action::Try(node), Body::Try(t)) if t.phase == Phase::Handler => {
                node.handler.unwrap_or_default()
            }
            (Action::Try(node), _) => node.body,
            (
                Action::Set(_)
                | Action::Switch(_)
                | Action::Fork { .. }
                | Action::Raise(_)
                | Action::Emit(_)
                | Action::Wait(_)
                | Action::Child(_)
                | Action::Http(_)
                | Action::Fleet { .. }
                | Action::Inline { .. }
                | Action::Builtin { .. }
                | Action::Detached { .. }
                | Action::Unsupported(_),
                _,
            ) => List::default(),
        }
    }

    /// See [`Move::Leave`].
    pub(crate) fn leave(&mut self, parent: FrameId, branch: Option<u32>, output: Data, flow: Flow) -> Move {
        let Some(frame) = self.instance.frame(parent) else {
            return Move::Idle;
        };
        match &frame.body {
            Body::Fork(_) => self.leave_branch(parent, branch, flow),
            Body::Inline(_) => {
                let flow = (flow == Flow::End).then_some(Flow::End);
                Move::Finish {
                    frame: parent,
                    output,
                    flow,
                }
            }
            Body::Undo(_) => self.leave_undo(parent, None),
            Body::List(_)
            | Body::For(_)
            | Body::Item(_)
            | Body::Try(_)
            | Body::Listen(_)
            | Body::Extended(_) => self.move_cursor(parent, output, flow),
            Body::Each(_)
            | Body::Step(_)
            | Body::Wait(_)
            | Body::Child(_)
            | Body::Done(_)
            | Body::Failed(_) => Move::Idle,
        }
    }

    fn move_cursor(&mut self, id: FrameId, output: Data, flow: Flow) -> Move {
        let Some(frame) = self.instance.edit(id, Parts::CURSOR) else {
            return Move::Idle;
        };
        let extended = matches!(frame.body, Body::Extended(_));
        let Some(cursor) = frame.cursor_mut() else {
            return Move::Idle;
        };
        cursor.data = output;
        cursor.ordinal = cursor.ordinal.saturating_add(1);
        match flow {
            Flow::Continue => cursor.index = cursor.index.saturating_add(1),
            Flow::Task(index) => cursor.index = u32::try_from(index).unwrap_or(u32::MAX),
            Flow::Exit if extended => return self.exit_extension(id),
            Flow::Exit => return self.leave_list(id, false),
            Flow::End => return self.leave_list(id, true),
        }
        Move::Run(id)
    }

    /// The list of a frame is through; `end` when the whole workflow is to end.
    fn leave_list(&mut self, id: FrameId, end: bool) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let output = frame.data().clone();
        let flow = end.then_some(Flow::End);
        match &frame.body {
            Body::List(_) => Move::Finish {
                frame: id,
                output,
                flow,
            },
            Body::Item(_) => self.leave_item(id, output, end),
            Body::For(_) if end => Move::Finish {
                frame: id,
                output,
                flow,
            },
            Body::For(_) => self.next_iteration(id),
            Body::Listen(_) => self.leave_iteration(id, output, end),
            Body::Try(t) => self.leave_try(id, t.phase, output, flow),
            Body::Extended(_) => self.leave_extension(id, end),
            Body::Fork(_)
            | Body::Each(_)
            | Body::Undo(_)
            | Body::Inline(_)
            | Body::Step(_)
            | Body::Wait(_)
            | Body::Child(_)
            | Body::Done(_)
            | Body::Failed(_) => Move::Idle,
        }
    }
}
