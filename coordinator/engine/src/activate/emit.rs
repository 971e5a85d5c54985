//! `emit`: an event is completed, checked and published; its output is the event.

use millrace_common::{CloudEvent, ErrorKind, Problem};
use millrace_dsl::template::Template;
use millrace_dsl::{Value, value};

use crate::data::Data;
use crate::effect::Effect;
use crate::time;

use super::{Activation, Move, Run};

impl Activation<'_> {
    pub(crate) fn emit(&mut self, run: &Run, input: &Data, with: &Template) -> Result<Move, Problem> {
        let found = self
            .scope(run, None, Some(input), None)
            .template(with, input.value())?;
        let output = Data::new(self.complete_event(run, found)?);
        output.check("the event")?;
        let event = CloudEvent::from_raw(output.raw().clone()).map_err(|fault| {
            Problem::new(ErrorKind::Expression, format!("cannot emit the event: {fault}"))
        })?;
        self.effects.push(Effect::Emit {
            id: format!("{:016x}", run.path.0),
            event: Box::new(event),
        });
        Ok(self.complete(run.clone(), input.clone(), output, None, None))
    }

    /// What the definition leaves out: an id that is the same in every refold, the record's time, this engine's source.
    fn complete_event(&self, run: &Run, found: Value) -> Result<Value, Problem> {
        let Value::Obj(given) = found else {
            return Err(Problem::new(
                ErrorKind::Expression,
                "`emit.event.with` must be an object",
            ));
        };
        let document = &self.plan.document;
        let source = || format!("/millrace/{}/{}", document.namespace, document.name);
        let defaults = [
            ("specversion", value::string("1.0")),
            ("id", value::string(run.path.key(&self.instance.key))),
            ("time", value::string(time::rfc3339(self.now_ms))),
            ("source", value::string(source())),
        ];
        let mut event = std::sync::Arc::unwrap_or_clone(given);
        for (name, default) in defaults {
            let member = event.entry(value::string(name)).or_insert_with(Value::default);
            if matches!(member, Value::Null) {
                *member = default;
            }
        }
        Ok(Value::obj(event))
    }
}
