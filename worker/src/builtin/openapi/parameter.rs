//! Parameters and how their values are written: the styles of OpenAPI 3, the collection formats of Swagger 2.

use std::fmt::Write as _;

use serde_json::Value;

use super::argument::Argument;
use super::document::Version;

/// Where a parameter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

/// How a value with parts is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// `a,b`
    Simple,
    /// `.a.b`
    Label,
    /// `;name=a;name=b`
    Matrix,
    /// `name=a&name=b`, or with a separator `name=a,b`
    Form(&'static str),
    /// `name[key]=a`
    Deep,
    /// As JSON.
    Json,
}

/// A parameter as it is declared.
#[derive(Clone, Debug)]
pub(super) struct Parameter<'d> {
    pub(super) name: &'d str,
    pub(super) place: Place,
    pub(super) required: bool,
    style: Style,
    explode: bool,
    keeps_reserved: bool,
}

impl Place {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Cookie => "cookie",
        }
    }
}

impl<'d> Parameter<'d> {
    /// `None` for what goes into the body.
    pub(super) fn read(version: Version, value: &'d Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let truth = |key: &str| value.get(key).and_then(Value::as_bool);
        let place = match text("in")? {
            "path" => Place::Path,
            "query" => Place::Query,
            "header" => Place::Header,
            "cookie" => Place::Cookie,
            _ => return None,
        };
        let (style, explode) = match version {
            Version::V2 => collection(place, text("collectionFormat")),
            Version::V3 if value.get("content").is_some() => (Style::Json, false),
            Version::V3 => {
                let style = style(place, text("style"));
                (
                    style,
                    truth("explode").unwrap_or(matches!(style, Style::Form(",") | Style::Deep)),
                )
            }
        };
        Some(Self {
            name: text("name")?,
            place,
            required: truth("required").unwrap_or(place == Place::Path),
            style,
            explode,
            keeps_reserved: truth("allowReserved").unwrap_or(false),
        })
    }

    pub(super) fn in_path(&self, argument: &Argument) -> String {
        let e = |text: &str| encoded(text, false);
        let name = e(self.name);
        match (self.style, argument) {
            (Style::Json, _) => e(&json(argument)),
            (Style::Label, Argument::Scalar(text)) => format!(".{}", e(text)),
            (Style::Label, Argument::Array(items)) => {
                format!(
                    ".{}",
                    joined(items.iter().map(|i| e(i)), if self.explode { "." } else { "," })
                )
            }
            (Style::Label, Argument::Object(members)) => match self.explode {
                true => format!(
                    ".{}",
                    joined(members.iter().map(|(k, v)| format!("{}={}", e(k), e(v))), ".")
                ),
                false => format!(".{}", joined(flat(members).map(e), ",")),
            },
            (Style::Matrix, Argument::Scalar(text)) => format!(";{name}={}", e(text)),
            (Style::Matrix, Argument::Array(items)) => match self.explode {
                true => items.iter().map(|i| format!(";{name}={}", e(i))).collect(),
                false => format!(";{name}={}", joined(items.iter().map(|i| e(i)), ",")),
            },
            (Style::Matrix, Argument::Object(members)) => match self.explode {
                true => members
                    .iter()
                    .map(|(k, v)| format!(";{}={}", e(k), e(v)))
                    .collect(),
                false => format!(";{name}={}", joined(flat(members).map(e), ",")),
            },
            (Style::Simple | Style::Form(_) | Style::Deep, _) => self.simple(argument, e),
        }
    }

    pub(super) fn in_header(&self, argument: &Argument) -> String {
        match self.style {
            Style::Json => json(argument),
            _ => self.simple(argument, str::to_owned),
        }
    }

