//! The text of a definition, and the way from an offset in one of its values back to line and column.

use std::borrow::Cow;

use saphyr_parser::Marker;

use super::node::{Data, Node, Style};
use crate::Span;

/// A definition's text.
#[derive(Debug)]
pub(super) struct Source<'a> {
    text: Cow<'a, str>,
    lines: Vec<usize>,
    changes: Vec<Change>,
}

/// Where characters were taken out of a line, in order of the text.
#[derive(Clone, Copy, Debug)]
struct Change {
    line: u32,
    /// Of the character that came in place of them, in the changed text, from 1.
    column: u32,
    /// Characters taken out of the line up to here.
    taken: u32,
}

impl<'a> Source<'a> {
    /// JSON texts may write characters above U+FFFF as two escapes, which YAML does not know: those are replaced
    /// by the character, and remembered for the columns.
    pub(super) fn new(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (text, changes) = match text.trim_start().starts_with('{') && text.contains("\\u") {
            true => join_surrogates(text),
            false => (Cow::Borrowed(text), Vec::new()),
        };
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(i, _)| i + 1))
            .collect();
        Self { text, lines, changes }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A marker of the YAML parser as a place.
    pub(super) fn span(&self, marker: &Marker) -> Span {
        self.original(line_column(marker.line(), marker.col() + 1))
    }

    /// From the changed text to the text as it was given.
    fn original(&self, span: Span) -> Span {
        let after = self
            .changes
            .partition_point(|c| (c.line, c.column) < (span.line, span.column));
        Span {
            column: span.column + self.taken(span.line, after),
            ..span
        }
    }

    /// From the text as it was given to the changed text.
    fn changed(&self, span: Span) -> Span {
        let before = |c: &Change| (c.line, c.column + c.taken) < (span.line, span.column);
        let after = self.changes.partition_point(before);
        Span {
            column: span.column - self.taken(span.line, after),
            ..span
        }
    }

    fn taken(&self, line: u32, after: usize) -> u32 {
        let last = after.checked_sub(1).and_then(|i| self.changes.get(i));
        last.filter(|c| c.line == line).map_or(0, |c| c.taken)
    }

    /// The place of a byte of a text value. Exact for plain and quoted scalars and for literal blocks; for folded
    /// blocks with indented parts it may be off within the line.
    pub(super) fn place(&self, node: &Node, offset: usize) -> Span {
        let Data::Text(style) = node.data else {
            return node.span;
        };
        let text = node.text().unwrap_or_default();
        if style == Style::Literal {
            return literal_place(node.span, text, offset);
        }
        let start = self.start(node.span);
        let rest = self.text.get(start..).unwrap_or_default();
        let read = match style {
            Style::Single => quoted(rest, '\'', offset),
            Style::Double => quoted(rest, '"', offset),
            Style::Plain | Style::Literal => flow(rest, offset, None, 0),
            Style::Folded => flow(rest, offset, None, node.span.column as usize - 1),
        };
        self.original(self.span_at(start + read))
    }

    /// Byte offset of a place, past an anchor or tag that stands there.
    fn start(&self, span: Span) -> usize {
        let span = self.changed(span);
        let line = self
            .lines
            .get(span.line as usize - 1)
            .copied()
            .unwrap_or_default();
        let rest = self.text.get(line..).unwrap_or_default();
        let column = span.column as usize - 1;
        let mut start = line + rest.char_indices().nth(column).map_or(rest.len(), |(i, _)| i);
        while self.text[start..].starts_with(['&', '!']) {
            let rest = &self.text[start..];
            let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
            start += rest.len() - rest[word..].trim_start().len();
        }
        start
    }

    fn span_at(&self, byte: usize) -> Span {
        let line = self.lines.partition_point(|start| *start <= byte);
        let start = self
            .lines
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or_default();
        line_column(
            line,
            self.text.get(start..byte).unwrap_or_default().chars().count() + 1,
        )
    }
}

fn line_column(line: usize, column: usize) -> Span {
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Span {
        line: narrow(line),
        column: narrow(column),
    }
}

