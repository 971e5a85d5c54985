//! Values with expressions inside: `set`, `with`, `body`, …
//!
//! Only texts that are `${ … }` as a whole are expressions, at any depth; keys never are. Whoever builds a template
//! decides that (`expression::strip`); here, a text is a literal.

use millrace_common::{ErrorKind, Problem, limits};

use crate::expression::{EvalEnv, Expression};
use crate::{Value, secret, value};

/// A value with expressions at some of its places. Parts without any are literals: [`Self::array`] and
/// [`Self::object`] fold them.
#[derive(Clone, Debug)]
pub enum Template {
    /// A constant.
    Literal(Value),
    /// Computed.
    Expression(Expression),
    /// An array with a computed part.
    Array(Vec<Self>),
    /// An object with a computed part, in the order of the source.
    Object(Vec<(String, Self)>),
}

/// A place of a template that only a worker can evaluate.
#[derive(Clone, Debug)]
pub struct Place<'t> {
    /// JSON Pointer.
    pub at: String,
    /// What stands there.
    pub expression: &'t Expression,
}

impl Template {
    /// An array; a literal when all its items are.
    pub fn array(items: Vec<Self>) -> Self {
        let literals: Option<Vec<Value>> = items.iter().map(|t| t.literal().cloned()).collect();
        literals.map_or(Self::Array(items), |values| {
            Self::Literal(values.into_iter().collect())
        })
    }

    /// An object; a literal when all its members are.
    pub fn object(members: Vec<(String, Self)>) -> Self {
        let member = |(key, t): &(String, Self)| Some((value::string(key.as_str()), t.literal()?.clone()));
        let literals: Option<Vec<(Value, Value)>> = members.iter().map(member).collect();
        literals.map_or(Self::Object(members), |values| {
            Self::Literal(Value::obj(values.into_iter().collect()))
        })
    }

    /// The constant, if nothing is computed.
    pub fn literal(&self) -> Option<&Value> {
        match self {
            Self::Literal(v) => Some(v),
            _ => None,
        }
    }

    /// True when nothing is computed.
    pub fn is_literal(&self) -> bool {
        self.literal().is_some()
    }

