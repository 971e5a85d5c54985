//! `switch`: the first case that holds says where to go; the one without `when` if none does.

use millrace_common::Problem;
use millrace_dsl::model::{Case, Flow};

use crate::data::Data;

use super::{Activation, Move, Run};

impl Activation<'_> {
    pub(crate) fn switch(&mut self, run: &Run, input: &Data, cases: &[Case]) -> Result<Move, Problem> {
        let flow = self.matching(run, input, cases)?;
        Ok(self.complete(run.clone(), input.clone(), input.clone(), None, flow))
    }

    fn matching(&self, run: &Run, input: &Data, cases: &[Case]) -> Result<Option<Flow>, Problem> {
        let scope = self.scope(run, None, Some(input), None);
        for case in cases {
            if let Some(when) = &case.when
                && scope.test(when, input.value())?
            {
                return Ok(Some(case.then));
            }
        }
        Ok(cases.iter().find(|c| c.when.is_none()).map(|c| c.then))
    }
}
