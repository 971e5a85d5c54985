//! What an AsyncAPI document says about an operation: server, protocol, address. References are followed within the
//! document.

use millrace_dsl::{Value as Data, value};
use reqwest::Url;
use serde_json::Value;

use super::{Call, Outbound, as_text};
use crate::Failure;
use crate::builtin::exchange::configuration;

/// References behind each other.
const REFERENCES_MAX: usize = 16;

/// A document.
pub(super) struct Document {
    root: Value,
    version: Version,
    /// Where it came from.
    shown: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Channels with what can be published to and subscribed from them.
    Two,
    /// Operations that refer to channels.
    Three,
}

/// Protocols that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Nats,
}

/// Where to publish to or consume from.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) protocol: Protocol,
    pub(super) server: Url,
    /// Path or subject.
    pub(super) address: String,
    /// Of the HTTP binding.
    pub(super) method: Option<String>,
    /// Of the NATS binding: consumers with the same queue share the messages.
    pub(super) queue: Option<String>,
    pub(super) content_type: String,
    /// Where messages have their correlation id: a runtime expression of AsyncAPI.
    correlation: Option<String>,
}

/// The parts of a document that are about one operation.
struct Operation<'a> {
    address: &'a str,
    operation: &'a Value,
    channel: &'a Value,
    message: Option<&'a Value>,
    /// Names and definitions.
    servers: Vec<(&'a str, &'a Value)>,
}

impl Document {
    /// Reads JSON or YAML.
    pub(super) fn parse(text: &str, shown: String) -> Result<Self, Failure> {
        let wrong = |why: String| configuration(format!("the AsyncAPI document `{shown}` {why}"));
        let root = millrace_dsl::data(text).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let root = value::to_serde(&root);
        let version = match root["asyncapi"].as_str() {
            Some(v) if v.starts_with("2.") => Version::Two,
            Some(v) if v.starts_with("3.") => Version::Three,
            Some(v) => return Err(wrong(format!("is of version {v}; 2.x and 3.x are supported"))),
            None => return Err(wrong("has no `asyncapi` version".into())),
        };
        Ok(Self { root, version, shown })
    }

    /// Where a call goes.
    pub(super) fn target(&self, name: &str, call: &Call) -> Result<Target, Failure> {
        let operation = match (self.version, &call.channel, &call.operation) {
            (Version::Two, Some(channel), _) => self.channel(channel, call.message.is_some())?,
            (Version::Three, _, Some(operation)) => self.operation(operation)?,
            (Version::Two, None, _) => return Err(self.wrong("is of version 2: give `channel`")),
            (Version::Three, _, None) => return Err(self.wrong("is of version 3: give `operation`")),
        };
        let (server_name, server) = self.server(name, &operation.servers, call)?;
        let protocol = self.text(server, "protocol")?.unwrap_or_default();
        let protocol = Protocol::of(protocol).ok_or_else(|| {
            let text = format!(
                "{name}: protocol `{protocol}` of server `{server_name}` is not supported, http and nats are"
            );
            configuration(text)
        })?;
        let binding = |key: &str, member: &str| {
            let bindings = self.member(operation.operation, "bindings")?;
            let binding = bindings.map(|b| self.member(b, key)).transpose()?.flatten();
            Ok::<_, Failure>(binding.and_then(|b| b[member].as_str()).map(str::to_owned))
        };
        let message = |member: &str| operation.message.map(|m| self.member(m, member)).transpose();
        let content_type = message("contentType")?.flatten().and_then(Value::as_str);
        let correlation = message("correlationId")?
            .flatten()
            .and_then(|c| c["location"].as_str());
        Ok(Target {
            protocol,
            server: self.server_url(server, call)?,
            address: self.address(&operation, call)?,
            method: binding("http", "method")?,
            queue: binding("nats", "queue")?,
            content_type: content_type
                .or_else(|| self.root["defaultContentType"].as_str())
                .unwrap_or("application/json")
                .to_owned(),
            correlation: correlation.map(str::to_owned),
        })
    }

