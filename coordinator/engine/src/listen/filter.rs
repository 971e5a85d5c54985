//! One filter: tests of attributes, and correlations.

use millrace_common::{Problem, RawJson};
use millrace_dsl::expression::Expression;
use millrace_dsl::model::EventFilter;
use millrace_dsl::template::Template;
use millrace_dsl::{Value, value};
use regex::{Regex, RegexBuilder};

use super::{EventView, Expected, Interest};
use crate::scope::Scope;

/// Compiled size of a pattern. A larger one matches only its own text.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(super) tests: Vec<(String, Test)>,
    pub(super) correlations: Vec<Correlation>,
}

/// What an attribute must be.
#[derive(Debug)]
pub(super) enum Test {
    /// This value. A text is compared first, and matched as a whole where it is a pattern.
    Literal { value: Value, pattern: Option<Regex> },
    /// What the expression gave when the task began to listen, exactly: data never becomes a pattern.
    Computed(Template),
    /// `data` alone: true for `.`, the event's data.
    Predicate(Expression),
    /// `data` alone: equal to this, whose expressions see the event's data as `.`.
    Shape(Template),
}

#[derive(Debug)]
pub(super) struct Correlation {
    pub(super) name: String,
    pub(super) from: Expression,
    expect: Option<Template>,
}

impl Filter {
    pub(crate) fn new(filter: &EventFilter) -> Self {
        let test = |(name, template): &(String, Template)| (name.clone(), Test::new(name, template));
        let correlation = |c: &millrace_dsl::model::Correlation| Correlation {
            name: c.name.clone(),
            from: c.from.clone(),
            expect: c.expect.clone(),
        };
        Self {
            tests: filter.with.iter().map(test).collect(),
            correlations: filter.correlate.iter().map(correlation).collect(),
        }
    }

    /// `any: []`.
    pub(crate) const fn everything() -> Self {
        Self {
            tests: Vec::new(),
            correlations: Vec::new(),
        }
    }

    /// Evaluates what does not depend on events.
    pub(crate) fn expected(&self, scope: &Scope<'_>, input: &Value) -> Result<Expected, Problem> {
        let mut expected = Expected::default();
        for (name, test) in &self.tests {
            if let Test::Computed(template) = test {
                let found = scope.template(template, input)?;
                expected.attributes.insert(name.clone(), value::to_raw(&found));
            }
        }
        for c in &self.correlations {
            if let Some(template) = &c.expect {
                let found = scope.template(template, input)?;
                expected.keys.insert(c.name.clone(), value::to_raw(&found));
            }
        }
        Ok(expected)
    }

    /// Variables that are needed when an event is looked at.
    pub(crate) fn variables(&self) -> Vec<String> {
        let of_test = |(_, test): &(String, Test)| match test {
            Test::Predicate(e) => vec![e.clone()],
            Test::Shape(template) => template.expressions().cloned().collect(),
            Test::Literal { .. } | Test::Computed(_) => Vec::new(),
        };
        let of_data = self.tests.iter().flat_map(of_test);
        let of_keys = self.correlations.iter().map(|c| c.from.clone());
        of_data
            .chain(of_keys)
            .flat_map(|e| e.variables().to_vec())
            .collect()
    }

    /// What the correlations give, when the event matches.
    pub(super) fn matches(
        &self,
        at: usize,
        interest: &Interest,
        event: &EventView,
    ) -> Option<Vec<(String, RawJson)>> {
        let expected = interest.filters.get(at)?;
        let passes = |(name, test): &(String, Test)| test.passes(name, expected, interest, event);
        if !self.tests.iter().all(passes) {
            return None;
        }
        let key = |c: &Correlation| {
            let found = event.evaluate(&c.from, &event.value, &interest.variables)?;
            let key = key_text(&found)?;
            let fits = interest
                .key(at, &c.name)
                .is_none_or(|expected| same_key(expected, &found, &key));
            fits.then(|| (c.name.clone(), key))
        };
        self.correlations.iter().map(key).collect()
    }
}

/// A key as it is compared and stored; `null` is none.
pub(super) fn key_text(found: &Value) -> Option<RawJson> {
    (!matches!(found, Value::Null)).then(|| value::to_raw(found))
}

/// Keys are equal as JSON; a text also equals the number or boolean that it spells, because attributes and `expect`
/// are often texts where data has numbers.
fn same_key(expected: &RawJson, found: &Value, key: &RawJson) -> bool {
    expected.text() != "null" && canonical(expected) == canonical_value(found, key)
}

/// A form in which equal keys have equal texts.
pub(super) fn canonical(raw: &RawJson) -> String {
    raw.decode::<String>().unwrap_or_else(|_no_text| {
        value::from_raw(raw).map_or_else(|_| raw.text().to_owned(), |v| value::to_json_string(&v))
    })
}

fn canonical_value(found: &Value, key: &RawJson) -> String {
    value::as_str(found).map_or_else(|| key.text().to_owned(), str::to_owned)
}

impl Test {
    fn new(name: &str, template: &Template) -> Self {
        match (name, template) {
            ("data", Template::Expression(e)) => Self::Predicate(e.clone()),
            ("data", template) => Self::Shape(template.clone()),
            (_, Template::Literal(literal)) => Self::Literal {
                pattern: value::as_str(literal).and_then(pattern),
                value: literal.clone(),
            },
            (_, template) => Self::Computed(template.clone()),
        }
    }

    fn passes(&self, name: &str, expected: &Expected, interest: &Interest, event: &EventView) -> bool {
        match self {
            Self::Literal { value, pattern } => event.attribute(name).is_some_and(|found| {
                found == value
                    || pattern
                        .as_ref()
                        .zip(value::as_str(found))
                        .is_some_and(|(pattern, text)| pattern.is_match(text))
            }),
            Self::Computed(_) => {
                let wanted = expected
                    .attributes
                    .get(name)
                    .and_then(|raw| value::from_raw(raw).ok());
                wanted.is_some_and(|wanted| event.attribute(name) == Some(&wanted))
            }
            Self::Predicate(e) => event
                .evaluate(e, &event.data, &interest.variables)
                .is_some_and(|found| value::is_truthy(&found)),
            Self::Shape(template) => shape(template, event, interest) == Some(event.data.clone()),
        }
    }
}

fn shape(template: &Template, event: &EventView, interest: &Interest) -> Option<Value> {
    match template {
        Template::Literal(v) => Some(v.clone()),
        Template::Expression(e) => event.evaluate(e, &event.data, &interest.variables),
        Template::Array(items) => items.iter().map(|t| shape(t, event, interest)).collect(),
        Template::Object(members) => {
            let pair =
                |(k, t): &(String, Template)| Some((value::string(k.as_str()), shape(t, event, interest)?));
            Some(Value::obj(members.iter().map(pair).collect::<Option<_>>()?))
        }
    }
}

/// The pattern of a text that has anything special in it. A dot alone makes no pattern: types are full of them.
fn pattern(text: &str) -> Option<Regex> {
    let special = |c: char| {
        matches!(
            c,
            '\\' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|'
        )
    };
    let pattern = text.contains(special).then(|| format!("^(?:{text})$"))?;
    RegexBuilder::new(&pattern)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .ok()
}
