//! YAML 1.2 (and with it JSON) → [`Node`]: bounded depth, size and alias expansion; duplicate keys, tags and
//! values that JSON does not have are faults.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use jaq_json::Num;
use millrace_common::limits;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::core::FAULTS_MAX;
use super::node::{At, Data, Entry, Node, Style};
use super::source::Source;
use crate::{Diagnostic, Span, Value, value};

/// Nodes that aliases may add to a document. More is refused: a few lines of nested anchors can stand for billions.
const ALIAS_NODES_MAX: usize = 50_000;

/// Digits of one number. More is refused: the time to read a number grows with the square of its length.
const NUMBER_DIGITS_MAX: usize = 1_000;

/// Reads the only document of a text. Faults that do not hinder reading on are added to `faults`.
///
/// # Errors
/// The fault that hindered.
pub(super) fn read(source: &Source<'_>, faults: &mut Vec<Diagnostic>) -> Result<Node, Box<Diagnostic>> {
    let mut events = Parser::new_from_str(source.text());
    let mut builder = Builder::new(source, faults);
    let mut documents = 0;
    while let Some(event) = events.next_event() {
        let (event, span) = event.map_err(|e| Box::new(syntax(source, &e)))?;
        match event {
            Event::DocumentStart(_) if documents > 0 => {
                let message = "a definition is one YAML document, found a second one";
                return Err(Box::new(Diagnostic::error("", source.span(&span.start), message)));
            }
            Event::DocumentStart(_) => documents += 1,
            other => builder.event(other, &span.start)?,
        }
    }
    builder
        .root
        .ok_or_else(|| Box::new(At::ROOT.error("the definition is empty")))
}

fn syntax(source: &Source<'_>, error: &ScanError) -> Diagnostic {
    let fault = Diagnostic::error(
        "",
        source.span(error.marker()),
        format!("invalid YAML: {}", error.info()),
    );
    match error.info() {
        info if info.starts_with("mapping values are not allowed") => {
            fault.hint("quote texts that contain `: `, and check the indentation")
        }
        info if info.starts_with("tabs disallowed") => fault.hint("indent with spaces"),
        info if info.contains("unknown anchor") => fault.hint("quote texts that start with `*`"),
        info if info.contains("escape code") => {
            fault.hint("write texts with backslashes in single quotes, or write each backslash twice")
        }
        _ => fault,
    }
}

/// A collection whose end has not come yet.
enum Open {
    Array(Vec<Node>),
    Object(OpenObject),
}

#[derive(Default)]
struct OpenObject {
    entries: Vec<Entry>,
    seen: HashSet<String>,
    /// The key whose value comes next.
    key: Option<(String, Span)>,
    /// That key cannot be one: its value is not kept.
    bad: bool,
}

impl OpenObject {
    /// Adds a value; gives it back with its key when the key is there already.
    fn add(&mut self, node: Node) -> Option<(String, Span)> {
        let (key, span) = self.key.take()?;
        if std::mem::take(&mut self.bad) {
            return None;
        }
        if !self.seen.insert(key.clone()) {
            return Some((key, span));
        }
        self.entries.push(Entry { key, span, node });
        None
    }
}

struct Builder<'s, 'f> {
    source: &'s Source<'s>,
    faults: &'f mut Vec<Diagnostic>,
    /// Collection, where it started, anchor.
    stack: Vec<(Open, Span, usize)>,
    anchors: HashMap<usize, Node>,
    alias_nodes: usize,
    root: Option<Node>,
}

impl<'s, 'f> Builder<'s, 'f> {
    fn new(source: &'s Source<'s>, faults: &'f mut Vec<Diagnostic>) -> Self {
        Self {
            source,
            faults,
            stack: Vec::new(),
            anchors: HashMap::new(),
            alias_nodes: 0,
            root: None,
        }
    }

    fn event(&mut self, event: Event<'_>, start: &Marker) -> Result<(), Box<Diagnostic>> {
        let span = self.source.span(start);
        match event {
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.open(Open::Array(Vec::new()), span, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.open(Open::Object(OpenObject::default()), span, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, style, tag.as_deref(), span, anchor);
                Ok(())
            }
            Event::Alias(id) => self.alias(id, span),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, open: Open, span: Span, anchor: usize) -> Result<(), Box<Diagnostic>> {
        if self.stack.len() >= limits::VALUE_DEPTH_MAX {
            return Err(Box::new(self.too_deep(span)));
        }
        self.stack.push((open, span, anchor));
        Ok(())
    }

    fn too_deep(&self, span: Span) -> Diagnostic {
        let message = format!("nested deeper than {} levels", limits::VALUE_DEPTH_MAX);
        Diagnostic::error(self.pointer(), span, message)
    }

    fn close(&mut self) {
        let Some((open, span, anchor)) = self.stack.pop() else {
            return;
        };
        let node = match open {
            Open::Array(items) => Node::array(span, items),
            Open::Object(object) => Node::object(span, object.entries),
        };
        self.insert(node, anchor);
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
        anchor: usize,
    ) {
        let style = match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted => Style::Single,
            ScalarStyle::DoubleQuoted => Style::Double,
            ScalarStyle::Literal => Style::Literal,
            ScalarStyle::Folded => Style::Folded,
        };
        let tagged_text = self.check_tag(tag, span);
        if self.wants_key() {
            return self.key(text.into_owned(), style, span, anchor);
        }
        let (data, value) = match style == Style::Plain && !tagged_text {
            true => resolve(&text).unwrap_or_else(|reason| {
                self.report(Diagnostic::error(self.pointer(), span, reason));
                (Data::Null, Value::Null)
            }),
            false => (Data::Text(style), value::string(text)),
        };
        self.insert(Node::scalar(span, data, value), anchor);
    }

