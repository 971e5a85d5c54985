//! Messages of steps.

use crate::effect::Dispatch;
use crate::frame::{Body, Frame, FrameId, StepState};
use crate::ids;
use crate::plan::Plan;
use crate::state::Instance;

/// The message of an open step; `None` when the frame is gone, is no step, or its result is here already.
pub(crate) fn rebuild(instance: &Instance, plan: &Plan, id: FrameId) -> Option<Dispatch> {
    let frame = instance.frame(id)?;
    let Body::Step(step) = &frame.body else {
        return None;
    };
    step.held
        .is_none()
        .then(|| message(instance, plan, id, frame, step))
}

/// One function makes the message, at first and later again, so the bytes are the same.
pub(crate) fn message(
    instance: &Instance,
    plan: &Plan,
    id: FrameId,
    frame: &Frame,
    step: &StepState,
) -> Dispatch {
    let key = frame.path.key(&instance.key);
    Dispatch {
        frame: id,
        step: ids::step(&key, frame.attempt),
        key,
        task: frame.pointer.to_string(),
        function: step.function.to_string(),
        queue: plan.node(frame.node).and_then(|n| n.queue.clone()),
        attempt: frame.attempt,
        generation: step.generation,
        input: step.arguments.raw().clone(),
        late: step.late.as_deref().cloned(),
        deadline_ms: step.deadline_ms,
        progress: step.progress.clone(),
        definition: plan.definition().to_owned(),
        traceparent: instance.identity.traceparent.clone(),
    }
}
