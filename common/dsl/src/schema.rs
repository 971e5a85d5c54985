//! JSON Schemas of `input`, `output` and `export`.
//!
//! A schema is a tenant's program too: a few kilobytes of `allOf`, `$ref` and `pattern` can ask for more work than
//! anyone has. So the validator sees our values through [`instance`], which reports every access to the meter that
//! also bounds expressions. References stay within the document; patterns run on the linear engine.

mod instance;

use std::fmt::{self, Write};

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use millrace_common::{ErrorKind, Problem, limits};
use serde_json::Value as Json;

use self::instance::{Instance, Metered, Prices};
use crate::expression::meter;
use crate::{Value, value};

/// Failures listed in a problem, and bytes of each.
const FAILURES_MAX: usize = 10;
const FAILURE_BYTES: usize = 240;

/// Fuel for finding out what is wrong, after it is clear that something is.
const EXPLAIN_FUEL: u64 = limits::EXPRESSION_FUEL_MAX / 2;

/// Compiled size of one pattern, in bytes, and of its cache.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
const PATTERN_CACHE_BYTES_MAX: usize = 1024 * 1024;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    document: Value,
    validator: Validator<Metered>,
    prices: Prices,
}

impl Schema {
    /// Compiles a schema document. `format` is `json` (the draft is that of `$schema`, else 2020-12) or
    /// `json:<draft>` with one of `2020-12`, `2019-09`, `draft-07`, `draft-06` and `draft-04`.
    ///
    /// Whether `format` inside the schema is asserted depends on the draft, as JSON Schema says.
    ///
    /// # Errors
    /// What is wrong with it: not a schema, a reference to another document or to nothing, a pattern that the
    /// linear engine does not support, an unknown format.
    pub fn compile(document: &Value, format: &str) -> Result<Self, String> {
        let built = meter::run(&mut limits::EXPRESSION_FUEL_MAX.clone(), || {
            build(&value::to_serde(document), format)
        });
        let built = built.map_err(|fault| format!("the schema cannot be compiled: {}", fault.text()))?;
        let (validator, prices) = built?;
        Ok(Self {
            document: document.clone(),
            validator,
            prices,
        })
    }

    /// The document that was compiled.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Validates a value.
    ///
    /// # Errors
    /// A `validation` problem; its detail lists up to ten failures as `pointer: message`, one a line. Also when
    /// validating needs more than `limits::EXPRESSION_FUEL_MAX` steps.
    pub fn validate(&self, v: &Value) -> Result<(), Problem> {
        let valid = || self.validator.is_valid(Instance::new(v, self.prices));
        match meter::run(&mut limits::EXPRESSION_FUEL_MAX.clone(), valid) {
            Ok(true) => Ok(()),
            Ok(false) => Err(problem(self.failures(v))),
            Err(fault) => Err(problem(format!(
                "the value cannot be validated: {}",
                fault.text()
            ))),
        }
    }

    fn failures(&self, v: &Value) -> String {
        let found = meter::run(&mut EXPLAIN_FUEL.clone(), || {
            let errors = self.validator.iter_errors(Instance::new(v, self.prices));
            errors
                .take(FAILURES_MAX)
                .map(|e| failure(&e))
                .collect::<Vec<_>>()
                .join("\n")
        });
        found.unwrap_or_else(|_too_much| "the value does not match the schema".into())
    }
}

fn build(schema: &Json, format: &str) -> Result<(Validator<Metered>, Prices), String> {
    let draft = draft(format, schema)?;
    let prices = prices(schema);
    let patterns = PatternOptions::regex()
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_CACHE_BYTES_MAX);
    let options = jsonschema::options_for::<Metered>()
        .with_draft(draft)
        .with_pattern_options(patterns)
        .offline();
    let validator = options.build(schema).map_err(|e| explained(&e))?;
    Ok((validator, prices))
}

