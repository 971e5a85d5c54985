//! What expressions see: `.` and the variables of the language. Nothing is built unless an expression asks for it.

use std::cell::Cell;

use millrace_common::{ErrorKind, Hole, Late, Problem, limits};
use millrace_dsl::duration::Duration;
use millrace_dsl::expression::{EvalEnv, Expression};
use millrace_dsl::model::DurationValue;
use millrace_dsl::template::{Place, Template};
use millrace_dsl::{Value, secret, value};

use crate::data::Data;
use crate::frame::{Body, FrameId, Phase};
use crate::plan::{Action, Node, Plan};
use crate::state::Instance;
use crate::time;

/// Fuel of an expression, and as how many tasks it counts besides its own when that much is needed.
const EFFORTS: [(u64, u32); 4] = [
    (2_000, 0),
    (20_000, 5),
    (200_000, 50),
    (limits::EXPRESSION_FUEL_MAX, 250),
];

/// Where an expression stands.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) plan: &'a Plan,
    pub(crate) now_ms: i64,
    /// Adds up what long expressions take of the activation's budget, in tasks.
    pub(crate) effort: &'a Cell<u32>,
    /// Variables and context are looked for from this frame upwards.
    pub(crate) frame: Option<FrameId>,
    pub(crate) task: Option<TaskScope<'a>>,
    /// `$input`.
    pub(crate) input: Option<&'a Data>,
    /// `$output`.
    pub(crate) output: Option<&'a Data>,
    /// The error variable of a `catch` that is being examined.
    pub(crate) error: Option<(&'a str, &'a Value)>,
}

/// `$task`.
#[derive(Clone, Copy)]
pub(crate) struct TaskScope<'a> {
    pub(crate) node: &'a Node,
    pub(crate) raw: &'a Data,
    pub(crate) output: Option<&'a Data>,
    pub(crate) started_ms: i64,
    /// `$task.call` and `$task.with` stand for members of the definition: in `when` of an extension.
    pub(crate) short: bool,
}