    /// All expressions, in the order of the source.
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let mut found = Vec::new();
        self.collect(&mut found);
        found.into_iter()
    }

    fn collect<'a>(&'a self, found: &mut Vec<&'a Expression>) {
        match self {
            Self::Literal(_) => {}
            Self::Expression(e) => found.push(e),
            Self::Array(items) => items.iter().for_each(|t| t.collect(found)),
            Self::Object(members) => members.iter().for_each(|(_, t)| t.collect(found)),
        }
    }

    /// Evaluates every expression; `lookup` gives the value of a variable (without `$`), `None` is `null`.
    ///
    /// # Errors
    /// The `expression` problem of the first expression that fails, when all of them together use more than the
    /// fuel, or when the result as a whole exceeds
    /// `limits::EXPRESSION_NODES_MAX` or `limits::VALUE_DEPTH_MAX`: the expressions of a template share values.
    pub fn evaluate(
        &self,
        input: &Value,
        lookup: &mut dyn FnMut(&str) -> Option<Value>,
        env: &EvalEnv,
    ) -> Result<Value, Problem> {
        let result = self.fill(input, lookup, &mut env.clone())?;
        if matches!(self, Self::Array(_) | Self::Object(_)) {
            value::size_bounded(&result, limits::EXPRESSION_NODES_MAX, limits::VALUE_DEPTH_MAX)
                .map_err(|e| Problem::new(ErrorKind::Expression, e.to_string()))?;
        }
        Ok(result)
    }

    /// As [`Self::evaluate`], but leaves out the expressions that only a worker can evaluate ([`secret::is_late`]):
    /// gives `null` at their places, and the places as JSON Pointers below `at`.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_early<'t>(
        &'t self,
        at: &str,
        input: &Value,
        lookup: &mut dyn FnMut(&str) -> Option<Value>,
        env: &EvalEnv,
    ) -> Result<(Value, Vec<Place<'t>>), Problem> {
        let mut places = Vec::new();
        self.find_late(&mut at.to_owned(), &mut places);
        let value = match places.is_empty() {
            true => self.evaluate(input, lookup, env)?,
            false => self.without_late().evaluate(input, lookup, env)?,
        };
        Ok((value, places))
    }

    fn find_late<'t>(&'t self, at: &mut String, places: &mut Vec<Place<'t>>) {
        let length = at.len();
        match self {
            Self::Expression(expression) if secret::is_late(expression) => {
                let at = at.clone();
                places.push(Place { at, expression });
            }
            Self::Literal(_) | Self::Expression(_) => {}
            Self::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    at.push_str(&format!("/{index}"));
                    item.find_late(at, places);
                    at.truncate(length);
                }
            }
            Self::Object(members) => {
                for (key, member) in members {
                    at.push('/');
                    at.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    member.find_late(at, places);
                    at.truncate(length);
                }
            }
        }
    }

    /// The same with `null` for what only a worker can evaluate.
    fn without_late(&self) -> Self {
        match self {
            Self::Expression(e) if secret::is_late(e) => Self::Literal(Value::Null),
            Self::Literal(_) | Self::Expression(_) => self.clone(),
            Self::Array(items) => Self::Array(items.iter().map(Self::without_late).collect()),
            Self::Object(members) => {
                let member = |(key, t): &(String, Self)| (key.clone(), t.without_late());
                Self::Object(members.iter().map(member).collect())
            }
        }
    }

    fn fill(
        &self,
        input: &Value,
        lookup: &mut dyn FnMut(&str) -> Option<Value>,
        env: &mut EvalEnv,
    ) -> Result<Value, Problem> {
        match self {
            Self::Literal(v) => Ok(v.clone()),
            Self::Expression(e) => e.spend_with(input, lookup, env),
            Self::Array(items) => items.iter().map(|t| t.fill(input, lookup, env)).collect(),
            Self::Object(members) => {
                let pair =
                    |(k, t): &(String, Self)| Ok((value::string(k.as_str()), t.fill(input, lookup, env)?));
                Ok(Value::obj(
                    members.iter().map(pair).collect::<Result<_, Problem>>()?,
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::Scope;

    fn expression(source: &str) -> Template {
        Template::Expression(Expression::compile(source, &Scope(vec!["context".into()])).unwrap())
    }

    fn text(text: &str) -> Template {
        Template::Literal(value::string(text))
    }

    fn evaluate(template: &Template) -> Result<String, Problem> {
        let input = value::parse(r#"{"id":7,"tags":["a","b"]}"#).unwrap();
        let mut lookup = |name: &str| (name == "context").then(|| value::string("ctx"));
        template
            .evaluate(&input, &mut lookup, &EvalEnv::at(0))
            .map(|v| value::to_json_string(&v))
    }

    #[test]
    fn expressions_are_filled_in_and_the_rest_stays() {
        let template = Template::object(vec![
            (
                "b".into(),
                Template::array(vec![text("${ not evaluated here }"), expression(".id")]),
            ),
            ("a".into(), expression("$context")),
            ("c".into(), Template::object(vec![("${.id}".into(), text("x"))])),
            ("d".into(), expression(".tags[]")),
            ("e".into(), expression("empty")),
        ]);
        let expected =
            r#"{"b":["${ not evaluated here }",7],"a":"ctx","c":{"${.id}":"x"},"d":["a","b"],"e":null}"#;
        assert_eq!(evaluate(&template).unwrap(), expected);
    }

    #[test]
    fn constant_parts_become_literals() {
        let constant = Template::object(vec![(
            "a".into(),
            Template::array(vec![text("x"), Template::array(vec![])]),
        )]);
        assert_eq!(
            constant.literal().map(value::to_json_string).as_deref(),
            Some(r#"{"a":["x",[]]}"#)
        );
        let mixed = Template::array(vec![constant, expression(".id")]);
        assert!(!mixed.is_literal());
        assert!(matches!(&mixed, Template::Array(items) if items[0].is_literal()));
        assert!(!expression(".id").is_literal());
    }

    #[test]
    fn expressions_are_listed_in_order() {
        let template = Template::array(vec![
            expression(".a"),
            text("x"),
            Template::object(vec![("k".into(), expression(".b"))]),
            expression(".c"),
        ]);
        assert_eq!(
            template.expressions().map(Expression::source).collect::<Vec<_>>(),
            [".a", ".b", ".c"]
        );
    }

    #[test]
    fn what_uses_secrets_is_left_to_the_worker() {
        let scope = Scope(vec!["secrets".into(), "authorization".into()]);
        let late = |source: &str| Template::Expression(Expression::compile(source, &scope).unwrap());
        let template = Template::object(vec![
            ("a/b".into(), Template::array(vec![text("x"), late("$secrets.k")])),
            ("c".into(), expression(".id")),
            ("d".into(), late("$authorization.scheme + .x")),
        ]);
        let input = value::parse(r#"{"id":7}"#).unwrap();
        let (found, places) = template
            .evaluate_early("/with", &input, &mut |_| None, &EvalEnv::at(0))
            .unwrap();
        assert_eq!(
            value::to_json_string(&found),
            r#"{"a/b":["x",null],"c":7,"d":null}"#
        );
        let part = |p: &Place<'_>| {
            (
                p.at.clone(),
                p.expression.source().to_owned(),
                p.expression.reads_input(),
            )
        };
        let found: Vec<_> = places.iter().map(part).collect();
        let expected = [
            ("/with/a~1b/1".to_owned(), "$secrets.k".to_owned(), false),
            (
                "/with/d".to_owned(),
                "$authorization.scheme + .x".to_owned(),
                true,
            ),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn failures_and_sizes_are_problems() {
        let failing = Template::array(vec![expression(".id.x")]);
        assert_eq!(
            evaluate(&failing).unwrap_err().standard(),
            Some(ErrorKind::Expression)
        );
        let large: Value = (0..100_000).map(value::number_i64).collect();
        let copies = Template::array((0..20).map(|_| expression(".")).collect());
        let problem = copies
            .evaluate(&large, &mut |_| None, &EvalEnv::at(0))
            .unwrap_err();
        assert!(problem.detail.unwrap().contains("more than 1000000 nodes"));
        let busy = Template::array((0..50).map(|_| expression("last(range(100000))")).collect());
        assert!(
            evaluate(&busy)
                .unwrap_err()
                .detail
                .unwrap()
                .contains("too many steps")
        );
        let deep = expression("reduce range(100) as $i (0; [.])");
        assert!(evaluate(&deep).is_ok());
        let deeper = Template::array(vec![deep]);
        assert!(
            evaluate(&deeper)
                .unwrap_err()
                .detail
                .unwrap()
                .contains("nested deeper")
        );
    }
}
