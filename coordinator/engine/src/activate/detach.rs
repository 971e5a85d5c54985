//! `await: false` of a process: handed to the fleet, and the task is done.
//!
//! The step has no frame. It leaves through the outbox once, and from then on the work queue keeps it: neither the end
//! of the instance nor a cancel calls it off. Its result only becomes an entry of the trace.

use millrace_common::{Problem, StepOutcome, StepResult, limits};
use millrace_dsl::template::Template;

use crate::data::Data;
use crate::effect::{Dispatch, Effect, Ignored};
use crate::ids;
use crate::plan::{NodeId, Plan};
use crate::state::Instance;
use crate::trace::{self, Event};

use super::{Activation, Move, Run};

impl Activation<'_> {
    /// Hands a step over and completes its task with the transformed input.
    pub(crate) fn detach(
        &mut self,
        run: &Run,
        input: &Data,
        function: &str,
        with: &Template,
    ) -> Result<Move, Problem> {
        let (arguments, late) = self.step_arguments(run, input, Some(with))?;
        let deadline_ms = self.own_deadline(run, input)?;
        let node = self.node(run.node);
        let key = run.path.key(&self.instance.key);
        let step = Dispatch {
            frame: limits::DETACHED_FRAMES.saturating_add(run.node),
            step: ids::step(&key, run.attempt),
            key,
            task: node.pointer.to_string(),
            function: function.to_owned(),
            queue: node
                .settings
                .queue
                .clone()
                .or_else(|| self.plan.document.settings.queue.clone()),
            max_deliveries: node
                .settings
                .max_deliveries
                .or(self.plan.document.settings.max_deliveries),
            heartbeat_ms: None,
            start_by_ms: None,
            attempt: run.attempt,
            generation: 0,
            input: arguments.raw().clone(),
            deadline_ms,
            progress: None,
            late,
            definition: self.plan.definition().to_owned(),
            traceparent: self.instance.identity.traceparent.clone(),
        };
        self.effects.push(Effect::Detach(Box::new(step)));
        self.trace(run, None, Event::new("task.detached"));
        Ok(self.complete(run.clone(), input.clone(), input.clone(), None, None))
    }

    /// When the task's own timeout ends. Those around it end with the workflow, which the process outlives.
    fn own_deadline(&self, run: &Run, input: &Data) -> Result<Option<i64>, Problem> {
        let Some(timeout) = &self.node(run.node).timeout else {
            return Ok(None);
        };
        let scope = self.scope(run, None, Some(input), None);
        let length = scope.duration(&timeout.after, input.value())?;
        Ok(Some(self.now_ms.saturating_add(length)))
    }
}

/// The end of a detached step, also after the end of its instance.
pub(crate) fn ended(
    instance: &mut Instance,
    plan: &Plan,
    node: NodeId,
    result: &StepResult,
    now_ms: i64,
) -> Result<(), Ignored> {
    let node = plan.node(node).ok_or(Ignored::StaleStep)?;
    let event = match &result.outcome {
        StepOutcome::Output(_) => Event::new("task.detachedCompleted"),
        StepOutcome::Error(problem) => Event::error("task.detachedFaulted", problem),
        StepOutcome::Cancelled => Event::detail("task.detachedFaulted", "its worker stopped it"),
    };
    trace::detached(instance, node, result, event, now_ms);
    Ok(())
}
