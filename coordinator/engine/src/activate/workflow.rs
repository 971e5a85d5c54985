//! The workflow as a whole: its input, its output, its end.

use millrace_common::{ChildOutcome, Problem, RecordBody};

use crate::data::Data;
use crate::effect::Effect;
use crate::frame::{Body, Failed, FrameId, Parts, Phase, ROOT_FRAME, UndoThen};
use crate::scope::Scope;
use crate::state::{Ended, Part};
use crate::status::Status;
use crate::trace;

use super::begin::root_frame;
use super::{Activation, Move};

impl Activation<'_> {
    /// Checks and transforms the workflow's input and begins its list.
    pub(crate) fn begin_workflow(&mut self) -> Move {
        match self.try_begin_workflow() {
            Ok(()) => Move::Run(ROOT_FRAME),
            Err(problem) => self.fault(problem),
        }
    }

    fn try_begin_workflow(&mut self) -> Result<(), Problem> {
        let raw = self.instance.input.clone();
        let input = self.workflow_input(&raw).map_err(|p| p.at("/input"))?;
        let timeout = match &self.plan.root().timeout {
            Some(t) => {
                let scope = Scope {
                    input: Some(&input),
                    ..self.workflow_scope()
                };
                Some(
                    scope
                        .duration(&t.after, input.value())
                        .map_err(|p| p.at("/timeout"))?,
                )
            }
            None => None,
        };
        let timeout = timeout.map(|length| self.arm(ROOT_FRAME, length));
        self.instance.insert(root_frame(raw, input, self.now_ms, timeout));
        Ok(())
    }

    fn workflow_input(&self, raw: &Data) -> Result<Data, Problem> {
        raw.check("the workflow's input")?;
        let data_in = &self.plan.root().input;
        if let Some(schema) = &data_in.schema {
            schema.validate(raw.value())?;
        }
        let Some(from) = &data_in.from else {
            return Ok(raw.clone());
        };
        let input = Data::new(self.workflow_scope().template(from, raw.value())?);
        input.check("the workflow's transformed input")?;
        Ok(input)
    }

    pub(crate) fn workflow_scope(&self) -> Scope<'_> {
        Scope {
            instance: self.instance,
            plan: self.plan,
            now_ms: self.now_ms,
            effort: &self.effort,
            frame: Some(ROOT_FRAME),
            task: None,
            input: None,
            output: None,
            error: None,
        }
    }

    /// The workflow's list is through.
    pub(crate) fn complete_workflow(&mut self, last: Data) -> Move {
        match self.workflow_output(&last) {
            Ok(output) => {
                self.close(ROOT_FRAME);
                let outcome = ChildOutcome::Completed(output.raw().clone());
                self.instance.output = Some(output);
                self.instance.touch(Part::Output);
                trace::status(self.instance, "instance.completed", None, self.now_ms);
                self.end(Status::Completed, outcome);
                Move::Idle
            }
            Err(problem) => self.fault(problem.at("/output")),
        }
    }

    fn workflow_output(&self, last: &Data) -> Result<Data, Problem> {
        let data_out = &self.plan.root().output;
        let output = match &data_out.transform {
            Some(template) => Data::new(self.workflow_scope().template(template, last.value())?),
            None => last.clone(),
        };
        if let Some(schema) = &data_out.schema {
            schema.validate(output.value())?;
        }
        output.check("the workflow's output")?;
        Ok(output)
    }

    /// Nothing caught the error. Lists stay where they are, so that an operator's retry can go on from there; what they
    /// waited for is called off. A saga undoes first what it has done.
    pub(crate) fn fault(&mut self, problem: Problem) -> Move {
        if self.must_undo(ROOT_FRAME) {
            let failed = Failed {
                problem,
                is_final: false,
            };
            return self.undo(ROOT_FRAME, failed, UndoThen::PassOn);
        }
        self.freeze();
        self.instance.error = Some(problem.clone());
        self.instance.touch(Part::Error);
        trace::failure(self.instance, "instance.faulted", &problem, self.now_ms);
        self.end(Status::Faulted, ChildOutcome::Faulted(problem));
        Move::Idle
    }

    fn freeze(&mut self) {
        let ids: Vec<FrameId> = self.instance.frames.keys().copied().collect();
        for id in ids {
            let Some(frame) = self.instance.frame(id) else {
                continue;
            };
            match &frame.body {
                Body::Step(_) | Body::Wait(_) | Body::Child(_) => {
                    self.keep_progress(id);
                    self.drop_frame(id);
                }
                Body::List(_)
                | Body::For(_)
                | Body::Fork(_)
                | Body::Try(_)
                | Body::Inline(_)
                | Body::Extended(_)
                | Body::Each(_)
                | Body::Item(_)
                | Body::Undo(_) => self.stop_timers(id),
                Body::Listen(_) => {
                    self.stop_listening(id);
                    self.stop_timers(id);
                }
                Body::Done(_) | Body::Failed(_) => {}
            }
        }
    }

    /// Calls a frame's timers off, but keeps their lengths.
    fn stop_timers(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        let armed: Vec<_> = frame.timers().filter(|(_, t)| !t.fired).collect();
        for (kind, timer) in armed {
            self.effects.push(Effect::CancelTimer { timer: timer.id(id) });
            if let Some(timer) = self
                .instance
                .edit(id, Parts::STATE)
                .and_then(|f| f.timer_mut(kind))
            {
                timer.fired = true;
            }
        }
        if self.try_state(id).is_some_and(|t| t.phase == Phase::Delay) {
            self.change_try(id, |t, _| t.delay = None);
        }
    }

    /// Ends the instance by request.
    pub(crate) fn cancel(&mut self, reason: Option<&str>) {
        self.drop_frame(ROOT_FRAME);
        trace::status(self.instance, "instance.cancelled", reason, self.now_ms);
        self.end(Status::Cancelled, ChildOutcome::Cancelled);
    }

    fn end(&mut self, status: Status, outcome: ChildOutcome) {
        self.stop();
        let header = &mut self.instance.header;
        header.ended = Some(Ended {
            status,
            at_ms: self.now_ms,
        });
        header.suspended = false;
        header.quarantine = None;
        if status != Status::Faulted {
            self.instance.drop_part(Part::Context);
            self.instance.drop_part(Part::Rounds);
            self.instance.rounds.clear();
            self.instance.context = Data::empty_object();
        }
        self.tell_parent(outcome);
    }

    /// Tells the parent that waits, if one does.
    pub(crate) fn tell_parent(&mut self, outcome: ChildOutcome) {
        let Some(parent) = self.instance.identity.parent.clone().filter(|p| p.awaited) else {
            return;
        };
        let child = self.instance.key.clone();
        let body = RecordBody::ChildEnded {
            frame: parent.frame,
            child,
            outcome: crate::schedule::told(&parent, outcome),
        };
        self.send("ended".to_owned(), parent.instance, body);
    }
}