    // Version 2

    fn channel<'a>(&'a self, name: &'a str, publishes: bool) -> Result<Operation<'a>, Failure> {
        let channel = self.named("channels", name, "channel")?;
        let key = if publishes { "publish" } else { "subscribe" };
        let operation = self
            .member(channel, key)?
            .ok_or_else(|| self.wrong(&format!("has no `{key}` operation in channel `{name}`")))?;
        let message = self.member(operation, "message")?;
        let message = match message.and_then(|m| m["oneOf"].as_array()?.first()) {
            Some(first) => Some(self.resolve(first)?),
            None => message,
        };
        let all = self.servers()?;
        let servers = match channel["servers"].as_array() {
            Some(names) if !names.is_empty() => {
                let is_named = |server: &str| names.iter().any(|n| n.as_str() == Some(server));
                all.into_iter().filter(|(name, _)| is_named(name)).collect()
            }
            _ => all,
        };
        Ok(Operation {
            address: name,
            operation,
            channel,
            message,
            servers,
        })
    }

    // Version 3

    fn operation<'a>(&'a self, name: &'a str) -> Result<Operation<'a>, Failure> {
        let operation = self.named("operations", name, "operation")?;
        let channel = self
            .member(operation, "channel")?
            .ok_or_else(|| self.wrong(&format!("has no channel in operation `{name}`")))?;
        let address = channel["address"]
            .as_str()
            .ok_or_else(|| self.wrong(&format!("has no address for the channel of operation `{name}`")))?;
        let of_operation = operation["messages"].as_array().and_then(|m| m.first());
        let of_channel = channel["messages"].as_object().and_then(|m| m.values().next());
        let message = of_operation.or(of_channel).map(|m| self.resolve(m)).transpose()?;
        let servers = match channel["servers"].as_array() {
            Some(references) if !references.is_empty() => references
                .iter()
                .map(|r| {
                    let name = r["$ref"].as_str().and_then(|r| r.rsplit('/').next());
                    Ok((name.unwrap_or_default(), self.resolve(r)?))
                })
                .collect::<Result<_, Failure>>()?,
            _ => self.servers()?,
        };
        Ok(Operation {
            address,
            operation,
            channel,
            message,
            servers,
        })
    }

    // Servers

    fn servers(&self) -> Result<Vec<(&str, &Value)>, Failure> {
        let servers = self.member(&self.root, "servers")?.and_then(Value::as_object);
        let servers = servers.into_iter().flatten();
        servers
            .map(|(name, server)| Ok((name.as_str(), self.resolve(server)?)))
            .collect()
    }

