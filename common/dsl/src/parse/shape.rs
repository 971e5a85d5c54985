//! Constructs whose arguments go to a handler as data: a table says which keys and types they may have.

use super::core::{Fields, Parser};
use super::node::{At, Data, Entry, Node};
use super::scope::Vars;
use super::uses::Kind;
use crate::expression::{Expression, strip};
use crate::model::DurationValue;
use crate::template::Template;
use crate::uri::UriTemplate;
use crate::{Value, secret, value};

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A text or an expression.
    Text,
    /// A URI or an expression.
    Uri,
    /// A text that another language reads: `${` in it is no mistake.
    Code,
    /// An integer between the two.
    Integer(i64, i64),
    /// `true` or `false`.
    Boolean,
    /// One of some words.
    Word(&'static [&'static str]),
    /// A list of texts.
    Texts,
    /// An object of texts.
    TextMap,
    /// An object of texts, numbers and booleans.
    ScalarMap,
    /// An object of anything.
    Map,
    /// An object of anything, or an expression.
    MapOrText,
    /// An expression that the worker evaluates, for each message.
    Later,
    /// A duration.
    Duration,
    /// A URI with or without authentication.
    Endpoint,
    /// `{ name?, endpoint }`.
    Resource,
    /// An authentication policy or a reference to one.
    Authentication,
    /// A list of tasks, read elsewhere.
    Elsewhere,
    /// A closed object.
    Object(&'static Keys),
    /// Goes to a worker, which fills in secrets.
    Late(&'static Self),
}

/// Keys of a closed object.
#[derive(Debug)]
pub(super) struct Keys {
    what: &'static str,
    required: &'static [&'static str],
    keys: &'static [(&'static str, Shape)],
    /// Of each group, exactly one key.
    one_of: &'static [&'static [&'static str]],
}

