//! `evaluate.mode: loose`: every text is tried as an expression, and stays a text when that fails.

use super::core::Parser;
use super::node::{At, Node, excerpt};
use super::scope::Vars;
use crate::template::Template;
use crate::value;

impl Parser<'_> {
    /// A text that is no `${ … }` as a whole. `${ … }` within it is filled in; any other text is evaluated if it compiles.
    /// What raises an error when it is evaluated stays as it is written.
    pub(super) fn loose_template(&mut self, node: &Node, text: &str, at: &At<'_>, vars: &Vars) -> Template {
        let literal = || Template::Literal(node.value.clone());
        let source = match interpolation(text) {
            Some(source) => source,
            None if text.contains("${") => {
                let fault = at.warning_in(node, "`${` is never closed, the text is taken as it is");
                self.report(fault.hint("add the closing `}`"));
                return literal();
            }
            None if text.trim().is_empty() => return literal(),
            None => text.to_owned(),
        };
        let Ok(expression) = self.compiled(&source, vars) else {
            return literal();
        };
        self.check_variables(&expression, node, at, 0, vars);
        if text.chars().all(|c| c.is_alphanumeric() || c == '_') {
            let message = format!("`{}` is evaluated: the mode is loose", excerpt(text));
            let hint = format!("write `${{ \"{text}\" }}` for the text itself");
            self.report(at.warning_in(node, message).hint(hint));
        }
        Template::Expression(expression.or(node.value.clone()))
    }
}

/// A text with `${ … }` in it as one jq string; `None` when it has none, or one that is never closed.
fn interpolation(text: &str) -> Option<String> {
    let mut source = String::from("\"");
    let mut rest = text;
    let mut found = false;
    while let Some((before, after)) = rest.split_once("${") {
        let end = closing(after)?;
        source.push_str(&quoted(before));
        source.push_str("\\(");
        source.push_str(&after[..end]);
        source.push(')');
        rest = &after[end + 1..];
        found = true;
    }
    source.push_str(&quoted(rest));
    source.push('"');
    found.then_some(source)
}

/// A text as the inside of a jq string.
fn quoted(text: &str) -> String {
    let json = value::to_json_string(&value::string(text));
    json[1..json.len() - 1].to_owned()
}

/// Where the `}` is that closes an expression; braces and texts inside of it are passed over.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => in_text = !in_text,
            '{' if !in_text => depth += 1,
            '}' if !in_text && depth == 0 => return Some(at),
            '}' if !in_text => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::interpolation;

    #[test]
    fn texts_become_jq_strings() {
        assert_eq!(
            interpolation("Hi ${ .name }!").as_deref(),
            Some(r#""Hi \( .name )!""#)
        );
        assert_eq!(
            interpolation(r#"a "b" \( ${ {x: "}"} | .x } ${.y}"#).as_deref(),
            Some(r#""a \"b\" \\( \( {x: "}"} | .x ) \(.y)""#)
        );
        assert_eq!(interpolation("plain"), None);
        assert_eq!(interpolation("open ${ .x"), None);
    }
}
