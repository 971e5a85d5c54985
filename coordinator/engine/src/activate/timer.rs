//! Timers come due.

use millrace_common::{ErrorKind, Problem, TimerId};

use crate::effect::{Effect, Ignored};
use crate::frame::{Failed, FrameId, Parts, TimerKind};

use super::{Activation, Failure, Move};

impl Activation<'_> {
    /// A timer's record. During a suspension it is remembered. Never early: what counts is when the log stored it.
    pub(crate) fn timer(&mut self, timer: TimerId) -> Result<Move, Ignored> {
        let frame = self.instance.frame(timer.frame).ok_or(Ignored::StaleTimer)?;
        let found = frame.timers().find(|(_, t)| t.number == timer.number && !t.fired);
        let (kind, armed) = found.ok_or(Ignored::StaleTimer)?;
        if armed.due_ms > self.now_ms {
            return Err(Ignored::EarlyTimer);
        }
        self.effects.push(Effect::CancelTimer { timer });
        if let Some(t) = self
            .instance
            .edit(timer.frame, Parts::STATE)
            .and_then(|f| f.timer_mut(kind))
        {
            t.fired = true;
        }
        match self.instance.header.suspended {
            true => Ok(Move::Idle),
            false => Ok(self.fire(timer.frame, kind)),
        }
    }

    /// What a timer that came due does.
    pub(crate) fn fire(&mut self, id: FrameId, kind: TimerKind) -> Move {
        match kind {
            TimerKind::Wait => self.finish_wait(id),
            TimerKind::Delay => Move::Run(id),
            TimerKind::Timeout => self.time_out(id),
            TimerKind::Attempt => self.time_out_attempt(id),
            TimerKind::Start => self.time_out_start(id),
        }
    }

    /// The task fails where it stands; only what encloses it can catch that.
    fn time_out(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let what = if frame.parent.is_some() {
            "the task"
        } else {
            "the workflow"
        };
        let since = frame.started_ms;
        let length = frame.timeout.map_or(0, |t| t.due_ms.saturating_sub(since));
        let problem = Problem::new(
            ErrorKind::Timeout,
            format!("{what} took longer than its timeout of {length} ms"),
        );
        match frame.parent {
            Some(_) => self.fail_frame(id, problem),
            None => self.fault(problem.at("/timeout")),
        }
    }

    /// An attempt of a `try` took too long: an error like one from inside.
    fn time_out_attempt(&mut self, id: FrameId) -> Move {
        let Some(state) = self.try_state(id) else {
            return Move::Idle;
        };
        let length = state
            .attempt_timer
            .map_or(0, |t| t.due_ms.saturating_sub(state.attempt_ms));
        let problem = Problem::new(
            ErrorKind::Timeout,
            format!("the attempt took longer than its limit of {length} ms"),
        );
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let problem = problem.at(&frame.pointer);
        Move::Fail(Failure {
            below: None,
            parent: id,
            branch: None,
            failed: Failed {
                problem,
                is_final: false,
            },
        })
    }
}
