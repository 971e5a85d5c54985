//! What `listen` wants: filters as they stand in a definition, and what one listening task made of them.
//!
//! A [`Interest`] is all that is needed to say whether an event concerns a listening task, without its instance: the
//! values that its expressions gave when it began to listen. The correlator keeps one for each and asks with
//! [`Plan::concerns`]; the fold asks again, with the same function, and only its answer counts.

mod filter;
mod route;

use std::collections::BTreeMap;

use millrace_common::event::{self, Payload};
use millrace_common::{CloudEvent, Problem, RawJson};
use millrace_dsl::expression::{EvalEnv, Expression};
use millrace_dsl::model::{Consumption, DataOut, EventRead, Listen, Until};
use millrace_dsl::{Value, value};
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::plan::{Action, List, NodeId, Plan};

pub(crate) use filter::Filter;
pub use route::{Extract, Route};

/// Bytes of what one listening task remembers of its variables. They are held in memory by the correlator.
pub(crate) const VARIABLES_BYTES_MAX: usize = 64 * 1024;

/// Steps of one expression of a filter. The correlator evaluates them for every event of a type, so the bound is far
/// below that of a task; an expression that needs more does not match.
pub(crate) const FILTER_FUEL_MAX: u64 = 100_000;

/// A `listen` made ready.
#[derive(Debug)]
pub(crate) struct ListenNode {
    pub(crate) strategy: Strategy,
    /// Those of the strategy, then those of `until`.
    pub(crate) filters: Vec<Filter>,
    /// How many of [`Self::filters`] are the strategy's.
    pub(crate) main: usize,
    /// `until` as an expression.
    pub(crate) condition: Option<Expression>,
    /// `until` as a strategy.
    pub(crate) until: Option<Strategy>,
    pub(crate) read: EventRead,
    pub(crate) foreach: Option<ForeachNode>,
}

/// When the events of some filters are enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// One event of any filter.
    First,
    /// One event of each filter.
    Each,
    /// They never are: something else ends it.
    Endless,
}

#[derive(Debug)]
pub(crate) struct ForeachNode {
    pub(crate) item: String,
    pub(crate) at: String,
    pub(crate) body: List,
    pub(crate) output: DataOut,
    pub(crate) export: DataOut,
}

impl ListenNode {
    pub(crate) fn new(listen: &Listen, body: List) -> Self {
        let (mut filters, mut strategy) = filters(&listen.to);
        let main = filters.len();
        let (mut condition, mut until) = (None, None);
        if let Consumption::Any {
            until: Some(stop), ..
        } = &listen.to
        {
            strategy = Strategy::Endless;
            match stop {
                Until::Condition(expression) => condition = Some(expression.clone()),
                Until::Consumed(nested) => {
                    let (more, when) = self::filters(nested);
                    filters.extend(more);
                    until = Some(when);
                }
            }
        }
        let foreach = listen.foreach.as_ref().map(|f| ForeachNode {
            item: f.item.clone(),
            at: f.at.clone(),
            body,
            output: f.output.clone(),
            export: f.export.clone(),
        });
        Self {
            strategy,
            filters,
            main,
            condition,
            until,
            read: listen.read,
            foreach,
        }
    }
}

fn filters(to: &Consumption) -> (Vec<Filter>, Strategy) {
    match to {
        Consumption::One(filter) => (vec![Filter::new(filter)], Strategy::First),
        Consumption::All(filters) => (filters.iter().map(Filter::new).collect(), Strategy::Each),
        Consumption::Any { filters, .. } if filters.is_empty() => {
            (vec![Filter::everything()], Strategy::First)
        }
        Consumption::Any { filters, .. } => (filters.iter().map(Filter::new).collect(), Strategy::First),
    }
}

/// What one listening task wants. Small, and complete without its instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// Number of the task in the plan.
    #[serde(rename = "n")]
    pub(crate) node: NodeId,
    /// Variables that filters use, as they were when the task began to listen.
    #[serde(rename = "v", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) variables: BTreeMap<String, RawJson>,
    /// Of each filter.
    #[serde(rename = "f")]
    pub(crate) filters: Vec<Expected>,
    /// Keys of correlations without `expect`, fixed by the first event.
    #[serde(rename = "k", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) keys: BTreeMap<String, RawJson>,
    /// Filters that have had their event.
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) closed: Vec<u32>,
}

/// What the expressions of a filter gave when the task began to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Expected {
    /// Computed attributes, by name.
    #[serde(rename = "a", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) attributes: BTreeMap<String, RawJson>,
    /// `expect` of correlations, by name.
    #[serde(rename = "e", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) keys: BTreeMap<String, RawJson>,
}

impl Interest {
    pub(crate) fn is_open(&self, filter: usize) -> bool {
        !self.closed.iter().any(|c| *c as usize == filter)
    }

