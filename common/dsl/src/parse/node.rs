//! The intermediate tree: what a YAML or JSON text says, with the place of every key and value.

use crate::{Diagnostic, Span, Value, value};

/// How a text was written; decides how an offset into it maps to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Single,
    Double,
    Literal,
    Folded,
}

/// A value of the source.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it starts. For a block scalar the first line of its text.
    pub(super) span: Span,
    /// What it is.
    pub(super) data: Data,
    /// The same as plain data.
    pub(super) value: Value,
    /// Levels of nesting below and including this one.
    pub(super) height: usize,
    /// Nodes in this subtree.
    pub(super) size: usize,
}

/// See [`Node`]. Scalars are kept in [`Node::value`] only.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Null,
    Bool(bool),
    Number,
    Text(Style),
    Array(Vec<Node>),
    Object(Vec<Entry>),
}

/// A member of an object.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands.
    pub(super) span: Span,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn scalar(span: Span, data: Data, value: Value) -> Self {
        Self {
            span,
            data,
            value,
            height: 1,
            size: 1,
        }
    }

    pub(super) fn array(span: Span, items: Vec<Self>) -> Self {
        let value = items.iter().map(|n| n.value.clone()).collect();
        let (height, size) = measure(items.iter());
        Self {
            span,
            data: Data::Array(items),
            value,
            height,
            size,
        }
    }

    pub(super) fn object(span: Span, entries: Vec<Entry>) -> Self {
        let members = entries
            .iter()
            .map(|e| (value::string(e.key.as_str()), e.node.value.clone()));
        let value = Value::obj(members.collect());
        let (height, size) = measure(entries.iter().map(|e| &e.node));
        Self {
            span,
            data: Data::Object(entries),
            value,
            height,
            size,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        value::as_str(&self.value)
    }

    pub(super) fn items(&self) -> Option<&[Self]> {
        match &self.data {
            Data::Array(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn entries(&self) -> Option<&[Entry]> {
        match &self.data {
            Data::Object(entries) => Some(entries),
            _ => None,
        }
    }

    /// The member of that name, if this is an object that has one.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|e| e.key == key)
    }

    /// The integer, if it is one that fits.
    pub(super) fn integer(&self) -> Option<i64> {
        match &self.value {
            Value::Num(n) => n.as_isize().and_then(|n| i64::try_from(n).ok()),
            _ => None,
        }
    }

    /// What it is, for "found …".
    pub(super) fn describe(&self) -> String {
        match &self.data {
            Data::Null => "nothing".into(),
            Data::Bool(b) => format!("the boolean `{b}`"),
            Data::Number => format!("the number `{}`", self.value),
            Data::Text(_) => format!("the text `{}`", excerpt(self.text().unwrap_or_default())),
            Data::Array(_) => "a list".into(),
            Data::Object(_) => "an object".into(),
        }
    }
}

fn measure<'n>(children: impl Iterator<Item = &'n Node>) -> (usize, usize) {
    children.fold((1, 1), |(height, size), n| {
        (height.max(n.height + 1), size + n.size)
    })
}

/// The first line of a text, at most 60 characters.
pub(super) fn excerpt(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut out: String = line.chars().take(60).collect();
    if out.len() < text.trim_end().len() {
        out.push('…');
    }
    out
}

/// Where the parser is: the path from the root, and the place of the key (or list item) that led here. Lives on the
/// stack; the JSON Pointer is only written when it is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
    /// Where the key stands, or the item starts.
    pub(super) span: Span,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The whole document.
    pub(super) const ROOT: At<'static> = At {
        parent: None,
        step: Step::Root,
        span: Span { line: 1, column: 1 },
    };

    pub(super) const fn key(&'a self, key: &'a str, span: Span) -> Self {
        Self {
            parent: Some(self),
            step: Step::Key(key),
            span,
        }
    }

    pub(super) const fn entry(&'a self, entry: &'a Entry) -> Self {
        Self {
            parent: Some(self),
            step: Step::Key(entry.key.as_str()),
            span: entry.span,
        }
    }

    pub(super) const fn index(&'a self, index: usize, node: &Node) -> Self {
        Self {
            parent: Some(self),
            step: Step::Index(index),
            span: node.span,
        }
    }

    /// The place of another member of the same object.
    pub(super) const fn sibling(&self, entry: &'a Entry) -> Self {
        Self {
            parent: self.parent,
            step: Step::Key(entry.key.as_str()),
            span: entry.span,
        }
    }

    /// The place of the value rather than of its key.
    pub(super) const fn on(&self, node: &Node) -> Self {
        Self {
            span: node.span,
            ..*self
        }
    }

    /// The JSON Pointer.
    pub(super) fn pointer(&self) -> String {
        let mut out = self.parent.map(At::pointer).unwrap_or_default();
        match self.step {
            Step::Root => {}
            Step::Key(key) => {
                out.push('/');
                out.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Step::Index(index) => {
                out.push('/');
                out.push_str(&index.to_string());
            }
        }
        out
    }

    /// The last key on the path.
    pub(super) fn name(&self) -> &str {
        match self.step {
            Step::Key(key) => key,
            _ => self.parent.map_or("", |p| p.name()),
        }
    }

    /// Where a value stands; for an empty one, its key.
    pub(super) const fn place(&self, node: &Node) -> Span {
        match node.data {
            Data::Null => self.span,
            _ => node.span,
        }
    }

    /// A fault of the key.
    pub(super) fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.pointer(), self.span, message)
    }

    /// A fault of the value.
    pub(super) fn error_in(&self, node: &Node, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.pointer(), self.place(node), message)
    }

    /// A remark on the key.
    pub(super) fn warning(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(self.pointer(), self.span, message)
    }

    /// A remark on the value.
    pub(super) fn warning_in(&self, node: &Node, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(self.pointer(), self.place(node), message)
    }
}