    /// Pairs of a query, encoded.
    pub(super) fn in_query(&self, argument: &Argument) -> Vec<String> {
        let e = |text: &str| encoded(text, self.keeps_reserved);
        let name = encoded(self.name, false);
        let pair = |value: String| format!("{name}={value}");
        match (self.style, argument) {
            (Style::Json, _) => vec![pair(e(&json(argument)))],
            (_, Argument::Scalar(text)) => vec![pair(e(text))],
            (Style::Deep, Argument::Object(members)) => {
                let member = |(k, v): &(String, String)| format!("{name}[{}]={}", e(k), e(v));
                members.iter().map(member).collect()
            }
            (_, Argument::Array(items)) if self.explode => items.iter().map(|i| pair(e(i))).collect(),
            (_, Argument::Object(members)) if self.explode => {
                let member = |(k, v): &(String, String)| format!("{}={}", encoded(k, false), e(v));
                members.iter().map(member).collect()
            }
            (style, Argument::Array(items)) => {
                vec![pair(joined(items.iter().map(|i| e(i)), separator(style)))]
            }
            (style, Argument::Object(members)) => vec![pair(joined(flat(members).map(e), separator(style)))],
        }
    }

    pub(super) fn in_cookie(&self, argument: &Argument) -> Vec<String> {
        self.in_query(argument)
    }

    fn simple(&self, argument: &Argument, e: impl Fn(&str) -> String) -> String {
        let separator = separator(self.style);
        match argument {
            Argument::Scalar(text) => e(text),
            Argument::Array(items) => joined(items.iter().map(|i| e(i)), separator),
            Argument::Object(members) if self.explode => joined(
                members.iter().map(|(k, v)| format!("{}={}", e(k), e(v))),
                separator,
            ),
            Argument::Object(members) => joined(flat(members).map(e), separator),
        }
    }
}

fn style(place: Place, named: Option<&str>) -> Style {
    match (named, place) {
        (Some("label"), _) => Style::Label,
        (Some("matrix"), _) => Style::Matrix,
        (Some("spaceDelimited"), _) => Style::Form("%20"),
        (Some("pipeDelimited"), _) => Style::Form("%7C"),
        (Some("deepObject"), _) => Style::Deep,
        (Some("simple"), _) | (_, Place::Path | Place::Header) => Style::Simple,
        (_, Place::Query | Place::Cookie) => Style::Form(","),
    }
}

/// Style and whether items are written one by one.
fn collection(place: Place, format: Option<&str>) -> (Style, bool) {
    match format {
        Some("multi") => (Style::Form(","), true),
        Some("ssv") => (Style::Form("%20"), false),
        Some("tsv") => (Style::Form("%09"), false),
        Some("pipes") => (Style::Form("%7C"), false),
        _ if matches!(place, Place::Query | Place::Cookie) => (Style::Form(","), false),
        _ => (Style::Simple, false),
    }
}

const fn separator(style: Style) -> &'static str {
    match style {
        Style::Form(separator) => separator,
        Style::Simple | Style::Label | Style::Matrix | Style::Deep | Style::Json => ",",
    }
}

fn joined(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}

/// Keys and values in turn.
fn flat(members: &[(String, String)]) -> impl Iterator<Item = &str> {
    members.iter().flat_map(|(k, v)| [k.as_str(), v.as_str()])
}

/// As JSON. What is a number or `true` in the definition was made a text here, so it is read back.
fn json(argument: &Argument) -> String {
    let value = |text: &String| match serde_json::from_str::<Value>(text) {
        Ok(value) if !value.is_string() => value,
        Ok(_) | Err(_) => Value::String(text.clone()),
    };
    match argument {
        Argument::Scalar(text) => value(text).to_string(),
        Argument::Array(items) => Value::Array(items.iter().map(value).collect()).to_string(),
        Argument::Object(members) => {
            Value::Object(members.iter().map(|(k, v)| (k.clone(), value(v))).collect()).to_string()
        }
    }
}

