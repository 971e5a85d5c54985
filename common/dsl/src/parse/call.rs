//! `call`: the built-in calls and functions.

use std::str::FromStr;

use semver::Version;

use super::core::{Fields, Parser};
use super::env::Env;
use super::keys::closest;
use super::node::{At, Data, Entry, Node};
use super::scope::{Locals, Position, Vars};
use super::shape;
use super::uses::{BUILT_IN, Kind};
use crate::expression::strip;
use crate::model::{
    AsyncApiCall, Call, Endpoint, Feature, FunctionCall, FunctionTarget, FunctionUse, HttpCall, HttpOutput,
    UriValue,
};
use crate::template::Template;
use crate::uri::UriTemplate;
use crate::value;

const HTTP_KEYS: [&str; 7] = [
    "method", "endpoint", "headers", "query", "body", "output", "redirect",
];
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
const HTTP: &str = "`with` of `call: http`";

/// Reserved name of the catalog that the fleet's functions are in.
const FLEET: &str = "default";

impl Parser<'_> {
    pub(super) fn call(
        &mut self,
        node: &Node,
        task: &Fields<'_>,
        at: &At<'_>,
        env: &Env<'_>,
        vars: &Vars,
    ) -> Option<Call> {
        let here = at.entry(task.get("call")?);
        let name = self.constant(node, &here, "the name of a call")?;
        let with = task.get("with");
        if !BUILT_IN.contains(&name) {
            let target = self.function_target(name, node, &here, env);
            // Others than the fleet's are tasks: their input is stored.
            let late = matches!(target, Some(FunctionTarget::Fleet(_)) | None);
            let vars = if late { &vars.filled_in_late() } else { vars };
            let arguments = with.and_then(|e| self.arguments(e, &at.entry(e), vars));
            return Some(Call::Function(FunctionCall {
                target: target?,
                arguments,
            }));
        }
        let what = format!("a `call: {name}` task");
        let with = self.required(task, at, &what, "with")?;
        let (at, vars) = (at.entry(with), &vars.filled_in_late());
        match name {
            "http" => self.http(&with.node, &at, vars).map(Call::Http),
            "asyncapi" => self
                .async_api(&with.node, &here, &at, env, vars)
                .map(Call::AsyncApi),
            "openapi" => self.shaped_call(
                Feature::OpenApi,
                &with.node,
                (&here, &at),
                &shape::OPENAPI,
                vars,
                Call::OpenApi,
            ),
            "grpc" => self.shaped_call(
                Feature::Grpc,
                &with.node,
                (&here, &at),
                &shape::GRPC,
                vars,
                Call::Grpc,
            ),
            "mcp" => self.shaped_call(
                Feature::Mcp,
                &with.node,
                (&here, &at),
                &shape::MCP,
                vars,
                Call::Mcp,
            ),
            _ => self.shaped_call(
                Feature::A2a,
                &with.node,
                (&here, &at),
                &shape::A2A,
                vars,
                Call::A2a,
            ),
        }
    }

    fn shaped_call(
        &mut self,
        feature: Feature,
        node: &Node,
        (call, at): (&At<'_>, &At<'_>),
        shape: &'static shape::Shape,
        vars: &Vars,
        make: fn(Template) -> Call,
    ) -> Option<Call> {
        self.note(feature, call);
        let agent = |key| node.get(key).is_some();
        if feature == Feature::A2a && node.entries().is_some() && !agent("agentCard") && !agent("server") {
            self.report(at.error("`with` of `call: a2a` needs one of agentCard, server"));
        }
        self.shaped(node, at, shape, vars).map(make)
    }

    fn async_api(
        &mut self,
        node: &Node,
        call: &At<'_>,
        at: &At<'_>,
        env: &Env<'_>,
        vars: &Vars,
    ) -> Option<AsyncApiCall> {
        self.note(Feature::AsyncApi, call);
        let with = self.shaped(node, at, &shape::ASYNCAPI, vars);
        let subscription = node.get("subscription");
        let foreach = subscription.and_then(|s| s.node.get("foreach")).map(|entry| {
            let at = subscription.map_or(*at, |s| at.key(&s.key, s.span));
            self.note(Feature::AsyncApiForeach, &at.entry(entry));
            self.foreach(&entry.node, &at.entry(entry), env)
        });
        Some(AsyncApiCall {
            with: with?,
            foreach: foreach.flatten(),
        })
    }

    // Functions

    fn arguments(&mut self, entry: &Entry, at: &At<'_>, vars: &Vars) -> Option<Template> {
        if entry.node.entries().is_some() {
            return Some(self.template(&entry.node, at, vars));
        }
        let hint = "write the members one by one: `name: ${ .name }`";
        self.expected_hint("an object of arguments", &entry.node, at, hint);
        None
    }

    fn function_target(
        &mut self,
        name: &str,
        node: &Node,
        at: &At<'_>,
        env: &Env<'_>,
    ) -> Option<FunctionTarget> {
        if self.uses.section(Kind::Function).contains(name) {
            return self.function(name, node, at, env);
        }
        if name.contains("://") {
            self.note(Feature::FunctionUrl, at);
            let url = self.address(name, node, at)?;
            return self.external_function(url, name, node, at, env);
        }
        match name.split_once('@') {
            Some((function, catalog)) => self.cataloged(function, catalog, node, at, env),
            None => {
                self.unknown_call(name, node, at);
                None
            }
        }
    }

    fn cataloged(
        &mut self,
        function: &str,
        catalog: &str,
        node: &Node,
        at: &At<'_>,
        env: &Env<'_>,
    ) -> Option<FunctionTarget> {
        let Some((name, version)) = function.split_once(':') else {
            let fault = at.error_in(node, format!("`{function}@{catalog}` does not say which version"));
            self.report(fault.hint(format!("write `{function}:1.0.0@{catalog}`")));
            return None;
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || !name.chars().all(legal) {
            let fault = at.error_in(node, format!("`{name}` is not the name of a function"));
            self.report(fault.hint("use letters, digits, `.`, `_` and `-`"));
            return None;
        }
        if Version::from_str(version).is_err() {
            let fault = at.error_in(node, format!("`{version}` is not a semantic version"));
            self.report(fault.hint(format!("write an exact version: `{name}:1.0.0@{catalog}`")));
            return None;
        }
        let declared = self.uses.section(Kind::Catalog).contains(catalog);
        if catalog == FLEET && !declared {
            self.functions.push(FunctionUse {
                function: function.to_owned(),
                pointer: at.pointer(),
                span: at.place(node),
            });
            let elsewhere = "the `default` catalog of another runtime has functions of its own";
            self.extra(format!("the function `{function}` of the fleet"), elsewhere, at);
            return Some(FunctionTarget::Fleet(function.to_owned()));
        }
        if !declared {
            let names: Vec<&str> = self
                .uses
                .names(Kind::Catalog)
                .iter()
                .copied()
                .chain([FLEET])
                .collect();
            let hint = self.suggest(catalog, names.iter().copied(), "catalogs");
            self.report(
                at.error_in(node, format!("unknown catalog `{catalog}`"))
                    .hint(hint),
            );
            return None;
        }
        self.note(Feature::FunctionCatalog, at);
        self.find(Kind::Catalog, catalog, node, at)?;
        let base = self.catalog_base(catalog)?;
        let url = format!("{base}/functions/{name}/{version}/function.yaml");
        let called = format!("{function}@{catalog}");
        self.external_function(url, &called, node, at, env)
    }

    fn unknown_call(&mut self, name: &str, node: &Node, at: &At<'_>) {
        if self.is_full() {
            return;
        }
        let functions = self.uses.names(Kind::Function);
        let known = BUILT_IN.into_iter().chain(functions.iter().copied());
        let versioned = name
            .split_once(':')
            .is_some_and(|(_, v)| Version::from_str(v).is_ok());
        let hint = match closest(name, known.clone()) {
            _ if versioned => format!("write `{name}@{FLEET}` for a function of the fleet"),
            Some(close) => format!("did you mean `{close}`?"),
            None => format!(
                "it is one of {}, a name in `use.functions`, `name:version@catalog` or a URL",
                known.collect::<Vec<_>>().join(", ")
            ),
        };
        self.report(at.error_in(node, format!("unknown call `{name}`")).hint(hint));
    }

    // HTTP

    fn http(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<HttpCall> {
        let fields = self.fields(node, at, HTTP, &HTTP_KEYS)?;
        let method = self
            .required(&fields, at, HTTP, "method")
            .and_then(|e| self.method(&e.node, &at.entry(e), vars));
        let endpoint = self
            .required(&fields, at, HTTP, "endpoint")
            .and_then(|e| self.endpoint(&e.node, &at.entry(e), vars));
        let headers = fields
            .get("headers")
            .map(|e| self.texts(&e.node, &at.entry(e), vars));
        let query = fields
            .get("query")
            .map(|e| self.texts(&e.node, &at.entry(e), vars));
        let body = fields
            .get("body")
            .map(|e| self.template(&e.node, &at.entry(e), vars));
        let output = fields
            .get("output")
            .and_then(|e| self.http_output(&e.node, &at.entry(e)));
        let redirect = fields
            .get("redirect")
            .and_then(|e| self.boolean(&e.node, &at.entry(e)));
        Some(HttpCall {
            method: method?,
            endpoint: endpoint?,
            headers,
            query,
            body,
            output: output.unwrap_or_default(),
            redirect: redirect.unwrap_or_default(),
        })
    }

    fn http_output(&mut self, node: &Node, at: &At<'_>) -> Option<HttpOutput> {
        Some(match self.word(node, at, &["raw", "content", "response"])? {
            "raw" => HttpOutput::Raw,
            "response" => HttpOutput::Response,
            _ => HttpOutput::Content,
        })
    }

    fn method(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Template> {
        let text = self.text(node, at, "an HTTP method")?;
        if strip(text).is_some() {
            return Some(self.text_template(node, at, vars, true));
        }
        let method = text.to_ascii_uppercase();
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') {
            self.report(at.error_in(node, format!("`{text}` is not an HTTP method")));
            return None;
        }
        if !METHODS.contains(&method.as_str()) {
            let fault = at.warning_in(node, format!("`{text}` is not a standard HTTP method"));
            self.report(fault.hint(self.suggest(&method, METHODS, "standard methods")));
        }
        Some(Template::Literal(value::string(method)))
    }

    /// `headers` and `query`: an object of texts, or an expression.
    fn texts(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Template {
        let Some(entries) = node.entries() else {
            if node.text().and_then(strip).is_none() {
                self.expected("an object of texts or an expression", node, at);
                return Template::Literal(crate::Value::Null);
            }
            return self.text_template(node, at, vars, true);
        };
        let member = |e: &Entry| {
            (
                e.key.clone(),
                self.text_template(&e.node, &at.entry(e), vars, true),
            )
        };
        Template::object(entries.iter().map(member).collect())
    }

    // Endpoints

    /// A URI, or an object with URI and authentication.
    pub(super) fn endpoint(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Endpoint> {
        if !matches!(node.data, Data::Object(_)) {
            return Some(Endpoint {
                uri: self.uri(node, at, vars)?,
                authentication: None,
            });
        }
        let fields = self.fields(node, at, "an endpoint", &["uri", "authentication"])?;
        let uri = self
            .required(&fields, at, "an endpoint", "uri")
            .and_then(|e| self.uri(&e.node, &at.entry(e), vars));
        let authentication = fields
            .get("authentication")
            .map(|e| self.authentication(&e.node, &at.entry(e), vars));
        Some(Endpoint {
            uri: uri?,
            authentication: authentication.flatten(),
        })
    }

    fn uri(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<UriValue> {
        let text = self.text(node, at, "a URI")?;
        if let Some(inner) = strip(text) {
            return self.compile(node, at, inner, vars).map(UriValue::Computed);
        }
        if text.is_empty() || text.contains(char::is_whitespace) || text.contains("${") {
            let fault = at.error_in(node, format!("`{}` is not a URI", super::node::excerpt(text)));
            self.report(
                fault.hint("use `{name}` for a member of the input, or make the whole text an expression"),
            );
            return None;
        }
        match UriTemplate::parse(text) {
            Ok(template) => Some(UriValue::Template(template)),
            Err((offset, message)) => {
                let span = self.source.place(node, offset);
                self.report(crate::Diagnostic::error(at.pointer(), span, message));
                None
            }
        }
    }

    /// `{ name?, endpoint }`
    pub(super) fn resource(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Endpoint> {
        if node.text().is_some() {
            self.expected_hint("an external resource", node, at, "write `{ endpoint: … }`");
            return None;
        }
        let fields = self.fields(node, at, "an external resource", &["name", "endpoint"])?;
        if let Some(name) = fields.get("name") {
            self.text(&name.node, &at.entry(name), "a text");
        }
        let endpoint = self.required(&fields, at, "an external resource", "endpoint")?;
        self.endpoint(&endpoint.node, &at.entry(endpoint), vars)
    }

    /// `foreach` of `listen` and of AsyncAPI subscriptions.
    pub(super) fn foreach(
        &mut self,
        node: &Node,
        at: &At<'_>,
        env: &Env<'_>,
    ) -> Option<crate::model::ListenForeach> {
        let fields = self.fields(node, at, "`foreach`", &["item", "at", "do", "output", "export"])?;
        let (item, index) = self.loop_variables(&fields, at, env, ("item", "at"));
        let names = [item, index];
        let locals = Locals {
            outer: env.locals,
            names: &names,
        };
        let own = Env {
            locals: Some(&locals),
            ..*env
        };
        let body = fields
            .get("do")
            .map(|e| self.tasks_with(&e.node, &at.entry(e), env, &names));
        let output = fields.get("output").map(|e| {
            let vars = self.vars(Position::TaskOutput, &own);
            self.data_out(&e.node, &at.entry(e), "`output`", &vars)
        });
        let export = fields.get("export").map(|e| {
            let vars = self.vars(Position::Export, &own);
            self.data_out(&e.node, &at.entry(e), "`export`", &vars)
        });
        Some(crate::model::ListenForeach {
            item: item.to_owned(),
            at: index.to_owned(),
            body,
            output: output.unwrap_or_default(),
            export: export.unwrap_or_default(),
        })
    }
}