impl Scope<'_> {
    /// Evaluates an expression.
    pub(crate) fn expression(&self, expression: &Expression, input: &Value) -> Result<Value, Problem> {
        self.metered(|env| expression.evaluate_with(input, &mut |name| self.variable(name), env))
    }

    /// Evaluates a condition.
    pub(crate) fn test(&self, condition: &Expression, input: &Value) -> Result<bool, Problem> {
        self.expression(condition, input).map(|v| value::is_truthy(&v))
    }

    /// Evaluates a template.
    pub(crate) fn template(&self, template: &Template, input: &Value) -> Result<Value, Problem> {
        self.metered(|env| template.evaluate(input, &mut |name| self.variable(name), env))
    }

    /// Evaluates a template for a step, except for what uses secrets: a worker fills that in. Places are below `at`.
    pub(crate) fn early<'t>(
        &self,
        at: &str,
        template: &'t Template,
        input: &Value,
    ) -> Result<(Value, Vec<Place<'t>>), Problem> {
        self.metered(|env| template.evaluate_early(at, input, &mut |name| self.variable(name), env))
    }

    /// What a worker needs to fill in the places that were left out. `policies`: the secrets that authentication policies
    /// name.
    pub(crate) fn late(&self, places: &[Place<'_>], policies: Vec<String>, input: &Data) -> Option<Late> {
        let used = || places.iter().flat_map(|place| place.expression.variables());
        let early = used().filter(|v| !secret::LATE_VARIABLES.contains(&v.as_str()));
        let declared = &self.plan.document.uses.secrets;
        let hole = |place: &Place<'_>| Hole {
            at: place.at.clone(),
            expression: place.expression.source().to_owned(),
            secrets: secret::names(place.expression.source(), declared),
        };
        let reads_input = places.iter().any(|place| place.expression.reads_input());
        let late = Late {
            input: reads_input.then(|| input.raw().clone()),
            variables: early
                .map(|name| {
                    (
                        name.clone(),
                        value::to_raw(&self.variable(name).unwrap_or_default()),
                    )
                })
                .collect(),
            now_ms: self.now_ms,
            holes: places.iter().map(hole).collect(),
            policies,
        };
        (!late.is_empty()).then_some(late)
    }

    /// Evaluates a template that must yield a text.
    pub(crate) fn text(&self, template: &Template, input: &Value, what: &str) -> Result<String, Problem> {
        let found = self.template(template, input)?;
        as_text(&found, what)
    }

    /// Evaluates a duration to milliseconds.
    pub(crate) fn duration(&self, duration: &DurationValue, input: &Value) -> Result<i64, Problem> {
        let length = match duration {
            DurationValue::Fixed(d) => *d,
            DurationValue::Computed(expression) => {
                let found = self.expression(expression, input)?;
                Duration::from_value(&found).map_err(|e| Problem::new(ErrorKind::Expression, e))?
            }
        };
        Ok(i64::try_from(length.as_millis()).unwrap_or(i64::MAX))
    }

    /// Evaluates with little fuel first, and with more when that fails: so it is known what an expression costs, and a
    /// thousand long ones do not run in one activation. Trying again costs a tenth at most.
    fn metered<T>(&self, evaluate: impl Fn(&EvalEnv) -> Result<T, Problem>) -> Result<T, Problem> {
        let [less @ .., most] = EFFORTS;
        let attempt = |fuel| {
            evaluate(&EvalEnv {
                fuel,
                ..EvalEnv::at(self.now_ms)
            })
        };
        let spend = |tasks| self.effort.set(self.effort.get().saturating_add(tasks));
        for (fuel, tasks) in less {
            if let Ok(found) = attempt(fuel) {
                spend(tasks);
                return Ok(found);
            }
        }
        spend(most.1);
        attempt(most.0)
    }

    /// The value of a variable, without `$`.
    pub(crate) fn variable(&self, name: &str) -> Option<Value> {
        match name {
            "context" => Some(self.context().value().clone()),
            "input" => self.input.map(|d| d.value().clone()),
            "output" => self.output.map(|d| d.value().clone()),
            "task" => self.task.map(|t| t.descriptor()),
            "workflow" => Some(self.workflow()),
            "runtime" => Some(runtime()),
            "secrets" | "authorization" => None,
            name => self.local(name),
        }
    }

    /// The context of the innermost branch that has one of its own, else the instance's.
    pub(crate) fn context(&self) -> &Data {
        let mut next = self.frame;
        while let Some(frame) = next.and_then(|id| self.instance.frame(id)) {
            if let Some(own) = &frame.context {
                return own;
            }
            next = frame.parent;
        }
        &self.instance.context
    }

    /// Variables of loops and handlers, innermost first.
    fn local(&self, name: &str) -> Option<Value> {
        if let Some((error, found)) = self.error
            && error == name
        {
            return Some(found.clone());
        }
        let mut next = self.frame;
        while let Some(frame) = next.and_then(|id| self.instance.frame(id)) {
            let action = self.plan.node(frame.node).map(|n| &n.action);
            if let (Some(Action::For(node)), Body::For(state)) = (action, &frame.body) {
                if node.each == name {
                    return item(&state.items, state.index);
                }
                if node.at == name {
                    return Some(value::number_i64(state.index.into()));
                }
            }
            if let (Some(Action::Listen(node)), Body::Listen(state)) = (action, &frame.body)
                && let (Some(foreach), Some(item)) = (&node.foreach, &state.item)
            {
                if foreach.item == name {
                    return Some(item.value().clone());
                }
                if foreach.at == name {
                    return Some(value::number_i64(frame.iteration().into()));
                }
            }
            if let (Some(Action::For(node)), Body::Item(_), Some(index)) = (action, &frame.body, frame.branch)
            {
                if node.each == name {
                    let items = frame.parent.and_then(|p| self.instance.frame(p)).map(|f| &f.body);
                    let Some(Body::Each(state)) = items else {
                        return None;
                    };
                    return item(&state.items, index);
                }
                if node.at == name {
                    return Some(value::number_i64(index.into()));
                }
            }
            if let (Some(Action::Try(node)), Body::Try(state)) = (action, &frame.body)
                && state.phase == Phase::Handler
                && node.variable == name
            {
                return state.error.as_ref().map(|e| e.value().clone());
            }
            next = frame.parent;
        }
        None
    }

    fn workflow(&self) -> Value {
        value::object([
            ("id", value::string(self.instance.key.id())),
            ("definition", self.plan.root().source.clone()),
            ("input", self.instance.input.value().clone()),
            ("startedAt", time::descriptor(self.instance.header.started_ms)),
        ])
    }
}

impl TaskScope<'_> {
    fn descriptor(&self) -> Value {
        let short = ["call", "with"].into_iter().filter_map(|key| {
            let member = |source: &Value| match source {
                Value::Obj(members) => members.get(&value::string(key)).cloned(),
                _ => None,
            };
            Some((key, member(&self.node.source).filter(|_| self.short)?))
        });
        let members = [
            ("name", value::string(self.node.name.as_str())),
            ("reference", value::string(&*self.node.pointer)),
            ("definition", self.node.source.clone()),
            ("input", self.raw.value().clone()),
            (
                "output",
                self.output.map(|o| o.value().clone()).unwrap_or_default(),
            ),
            ("startedAt", time::descriptor(self.started_ms)),
        ];
        let members = members.into_iter().chain(short);
        Value::obj(members.map(|(k, v)| (value::string(k), v)).collect())
    }
}

fn runtime() -> Value {
    value::object([
        ("name", value::string("millrace")),
        ("version", value::string(env!("CARGO_PKG_VERSION"))),
        ("metadata", value::object([])),
    ])
}

/// An item of the collection of a `for`.
pub(crate) fn item(items: &Data, index: u32) -> Option<Value> {
    match items.value() {
        Value::Arr(items) => items.get(index as usize).cloned(),
        _ => None,
    }
}

/// A text, or the problem that it is none.
pub(crate) fn as_text(found: &Value, what: &str) -> Result<String, Problem> {
    value::as_str(found).map(str::to_owned).ok_or_else(|| {
        let kind = value::type_name(found);
        Problem::new(
            ErrorKind::Expression,
            format!("{what} must be a text, the expression gave a value of type `{kind}`"),
        )
    })
}