/// Percent-encodes all but unreserved characters, and reserved ones too if they are to be kept.
fn encoded(text: &str, keeps_reserved: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let reserved = b":/?[]@!$'()*,;".contains(&byte);
        if unreserved || keeps_reserved && reserved {
            out.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use millrace_common::RawJson;
    use serde_json::json;

    use super::*;

    fn written(declared: Value, argument: Value) -> String {
        let parameter = Parameter::read(Version::V3, &declared).unwrap();
        let argument = Argument::of(&RawJson::encode(&argument).unwrap());
        match parameter.place {
            Place::Path => parameter.in_path(&argument),
            Place::Header => parameter.in_header(&argument),
            Place::Query | Place::Cookie => parameter.in_query(&argument).join("&"),
        }
    }

    /// The table of styles in the OpenAPI specification, for the parameter `color`.
    #[test]
    fn styles_are_written_as_the_specification_shows() {
        let rgb = json!({"R": 100, "G": 200, "B": 150});
        let list = json!(["blue", "black", "brown"]);
        for (place, style, explode, argument, expected) in [
            ("path", "matrix", false, json!("blue"), ";color=blue"),
            ("path", "matrix", false, list.clone(), ";color=blue,black,brown"),
            (
                "path",
                "matrix",
                true,
                list.clone(),
                ";color=blue;color=black;color=brown",
            ),
            ("path", "matrix", false, rgb.clone(), ";color=R,100,G,200,B,150"),
            ("path", "matrix", true, rgb.clone(), ";R=100;G=200;B=150"),
            ("path", "label", false, json!("blue"), ".blue"),
            ("path", "label", false, list.clone(), ".blue,black,brown"),
            ("path", "label", true, list.clone(), ".blue.black.brown"),
            ("path", "label", false, rgb.clone(), ".R,100,G,200,B,150"),
            ("path", "label", true, rgb.clone(), ".R=100.G=200.B=150"),
            ("path", "simple", false, json!("blue"), "blue"),
            ("path", "simple", false, list.clone(), "blue,black,brown"),
            ("path", "simple", false, rgb.clone(), "R,100,G,200,B,150"),
            ("path", "simple", true, rgb.clone(), "R=100,G=200,B=150"),
            ("header", "simple", true, list.clone(), "blue,black,brown"),
            ("query", "form", false, json!("blue"), "color=blue"),
            ("query", "form", false, list.clone(), "color=blue,black,brown"),
            (
                "query",
                "form",
                true,
                list.clone(),
                "color=blue&color=black&color=brown",
            ),
            ("query", "form", false, rgb.clone(), "color=R,100,G,200,B,150"),
            ("query", "form", true, rgb.clone(), "R=100&G=200&B=150"),
            (
                "query",
                "spaceDelimited",
                false,
                list.clone(),
                "color=blue%20black%20brown",
            ),
            (
                "query",
                "pipeDelimited",
                false,
                list.clone(),
                "color=blue%7Cblack%7Cbrown",
            ),
            (
                "query",
                "deepObject",
                true,
                rgb.clone(),
                "color[R]=100&color[G]=200&color[B]=150",
            ),
            ("cookie", "form", false, json!("blue"), "color=blue"),
        ] {
            let declared = json!({"name": "color", "in": place, "style": style, "explode": explode});
            assert_eq!(written(declared, argument), expected, "{place} {style} {explode}");
        }
    }

    #[test]
    fn defaults_depend_on_the_place() {
        let list = json!(["a b", "c/d"]);
        let of = |place: &str| json!({"name": "x", "in": place});
        assert_eq!(written(of("query"), list.clone()), "x=a%20b&x=c%2Fd");
        assert_eq!(written(of("path"), list.clone()), "a%20b,c%2Fd");
        assert_eq!(written(of("header"), list), "a b,c/d");
        let reserved = json!({"name": "x", "in": "query", "allowReserved": true});
        assert_eq!(written(reserved, json!("/a?b&c")), "x=/a?b%26c");
        let content = json!({"name": "x", "in": "query", "content": {"application/json": {}}});
        assert_eq!(written(content, json!({"n": 1.50})), "x=%7B%22n%22%3A1.5%7D");
        assert_eq!(
            written(of("query"), json!(12345678901234567890_u64)),
            "x=12345678901234567890"
        );
    }

    #[test]
    fn collections_of_swagger_2_are_written() {
        let list = Argument::Array(vec!["a".into(), "b".into()]);
        for (format, expected) in [
            (json!(null), "x=a,b"),
            (json!("csv"), "x=a,b"),
            (json!("ssv"), "x=a%20b"),
            (json!("tsv"), "x=a%09b"),
            (json!("pipes"), "x=a%7Cb"),
            (json!("multi"), "x=a&x=b"),
        ] {
            let declared = json!({"name": "x", "in": "query", "type": "array", "collectionFormat": format});
            let parameter = Parameter::read(Version::V2, &declared).unwrap();
            assert_eq!(parameter.in_query(&list).join("&"), expected);
        }
        let body = json!({"name": "x", "in": "body"});
        assert!(Parameter::read(Version::V2, &body).is_none());
    }
}
