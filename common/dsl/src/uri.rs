//! URI templates: RFC 6570, simple expansion only, as the language asks for.
//!
//! A variable is a top-level member of the data, its name taken verbatim: `{pet.id}` is the member `pet.id`.

use jaq_json::Val;
use millrace_common::{ErrorKind, Problem};

use crate::expression::percent_encode;
use crate::{Value, value};

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriTemplate {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Names of one pair of braces; values are joined by commas.
    Variables(Vec<String>),
}

impl UriTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// Byte offset and what is wrong there.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(open) = text[at..].find(['{', '}']).map(|i| at + i) {
            if text[open..].starts_with('}') {
                return Err((open, "`}` closes no variable".into()));
            }
            let close = text[open..].find('}').map(|i| open + i);
            let close = close.ok_or_else(|| (open, "`{` is not closed".to_owned()))?;
            parts.push(Part::Text(text[at..open].to_owned()));
            parts.push(Part::Variables(names(&text[open + 1..close], open + 1)?));
            at = close + 1;
        }
        parts.push(Part::Text(text[at..].to_owned()));
        parts.retain(|p| *p != Part::Text(String::new()));
        Ok(Self {
            source: text.to_owned(),
            parts,
        })
    }

    /// The text of the template.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Fills the template from the top-level members of the data. Values are percent-encoded, except for
    /// unreserved characters; a missing member or `null` is empty.
    ///
    /// # Errors
    /// An `expression` problem when a value is an array or object.
    pub fn expand(&self, input: &Value) -> Result<String, Problem> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variables(names) => self.variables(names, input, &mut out)?,
            }
        }
        Ok(out)
    }

    /// The jq expression that does what [`Self::expand`] does with its input.
    pub fn as_expression(&self) -> String {
        let quoted = |text: &str| value::to_json_string(&value::string(text));
        let part = |part: &Part| match part {
            Part::Text(text) => quoted(text),
            Part::Variables(names) => {
                let members: Vec<String> = names.iter().map(|name| format!(".[{}]?", quoted(name))).collect();
                let fault = quoted(&format!("a variable in `{}` must be a scalar", self.source));
                format!(
                    "([{}] | map(values | if type == \"array\" or type == \"object\" then error({fault}) else \
                     (tostring | @uri) end) | join(\",\"))",
                    members.join(", ")
                )
            }
        };
        match self.parts.as_slice() {
            [] => quoted(""),
            parts => parts.iter().map(part).collect::<Vec<_>>().join(" + "),
        }
    }

    fn variables(&self, names: &[String], input: &Value, out: &mut String) -> Result<(), Problem> {
        let mut separator = "";
        for name in names {
            let text = match value::get(input, name) {
                None | Some(Val::Null) => continue,
                Some(Val::TStr(text)) => String::from_utf8_lossy(text).into_owned(),
                Some(scalar @ (Val::Bool(_) | Val::Num(_))) => value::to_json_string(scalar),
                Some(other) => return Err(self.not_scalar(name, other)),
            };
            out.push_str(separator);
            percent_encode(&text, out);
            separator = ",";
        }
        Ok(())
    }

    fn not_scalar(&self, name: &str, v: &Value) -> Problem {
        let (kind, shown) = (value::type_name(v), value::excerpt(v, 40));
        let detail = format!(
            "`{{{name}}}` in `{}` must be a scalar, but is an {kind}: {shown}",
            self.source
        );
        Problem::new(ErrorKind::Expression, detail)
    }
}

