//! `call:openapi`: one operation of a service that an OpenAPI document describes (Swagger 2.0, OpenAPI 3.0 and 3.1).
//!
//! Input, the evaluated `with` of the task: `{document, operationId, parameters?, authentication?, output?, redirect?}`.
//! Where the specification is silent: arguments go to the parameters of their name; the body is the argument with the name
//! of the body's parameter (2.0), the argument `body` (3.x), or else an object of the arguments that are no parameter. An
//! argument that is nothing of these is refused.

mod argument;
mod document;
mod operation;
mod parameter;
mod payload;
mod server;

use indexmap::IndexMap;
use millrace_common::{ErrorKind, RawJson};
use reqwest::header::{ACCEPT, COOKIE};
use serde::Deserialize;

use self::argument::Argument;
pub(crate) use self::document::{Documents, fetch_text};
use self::operation::Operation;
use self::parameter::Place;
use super::authenticate::Policy;
use super::http::output::Output;
use super::http::{self, Exchange, Prepared};
use crate::{Context, Failure};

/// Input of `call:openapi`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call {
    document: Resource,
    operation_id: String,
    #[serde(default)]
    parameters: Option<IndexMap<String, RawJson>>,
    #[serde(default)]
    authentication: Option<Policy>,
    #[serde(default)]
    output: Output,
    #[serde(default)]
    redirect: bool,
}

/// Where a document is.
#[derive(Debug, Deserialize)]
pub(crate) struct Resource {
    pub(crate) endpoint: Endpoint,
}

/// An address, with or without authentication.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Endpoint {
    /// Without.
    Uri(String),
    /// With.
    Full {
        /// The address.
        uri: String,
        /// How to get it.
        authentication: Option<Policy>,
    },
}

impl Endpoint {
    pub(crate) fn uri(&self) -> &str {
        match self {
            Self::Uri(uri) | Self::Full { uri, .. } => uri,
        }
    }

    pub(crate) fn policy(&self) -> Option<&Policy> {
        match self {
            Self::Uri(_) => None,
            Self::Full { authentication, .. } => authentication.as_ref(),
        }
    }
}

/// The function.
pub(super) async fn call(ctx: Context, call: Call) -> Result<RawJson, Failure> {
    let name = format!("operation `{}`", call.operation_id);
    http::within_time(&ctx, &name, async {
        let document = ctx.documents().get(&ctx, &call.document.endpoint).await?;
        let operation = Operation::find(&document, &call.operation_id)?;
        let exchange = call.prepare(&ctx, &operation)?;
        http::exchange(&ctx, exchange).await
    })
    .await
}

impl Call {
    fn prepare(self, ctx: &Context, operation: &Operation<'_>) -> Result<Exchange, Failure> {
        let mut arguments = Arguments(self.parameters.unwrap_or_default());
        arguments.0.retain(|_, value| value.text() != "null");
        let mut request = Parts::new(operation.path);
        let parameters = operation.parameters()?;
        for parameter in &parameters {
            match arguments.of(parameter.name) {
                Some(argument) => request.add(parameter, argument)?,
                None if parameter.required => {
                    let (name, place) = (parameter.name, parameter.place.name());
                    return Err(invalid(format!(
                        "{operation} needs the parameter `{name}` (in {place})"
                    )));
                }
                None => {}
            }
        }
        parameters.iter().for_each(|p| arguments.used(p.name));
        let payload = payload::of(operation, &mut arguments)?;
        arguments.none_left(operation)?;
        let mut url = server::base(operation)?;
        request.apply(&mut url);
        let mut prepared = Prepared {
            method: operation.method(),
            url,
            headers: request.headers,
            policy: self.authentication,
            body: None,
        };
        if let Some(accept) = operation.accepts() {
            prepared.headers.entry(ACCEPT.as_str().into()).or_insert(accept);
        }
        if !request.cookies.is_empty() {
            prepared
                .headers
                .insert(COOKIE.as_str().into(), request.cookies.join("; "));
        }
        prepared.set_body(payload);
        prepared.set_idempotency_key(ctx);
        Ok(Exchange {
            prepared,
            output: self.output,
            redirect: self.redirect,
        })
    }
}

/// What the definition gives, and what of it was used.
struct Arguments(IndexMap<String, RawJson>);

impl Arguments {
    fn of(&self, name: &str) -> Option<Argument> {
        self.0.get(name).map(Argument::of)
    }

    fn used(&mut self, name: &str) {
        if let Some(value) = self.0.get_mut(name) {
            *value = RawJson::null();
        }
    }

    fn take(&mut self, name: &str) -> Option<RawJson> {
        self.0.shift_remove(name).filter(|value| value.text() != "null")
    }

    fn left(&self) -> impl Iterator<Item = (&String, &RawJson)> {
        self.0.iter().filter(|(_, value)| value.text() != "null")
    }

    fn none_left(&self, operation: &Operation<'_>) -> Result<(), Failure> {
        let Some((name, _)) = self.left().next() else {
            return Ok(());
        };
        let known: Vec<&str> = operation.parameters()?.iter().map(|p| p.name).collect();
        let known = match known.is_empty() {
            true => "it has none".to_owned(),
            false => format!("it has {}", known.join(", ")),
        };
        Err(invalid(format!(
            "`{name}` is not a parameter of {operation}: {known}"
        )))
    }
}

/// Parts of a request as parameters fill them.
struct Parts {
    path: String,
    query: Vec<String>,
    headers: std::collections::BTreeMap<String, String>,
    cookies: Vec<String>,
}

impl Parts {
    fn new(path: &str) -> Self {
        Self {
            path: path.into(),
            query: Vec::new(),
            headers: std::collections::BTreeMap::new(),
            cookies: Vec::new(),
        }
    }

    fn add(&mut self, parameter: &parameter::Parameter<'_>, argument: Argument) -> Result<(), Failure> {
        let name = parameter.name;
        match parameter.place {
            Place::Path => {
                let text = parameter.in_path(&argument);
                if matches!(text.as_str(), "." | "..") {
                    // An address without the segment would be another one.
                    return Err(invalid(format!(
                        "`{text}` cannot stand in a path (parameter `{name}`)"
                    )));
                }
                self.path = self.path.replace(&format!("{{{name}}}"), &text);
            }
            Place::Query => self.query.extend(parameter.in_query(&argument)),
            Place::Header => {
                _ = self
                    .headers
                    .insert(name.to_ascii_lowercase(), parameter.in_header(&argument))
            }
            Place::Cookie => self.cookies.extend(parameter.in_cookie(&argument)),
        }
        Ok(())
    }

    /// Path and query go behind those of the server.
    fn apply(&self, url: &mut reqwest::Url) {
        let path = format!(
            "{}/{}",
            url.path().trim_end_matches('/'),
            self.path.trim_start_matches('/')
        );
        url.set_path(&path);
        if !self.query.is_empty() {
            let before = url.query().filter(|q| !q.is_empty()).map(str::to_owned);
            let all: Vec<String> = before.into_iter().chain(self.query.iter().cloned()).collect();
            url.set_query(Some(&all.join("&")));
        }
    }
}

fn invalid(detail: String) -> Failure {
    Failure::new(ErrorKind::Validation, detail)
}

#[cfg(test)]
mod tests;
