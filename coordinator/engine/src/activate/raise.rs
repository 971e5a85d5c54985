//! `raise`: an error by decision of the author.

use millrace_common::Problem;
use millrace_dsl::model::ErrorTemplate;
use millrace_dsl::template::Template;

use crate::data::Data;

use super::{Activation, Move, Run};

impl Activation<'_> {
    pub(crate) fn raise(&mut self, run: &Run, input: &Data, error: &ErrorTemplate) -> Result<Move, Problem> {
        let scope = self.scope(run, None, Some(input), None);
        let text = |template: &Template, what: &str| scope.text(template, input.value(), what);
        let optional =
            |template: &Option<Template>, what: &str| template.as_ref().map(|t| text(t, what)).transpose();
        Err(Problem {
            kind: text(&error.kind, "`error.type`")?,
            status: error.status,
            title: optional(&error.title, "`error.title`")?,
            detail: optional(&error.detail, "`error.detail`")?,
            instance: optional(&error.instance, "`error.instance`")?,
        })
    }
}