/// What matching costs at most anywhere in the schema.
fn prices(schema: &Json) -> Prices {
    let mut highest = Prices::default();
    let mut open = vec![schema];
    let mut names_are_matched = false;
    while let Some(v) = open.pop() {
        match v {
            Json::Array(items) => open.extend(items),
            Json::Object(members) => {
                open.extend(members.values());
                names_are_matched |= members.contains_key("propertyNames");
                let text = members
                    .get("pattern")
                    .and_then(Json::as_str)
                    .map_or(0, match_price);
                let names = members.get("patternProperties").and_then(Json::as_object);
                let names = names.map_or(0, |p| {
                    p.keys().map(|p| match_price(p)).fold(0, u32::saturating_add)
                });
                highest.text_byte = highest.text_byte.max(text);
                highest.name_byte = highest.name_byte.max(names);
            }
            _ => {}
        }
    }
    if names_are_matched {
        highest.name_byte = highest.name_byte.saturating_add(highest.text_byte);
    }
    highest
}

/// Units for matching one byte. At worst the engine follows every state of the pattern at each byte; how many there
/// are is not public, so the pattern is compiled with growing limits until one suffices.
fn match_price(pattern: &str) -> u32 {
    /// Of one attempt, and of the validator's own.
    const COMPILE_UNITS: u64 = 30_000;
    const STATE_BYTES: u32 = 24;
    const STATES_PER_UNIT: u32 = 2;
    // As the validator reads them: ASCII only.
    let pattern = pattern
        .replace("\\d", "[0-9]")
        .replace("\\w", "[0-9A-Za-z_]")
        .replace("\\s", "[ \\t\\r\\n]");
    let mut limit = 1024_u32;
    while (limit as usize) < PATTERN_BYTES_MAX {
        meter::spend(COMPILE_UNITS + u64::from(limit));
        if regex::RegexBuilder::new(&pattern)
            .size_limit(limit as usize)
            .build()
            .is_ok()
        {
            break;
        }
        limit *= 2;
    }
    limit / STATE_BYTES / STATES_PER_UNIT
}

fn problem(detail: String) -> Problem {
    Problem::new(ErrorKind::Validation, detail)
}

fn failure(error: &ValidationError<'_>) -> String {
    let mut out = Short(String::new());
    let pointer = error.instance_path().as_str();
    // A text that is full is what is wanted.
    let _ = write!(
        out,
        "{}: {error}",
        if pointer.is_empty() { "(root)" } else { pointer }
    );
    out.0
}

fn explained(error: &ValidationError<'_>) -> String {
    let mut out = Short(String::new());
    let pointer = error.instance_path().as_str();
    let _ = match pointer.is_empty() {
        true => write!(out, "{error}"),
        false => write!(out, "{pointer}: {error}"),
    };
    out.0
}

/// A text that ends when it is long: messages contain the value.
struct Short(String);

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = FAILURE_BYTES.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        self.0.push('…');
        Err(fmt::Error)
    }
}

fn draft(format: &str, schema: &Json) -> Result<Draft, String> {
    match format {
        "json" => Ok(stated(schema).unwrap_or_default()),
        "json:2020-12" => Ok(Draft::Draft202012),
        "json:2019-09" => Ok(Draft::Draft201909),
        "json:draft-07" | "json:draft-7" | "json:draft7" | "json:7" => Ok(Draft::Draft7),
        "json:draft-06" | "json:draft-6" | "json:draft6" | "json:6" => Ok(Draft::Draft6),
        "json:draft-04" | "json:draft-4" | "json:draft4" | "json:4" => Ok(Draft::Draft4),
        other => Err(format!(
            "the schema format `{other}` is not supported: use `json`, `json:2020-12`, `json:2019-09`, \
             `json:draft-07`, `json:draft-06` or `json:draft-04`"
        )),
    }
}

