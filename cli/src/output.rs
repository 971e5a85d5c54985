//! What is printed on stdout: tables for people, JSON and YAML for programs.

use std::io::Write;

use serde_json::Value;

use crate::args::Format;
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal::Style;

/// Writes a text and a line end to stdout. A reader that went away ends the command quietly.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Failure::new(Exit::Failed, format!("cannot write to stdout: {e}"))),
    }
}

/// Prints a value in the form asked for; `table` makes the form for people.
pub(crate) fn show(format: Format, value: &Value, table: impl FnOnce(&Value) -> String) -> Outcome {
    match format {
        Format::Table => print(table(value).trim_end()),
        Format::Json => print(&serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?),
        Format::Yaml => print(yaml(value).trim_end()),
    }
}

/// A table with a heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    style: Style,
}

impl Table {
    /// With these columns.
    pub(crate) fn new<const N: usize>(columns: [&str; N]) -> Self {
        Self {
            rows: vec![columns.iter().map(|c| (*c).to_owned()).collect()],
            style: Style::stdout(),
        }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The text; `empty` when there is no row.
    pub(crate) fn text(&self, empty: &str) -> String {
        if self.rows.len() == 1 {
            return empty.to_owned();
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows
                .iter()
                .filter_map(|r| r.get(c))
                .map(|t| shown(t))
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            let line = aligned(row, &widths);
            text += &if i == 0 { self.style.bold(&line) } else { line };
            text.push('\n');
        }
        text
    }
}

/// `name: value` lines.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let line = |(name, value): &(&str, String)| {
        let indented = value.trim_end().replace('\n', &format!("\n{:width$} ", ""));
        format!("{:width$} {indented}\n", format!("{name}:"))
    };
    pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(line)
        .collect()
}

/// A member of a JSON object as a short text; empty when it is not there.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The items of a list that the API answered.
pub(crate) fn items(value: &Value) -> &[Value] {
    value["items"].as_array().map_or(&[], Vec::as_slice)
}

fn aligned(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        line += cell;
        line += &" ".repeat(width - shown(cell) + 2);
    }
    line.trim_end().to_owned()
}

/// Width on the screen: characters without colour codes.
fn shown(text: &str) -> usize {
    let (mut count, mut escaped) = (0, false);
    for c in text.chars() {
        match (escaped, c) {
            (false, '\x1b') => escaped = true,
            (true, 'm') => escaped = false,
            (true, _) => {}
            (false, _) => count += 1,
        }
    }
    count
}

/// YAML of a JSON value. Texts that YAML would read as something else are quoted as in JSON, which is YAML too.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    write_yaml(value, 0, &mut out);
    out
}

fn write_yaml(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (i, (key, member)) in members.iter().enumerate() {
                if i > 0 {
                    *out += &" ".repeat(indent);
                }
                *out += &scalar(key);
                out.push(':');
                write_member(member, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    *out += &" ".repeat(indent);
                }
                *out += "- ";
                write_yaml(item, indent + 2, out);
            }
        }
        Value::String(text) => *out += &(scalar(text) + "\n"),
        other => *out += &format!("{other}\n"),
    }
}

fn write_member(member: &Value, indent: usize, out: &mut String) {
    match member {
        Value::Object(m) if !m.is_empty() => *out += &format!("\n{}", " ".repeat(indent)),
        Value::Array(a) if !a.is_empty() => *out += &format!("\n{}", " ".repeat(indent)),
        Value::String(text) if text.contains('\n') && is_block(text) => {
            *out += if text.ends_with('\n') { " |\n" } else { " |-\n" };
            for line in text.lines() {
                *out += &if line.is_empty() {
                    "\n".to_owned()
                } else {
                    format!("{}{line}\n", " ".repeat(indent))
                };
            }
            return;
        }
        _ => out.push(' '),
    }
    write_yaml(member, indent, out);
}

/// A text that a block scalar holds as it is.
fn is_block(text: &str) -> bool {
    let printable = text.chars().all(|c| !c.is_control() || c == '\n');
    printable && !text.starts_with([' ', '\n']) && !text.ends_with("\n\n")
}

fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@ ()".contains(c);
    let starts = text
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let safe = starts
        && text.chars().all(plain)
        && !text.ends_with(' ')
        && !word.contains(&text.to_ascii_lowercase().as_str());
    if safe {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_quotes_what_would_be_read_as_something_else() {
        let value = json!({
            "name": "hello", "version": "1.0.0", "yes": "yes", "n": 1, "none": null, "empty": {}, "list": [],
            "nested": {"items": [{"a": 1, "b": [true, "x: y"]}, [1, [2]]]}, "text": "one\n  two\n", "odd": "- x",
            "tail": "a\nb", "spaces": " x"
        });
        let text = yaml(&value);
        assert!(text.starts_with("name: hello\nversion: \"1.0.0\"\n\"yes\": \"yes\"\n\"n\": 1\nnone: null\nempty: {}\nlist: []\n"), "{text}");
        assert!(text.contains("nested:\n  items:\n    - a: 1\n      b:\n        - true\n        - \"x: y\"\n    - - 1\n      - - 2\n"), "{text}");
        assert!(
            text.contains("text: |\n  one\n    two\nodd: \"- x\"\ntail: |-\n  a\n  b\nspaces: \" x\"\n"),
            "{text}"
        );
    }

    #[test]
    fn columns_are_aligned_without_counting_colours() {
        let mut table = Table {
            rows: vec![vec!["ID".into(), "STATUS".into()]],
            style: Style::plain(),
        };
        table.row(["long-id".into(), "\x1b[32mcompleted\x1b[0m".into()]);
        table.row(["a".into(), "x".into()]);
        assert_eq!(
            table.text("none"),
            "ID       STATUS\nlong-id  \x1b[32mcompleted\x1b[0m\na        x\n"
        );
        assert_eq!(Table::new(["A"]).text("nothing"), "nothing");
    }

    #[test]
    fn empty_fields_are_left_out() {
        assert_eq!(
            fields(&[("a", "1".into()), ("long", String::new()), ("bc", "x\ny".into())]),
            "a:    1\nbc:   x\n      y\n"
        );
    }
}
