//! A task has its raw output: transformations, context, and where to go from there.

use millrace_common::Problem;
use millrace_dsl::model::Flow;

use crate::data::Data;
use crate::frame::{Body, FrameId, Parts, ROOT_FRAME};
use crate::state::Part;
use crate::trace::Event;

use super::begin::new_frame;
use super::{Activation, Move, Run};

impl Activation<'_> {
    /// See [`Move::Finish`].
    pub(crate) fn finish(&mut self, id: FrameId, output: Data, flow: Option<Flow>) -> Move {
        if id == ROOT_FRAME {
            return self.complete_workflow(output);
        }
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let input = frame.input.clone();
        match Run::of(frame) {
            Some(run) => self.complete(run, input, output, Some(id), flow),
            None => Move::Idle,
        }
    }

    /// A task, with a frame of its own or without, has its raw output.
    pub(crate) fn complete(
        &mut self,
        run: Run,
        input: Data,
        output: Data,
        own: Option<FrameId>,
        flow: Option<Flow>,
    ) -> Move {
        if self.extended(&run).is_some() {
            return self.leave_extended(&run, own, output, flow);
        }
        match self.transform(&run, own, &input, &output) {
            Ok((result, context)) => {
                if !self.was_skipped(own)
                    && let Err(problem) = self.record(&run, &input, &result)
                {
                    return self.fail_task(&run, own, problem);
                }
                if !self.is_told(own) {
                    self.trace(&run, own, Event::new("task.completed"));
                }
                let then = flow
                    .or_else(|| self.node(run.node).then)
                    .unwrap_or(Flow::Continue);
                self.settle_or_leave(run, own, result, context, then)
            }
            Err(problem) => self.fail_task(&run, own, problem),
        }
    }

    /// `output.as` and its schema, then `export.as` and its schema.
    fn transform(
        &self,
        run: &Run,
        own: Option<FrameId>,
        input: &Data,
        output: &Data,
    ) -> Result<(Data, Option<Data>), Problem> {
        let node = self.node(run.node);
        let mut scope = self.scope(run, own, Some(input), Some(output));
        let result = match &node.output.transform {
            Some(template) => Data::new(scope.template(template, output.value())?),
            None => output.clone(),
        };
        if let Some(schema) = &node.output.schema {
            schema.validate(result.value())?;
        }
        if !result.is(input) {
            result.check("the task's output")?;
        }
        let Some(template) = &node.export.transform else {
            return Ok((result, None));
        };
        scope.output = Some(&result);
        let context = Data::new(scope.template(template, result.value())?);
        if let Some(schema) = &node.export.schema {
            schema.validate(context.value())?;
        }
        context.check("the context")?;
        Ok((result, Some(context)))
    }

    /// The task's frame goes; a branch stays as a settled one, with its own context. Then on to the parent.
    pub(crate) fn settle_or_leave(
        &mut self,
        run: Run,
        own: Option<FrameId>,
        output: Data,
        context: Option<Data>,
        flow: Flow,
    ) -> Move {
        let (parent, branch) = (run.parent, run.branch);
        if branch.is_some() {
            self.settle_branch(run, own, Body::Done(output.clone()), context);
        } else {
            if let Some(id) = own {
                self.close(id);
            }
            if let Some(context) = context {
                self.set_context(parent, context);
            }
        }
        Move::Leave {
            parent,
            branch,
            output,
            flow,
        }
    }

    /// Turns the frame of a branch into a settled one; a branch that ran inline gets one.
    pub(crate) fn settle_branch(
        &mut self,
        run: Run,
        own: Option<FrameId>,
        body: Body,
        context: Option<Data>,
    ) {
        let Some(id) = own else {
            let pointer = self.node(run.node).pointer.clone();
            let mut frame = new_frame(&run, pointer, &run.raw, None, body);
            frame.context = context;
            self.instance.insert(frame);
            return;
        };
        self.disarm(id);
        self.hand_over(id);
        self.instance.clear_entries(id);
        self.instance.become_body(id, body);
        if let Some(frame) = self.instance.edit(id, Parts::ALL) {
            frame.input = frame.raw.clone();
            frame.kept.clear();
            if context.is_some() {
                frame.context = context;
            }
        }
    }

    /// Replaces `$context` for everything up to the innermost branch around, or for the instance.
    pub(crate) fn set_context(&mut self, from: FrameId, context: Data) {
        let mut next = from;
        while let Some(frame) = self.instance.frame(next) {
            if frame.branch.is_some() {
                if let Some(frame) = self.instance.edit(next, Parts::CONTEXT) {
                    frame.context = Some(context);
                }
                return;
            }
            match frame.parent {
                Some(parent) => next = parent,
                None => break,
            }
        }
        self.instance.context = context;
        self.instance.touch(Part::Context);
    }
}
