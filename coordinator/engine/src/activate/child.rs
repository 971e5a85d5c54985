//! `run: workflow`: a child instance.

use millrace_common::{
    ChildOutcome, DefinitionRef, ErrorKind, InstanceKey, ParentLink, PartitionId, Problem, RecordBody, Start,
};

use crate::data::Data;
use crate::effect::Ignored;
use crate::frame::{Body, ChildState, Frame, FrameId, Parts};
use crate::plan::{Action, ChildNode};
use crate::trace::Event;

use super::{Activation, Move, Run};

impl<'a> Activation<'a> {
    pub(crate) fn begin_child(&mut self, run: &Run, input: &Data, node: &ChildNode) -> Result<Move, Problem> {
        let version = self.version(node)?;
        let arguments = self.arguments(run, input, node.input.as_ref())?;
        let id = run.path.child_id(self.instance.key.id(), run.attempt);
        let child = InstanceKey::new(&node.namespace, &id)
            .map_err(|e| Problem::new(ErrorKind::Configuration, e.to_string()))?;
        let state = ChildState {
            child,
            version,
            arguments,
            held: None,
        };
        if !node.awaited {
            self.start_child(node, &state, 0);
            return Ok(self.complete(run.clone(), input.clone(), input.clone(), None, None));
        }
        let text = format!("waits for {}", state.child);
        let frame = self.enter(run, input, Body::Child(state.clone()))?;
        self.start_child(node, &state, frame);
        self.trace(run, None, Event::detail("task.waiting", &text));
        Ok(Move::Idle)
    }

    /// The exact version: what `latest` is now stays what it is for this task.
    fn version(&self, node: &ChildNode) -> Result<String, Problem> {
        if node.version != "latest" {
            return Ok(node.version.clone());
        }
        self.definitions
            .latest(&node.namespace, &node.name)
            .ok_or_else(|| {
                let text = format!(
                    "there is no definition `{}/{}` to take the latest version of",
                    node.namespace, node.name
                );
                Problem::new(ErrorKind::Configuration, text)
            })
    }

    fn start_child(&mut self, node: &ChildNode, state: &ChildState, frame: FrameId) {
        let parent = ParentLink {
            instance: self.instance.key.clone(),
            partition: PartitionId(0),
            frame,
            awaited: node.awaited,
        };
        let start = Start {
            definition: DefinitionRef {
                namespace: node.namespace.clone(),
                name: node.name.clone(),
                version: state.version.clone(),
            },
            input: state.arguments.raw().clone(),
            labels: std::collections::BTreeMap::new(),
            parent: Some(parent),
            traceparent: self.instance.identity.traceparent.clone(),
            reply: None,
        };
        self.send(
            format!("start:{}", state.child),
            state.child.clone(),
            RecordBody::Start(Box::new(start)),
        );
    }

    /// Starts the child of a frame again: it answers with how it ended, if it did.
    pub(crate) fn start_child_again(&mut self, id: FrameId) {
        let Some(frame) = self.instance.frame(id) else {
            return;
        };
        if let (Some(node), Body::Child(state)) = (self.child_node(frame), &frame.body) {
            let state = state.clone();
            self.start_child(node, &state, id);
        }
    }

    fn child_node(&self, frame: &Frame) -> Option<&'a ChildNode> {
        let Action::Child(node) = &self.node(frame.node).action else {
            return None;
        };
        Some(node)
    }

    /// The child of a frame ended.
    pub(crate) fn child_ended(
        &mut self,
        id: FrameId,
        child: &InstanceKey,
        outcome: &ChildOutcome,
    ) -> Result<Move, Ignored> {
        let suspended = self.instance.header.suspended;
        let waits = |f: &Frame| matches!(&f.body, Body::Child(s) if s.child == *child && s.held.is_none());
        if !self.instance.frame(id).is_some_and(waits) {
            return Err(Ignored::StaleChild);
        }
        let result = result(child, outcome);
        if let Some(Body::Child(state)) = self.instance.edit(id, Parts::STATE).map(|f| &mut f.body) {
            state.held = Some(result);
        }
        match suspended {
            true => Ok(Move::Idle),
            false => Ok(self.take_held_child(id)),
        }
    }

    /// Goes on with how the child ended.
    pub(crate) fn take_held_child(&mut self, id: FrameId) -> Move {
        let Some(Body::Child(state)) = self.instance.frame(id).map(|f| &f.body) else {
            return Move::Idle;
        };
        match state.held.clone() {
            Some(Ok(output)) => Move::Finish {
                frame: id,
                output,
                flow: None,
            },
            Some(Err(problem)) => self.fail_frame(id, *problem),
            None => Move::Idle,
        }
    }
}

fn result(child: &InstanceKey, outcome: &ChildOutcome) -> Result<Data, Box<Problem>> {
    match outcome {
        ChildOutcome::Completed(raw) => Data::parse(raw.clone()).map_err(Box::new),
        ChildOutcome::Faulted(problem) => {
            let text = format!("{child} faulted: {problem}");
            Err(Box::new(Problem {
                detail: Some(text),
                instance: None,
                ..problem.clone()
            }))
        }
        ChildOutcome::Cancelled => Err(Box::new(Problem::new(
            ErrorKind::Runtime,
            format!("{child} was cancelled"),
        ))),
    }
}
