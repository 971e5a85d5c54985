//! Where the correlator files an interest, so that an event finds it by look-up: type first, then the values that
//! the event must have in known places.

use std::collections::BTreeMap;

use millrace_dsl::Value;
use millrace_dsl::expression::Expression;

use super::filter::{self, Test};
use super::{EventView, Interest};
use crate::plan::Plan;

/// Where one filter is filed.
#[derive(Clone, Debug)]
pub struct Route {
    /// The exact type; `None` where it is a pattern, computed to no text, or not asked for.
    pub kind: Option<String>,
    /// Where in the event the values are, in order.
    pub places: Vec<Extract>,
    /// The values, one for each place.
    pub values: Vec<String>,
}

/// A place in an event.
#[derive(Clone, Debug)]
pub enum Extract {
    /// An attribute.
    Attribute(String),
    /// What a correlation's `from` gives.
    Key(Expression),
}

impl Extract {
    /// Places with the same name give the same value for every event.
    pub fn name(&self) -> String {
        match self {
            Self::Attribute(name) => format!("={name}"),
            Self::Key(e) => format!("${}", e.source().trim()),
        }
    }

    /// The value there, in the form that [`Route::values`] has; `None` when there is none.
    pub fn value(&self, event: &EventView) -> Option<String> {
        let found = match self {
            Self::Attribute(name) => event.attribute(name)?.clone(),
            Self::Key(e) => event.evaluate(e, &event.value, &BTreeMap::new())?,
        };
        text(&found)
    }
}

fn text(found: &Value) -> Option<String> {
    filter::key_text(found).map(|raw| filter::canonical(&raw))
}

impl Plan {
    /// Where an interest is filed: once for each open filter.
    pub fn routes(&self, interest: &Interest) -> Vec<Route> {
        let Some(node) = self.listen(interest.node) else {
            return Vec::new();
        };
        let open = (0..node.filters.len()).filter(|at| interest.is_open(*at));
        open.filter_map(|at| {
            let filter = node.filters.get(at)?;
            Some(route(filter, at, interest))
        })
        .collect()
    }
}

fn route(filter: &filter::Filter, at: usize, interest: &Interest) -> Route {
    let mut route = Route {
        kind: None,
        places: Vec::new(),
        values: Vec::new(),
    };
    let expected = interest.filters.get(at);
    for (name, test) in &filter.tests {
        let exact = match test {
            Test::Literal { value, pattern: None } => text(value),
            Test::Computed(_) => expected
                .and_then(|e| e.attributes.get(name))
                .map(filter::canonical),
            Test::Literal { .. } | Test::Predicate(_) | Test::Shape(_) => None,
        };
        match exact {
            Some(kind) if name == "type" => route.kind = Some(kind),
            Some(value) => {
                route.places.push(Extract::Attribute(name.clone()));
                route.values.push(value);
            }
            None => {}
        }
    }
    for c in &filter.correlations {
        if let Some(key) = interest.key(at, &c.name)
            && c.from.variables().is_empty()
        {
            route.places.push(Extract::Key(c.from.clone()));
            route.values.push(filter::canonical(key));
        }
    }
    route
}