fn names(inside: &str, offset: usize) -> Result<Vec<String>, (usize, String)> {
    if let Some(operator) = inside.chars().next().filter(|c| "+#./;?&=,!@|".contains(*c)) {
        return Err((
            offset,
            format!("the operator `{operator}` is not supported, only simple variables are"),
        ));
    }
    let mut at = offset;
    let mut names = Vec::new();
    for name in inside.split(',') {
        if name.is_empty() {
            return Err((at, "a variable has no name".into()));
        }
        if let Some(bad) =
            name.find(|c: char| c.is_whitespace() || c.is_control() || "{}\"<>\\^`|:*$".contains(c))
        {
            let shown = name[bad..].chars().next().unwrap_or_default();
            let hint = if shown == '$' {
                "; variables are top-level members of the input"
            } else {
                ""
            };
            return Err((at + bad, format!("`{shown}` cannot stand in a variable{hint}")));
        }
        names.push(name.to_owned());
        at += name.len() + 1;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str =
        r#"{"id":7,"pet.id":"a/b","name":"Ä ?&x","flag":true,"none":null,"tags":["a"],"o":{}}"#;

    fn expand(template: &str) -> Result<String, Problem> {
        UriTemplate::parse(template)
            .unwrap()
            .expand(&value::parse(DATA).unwrap())
    }

    #[test]
    fn variables_are_filled_in_and_encoded() {
        for (template, expected) in [
            ("https://x.y/pets/{id}", "https://x.y/pets/7"),
            ("/pets/{pet.id}/{name}", "/pets/a%2Fb/%C3%84%20%3F%26x"),
            ("/{flag}/{missing}/{none}/", "/true///"),
            ("/{id,flag,missing,pet.id}", "/7,true,a%2Fb"),
            ("/plain%20text?q=1", "/plain%20text?q=1"),
            ("{id}{id}", "77"),
            ("", ""),
        ] {
            assert_eq!(expand(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn the_expression_does_the_same() {
        use crate::expression::{EvalEnv, Expression, Scope};
        let data = value::parse(DATA).unwrap();
        for template in [
            "https://x.y/{id}",
            "/{pet.id}/{name}",
            "/{flag}/{missing}/{none}/",
            "/{id,flag,missing}",
            "",
            "\\(.id)",
        ] {
            let template = UriTemplate::parse(template).unwrap();
            let source = template.as_expression();
            let expression = Expression::compile(&source, &Scope::default()).unwrap();
            let found = expression.evaluate(&data, &[], &EvalEnv::at(0)).unwrap();
            assert_eq!(
                value::as_str(&found),
                Some(template.expand(&data).unwrap().as_str()),
                "{source}"
            );
            let empty = expression
                .evaluate(&value::number_i64(1), &[], &EvalEnv::at(0))
                .unwrap();
            assert_eq!(
                value::as_str(&empty),
                Some(template.expand(&value::number_i64(1)).unwrap().as_str()),
                "{source}"
            );
        }
        let source = UriTemplate::parse("/{tags}").unwrap().as_expression();
        let expression = Expression::compile(&source, &Scope::default()).unwrap();
        assert!(expression.evaluate(&data, &[], &EvalEnv::at(0)).is_err());
    }

    #[test]
    fn only_scalars_fit() {
        for template in ["/{tags}", "/{o}"] {
            let problem = expand(template).unwrap_err();
            assert_eq!(problem.standard(), Some(ErrorKind::Expression));
            assert!(problem.detail.unwrap().contains("must be a scalar"));
        }
        assert_eq!(
            UriTemplate::parse("/{a}")
                .unwrap()
                .expand(&value::number_i64(1))
                .unwrap(),
            "/"
        );
    }

    #[test]
    fn faults_of_templates_have_a_place() {
        for (template, offset, reason) in [
            ("/{id", 1, "not closed"),
            ("/id}", 3, "closes no variable"),
            ("/{}", 2, "no name"),
            ("/{a,}", 4, "no name"),
            ("/{+path}", 2, "operator `+`"),
            ("/{?q}", 2, "operator `?`"),
            ("/{a*}", 3, "`*` cannot stand"),
            ("/{a:3}", 3, "`:` cannot stand"),
            ("/{ a}", 2, "` ` cannot stand"),
            ("/{$context}", 2, "top-level members"),
            ("/{a{b}}", 3, "`{` cannot stand"),
        ] {
            let (at, message) = UriTemplate::parse(template).unwrap_err();
            assert!(
                at == offset && message.contains(reason),
                "{template}: {at} {message}"
            );
        }
    }

    #[test]
    fn the_source_is_kept() {
        assert_eq!(UriTemplate::parse("/{id}").unwrap().source(), "/{id}");
    }
}
