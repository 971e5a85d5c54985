//! `call` of a function: of the fleet, or of `use.functions`.

use std::sync::Arc;

use millrace_common::{Late, Problem};
use millrace_dsl::secret;
use millrace_dsl::template::Template;

use crate::data::Data;
use crate::frame::{Body, FrameId};
use crate::plan::Action;

use super::{Activation, Move, Run};

impl Activation<'_> {
    pub(crate) fn call_fleet(
        &mut self,
        run: &Run,
        input: &Data,
        function: &Arc<str>,
        arguments: Option<&Template>,
    ) -> Result<Move, Problem> {
        let (arguments, late) = self.step_arguments(run, input, arguments)?;
        self.dispatch(run, input, function.clone(), arguments, late)
    }

    pub(crate) fn call_inline(
        &mut self,
        run: &Run,
        input: &Data,
        arguments: Option<&Template>,
    ) -> Result<Move, Problem> {
        let arguments = self.arguments(run, input, arguments)?;
        self.enter(run, input, Body::Inline(arguments)).map(Move::Run)
    }

    /// Begins the task of a function of `use.functions`.
    pub(crate) fn run_function(&mut self, id: FrameId) -> Move {
        let Some(frame) = self.instance.frame(id) else {
            return Move::Idle;
        };
        let Action::Inline { function, .. } = &self.node(frame.node).action else {
            return Move::Idle;
        };
        match frame.children.is_empty() {
            true => self.begin(id, *function, None),
            false => Move::Idle,
        }
    }

    /// As [`Self::arguments`], except for what the worker fills in.
    pub(super) fn step_arguments(
        &self,
        run: &Run,
        input: &Data,
        with: Option<&Template>,
    ) -> Result<(Data, Option<Late>), Problem> {
        let Some(template) = with else {
            return Ok((input.clone(), None));
        };
        let scope = self.scope(run, None, Some(input), None);
        let (arguments, places) = scope.early("", template, input.value())?;
        let data = Data::new(arguments);
        data.check("the input of the call")?;
        let policies = secret::of_policies(template, &self.plan.document.uses.secrets);
        Ok((data, scope.late(&places, policies, input)))
    }

    /// The evaluated `with`; without it, the task's input.
    pub(crate) fn arguments(
        &self,
        run: &Run,
        input: &Data,
        with: Option<&Template>,
    ) -> Result<Data, Problem> {
        let Some(template) = with else {
            return Ok(input.clone());
        };
        let data = Data::new(
            self.scope(run, None, Some(input), None)
                .template(template, input.value())?,
        );
        data.check("the input of the call")?;
        Ok(data)
    }
}
