//! `call: http`: a step whose input says all that a worker needs to make the request.
//!
//! `{method, endpoint, headers?, query?, body?, output, redirect, authentication?}`: texts are evaluated, the endpoint
//! is expanded; `authentication` is `{scheme, …}` with the members of the scheme, or `{scheme, use: <secret>}`.

use millrace_common::{ErrorKind, Problem};
use millrace_dsl::model::{Authentication, HttpCall, HttpOutput, UriValue};
use millrace_dsl::template::Template;
use millrace_dsl::{Value, value};

use crate::data::Data;
use crate::scope::{Scope, as_text};

use super::{Activation, Move, Run};

/// What a step with an HTTP call runs.
const FUNCTION: &str = "call:http";

impl Activation<'_> {
    pub(crate) fn call_http(&mut self, run: &Run, input: &Data, call: &HttpCall) -> Result<Move, Problem> {
        let request = Data::new(request(
            &self.scope(run, None, Some(input), None),
            input.value(),
            call,
        )?);
        request.check("the request")?;
        self.dispatch(run, input, FUNCTION.into(), request)
    }
}

fn request(scope: &Scope<'_>, input: &Value, call: &HttpCall) -> Result<Value, Problem> {
    let mut members = vec![
        (
            "method",
            value::string(scope.text(&call.method, input, "`method`")?.to_ascii_uppercase()),
        ),
        (
            "endpoint",
            value::string(endpoint(scope, input, &call.endpoint.uri)?),
        ),
    ];
    for (name, template) in [("headers", &call.headers), ("query", &call.query)] {
        if let Some(template) = template {
            members.push((name, texts(scope, input, template, name)?));
        }
    }
    if let Some(template) = &call.body {
        members.push(("body", scope.template(template, input)?));
    }
    let output = match call.output {
        HttpOutput::Raw => "raw",
        HttpOutput::Content => "content",
        HttpOutput::Response => "response",
    };
    members.push(("output", value::string(output)));
    members.push(("redirect", Value::Bool(call.redirect)));
    if let Some(authentication) = &call.endpoint.authentication {
        members.push(("authentication", authenticate(scope, input, authentication)?));
    }
    Ok(object(members))
}

fn endpoint(scope: &Scope<'_>, input: &Value, uri: &UriValue) -> Result<String, Problem> {
    match uri {
        UriValue::Template(template) => template.expand(input),
        UriValue::Computed(expression) => as_text(&scope.expression(expression, input)?, "`endpoint`"),
    }
}

/// An object of texts; scalars become texts.
fn texts(scope: &Scope<'_>, input: &Value, template: &Template, name: &str) -> Result<Value, Problem> {
    let Value::Obj(found) = scope.template(template, input)? else {
        return Err(Problem::new(
            ErrorKind::Expression,
            format!("`{name}` must be an object of texts"),
        ));
    };
    let text = |(key, v): (&Value, &Value)| match v {
        Value::TStr(_) => Ok(Some((key.clone(), v.clone()))),
        Value::Num(_) | Value::Bool(_) => Ok(Some((key.clone(), value::string(value::to_json_string(v))))),
        Value::Null => Ok(None),
        Value::BStr(_) | Value::Arr(_) | Value::Obj(_) => {
            let kind = value::type_name(v);
            let text = format!("`{name}` must be an object of texts, a member has a value of type `{kind}`");
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

fn authenticate(scope: &Scope<'_>, input: &Value, authentication: &Authentication) -> Result<Value, Problem> {
    let login = |scheme: &str, username: &Template, password: &Template| {
        Ok(object(vec![
            ("scheme", value::string(scheme)),
            (
                "username",
                value::string(scope.text(username, input, "`username`")?),
            ),
            (
                "password",
                value::string(scope.text(password, input, "`password`")?),
            ),
        ]))
    };
    let policy = |scheme: &str, policy: &Template| {
        Ok(object(vec![
            ("scheme", value::string(scheme)),
            ("policy", scope.template(policy, input)?),
        ]))
    };
    match authentication {
        Authentication::Basic { username, password } => login("basic", username, password),
        Authentication::Digest { username, password } => login("digest", username, password),
        Authentication::Bearer { token } => Ok(object(vec![
            ("scheme", value::string("bearer")),
            ("token", value::string(scope.text(token, input, "`token`")?)),
        ])),
        Authentication::OAuth2(template) => policy("oauth2", template),
        Authentication::Oidc(template) => policy("oidc", template),
        Authentication::Secret { scheme, secret } => Ok(object(vec![
            ("scheme", value::string(scheme.as_str())),
            ("use", value::string(secret.as_str())),
        ])),
    }
}

fn object(members: Vec<(&str, Value)>) -> Value {
    Value::obj(members.into_iter().map(|(k, v)| (value::string(k), v)).collect())
}
