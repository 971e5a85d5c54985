//! `wait`: a timer. Its output is its input.

use millrace_common::Problem;
use millrace_dsl::model::DurationValue;

use crate::data::Data;
use crate::frame::{Body, FrameId, Timer};
use crate::time;
use crate::trace::Event;

use super::{Activation, Move, Run};

impl Activation<'_> {
    pub(crate) fn begin_wait(
        &mut self,
        run: &Run,
        input: &Data,
        duration: &DurationValue,
    ) -> Result<Move, Problem> {
        let length = self
            .scope(run, None, Some(input), None)
            .duration(duration, input.value())?;
        let unarmed = Timer {
            number: 0,
            due_ms: 0,
            fired: false,
        };
        let id = self.enter(run, input, Body::Wait(unarmed))?;
        let timer = self.arm(id, length);
        self.instance.become_body(id, Body::Wait(timer));
        let text = format!("waits until {}", time::rfc3339(timer.due_ms));
        self.trace(run, None, Event::detail("task.waiting", &text));
        Ok(Move::Idle)
    }

    /// The timer came due.
    pub(crate) fn finish_wait(&self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let Body::Wait(timer) = &frame.body else {
            return Move::Idle;
        };
        match timer.fired {
            true => Move::Finish {
                frame: id,
                output: frame.input.clone(),
                flow: None,
            },
            false => Move::Idle,
        }
    }
}