/// The draft that `$schema` names, if it is one of the standard ones.
fn stated(schema: &Json) -> Option<Draft> {
    let uri = schema.get("$schema")?.as_str()?.trim_end_matches('#');
    let name = uri.split_once("json-schema.org/")?.1.trim_end_matches("/schema");
    Some(match name {
        "draft/2019-09" => Draft::Draft201909,
        "draft-07" => Draft::Draft7,
        "draft-06" => Draft::Draft6,
        "draft-04" => Draft::Draft4,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn schema(json: &str) -> Schema {
        Schema::compile(&value::parse(json).unwrap(), "json").unwrap()
    }

    fn refused(json: &str, format: &str) -> String {
        Schema::compile(&value::parse(json).unwrap(), format).unwrap_err()
    }

    fn check(schema: &Schema, json: &str) -> Result<(), String> {
        schema
            .validate(&value::parse(json).unwrap())
            .map_err(|p| p.detail.unwrap_or_default())
    }

    const ORDER: &str = r##"{
      "type": "object", "required": ["id", "lines"], "unevaluatedProperties": false,
      "properties": {
        "id": {"type": "string", "pattern": "^o-\\d+$"},
        "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/line"}},
        "note": {"enum": [null, "a", {"x": 1}]}
      },
      "$defs": {"line": {"type": "object", "properties": {"qty": {"type": "integer", "minimum": 1}}}}
    }"##;

    #[test]
    fn values_are_validated_and_failures_have_pointers() {
        let order = schema(ORDER);
        assert_eq!(
            check(&order, r#"{"id":"o-1","lines":[{"qty":1.0}],"note":{"x":1}}"#),
            Ok(())
        );
        let detail = check(&order, r#"{"id":"x","lines":[{"qty":1},{"qty":0}],"more":1}"#).unwrap_err();
        for expected in [
            "/id: \"x\" does not match",
            "/lines/1/qty: 0 is less than",
            "(root): ",
            "more",
        ] {
            assert!(detail.contains(expected), "{expected}: {detail}");
        }
        let problem = order.validate(&value::number_i64(1)).unwrap_err();
        assert_eq!(
            (problem.status, problem.standard()),
            (400, Some(ErrorKind::Validation))
        );
        assert!(problem.detail.unwrap().starts_with("(root): 1 is not of type"));
    }

    #[test]
    fn at_most_ten_failures_are_listed_each_short() {
        let strings = schema(r#"{"items": {"type": "string"}}"#);
        let big = format!("[{}]", vec!["[1,2,3]"; 50].join(","));
        let detail = check(&strings, &big).unwrap_err();
        assert_eq!(detail.lines().count(), FAILURES_MAX);
        let long = format!("[{}]", vec!["1"; 100_000].join(","));
        let detail = check(&schema(r#"{"type": "string"}"#), &long).unwrap_err();
        assert!(detail.len() < FAILURE_BYTES + 10, "{}", detail.len());
    }

    #[test]
    fn the_document_is_kept_as_it_was() {
        let document = value::parse(ORDER).unwrap();
        assert_eq!(Schema::compile(&document, "json").unwrap().document(), &document);
    }

    #[test]
    fn the_draft_comes_from_the_format_else_from_the_document() {
        let document = value::parse(r#"{"items": [{"type": "string"}]}"#).unwrap();
        let old = Schema::compile(&document, "json:draft-07").unwrap();
        assert!(check(&old, "[1]").is_err());
        assert!(Schema::compile(&document, "json:2020-12").is_err());
        let stated =
            r#"{"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}"#;
        assert!(check(&schema(stated), "[1]").is_err());
        for format in ["json:2019-09", "json:draft-06", "json:draft-04"] {
            assert!(Schema::compile(&document, format).is_ok(), "{format}");
        }
        assert!(refused("{}", "avro").contains("`avro` is not supported"));
        assert!(refused("{}", "json:2025").contains("json:2020-12"));
    }

    #[test]
    fn faults_of_schemas_are_found_when_they_are_compiled() {
        for (json, reason) in [
            (r#"{"type": "strin"}"#, "strin"),
            (r#"{"minimum": "x"}"#, "minimum"),
            (r#"{"pattern": "("}"#, ""),
            (r#"{"pattern": "(?=a)"}"#, ""),
            (r##"{"$ref": "#/$defs/missing"}"##, ""),
            (r#"{"$ref": "https://example.com/s.json"}"#, ""),
            (r#"{"$ref": "http://json-schema.org/draft-07/schema#"}"#, ""),
            (r#"{"$ref": "file:///etc/passwd"}"#, ""),
            (r#"{"$ref": "//example.com/s.json"}"#, ""),
            (r#"{"$ref": "other.json"}"#, ""),
            ("5", ""),
            (r#"{"properties": 5}"#, ""),
        ] {
            let message = refused(json, "json");
            assert!(
                message.contains(reason) && message.len() < 400,
                "{json}: {message}"
            );
        }
    }

    #[test]
    fn keywords_see_our_values_as_json() {
        for (document, good, bad) in [
            (
                r#"{"const": {"a": [1, "x", null, true]}}"#,
                r#"{"a":[1.0,"x",null,true]}"#,
                r#"{"a":[1,"x",null]}"#,
            ),
            (r#"{"enum": [{"a": {}}, 1.5]}"#, r#"{"a":{}}"#, r#"{"a":1}"#),
            (r#"{"enum": ["a", "b", "c"]}"#, r#""b""#, r#""d""#),
            (r#"{"type": "integer"}"#, "1e3", "1.5"),
            (
                r#"{"type": "integer"}"#,
                "123456789012345678901234567890",
                "\"1\"",
            ),
            (r#"{"multipleOf": 0.5}"#, "2.5", "2.3"),
            (r#"{"exclusiveMaximum": 5}"#, "4.9", "5"),
            (
                r#"{"minimum": 9007199254740993}"#,
                "9007199254740993",
                "9007199254740992",
            ),
            (r#"{"maxLength": 2}"#, "\"äö\"", "\"abc\""),
            (
                r#"{"uniqueItems": true}"#,
                r#"[1,"1",[1],{"a":1}]"#,
                r#"[{"a":1,"b":2},{"b":2,"a":1.0}]"#,
            ),
            (
                r#"{"properties": {"a": true}, "additionalProperties": false}"#,
                r#"{"a":1}"#,
                r#"{"b":1}"#,
            ),
            (
                r#"{"patternProperties": {"^x-": {"type": "null"}}}"#,
                r#"{"x-a":null,"b":1}"#,
                r#"{"x-a":1}"#,
            ),
            (
                r#"{"propertyNames": {"pattern": "^[a-z]+$"}}"#,
                r#"{"abc":1}"#,
                r#"{"ABC":1}"#,
            ),
            (
                r#"{"dependentRequired": {"a": ["b"]}}"#,
                r#"{"b":1}"#,
                r#"{"a":1}"#,
            ),
            (
                r#"{"contains": {"const": 3}, "maxContains": 1}"#,
                "[1,3]",
                "[3,3]",
            ),
            (
                r#"{"prefixItems": [{"type": "string"}], "items": false}"#,
                r#"["a"]"#,
                r#"["a",1]"#,
            ),
            (
                r#"{"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"minimum": 2}}"#,
                "2",
                "\"a\"",
            ),
            (r#"{"oneOf": [{"minimum": 5}, {"multipleOf": 2}]}"#, "7", "6"),
            (r#"{"type": ["null", "boolean"]}"#, "null", "0"),
            (
                r##"{"required": ["v"], "properties": {"next": {"$ref": "#"}}}"##,
                r#"{"v":1,"next":{"v":2}}"#,
                r#"{"v":1,"next":{}}"#,
            ),
            ("{}", "1", ""),
            ("false", "", "1"),
        ] {
            let schema = schema(document);
            if !good.is_empty() {
                assert_eq!(check(&schema, good), Ok(()), "{document}");
            }
            if !bad.is_empty() {
                assert!(check(&schema, bad).is_err(), "{document}: {bad}");
            }
        }
    }

    #[test]
    fn ordinary_patterns_on_ordinary_data_are_affordable() {
        let document = r#"{"items": {"properties": {
            "id": {"pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
            "mail": {"pattern": "^[^@ ]+@[^@ ]+\\.[a-z]{2,}$"}, "name": {"pattern": "^\\w[\\w -]*$"}}}}"#;
        let item =
            r#"{"id":"0123abcd-0123-0123-0123-0123456789ab","mail":"ann@example.com","name":"Ann Example"}"#;
        let items = format!("[{}]", vec![item; 5000].join(","));
        assert_eq!(check(&schema(document), &items), Ok(()));
    }

    #[test]
    fn hostile_schemas_end_in_time() {
        let doubling: Vec<String> = (0..60)
            .map(|i| {
                format!(
                    r##""d{i}":{{"allOf":[{{"$ref":"#/$defs/d{}"}},{{"$ref":"#/$defs/d{}"}}]}}"##,
                    i + 1,
                    i + 1
                )
            })
            .collect();
        let doubling = format!(
            r##"{{"$defs":{{{},"d60":{{"type":"string"}}}},"$ref":"#/$defs/d0"}}"##,
            doubling.join(",")
        );
        let wide = format!(
            r#"{{"items":{{"allOf":[{}]}}}}"#,
            vec![r#"{"minimum":0}"#; 5000].join(",")
        );
        let numbers = format!("[{}]", vec!["1"; 100_000].join(","));
        let deep = format!("{}{}", "[".repeat(99), "]".repeat(99));
        let text = format!("\"{}!\"", "a".repeat(500_000));
        let mut random = 1_u32;
        let mut letter = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if random & 0x4000_0000 == 0 { 'a' } else { 'b' }
        };
        let mixed: String = (0..700_000).map(|_| letter()).collect();
        let many_patterns = format!(
            r#"{{"allOf":[{}]}}"#,
            (0..20_000)
                .map(|i| format!(r#"{{"pattern":"a{{0,50}}x{i}"}}"#))
                .collect::<Vec<_>>()
                .join(",")
        );
        let enumeration = (0..50_000)
            .map(|i| format!("\"v{i}\""))
            .collect::<Vec<_>>()
            .join(",");
        let cases = [
            (doubling, "1".to_owned()),
            (wide, numbers.clone()),
            (
                r##"{"items":{"allOf":[{"$ref":"#"},{"$ref":"#"},{"not":{"$ref":"#"}}]}}"##.into(),
                deep.clone(),
            ),
            (
                r##"{"anyOf":[{"items":{"$ref":"#"}},{"items":{"$ref":"#"}}],"minItems":1}"##.into(),
                deep,
            ),
            (r#"{"pattern":"^(a+)+$"}"#.into(), text.clone()),
            (r#"{"pattern":"(a|aa){0,100}(a|aa){0,100}!!$"}"#.into(), text),
            (
                r#"{"pattern":"[ab]*a[ab]{2000}c"}"#.into(),
                format!("\"{mixed}\""),
            ),
            (r#"{"pattern":"[ab]*a[ab]{300}c"}"#.into(), format!("\"{mixed}\"")),
            (many_patterns, "\"a\"".into()),
            (
                format!(r#"{{"items":{{"enum":[{enumeration}]}}}}"#),
                numbers.clone(),
            ),
            (
                r#"{"uniqueItems":true}"#.into(),
                format!(
                    "[{}]",
                    (0..100_000).map(|i| i.to_string()).collect::<Vec<_>>().join(",")
                ),
            ),
            (
                format!(r#"{{"items":{{"allOf":[{}]}}}}"#, vec!["{}"; 20_000].join(",")),
                numbers.clone(),
            ),
            (
                format!(r#"{{"items":{{"allOf":[{}]}}}}"#, vec!["true"; 20_000].join(",")),
                numbers.clone(),
            ),
            (
                r##"{"not":{"anyOf":[{"items":{"$ref":"#"}},{"items":{"$ref":"#"}}]}}"##.into(),
                numbers.clone(),
            ),
            (
                r#"{"propertyNames":{"pattern":"[ab]*a[ab]{2000}c"}}"#.into(),
                format!("{{\"{mixed}\":1}}"),
            ),
            (
                r#"{"patternProperties":{"[ab]*a[ab]{2000}c":true}}"#.into(),
                format!("{{\"{mixed}\":1}}"),
            ),
            (r##"{"allOf":[{"$ref":"#"}]}"##.into(), "1".into()),
            (r##"{"$ref":"#"}"##.into(), "1".into()),
        ];
        for (document, instance) in cases {
            let shown: String = document.chars().take(60).collect();
            let (document, instance) = (value::parse(&document).unwrap(), value::parse(&instance).unwrap());
            let attempt = || {
                let start = Instant::now();
                if let Ok(schema) = Schema::compile(&document, "json") {
                    // Whether it is valid does not matter.
                    drop(schema.validate(&instance));
                }
                start.elapsed()
            };
            // A machine that is busy with other tests may be slow once or twice.
            let quick = (0..5).any(|_| attempt() < Duration::from_secs(2));
            assert!(quick, "{shown}");
        }
    }
}
