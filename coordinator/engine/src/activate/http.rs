//! `call: http`: a step whose input says all that a worker needs to make the request.
//!
//! `{method, endpoint, headers?, query?, body?, output, redirect, authentication?}`: texts are evaluated, the endpoint
//! is expanded; `authentication` is `{<scheme>: …}` with the members of the scheme, or `{<scheme>: {use: <secret>}}`.
//! What uses secrets is `null` there, and filled in by the worker.

use millrace_common::{ErrorKind, Problem};
use millrace_dsl::model::{Authentication, HttpCall, HttpOutput, UriValue};
use millrace_dsl::template::{Place, Template};
use millrace_dsl::{Value, secret, value};

use crate::data::Data;
use crate::scope::{Scope, as_text};

use super::{Activation, Move, Run};

/// What a step with an HTTP call runs.
const FUNCTION: &str = "call:http";

impl Activation<'_> {
    pub(crate) fn call_http(&mut self, run: &Run, input: &Data, call: &HttpCall) -> Result<Move, Problem> {
        let scope = self.scope(run, None, Some(input), None);
        let mut making = Making {
            scope: &scope,
            input: input.value(),
            places: Vec::new(),
        };
        let request = Data::new(making.request(call)?);
        request.check("the request")?;
        let policies = match &call.endpoint.authentication {
            Some(Authentication::Secret { secret, .. }) => vec![secret.clone()],
            _ => Vec::new(),
        };
        let late = scope.late(&making.places, policies, input);
        self.dispatch(run, input, FUNCTION.into(), request, late)
    }
}

/// A request in the making.
struct Making<'s, 't> {
    scope: &'s Scope<'s>,
    input: &'s Value,
    /// Left to the worker.
    places: Vec<Place<'t>>,
}

impl<'t> Making<'_, 't> {
    fn request(&mut self, call: &'t HttpCall) -> Result<Value, Problem> {
        let method = self.text("/method", &call.method, "`method`")?;
        let method = value::as_str(&method).map_or(Value::Null, |m| value::string(m.to_ascii_uppercase()));
        let mut members = vec![
            ("method", method),
            ("endpoint", self.endpoint(&call.endpoint.uri)?),
        ];
        for (name, template) in [("headers", &call.headers), ("query", &call.query)] {
            if let Some(template) = template {
                members.push((name, self.texts(template, name)?));
            }
        }
        if let Some(template) = &call.body {
            members.push(("body", self.value("/body", template)?));
        }
        let output = match call.output {
            HttpOutput::Raw => "raw",
            HttpOutput::Content => "content",
            HttpOutput::Response => "response",
        };
        members.push(("output", value::string(output)));
        members.push(("redirect", Value::Bool(call.redirect)));
        if let Some(authentication) = &call.endpoint.authentication {
            members.push(("authentication", self.authenticate(authentication)?));
        }
        Ok(object(members))
    }

    fn value(&mut self, at: &str, template: &'t Template) -> Result<Value, Problem> {
        let (found, mut places) = self.scope.early(at, template, self.input)?;
        self.places.append(&mut places);
        Ok(found)
    }

    /// A text, or `null` for the worker to fill in.
    fn text(&mut self, at: &str, template: &'t Template, what: &str) -> Result<Value, Problem> {
        let before = self.places.len();
        let found = self.value(at, template)?;
        match self.places.len() > before {
            true => Ok(Value::Null),
            false => as_text(&found, what).map(value::string),
        }
    }

    fn endpoint(&mut self, uri: &'t UriValue) -> Result<Value, Problem> {
        let uri = match uri {
            UriValue::Template(template) => template.expand(self.input)?,
            UriValue::Computed(expression) if secret::is_late(expression) => {
                let at = "/endpoint".to_owned();
                self.places.push(Place { at, expression });
                return Ok(Value::Null);
            }
            UriValue::Computed(expression) => {
                as_text(&self.scope.expression(expression, self.input)?, "`endpoint`")?
            }
        };
        Ok(value::string(uri))
    }

    /// An object of texts; scalars become texts. The worker does the same with what it fills in.
    fn texts(&mut self, template: &'t Template, name: &str) -> Result<Value, Problem> {
        let found = match self.value(&format!("/{name}"), template)? {
            Value::Obj(found) => found,
            Value::Null if matches!(template, Template::Expression(e) if secret::is_late(e)) => {
                return Ok(object(Vec::new()));
            }
            _ => {
                let text = format!("`{name}` must be an object of texts");
                return Err(Problem::new(ErrorKind::Expression, text));
            }
        };
        let text = |(key, v): (&Value, &Value)| match v {
            Value::TStr(_) => Ok(Some((key.clone(), v.clone()))),
            Value::Num(_) | Value::Bool(_) => {
                Ok(Some((key.clone(), value::string(value::to_json_string(v)))))
            }
            Value::Null => Ok(None),
            Value::BStr(_) | Value::Arr(_) | Value::Obj(_) => {
                let kind = value::type_name(v);
                let text =
                    format!("`{name}` must be an object of texts, a member has a value of type `{kind}`");
                Err(Problem::new(ErrorKind::Expression, text))
            }
        };
        let members = found
            .iter()
            .map(text)
            .filter_map(Result::transpose)
            .collect::<Result<_, Problem>>()?;
        Ok(Value::obj(members))
    }

    fn authenticate(&mut self, authentication: &'t Authentication) -> Result<Value, Problem> {
        match authentication {
            Authentication::Basic { username, password } => self.login("basic", username, password),
            Authentication::Digest { username, password } => self.login("digest", username, password),
            Authentication::Bearer { token } => {
                let token = self.text("/authentication/bearer/token", token, "`token`")?;
                Ok(policy("bearer", object(vec![("token", token)])))
            }
            Authentication::OAuth2(template) => self.authority("oauth2", template),
            Authentication::Oidc(template) => self.authority("oidc", template),
            Authentication::Secret { scheme, secret } => Ok(policy(
                scheme,
                object(vec![("use", value::string(secret.as_str()))]),
            )),
        }
    }

    fn login(
        &mut self,
        scheme: &str,
        username: &'t Template,
        password: &'t Template,
    ) -> Result<Value, Problem> {
        let at = |member: &str| format!("/authentication/{scheme}/{member}");
        let username = self.text(&at("username"), username, "`username`")?;
        let password = self.text(&at("password"), password, "`password`")?;
        Ok(policy(
            scheme,
            object(vec![("username", username), ("password", password)]),
        ))
    }

    fn authority(&mut self, scheme: &str, template: &'t Template) -> Result<Value, Problem> {
        let settings = self.value(&format!("/authentication/{scheme}"), template)?;
        Ok(policy(scheme, settings))
    }
}

fn policy(scheme: &str, settings: Value) -> Value {
    object(vec![(scheme, settings)])
}

fn object(members: Vec<(&str, Value)>) -> Value {
    Value::obj(members.into_iter().map(|(k, v)| (value::string(k), v)).collect())
}
