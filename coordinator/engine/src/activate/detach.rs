//! `await: false` of a process: handed to the fleet, and the task is done.
//!
//! The step has no frame. It leaves through the outbox once, and from then on the work queue keeps it: neither the end
//! of the instance nor a cancel calls it off. Its first result only becomes an entry of the trace; until then the instance
//! keeps a fingerprint of it.

use millrace_common::hash::StableHash;
use millrace_common::{Problem, StepOutcome, StepResult, limits};
use millrace_dsl::model::Settings;
use millrace_dsl::template::Template;

use crate::data::Data;
use crate::effect::{Dispatch, Effect, Ignored};
use crate::ids;
use crate::plan::{NodeId, Plan};
use crate::settings;
use crate::state::{Instance, Part};
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
            queue: self.setting(run, |s| s.queue.as_ref()).cloned(),
            max_deliveries: self.setting(run, |s| s.max_deliveries.as_ref()).copied(),
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
        self.await_end(&step.step);
        self.effects.push(Effect::Detach(Box::new(step)));
        self.trace(run, None, Event::new("task.detached"));
        Ok(self.complete(run.clone(), input.clone(), input.clone(), None, None))
    }

    /// Notes a step so that its end is told once.
    fn await_end(&mut self, step: &str) {
        let open = &mut self.instance.detached;
        open.push_back(fingerprint(step));
        if open.len() > limits::DETACHED_STEPS_MAX {
            open.pop_front();
        }
        self.instance.touch(Part::Detached);
    }

    fn setting<T>(&self, run: &Run, read: impl Fn(&Settings) -> Option<&T>) -> Option<&T> {
        settings::of_task(self.instance, self.plan, run.node, Some(run.parent), read).map(|(found, _)| found)
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

fn fingerprint(step: &str) -> u64 {
    StableHash::new().part(step).finish()
}

/// The end of a detached step, also after the end of its instance: the first one that is reported.
pub(crate) fn ended(
    instance: &mut Instance,
    plan: &Plan,
    node: NodeId,
    result: &StepResult,
    now_ms: i64,
) -> Result<(), Ignored> {
    let node = plan.node(node).ok_or(Ignored::StaleStep)?;
    let step = fingerprint(&result.step);
    let open = &mut instance.detached;
    let at = open.iter().position(|s| *s == step).ok_or(Ignored::StaleStep)?;
    open.remove(at);
    match open.is_empty() {
        true => instance.drop_part(Part::Detached),
        false => instance.touch(Part::Detached),
    }
    let event = match &result.outcome {
        StepOutcome::Output(_) => Event::new("task.detachedCompleted"),
        StepOutcome::Error(problem) => Event::error("task.detachedFaulted", problem),
        StepOutcome::Cancelled => Event::detail("task.detachedFaulted", "its worker stopped it"),
    };
    trace::detached(instance, node, result, event, now_ms);
    Ok(())
}