impl Parser<'_> {
    /// Checks a value and makes a template of it.
    pub(super) fn shaped(
        &mut self,
        node: &Node,
        at: &At<'_>,
        shape: &Shape,
        vars: &Vars,
    ) -> Option<Template> {
        let literal = || Some(Template::Literal(node.value.clone()));
        match shape {
            Shape::Text => Some(self.text_template(node, at, vars, true)),
            Shape::Uri => {
                self.check_uri(node, at);
                Some(self.uri_template(node, at, vars))
            }
            Shape::Code => Some(self.text_template(node, at, vars, false)),
            Shape::Integer(min, max) => self.integer(node, at, *min, *max).and_then(|_| literal()),
            Shape::Boolean => self.boolean(node, at).and_then(|_| literal()),
            Shape::Word(words) => self.word(node, at, words).and_then(|_| literal()),
            Shape::Texts => self.shaped_texts(node, at, vars),
            Shape::TextMap => self.shaped_map(node, at, vars, false),
            Shape::ScalarMap => self.shaped_map(node, at, vars, true),
            Shape::Map | Shape::MapOrText => self.shaped_object(node, at, shape, vars),
            Shape::Later => self.later(node, at, vars),
            Shape::Duration => self.duration(node, at, vars).map(|d| match d {
                DurationValue::Fixed(_) => Template::Literal(node.value.clone()),
                DurationValue::Computed(e) => Template::Expression(e),
            }),
            Shape::Endpoint => {
                self.endpoint(node, at, vars)?;
                Some(self.endpoint_template(node, at, vars))
            }
            Shape::Resource => {
                self.resource(node, at, vars)?;
                Some(self.endpoint_template(node, at, vars))
            }
            Shape::Authentication => {
                self.authentication(node, at, vars)?;
                Some(self.authentication_template(node, at, vars))
            }
            Shape::Elsewhere => literal(),
            Shape::Object(keys) => self.shaped_keys(node, at, keys, vars),
            Shape::Late(shape) => self.shaped(node, at, shape, &vars.filled_in_late()),
        }
    }

    /// A URI template, or an expression. Templates become the expression that expands them: whoever gets the value gets a
    /// URI.
    fn uri_template(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Template {
        let text = node
            .text()
            .filter(|t| strip(t).is_none() && t.contains(['{', '}']));
        let Some(text) = text else {
            return match self.text_template(node, at, vars, false) {
                Template::Expression(computed) => self.one_text(&computed, node, at, vars),
                other => other,
            };
        };
        let template = match UriTemplate::parse(text) {
            Ok(template) => template.as_expression(),
            Err((offset, message)) => {
                let span = self.source.place(node, offset);
                self.report(crate::Diagnostic::error(at.pointer(), span, message));
                return Template::Literal(Value::Null);
            }
        };
        self.made(&template, "the URI template is too long", node, at, vars)
    }

    /// A computed URI is a text or fails: whoever gets it also takes `{uri, authentication}` there, which may name any
    /// secret, and data must not be able to write that.
    fn one_text(&mut self, computed: &Expression, node: &Node, at: &At<'_>, vars: &Vars) -> Template {
        // The line break ends a comment.
        let source = format!(
            "[{}\n] | if length == 1 and (.[0] | type) == \"string\" then .[0] else error({}) end",
            computed.source(),
            r#""a computed URI must be one text, the expression gave \(map(type) | join(", ") | if . == "" then "nothing" else . end)""#
        );
        self.made(&source, "the expression is too long for a URI", node, at, vars)
    }

    /// A template from an expression that stands in no source.
    fn made(&mut self, source: &str, fault: &str, node: &Node, at: &At<'_>, vars: &Vars) -> Template {
        match Expression::compile(source, &vars.scope) {
            Ok(expression) => Template::Expression(expression),
            Err(e) => {
                self.report(at.error_in(node, format!("{fault}: {}", e.message)));
                Template::Literal(Value::Null)
            }
        }
    }

    fn shaped_keys(
        &mut self,
        node: &Node,
        at: &At<'_>,
        keys: &'static Keys,
        vars: &Vars,
    ) -> Option<Template> {
        let legal: Vec<&'static str> = keys.keys.iter().map(|(name, _)| *name).collect();
        let fields: Fields<'_> = self.fields(node, at, keys.what, &legal)?;
        for key in keys.required {
            self.required(&fields, at, keys.what, key);
        }
        for group in keys.one_of {
            self.exactly_one(&fields, at, keys.what, group);
        }
        let (mut members, mut valid) = (Vec::new(), true);
        for (name, shape) in keys.keys {
            let Some(entry) = fields.get(name) else { continue };
            match self.shaped(&entry.node, &at.entry(entry), shape, vars) {
                Some(_) if matches!(shape, Shape::Elsewhere) => {}
                Some(template) => members.push((entry.key.clone(), template)),
                None => valid = false,
            }
        }
        valid.then(|| Template::object(members))
    }

    fn shaped_texts(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Template> {
        let Some(items) = node.items() else {
            self.expected_hint("a list of texts", node, at, "write `[ a, b ]`");
            return None;
        };
        let item = |(i, n): (usize, &Node)| self.text_template(n, &at.index(i, n), vars, true);
        Some(Template::array(items.iter().enumerate().map(item).collect()))
    }

    fn shaped_map(&mut self, node: &Node, at: &At<'_>, vars: &Vars, scalars: bool) -> Option<Template> {
        let Some(entries) = node.entries() else {
            self.expected("an object of texts", node, at);
            return None;
        };
        let member = |e: &Entry| {
            let template = match e.node.data {
                Data::Number | Data::Bool(_) if scalars => Template::Literal(e.node.value.clone()),
                _ => self.text_template(&e.node, &at.entry(e), vars, true),
            };
            (e.key.clone(), template)
        };
        Some(Template::object(entries.iter().map(member).collect()))
    }

    fn shaped_object(&mut self, node: &Node, at: &At<'_>, shape: &Shape, vars: &Vars) -> Option<Template> {
        match (&node.data, shape) {
            (Data::Object(_), _) => Some(self.template(node, at, vars)),
            (Data::Text(_), Shape::MapOrText) => self.expression(node, at, vars).map(Template::Expression),
            _ => {
                self.expected("an object", node, at);
                None
            }
        }
    }

    /// The expression as a text, and the values of the variables that it uses.
    fn later(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Template> {
        let expression = self.expression(node, at, vars)?;
        let mut values = Vec::new();
        for name in expression.variables() {
            if secret::LATE_VARIABLES.contains(&name.as_str()) {
                let fault = at.error_in(node, format!("`${name}` cannot be used here"));
                self.report(fault.hint("the expression is evaluated by the worker, for each message"));
                return None;
            }
            let variable = self.compile(node, at, (0, &format!("${name}")), vars)?;
            values.push((name.clone(), Template::Expression(variable)));
        }
        let source = Template::Literal(value::string(expression.source()));
        let members = [("expression", source), ("variables", Template::object(values))];
        Some(Template::object(members.map(|(k, t)| (k.to_owned(), t)).into()))
    }

    /// As the value is, with references to authentications replaced by what they refer to.
    fn endpoint_template(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Template {
        let Some(entries) = node.entries() else {
            return self.uri_template(node, at, vars);
        };
        let member = |e: &Entry| {
            let at = at.entry(e);
            let template = match e.key.as_str() {
                "authentication" => self.authentication_template(&e.node, &at, vars),
                "name" => self.text_template(&e.node, &at, vars, false),
                _ => self.endpoint_template(&e.node, &at, vars),
            };
            (e.key.clone(), template)
        };
        Template::object(entries.iter().map(member).collect())
    }

    fn authentication_template(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Template {
        let name = node.get("use").and_then(|e| e.node.text());
        let entry = name.and_then(|name| self.find(Kind::Authentication, name, node, at));
        match entry {
            Some(entry) => self.declared(Kind::Authentication, entry, |p, at| {
                p.policy_template(&entry.node, at, vars)
            }),
            None if name.is_some() => Template::Literal(Value::Null),
            None => self.policy_template(node, at, vars),
        }
    }

    fn policy_template(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Template {
        let schemes = node.entries().into_iter().flatten();
        match schemes.into_iter().any(|s| s.node.get("use").is_some()) {
            // Names of secrets are never computed, in loose mode neither.
            true => Template::Literal(node.value.clone()),
            false => self.template(node, at, vars),
        }
    }
}

const HTTP_OUTPUT: Shape = Shape::Word(&["raw", "content", "response"]);

pub(super) const OPENAPI: Shape = Shape::Object(&Keys {
    what: "`with` of `call: openapi`",
    required: &["document", "operationId"],
    keys: &[
        ("document", Shape::Resource),
        ("operationId", Shape::Text),
        ("parameters", Shape::Map),
        ("authentication", Shape::Authentication),
        ("output", HTTP_OUTPUT),
        ("redirect", Shape::Boolean),
    ],
    one_of: &[],
});

pub(super) const GRPC: Shape = Shape::Object(&Keys {
    what: "`with` of `call: grpc`",
    required: &["proto", "service", "method"],
    keys: &[
        ("proto", Shape::Resource),
        (
            "service",
            Shape::Object(&Keys {
                what: "`service`",
                required: &["name", "host"],
                keys: &[
                    ("name", Shape::Text),
                    ("host", Shape::Text),
                    ("port", Shape::Integer(0, 65_535)),
                    ("authentication", Shape::Authentication),
                ],
                one_of: &[],
            }),
        ),
        ("method", Shape::Text),
        ("arguments", Shape::Map),
    ],
    one_of: &[],
});

const PROTOCOLS: Shape = Shape::Word(&[
    "amqp",
    "amqp1",
    "anypointmq",
    "googlepubsub",
    "http",
    "ibmmq",
    "jms",
    "kafka",
    "mercure",
    "mqtt",
    "mqtt5",
    "nats",
    "pulsar",
    "redis",
    "sns",
    "solace",
    "sqs",
    "stomp",
    "ws",
]);

pub(super) const ASYNCAPI: Shape = Shape::Object(&Keys {
    what: "`with` of `call: asyncapi`",
    required: &["document"],
    keys: &[
        ("document", Shape::Resource),
        ("channel", Shape::Text),
        ("operation", Shape::Text),
        (
            "server",
            Shape::Object(&Keys {
                what: "`server`",
                required: &["name"],
                keys: &[("name", Shape::Text), ("variables", Shape::Map)],
                one_of: &[],
            }),
        ),
        ("protocol", PROTOCOLS),
        (
            "message",
            Shape::Object(&Keys {
                what: "`message`",
                required: &[],
                keys: &[("payload", Shape::Map), ("headers", Shape::Map)],
                one_of: &[],
            }),
        ),
        (
            "subscription",
            Shape::Object(&Keys {
                what: "`subscription`",
                required: &["consume"],
                keys: &[
                    ("filter", Shape::Later),
                    (
                        "consume",
                        Shape::Object(&Keys {
                            what: "`consume`",
                            required: &[],
                            keys: &[
                                ("amount", Shape::Integer(1, i64::MAX)),
                                ("for", Shape::Duration),
                                ("while", Shape::Later),
                                ("until", Shape::Later),
                            ],
                            one_of: &[&["amount", "while", "until"]],
                        }),
                    ),
                    ("foreach", Shape::Elsewhere),
                ],
                one_of: &[],
            }),
        ),
        ("authentication", Shape::Authentication),
    ],
    one_of: &[&["channel", "operation"], &["message", "subscription"]],
});

pub(super) const MCP: Shape = Shape::Object(&Keys {
    what: "`with` of `call: mcp`",
    required: &["method", "transport"],
    keys: &[
        ("protocolVersion", Shape::Text),
        (
            "method",
            Shape::Word(&[
                "tools/list",
                "tools/call",
                "prompts/list",
                "prompts/get",
                "resources/list",
                "resources/read",
                "resources/templates/list",
            ]),
        ),
        ("parameters", Shape::MapOrText),
        ("timeout", Shape::Duration),
        (
            "transport",
            Shape::Object(&Keys {
                what: "`transport`",
                required: &[],
                keys: &[
                    (
                        "http",
                        Shape::Object(&Keys {
                            what: "`http`",
                            required: &["endpoint"],
                            keys: &[("endpoint", Shape::Endpoint), ("headers", Shape::TextMap)],
                            one_of: &[],
                        }),
                    ),
                    (
                        "stdio",
                        Shape::Object(&Keys {
                            what: "`stdio`",
                            required: &["command"],
                            keys: &[
                                ("command", Shape::Code),
                                ("arguments", Shape::Texts),
                                ("environment", Shape::TextMap),
                            ],
                            one_of: &[],
                        }),
                    ),
                    ("options", Shape::TextMap),
                ],
                one_of: &[&["http", "stdio"]],
            }),
        ),
        (
            "client",
            Shape::Object(&Keys {
                what: "`client`",
                required: &["name", "version"],
                keys: &[("name", Shape::Text), ("version", Shape::Text)],
                one_of: &[],
            }),
        ),
    ],
    one_of: &[],
});

pub(super) const A2A: Shape = Shape::Object(&Keys {
    what: "`with` of `call: a2a`",
    required: &["method"],
    keys: &[
        (
            "method",
            Shape::Word(&[
                "message/send",
                "message/stream",
                "tasks/get",
                "tasks/list",
                "tasks/cancel",
                "tasks/resubscribe",
                "tasks/pushNotificationConfig/set",
                "tasks/pushNotificationConfig/get",
                "tasks/pushNotificationConfig/list",
                "tasks/pushNotificationConfig/delete",
                "agent/getAuthenticatedExtendedCard",
            ]),
        ),
        ("agentCard", Shape::Resource),
        ("server", Shape::Endpoint),
        ("parameters", Shape::MapOrText),
    ],
    one_of: &[],
});

pub(super) const CONTAINER: Shape = Shape::Object(&Keys {
    what: "`container`",
    required: &["image"],
    keys: &[
        ("image", Shape::Text),
        ("name", Shape::Text),
        ("command", Shape::Code),
        ("ports", Shape::ScalarMap),
        ("volumes", Shape::ScalarMap),
        ("environment", Shape::Late(&Shape::ScalarMap)),
        ("stdin", Shape::Late(&Shape::Text)),
        ("arguments", Shape::Late(&Shape::Texts)),
        (
            "lifetime",
            Shape::Object(&Keys {
                what: "`lifetime`",
                required: &["cleanup"],
                keys: &[
                    ("cleanup", Shape::Word(&["always", "never", "eventually"])),
                    ("after", Shape::Duration),
                ],
                one_of: &[],
            }),
        ),
        ("pullPolicy", Shape::Word(&["ifNotPresent", "always", "never"])),
    ],
    one_of: &[],
});

pub(super) const SCRIPT: Shape = Shape::Object(&Keys {
    what: "`script`",
    required: &["language"],
    keys: &[
        ("language", Shape::Text),
        ("code", Shape::Code),
        ("source", Shape::Resource),
        ("stdin", Shape::Late(&Shape::Text)),
        ("arguments", Shape::Late(&Shape::Texts)),
        ("environment", Shape::Late(&Shape::ScalarMap)),
    ],
    one_of: &[&["code", "source"]],
});

pub(super) const SHELL: Shape = Shape::Object(&Keys {
    what: "`shell`",
    required: &["command"],
    keys: &[
        ("command", Shape::Code),
        ("stdin", Shape::Late(&Shape::Text)),
        ("arguments", Shape::Late(&Shape::Texts)),
        ("environment", Shape::Late(&Shape::ScalarMap)),
    ],
    one_of: &[],
});

const GRANT: Shape = Shape::Word(&[
    "authorization_code",
    "client_credentials",
    "password",
    "refresh_token",
    "urn:ietf:params:oauth:grant-type:token-exchange",
]);

const CLIENT: Shape = Shape::Object(&Keys {
    what: "`client`",
    required: &[],
    keys: &[
        ("id", Shape::Text),
        ("secret", Shape::Text),
        ("assertion", Shape::Text),
        (
            "authentication",
            Shape::Word(&[
                "client_secret_basic",
                "client_secret_post",
                "client_secret_jwt",
                "private_key_jwt",
                "none",
            ]),
        ),
    ],
    one_of: &[],
});

const REQUEST: Shape = Shape::Object(&Keys {
    what: "`request`",
    required: &[],
    keys: &[(
        "encoding",
        Shape::Word(&["application/x-www-form-urlencoded", "application/json"]),
    )],
    one_of: &[],
});

const TOKEN: Shape = Shape::Object(&Keys {
    what: "a token",
    required: &["token", "type"],
    keys: &[("token", Shape::Text), ("type", Shape::Text)],
    one_of: &[],
});

const ENDPOINTS: Shape = Shape::Object(&Keys {
    what: "`endpoints`",
    required: &[],
    keys: &[
        ("token", Shape::Uri),
        ("revocation", Shape::Uri),
        ("introspection", Shape::Uri),
    ],
    one_of: &[],
});

pub(super) const OAUTH2: Shape = Shape::Object(&Keys {
    what: "`oauth2`",
    required: &["authority", "grant"],
    keys: &[
        ("authority", Shape::Uri),
        ("grant", GRANT),
        ("endpoints", ENDPOINTS),
        ("client", CLIENT),
        ("request", REQUEST),
        ("issuers", Shape::Texts),
        ("scopes", Shape::Texts),
        ("audiences", Shape::Texts),
        ("username", Shape::Text),
        ("password", Shape::Text),
        ("subject", TOKEN),
        ("actor", TOKEN),
    ],
    one_of: &[],
});

pub(super) const OIDC: Shape = Shape::Object(&Keys {
    what: "`oidc`",
    required: &["authority", "grant"],
    keys: &[
        ("authority", Shape::Uri),
        ("grant", GRANT),
        ("client", CLIENT),
        ("request", REQUEST),
        ("issuers", Shape::Texts),
        ("scopes", Shape::Texts),
        ("audiences", Shape::Texts),
        ("username", Shape::Text),
        ("password", Shape::Text),
        ("subject", TOKEN),
        ("actor", TOKEN),
    ],
    one_of: &[],
});