    /// The named one, else the first of the protocol, else the first.
    fn server<'a>(
        &self,
        name: &str,
        servers: &[(&'a str, &'a Value)],
        call: &Call,
    ) -> Result<(&'a str, &'a Value), Failure> {
        let names = || {
            servers
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        if let Some(wanted) = &call.server {
            let found = servers.iter().find(|(name, _)| *name == wanted.name);
            return found.copied().ok_or_else(|| {
                self.wrong(&format!(
                    "has no server `{}` for `{name}`; it has {}",
                    wanted.name,
                    names()
                ))
            });
        }
        let Some(protocol) = &call.protocol else {
            return servers
                .first()
                .copied()
                .ok_or_else(|| self.wrong(&format!("has no server for `{name}`")));
        };
        if Protocol::of(protocol).is_none() {
            return Err(configuration(format!(
                "{name}: protocol `{protocol}` is not supported, http and nats are"
            )));
        }
        let speaks = |server: &Value| {
            let spoken = server["protocol"].as_str().unwrap_or_default();
            Protocol::of(spoken) == Protocol::of(protocol)
        };
        let found = servers.iter().find(|(_, server)| speaks(server));
        found.copied().ok_or_else(|| {
            self.wrong(&format!(
                "has no server with protocol `{protocol}` for `{name}`; it has {}",
                names()
            ))
        })
    }

    fn server_url(&self, server: &Value, call: &Call) -> Result<Url, Failure> {
        let protocol = self.text(server, "protocol")?.unwrap_or_default();
        let (text, version_two) = match self.text(server, "url")? {
            Some(url) => (url.to_owned(), true),
            None => {
                let host = self
                    .text(server, "host")?
                    .ok_or_else(|| self.wrong("has a server without an address"))?;
                let path = self.text(server, "pathname")?.unwrap_or_default();
                (format!("{host}{path}"), false)
            }
        };
        let filled = self.filled(&text, |name| self.variable(server, name, call))?;
        let full = match version_two && filled.contains("://") {
            true => filled,
            false => format!("{protocol}://{filled}"),
        };
        Url::parse(&full)
            .map_err(|e| self.wrong(&format!("has a server whose address `{full}` is no URL: {e}")))
    }

    fn variable(&self, server: &Value, name: &str, call: &Call) -> Result<String, Failure> {
        let declared = self.member(server, "variables")?;
        let declared = declared.map(|d| self.member(d, name)).transpose()?.flatten();
        let given = call.server.as_ref().and_then(|s| s.variables.get(name));
        let found = given
            .map(as_text)
            .or_else(|| Some(as_text(declared?.get("default")?)));
        let found = found.ok_or_else(|| {
            let text = format!("asks for the server variable `{name}`: give it in `server.variables`");
            self.wrong(&text)
        })?;
        self.check_choice(name, &found, declared)?;
        Ok(found)
    }

    fn check_choice(&self, name: &str, found: &str, declared: Option<&Value>) -> Result<(), Failure> {
        let choices = declared.and_then(|d| d["enum"].as_array());
        let Some(choices) = choices.filter(|c| !c.iter().any(|v| as_text(v) == found)) else {
            return Ok(());
        };
        let choices: Vec<String> = choices.iter().map(as_text).collect();
        Err(self.wrong(&format!(
            "does not allow `{found}` for `{name}`; it allows {}",
            choices.join(", ")
        )))
    }

    // Addresses

    fn address(&self, operation: &Operation<'_>, call: &Call) -> Result<String, Failure> {
        let parameters = self.member(operation.channel, "parameters")?;
        self.filled(operation.address, |name| {
            let declared = parameters.map(|p| self.member(p, name)).transpose()?.flatten();
            let found = self.parameter(name, declared, call)?;
            self.check_choice(name, &found, declared)?;
            Ok(found)
        })
    }

    /// From the message, where the document says it stands; else what the call gives among the server's variables; else
    /// the default.
    fn parameter(&self, name: &str, declared: Option<&Value>, call: &Call) -> Result<String, Failure> {
        let location = declared.and_then(|d| d["location"].as_str());
        let sent = call
            .message
            .as_ref()
            .zip(location)
            .and_then(|(m, l)| outgoing(m, l));
        let given = call
            .server
            .as_ref()
            .and_then(|s| s.variables.get(name))
            .map(as_text);
        let default = declared.and_then(|d| d.get("default").or_else(|| d.get("schema")?.get("default")));
        sent.or(given).or_else(|| default.map(as_text)).ok_or_else(|| {
            let text = format!(
                "has no value for the parameter `{name}` of the channel: give it in `server.variables`"
            );
            self.wrong(&text)
        })
    }

    /// Replaces `{name}`.
    fn filled(&self, text: &str, value: impl Fn(&str) -> Result<String, Failure>) -> Result<String, Failure> {
        let (mut filled, mut rest) = (String::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            let Some((name, after)) = behind.split_once('}') else {
                return Err(self.wrong(&format!("has the address `{text}` whose `{{` is not closed")));
            };
            filled.push_str(before);
            filled.push_str(&value(name)?);
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    // Reading

    fn named<'a>(&'a self, section: &str, name: &str, what: &str) -> Result<&'a Value, Failure> {
        let section = self.member(&self.root, section)?;
        let found = section.map(|s| self.member(s, name)).transpose()?.flatten();
        found.ok_or_else(|| {
            let names = section.and_then(Value::as_object).into_iter().flatten();
            let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
            self.wrong(&format!("has no {what} `{name}`; it has {}", names.join(", ")))
        })
    }

    /// A member with references followed; `None` when it is absent or `null`.
    fn member<'a>(&'a self, of: &'a Value, key: &str) -> Result<Option<&'a Value>, Failure> {
        let found = of.get(key).filter(|v| !v.is_null());
        found.map(|v| self.resolve(v)).transpose()
    }

    fn text<'a>(&'a self, of: &'a Value, key: &str) -> Result<Option<&'a str>, Failure> {
        Ok(self.member(of, key)?.and_then(Value::as_str))
    }

    fn resolve<'a>(&'a self, mut v: &'a Value) -> Result<&'a Value, Failure> {
        for _ in 0..REFERENCES_MAX {
            let Some(reference) = v.get("$ref").and_then(Value::as_str) else {
                return Ok(v);
            };
            let Some(pointer) = reference.strip_prefix('#') else {
                return Err(self.wrong(&format!(
                    "refers to `{reference}`: only references within the document are followed"
                )));
            };
            let pointer = decoded(pointer);
            v = self
                .root
                .pointer(&pointer)
                .ok_or_else(|| self.wrong(&format!("refers to `{reference}`, which it does not have")))?;
        }
        Err(self.wrong(&format!(
            "has more than {REFERENCES_MAX} references behind each other"
        )))
    }

    fn wrong(&self, what: &str) -> Failure {
        configuration(format!("the AsyncAPI document `{}` {what}", self.shown))
    }
}