/// `start` is the first line with text; empty lines before it belong to the value.
fn literal_place(start: Span, text: &str, offset: usize) -> Span {
    let leading = text.bytes().take_while(|b| *b == b'\n').count();
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let breaks = before.matches('\n').count();
    let last = before.rsplit('\n').next().unwrap_or_default().chars().count();
    let line = (start.line as usize + breaks).saturating_sub(leading);
    line_column(line, start.column as usize + last)
}

/// Bytes of a quoted scalar's source that stand before a byte of its value.
fn quoted(source: &str, quote: char, offset: usize) -> usize {
    match source.strip_prefix(quote) {
        Some(rest) => 1 + flow(rest, offset, Some(quote), 0),
        None => 0,
    }
}

/// Reads the source of a scalar until it made `offset` bytes of value, folding line breaks as YAML does.
fn flow(source: &str, offset: usize, quote: Option<char>, indent: usize) -> usize {
    let (mut read, mut made) = (0, 0);
    while made < offset && read < source.len() {
        let rest = &source[read..];
        let (taken, given) = match fold(rest, indent) {
            Some(folded) => folded,
            None => unit(rest, quote),
        };
        if made + given > offset && given > 1 {
            break;
        }
        read += taken;
        made += given;
    }
    read
}

/// White space with a line break: bytes taken and bytes of value it stands for.
fn fold(rest: &str, indent: usize) -> Option<(usize, usize)> {
    let space = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    let breaks = rest[..space].matches('\n').count();
    if breaks == 0 {
        return None;
    }
    let taken = match indent {
        0 => space,
        _ => (rest[..space].rfind('\n').unwrap_or_default() + 1 + indent).min(space),
    };
    Some((taken, (breaks - 1).max(1)))
}

/// One character or escape: bytes taken and bytes of value.
fn unit(rest: &str, quote: Option<char>) -> (usize, usize) {
    let mut chars = rest.chars();
    let first = chars.next().map_or(1, char::len_utf8);
    match (quote, chars.next()) {
        (Some('\''), Some('\'')) if rest.starts_with('\'') => (2, 1),
        (Some('"'), Some(escape)) if rest.starts_with('\\') => match escape {
            'x' | 'u' | 'U' => hex_escape(rest, escape),
            '\n' => (rest.len() - rest[2..].trim_start().len(), 0),
            'N' | '_' => (2, 2),
            'L' | 'P' => (2, 3),
            other => (1 + other.len_utf8(), 1),
        },
        _ => (first, first),
    }
}

fn hex_escape(rest: &str, escape: char) -> (usize, usize) {
    let digits = match escape {
        'x' => 2,
        'u' => 4,
        _ => 8,
    };
    let code = rest
        .get(2..2 + digits)
        .and_then(|d| u32::from_str_radix(d, 16).ok());
    (
        2 + digits,
        code.and_then(char::from_u32).map_or(1, char::len_utf8),
    )
}

fn join_surrogates(text: &str) -> (Cow<'_, str>, Vec<Change>) {
    let (mut out, mut changes) = (String::with_capacity(text.len()), Vec::<Change>::new());
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let (mut rest, mut column, mut taken) = (line, 1, 0);
        while let Some(at) = rest.find('\\') {
            let (before, tail) = rest.split_at(at);
            out.push_str(before);
            column += u32::try_from(before.chars().count()).unwrap_or(u32::MAX);
            let read = match surrogate_pair(tail) {
                Some(c) => {
                    taken += 11;
                    changes.push(Change {
                        line: number,
                        column,
                        taken,
                    });
                    out.push(c);
                    column += 1;
                    12
                }
                None => {
                    let end = tail.char_indices().nth(2).map_or(tail.len(), |(i, _)| i);
                    out.push_str(&tail[..end]);
                    column += 2;
                    end
                }
            };
            rest = &tail[read..];
        }
        out.push_str(rest);
    }
    match changes.is_empty() {
        true => (Cow::Borrowed(text), changes),
        false => (Cow::Owned(out), changes),
    }
}

fn surrogate_pair(text: &str) -> Option<char> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    char::decode_utf16([unit(0)?, unit(6)?])
        .next()?
        .ok()
        .filter(|c| *c > '\u{ffff}')
}
