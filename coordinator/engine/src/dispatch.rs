//! Messages of steps.

use crate::effect::Dispatch;
use crate::frame::{Body, Frame, FrameId, StepState};
use crate::ids;
use crate::plan::Plan;
use crate::settings;
use crate::state::Instance;
use millrace_common::limits;

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
        key: step.key.clone().unwrap_or(key),
        task: frame.pointer.to_string(),
        function: step.function.to_string(),
        queue: settings::of_frame(instance, plan, frame, |s| s.queue.as_ref()).map(|(q, _)| q.clone()),
        max_deliveries: settings::of_frame(instance, plan, frame, |s| s.max_deliveries.as_ref())
            .map(|(n, _)| *n),
        heartbeat_ms: settings::of_frame(instance, plan, frame, |s| s.heartbeat.as_ref())
            .map(|(d, _)| d.as_millis()),
        start_by_ms: step
            .start
            .map(|t| t.due_ms.saturating_sub(limits::START_REPORT_MS)),
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