/// The only escapes that occur in pointers of documents: of braces and spaces.
fn decoded(pointer: &str) -> String {
    let pairs = [
        ("%7B", "{"),
        ("%7D", "}"),
        ("%7b", "{"),
        ("%7d", "}"),
        ("%20", " "),
    ];
    pairs
        .iter()
        .fold(pointer.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What a location such as `$message.payload#/user/id` points to in a message that is sent.
fn outgoing(message: &Outbound, location: &str) -> Option<String> {
    let (part, pointer) = location.split_once('#')?;
    let found = match part {
        "$message.payload" => {
            let payload: Value = serde_json::from_str(message.body()).ok()?;
            payload.pointer(pointer)?.clone()
        }
        "$message.header" => message.headers.get(pointer.strip_prefix('/')?)?.clone(),
        _ => return None,
    };
    Some(as_text(&found))
}

impl Protocol {
    /// As documents and definitions write it.
    fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "http" | "https" => Some(Self::Http),
            "nats" => Some(Self::Nats),
            _ => None,
        }
    }
}

/// Names of headers that carry a correlation id when the document does not say.
const CORRELATION_HEADERS: [&str; 3] = ["correlationid", "correlation-id", "x-correlation-id"];

impl Target {
    /// The correlation id of a message that came.
    pub(super) fn correlation(&self, payload: &Data, headers: &Data) -> Option<Data> {
        let header = |name: &str| {
            let members = value::to_serde(headers);
            let members = members.as_object()?;
            let found = members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, v)| value::from_serde(v.clone()))
        };
        let Some(location) = &self.correlation else {
            return CORRELATION_HEADERS.iter().find_map(|name| header(name));
        };
        match location.split_once('#')? {
            ("$message.header", pointer) => header(pointer.strip_prefix('/')?),
            ("$message.payload", pointer) => {
                let found = value::to_serde(payload).pointer(pointer)?.clone();
                Some(value::from_serde(found)).filter(|v| *v != Data::Null)
            }
            _ => None,
        }
    }
}
