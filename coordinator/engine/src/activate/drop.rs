//! Frames that are taken down: what they had started is called off.

use millrace_common::{ControlKind, RecordBody};

use crate::effect::Effect;
use crate::frame::{Body, FrameId, HeldStep, Parts};
use crate::ids;
use crate::trace::Event;

use super::{Activation, Run};

impl Activation<'_> {
    /// Takes down the frame of a task that ended by itself: only its timers are left to call off.
    pub(crate) fn close(&mut self, id: FrameId) {
        self.drop_below(id);
        self.disarm(id);
        self.hand_over(id);
        self.instance.remove(id);
    }

    /// Takes down a frame and all below it.
    pub(crate) fn drop_frame(&mut self, id: FrameId) {
        self.drop_below(id);
        self.cancel_frame(id);
    }

    /// Takes down all below a frame, the youngest first.
    pub(crate) fn drop_below(&mut self, id: FrameId) {
        for below in self.below(id).into_iter().rev() {
            self.cancel_frame(below);
        }
    }

    /// Takes down the frame of a task that failed.
    pub(crate) fn drop_failed(&mut self, id: FrameId) {
        self.drop_below(id);
        self.call_off(id);
        self.hand_over(id);
        self.instance.remove(id);
    }

    fn cancel_frame(&mut self, id: FrameId) {
        if self.call_off(id)
            && let Some(run) = self.instance.frame(id).and_then(Run::of)
        {
            self.trace(&run, Some(id), Event::new("task.cancelled"));
        }
        self.leave_undone(id);
        self.hand_over(id);
        self.instance.remove(id);
    }

    /// All frames below one, parents before their children.
    pub(crate) fn below(&self, id: FrameId) -> Vec<FrameId> {
        let children = |id: FrameId| {
            self.instance
                .frame(id)
                .map(|f| f.children.as_slice())
                .unwrap_or_default()
        };
        let mut found = children(id).to_vec();
        let mut next = 0;
        while let Some(id) = found.get(next) {
            found.extend_from_slice(children(*id));
            next += 1;
        }
        found
    }

    /// Forgets the timers of a frame.
    pub(crate) fn disarm(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        for (_, timer) in frame.timers() {
            if !timer.fired {
                self.effects.push(Effect::CancelTimer { timer: timer.id(id) });
            }
        }
        if frame.timeout.is_some()
            && let Some(frame) = self.instance.edit(id, Parts::STATE)
        {
            frame.timeout = None;
        }
    }

    /// Calls off what a frame waits for: its timers, its step, its child. True when it did wait for something.
    fn call_off(&mut self, id: FrameId) -> bool {
        self.disarm(id);
        let Some(frame) = self.instance.frame(id) else {
            return false;
        };
        match &frame.body {
            Body::Step(step) if matches!(step.held, Some(HeldStep::Output(_) | HeldStep::Error(_))) => false,
            Body::Step(step) => {
                let name = ids::step(&frame.path.key(&self.instance.key), frame.attempt);
                let worker = step.worker.clone();
                self.effects.push(Effect::Settle { frame: id });
                self.effects.push(Effect::CancelStep { step: name, worker });
                true
            }
            Body::Child(child) if child.held.is_some() => false,
            Body::Child(child) => {
                let child = child.child.clone();
                let reason = Some(format!("{} no longer waits for it", self.instance.key));
                let body = RecordBody::Control {
                    action: ControlKind::Cancel,
                    reason,
                    reply: None,
                };
                self.send(format!("cancel:{child}"), child, body);
                true
            }
            Body::Wait(_) => true,
            Body::Listen(_) => {
                self.stop_listening(id);
                true
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
            | Body::Done(_)
            | Body::Failed(_) => false,
        }
    }
}
