//! What operators ask for: suspend, resume, retry.

use crate::effect::Effect;
use crate::frame::{Body, Frame, FrameId, Parts, Phase, ROOT_FRAME, Timer, TimerKind};
use crate::state::Part;
use crate::trace;

use super::{Activation, Move};

impl Activation<'_> {
    /// From now on results are kept and timers remembered, and nothing new begins.
    pub(crate) fn suspend(&mut self, reason: Option<&str>) {
        self.instance.header.suspended = true;
        self.instance.touch(Part::Header);
        trace::status(self.instance, "instance.suspended", reason, self.now_ms);
    }

    /// Goes on: timers that came due meanwhile first, in their order, then what came back, then what was left.
    pub(crate) fn resume(&mut self, reason: Option<&str>) -> Move {
        let quarantined = self.instance.header.quarantine.take().is_some();
        self.instance.header.suspended = false;
        trace::status(self.instance, "instance.resumed", reason, self.now_ms);
        if self.instance.frame(ROOT_FRAME).is_none() {
            // Its start was set aside: it has not begun.
            return self.begin_workflow();
        }
        self.schedule_ready();
        self.schedule_held();
        if quarantined {
            self.ask_again();
        }
        for (frame, kind) in self.due() {
            let fired = |f: &Frame| f.timers().any(|(k, t)| k == kind && t.fired);
            if !self.instance.is_ended() && self.instance.frame(frame).is_some_and(fired) {
                let next = self.fire(frame, kind);
                self.make(next);
            }
        }
        Move::Idle
    }

    fn schedule_held(&mut self) {
        let held = |f: &Frame| match &f.body {
            Body::Step(step) => step.held.is_some(),
            Body::Child(child) => child.held.is_some(),
            Body::Listen(state) => {
                state.item.is_none() && (state.done || state.failed.is_some() || !state.queue.is_empty())
            }
            Body::List(_)
            | Body::For(_)
            | Body::Fork(_)
            | Body::Try(_)
            | Body::Inline(_)
            | Body::Extended(_)
            | Body::Each(_)
            | Body::Item(_)
            | Body::Undo(_)
            | Body::Wait(_)
            | Body::Done(_)
            | Body::Failed(_) => false,
        };
        let found: Vec<FrameId> = self
            .instance
            .frames
            .iter()
            .filter(|(_, f)| held(f))
            .map(|(id, _)| *id)
            .collect();
        self.schedule(found.into_iter());
    }

    /// Timers that came due during the suspension, in the order in which they did.
    fn due(&self) -> Vec<(FrameId, TimerKind)> {
        let fired = |(id, f): (&FrameId, &Frame)| {
            let id = *id;
            f.timers()
                .filter(|(_, t)| t.fired)
                .map(move |(kind, t)| (t.due_ms, t.number, id, kind))
                .collect::<Vec<_>>()
        };
        let mut found: Vec<_> = self.instance.frames.iter().flat_map(fired).collect();
        found.sort_unstable_by_key(|(due, number, _, _)| (*due, *number));
        found
            .into_iter()
            .map(|(_, _, frame, kind)| (frame, kind))
            .collect()
    }

    /// After a quarantine, in which records were ignored: timers that fired and children that ended are to say so
    /// again. Lost results are found by the audit.
    fn ask_again(&mut self) {
        let ids: Vec<FrameId> = self.instance.frames.keys().copied().collect();
        for id in ids {
            let Some(frame) = self.instance.frame(id) else {
                continue;
            };
            for (_, timer) in frame.timers().filter(|(_, t)| !t.fired) {
                self.effects.push(Effect::StartTimer {
                    timer: timer.id(id),
                    due_ms: timer.due_ms,
                });
            }
            self.start_child_again(id);
        }
    }

    /// Goes on from where a faulted instance stopped: what failed or was called off begins again, under the same
    /// idempotency keys but with a new attempt number, with all retries and timeouts of the definition anew.
    pub(crate) fn retry_faulted(&mut self, reason: Option<&str>) -> Move {
        let header = &mut self.instance.header;
        header.ended = None;
        (header.undone, header.undo_failed) = (0, 0);
        self.instance.error = None;
        self.instance.drop_part(Part::Error);
        self.instance.touch(Part::Header);
        trace::status(self.instance, "instance.retried", reason, self.now_ms);
        let Some(root) = self.instance.frame(ROOT_FRAME) else {
            return self.begin_workflow();
        };
        let attempt = root.peak.saturating_add(1);
        let ids: Vec<FrameId> = self.instance.frames.keys().copied().collect();
        for id in &ids {
            self.thaw(*id, attempt);
        }
        let frontier: Vec<FrameId> = ids.into_iter().filter(|id| self.is_frontier(*id)).collect();
        self.schedule(frontier.into_iter());
        Move::Idle
    }

    fn thaw(&mut self, id: FrameId, attempt: u32) {
        let now_ms = self.now_ms;
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        match &frame.body {
            Body::Failed(_) => {
                self.instance.remove(id);
                return;
            }
            Body::Done(_) => return,
            Body::List(_)
            | Body::For(_)
            | Body::Fork(_)
            | Body::Try(_)
            | Body::Inline(_)
            | Body::Extended(_)
            | Body::Each(_)
            | Body::Item(_)
            | Body::Undo(_)
            | Body::Step(_)
            | Body::Wait(_)
            | Body::Child(_) => {}
            Body::Listen(_) => self.listen_again(id),
        }
        self.rearm(id);
        if let Some(frame) = self.instance.edit(id, Parts::STATE) {
            (frame.attempt, frame.peak) = (attempt, attempt);
            frame.started_ms = now_ms;
        }
        if self.try_state(id).is_some() {
            self.change_try(id, |t, _| {
                t.retries = 0;
                (t.since_ms, t.attempt_ms) = (now_ms, now_ms);
            });
        }
        self.recount_branches(id);
    }

    /// Starts the stopped timers of a frame, with their full lengths.
    fn rearm(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        let since = |kind: TimerKind| match (kind, &frame.body) {
            (TimerKind::Attempt, Body::Try(t)) => t.attempt_ms,
            (TimerKind::Timeout | TimerKind::Wait | TimerKind::Delay | TimerKind::Attempt, _) => {
                frame.started_ms
            }
            (TimerKind::Start, _) => frame.started_ms,
        };
        let stopped: Vec<_> = frame
            .timers()
            .map(|(kind, t)| (kind, t.due_ms.saturating_sub(since(kind))))
            .collect();
        let off = frame.timeout.filter(|t| t.number == Timer::OFF);
        let off = off.map(|t| t.due_ms.saturating_sub(frame.started_ms));
        if let Some(length) = off {
            let timer = self.arm(id, length);
            if let Some(frame) = self.instance.edit(id, Parts::STATE) {
                frame.timeout = Some(timer);
            }
        }
        for (kind, length) in stopped {
            let timer = self.arm(id, length);
            if let Some(slot) = self
                .instance
                .edit(id, Parts::STATE)
                .and_then(|f| f.timer_mut(kind))
            {
                *slot = timer;
            }
        }
    }

    /// Branches of a fork that were called off or failed begin again.
    fn recount_branches(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        let Body::Fork(state) = &frame.body else { return };
        let children = || frame.children.iter().filter_map(|c| self.instance.frame(*c));
        let failed = |f: &&Frame| matches!(f.body, Body::Failed(_));
        let alive: std::collections::BTreeSet<u32> = children()
            .filter(|f| !failed(f))
            .filter_map(|f| f.branch)
            .collect();
        let done = children().filter(|f| matches!(f.body, Body::Done(_))).count();
        let again: Vec<u32> = (0..state.next).rev().filter(|b| !alive.contains(b)).collect();
        if let Some(Body::Fork(state)) = self.instance.edit(id, Parts::STATE).map(|f| &mut f.body) {
            state.again = again;
            state.done = u32::try_from(done).unwrap_or(u32::MAX);
            state.failed = 0;
        }
    }

    /// True for what can go on by itself: nothing runs below.
    fn is_frontier(&self, id: FrameId) -> bool {
        let Some(frame) = self.instance.frame(id) else {
            return false;
        };
        match &frame.body {
            Body::List(_)
            | Body::For(_)
            | Body::Item(_)
            | Body::Inline(_)
            | Body::Listen(_)
            | Body::Extended(_)
            | Body::Undo(_) => frame.children.is_empty(),
            Body::Each(_) => self.has_room(frame),
            Body::Try(t) => frame.children.is_empty() || t.phase == Phase::Delay,
            Body::Fork(state) => !state.again.is_empty() || state.next < self.branches(frame).0.len,
            Body::Step(_) | Body::Wait(_) | Body::Child(_) | Body::Done(_) | Body::Failed(_) => false,
        }
    }
}