    /// What a correlation of a filter must give, if that is known.
    pub(crate) fn key(&self, filter: usize, name: &str) -> Option<&RawJson> {
        self.filters
            .get(filter)
            .and_then(|f| f.keys.get(name))
            .or_else(|| self.keys.get(name))
    }
}

/// An event as filters see it.
#[derive(Debug)]
pub struct EventView {
    /// The whole event.
    pub(crate) value: Value,
    /// Its data, decoded.
    pub(crate) data: Value,
    now_ms: i64,
}

impl EventView {
    /// Parses an event; `now_ms` is what `now` gives in filters.
    ///
    /// # Errors
    /// A `validation` problem when it is nested too deep.
    pub fn new(event: &RawJson, now_ms: i64) -> Result<Self, Problem> {
        let value = value::from_raw(event)?;
        let data = data(event, &value)?;
        Ok(Self { value, data, now_ms })
    }

    /// `type`, `subject`, …; `None` when it has no such attribute.
    pub(crate) fn attribute(&self, name: &str) -> Option<&Value> {
        value::get(&self.value, name).filter(|v| !matches!(v, Value::Null))
    }

    /// `type`.
    pub fn kind(&self) -> &str {
        self.attribute("type").and_then(value::as_str).unwrap_or_default()
    }

    /// Evaluates an expression of a filter. What fails gives nothing: it does not match.
    pub(crate) fn evaluate(
        &self,
        expression: &Expression,
        input: &Value,
        variables: &BTreeMap<String, RawJson>,
    ) -> Option<Value> {
        let env = EvalEnv {
            fuel: FILTER_FUEL_MAX,
            ..EvalEnv::at(self.now_ms)
        };
        let mut lookup = |name: &str| variables.get(name).and_then(|raw| value::from_raw(raw).ok());
        expression.evaluate_with(input, &mut lookup, &env).ok()
    }

    /// What `read` asks for.
    pub(crate) fn read(&self, event: &RawJson, read: EventRead) -> Data {
        match read {
            EventRead::Data => Data::new(self.data.clone()),
            EventRead::Envelope => Data::new(self.value.clone()),
            EventRead::Raw => Data::new(value::string(raw_text(event))),
        }
    }
}

/// The data of an event as a value. Data in base64 is decoded: to JSON or to a text if it is one, else it stays.
fn data(event: &RawJson, whole: &Value) -> Result<Value, Problem> {
    let Some(text) = value::get(whole, "data_base64").and_then(value::as_str) else {
        return Ok(value::get(whole, "data").cloned().unwrap_or_default());
    };
    let payload: Payload = event.decode().unwrap_or_default();
    let decoded = event::decode_base64(text).and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded {
        Some(json) if event::is_json(payload.datacontenttype.as_deref()) => {
            value::parse(&json).or_else(|_not_json| Ok(value::string(json)))
        }
        Some(text) => Ok(value::string(text)),
        None => Ok(value::string(text)),
    }
}

/// The data as it came: a text as it is, other JSON as its text, binary data in base64.
fn raw_text(event: &RawJson) -> String {
    let payload: Payload = event.decode().unwrap_or_default();
    match (payload.data, payload.data_base64) {
        (Some(raw), _) => raw
            .decode::<String>()
            .unwrap_or_else(|_no_text| raw.text().to_owned()),
        (None, Some(text)) => text,
        (None, None) => String::new(),
    }
}

/// What an event is to a listening task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// The filter that takes it.
    pub(crate) filter: usize,
    /// What its correlations gave.
    pub(crate) keys: Vec<(String, RawJson)>,
}

impl Plan {
    /// True when an event concerns a listening task: one of its open filters matches.
    pub fn concerns(&self, interest: &Interest, event: &EventView) -> bool {
        self.listen(interest.node)
            .is_some_and(|node| node.hit(interest, event).is_some())
    }

    pub(crate) fn listen(&self, node: NodeId) -> Option<&ListenNode> {
        match &self.node(node)?.action {
            Action::Listen(node) => Some(node),
            _ => None,
        }
    }
}

impl ListenNode {
    /// The filter that takes an event: those of `until` go first, then the order of the definition.
    pub(crate) fn hit(&self, interest: &Interest, event: &EventView) -> Option<Hit> {
        let order = (self.main..self.filters.len()).chain(0..self.main);
        order.filter(|at| interest.is_open(*at)).find_map(|at| {
            let keys = self.filters.get(at)?.matches(at, interest, event)?;
            Some(Hit { filter: at, keys })
        })
    }
}

/// Reads an event that a record carries.
pub(crate) fn fingerprint(event: &RawJson) -> Option<u64> {
    CloudEvent::from_raw(event.clone()).ok().map(|e| e.fingerprint())
}