    /// True when the tag makes every scalar a text.
    fn check_tag(&mut self, tag: Option<&Tag>, span: Span) -> bool {
        let Some(tag) = tag else { return false };
        if tag.is_yaml_core_schema() && tag.suffix != "binary" {
            return tag.suffix == "str";
        }
        let name = if tag.is_yaml_core_schema() {
            format!("!!{}", tag.suffix)
        } else {
            tag.to_string()
        };
        let fault = Diagnostic::error(self.pointer(), span, format!("unknown tag `{name}`"));
        self.report(fault.hint("quote texts that start with `!`"));
        true
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Box<Diagnostic>> {
        let Some(node) = self.anchors.get(&id).cloned() else {
            let message = "an alias cannot stand inside the value that it repeats";
            return Err(Box::new(Diagnostic::error(self.pointer(), span, message)));
        };
        self.alias_nodes += node.size;
        if self.alias_nodes > ALIAS_NODES_MAX {
            let message = format!("aliases add more than {ALIAS_NODES_MAX} values");
            return Err(Box::new(Diagnostic::error(self.pointer(), span, message)));
        }
        if self.stack.len() + node.height > limits::VALUE_DEPTH_MAX + 1 {
            return Err(Box::new(self.too_deep(span)));
        }
        if self.wants_key() {
            match node.text() {
                Some(text) => self.key(text.to_owned(), Style::Plain, span, 0),
                None => self.bad_key(span),
            }
            return Ok(());
        }
        self.insert(node, 0);
        Ok(())
    }

    fn object(&mut self) -> Option<&mut OpenObject> {
        match self.stack.last_mut() {
            Some((Open::Object(object), ..)) => Some(object),
            _ => None,
        }
    }

    fn wants_key(&mut self) -> bool {
        self.object().is_some_and(|o| o.key.is_none())
    }

    fn key(&mut self, text: String, style: Style, span: Span, anchor: usize) {
        if anchor > 0 {
            let node = Node::scalar(span, Data::Text(style), value::string(text.as_str()));
            self.anchors.insert(anchor, node);
        }
        if let Some(object) = self.object() {
            object.key = Some((text, span));
        }
    }

    fn bad_key(&mut self, span: Span) {
        let fault = Diagnostic::error(self.pointer(), span, "a key must be a text");
        self.report(fault.hint("quote keys that start with `{`, `[` or `*`"));
        if let Some(object) = self.object() {
            object.key = Some((String::new(), span));
            object.bad = true;
        }
    }

    fn insert(&mut self, node: Node, anchor: usize) {
        if self.wants_key() {
            return self.bad_key(node.span);
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some((Open::Array(items), ..)) => items.push(node),
            Some((Open::Object(object), ..)) => {
                if let Some((key, span)) = object.add(node) {
                    self.duplicate(&key, span);
                }
            }
        }
    }

    fn report(&mut self, fault: Diagnostic) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    fn duplicate(&mut self, key: &str, span: Span) {
        if self.faults.len() >= FAULTS_MAX {
            return;
        }
        let first = self
            .object()
            .and_then(|o| o.entries.iter().find(|e| e.key == key).map(|e| e.span));
        let first = first.unwrap_or_default();
        let pointer = At::ROOT.key(key, span).pointer();
        let fault = Diagnostic::error(self.pointer() + &pointer, span, format!("duplicate key `{key}`"));
        self.report(fault.hint(format!("it stands at {}:{} already", first.line, first.column)));
    }

    /// Pointer of the value that comes next.
    fn pointer(&self) -> String {
        let mut out = String::new();
        for (open, ..) in &self.stack {
            match open {
                Open::Array(items) => out.push_str(&format!("/{}", items.len())),
                Open::Object(object) => {
                    if let Some((key, span)) = &object.key {
                        out.push_str(&At::ROOT.key(key, *span).pointer());
                    }
                }
            }
        }
        out
    }
}

/// The core schema of YAML 1.2 for a plain scalar.
fn resolve(text: &str) -> Result<(Data, Value), String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok((Data::Null, Value::Null)),
        "true" | "True" | "TRUE" => return Ok((Data::Bool(true), Value::Bool(true))),
        "false" | "False" | "FALSE" => return Ok((Data::Bool(false), Value::Bool(false))),
        _ => {}
    }
    let number = |n: Num| (Data::Number, Value::Num(n));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !is_number {
        return Ok((Data::Text(Style::Plain), value::string(text)));
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return Err(format!("`{text}` is not a number that JSON knows"));
    }
    if let Some(n) = integer(text)? {
        return Ok(number(n));
    }
    if is_float(unsigned) {
        return match text.parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(number(Num::Float(n))),
            _ => Err(format!(
                "`{}` is too large for a number",
                super::node::excerpt(text)
            )),
        };
    }
    Ok((Data::Text(Style::Plain), value::string(text)))
}

fn integer(text: &str) -> Result<Option<Num>, String> {
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(hex), _) => (hex, 16),
        (_, Some(octal)) => (octal, 8),
        _ => (text.strip_prefix('+').unwrap_or(text), 10),
    };
    let bare = digits.strip_prefix('-').filter(|_| radix == 10).unwrap_or(digits);
    if bare.is_empty() || !bare.chars().all(|c| c.is_digit(radix)) {
        return Ok(None);
    }
    if bare.len() > NUMBER_DIGITS_MAX {
        return Err(format!("a number has at most {NUMBER_DIGITS_MAX} digits"));
    }
    Ok(Num::from_str_radix(digits, radix))
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(unsigned: &str) -> bool {
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['-', '+']).unwrap_or(e))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && whole.len() + fraction.len() > 0
        && exponent.is_none_or(|e| !e.is_empty() && digits(e))
}
