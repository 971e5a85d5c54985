//! `set`: its value replaces the data.

use millrace_common::Problem;
use millrace_dsl::template::Template;

use crate::data::Data;

use super::{Activation, Move, Run};

impl Activation<'_> {
    pub(crate) fn set(&mut self, run: &Run, input: &Data, value: &Template) -> Result<Move, Problem> {
        let output = Data::new(
            self.scope(run, None, Some(input), None)
                .template(value, input.value())?,
        );
        Ok(self.complete(run.clone(), input.clone(), output, None, None))
    }
}
