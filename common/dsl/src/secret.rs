//! What must not be stored: expressions that use secrets, and credentials that stand in a definition.

use crate::expression::Expression;
use crate::template::Template;
use crate::{Value, value};

/// Variables that only a worker knows.
pub const LATE_VARIABLES: [&str; 2] = ["secrets", "authorization"];

/// What replaces a credential.
const MASK: &str = "***";

/// Members of authentication policies that are secret. Whatever else a policy has is shown.
const CREDENTIALS: [&str; 4] = ["password", "token", "secret", "assertion"];

/// True for an expression that only a worker can evaluate.
pub fn is_late(expression: &Expression) -> bool {
    let variables = expression.variables();
    variables.iter().any(|v| LATE_VARIABLES.contains(&v.as_str()))
}

/// The declared secrets that an expression may use: those it names, or all when it computes a name.
pub fn names(source: &str, declared: &[String]) -> Vec<String> {
    let named: Vec<&str> = named(source).map(|(_, name)| name).collect();
    let all_named = source.matches("$secrets").count() == named.len();
    let is_used = |name: &&String| !all_named || named.contains(&name.as_str());
    declared.iter().filter(is_used).cloned().collect()
}

/// The declared secrets that authentication policies of a call name with `use:`. Only names that stand in the definition:
/// what is computed is data, which must not choose a secret.
pub fn of_policies(call: &Template, declared: &[String]) -> Vec<String> {
    let mut named = Vec::new();
    collect_policies(call, &mut named);
    declared
        .iter()
        .filter(|name| named.contains(name))
        .cloned()
        .collect()
}

fn collect_policies(template: &Template, named: &mut Vec<String>) {
    match template {
        Template::Literal(literal) => collect_literal(literal, named),
        Template::Expression(_) => {}
        Template::Array(items) => items.iter().for_each(|t| collect_policies(t, named)),
        Template::Object(members) => {
            for (key, member) in members {
                match member.literal().filter(|_| key == "authentication") {
                    Some(policy) => named.extend(named_in(policy)),
                    None => collect_policies(member, named),
                }
            }
        }
    }
}

fn collect_literal(literal: &Value, named: &mut Vec<String>) {
    match literal {
        Value::Arr(items) => items.iter().for_each(|v| collect_literal(v, named)),
        Value::Obj(members) => {
            for (key, member) in members.iter() {
                match value::as_str(key) {
                    Some("authentication") => named.extend(named_in(member)),
                    _ => collect_literal(member, named),
                }
            }
        }
        _ => {}
    }
}

/// The secret of `{<scheme>: {use: <secret>}}`.
fn named_in(policy: &Value) -> Option<String> {
    let Value::Obj(schemes) = policy else { return None };
    let mut named = schemes
        .iter()
        .filter_map(|(_, settings)| value::get(settings, "use"));
    named.next().and_then(value::as_str).map(str::to_owned)
}

/// Names in `$secrets.name` and `$secrets["name"]`, with the offset of the variable.
pub(crate) fn named(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source.match_indices("$secrets").filter_map(|(at, token)| {
        let rest = source[at + token.len()..].trim_start();
        if let Some(quoted) = rest.strip_prefix("[\"").or_else(|| rest.strip_prefix(".\"")) {
            return quoted.split_once('"').map(|(name, _)| (at, name));
        }
        let name = rest.strip_prefix('.')?;
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
        Some((at, &name[..end.unwrap_or(name.len())])).filter(|(_, name)| !name.is_empty())
    })
}

/// A definition, or a task of one, without the credentials that stand in its authentication policies: what
/// `$workflow.definition` and `$task.definition` show. Expressions stay.
pub fn redacted(definition: &Value) -> Value {
    match definition {
        Value::Arr(items) => items.iter().map(redacted).collect(),
        Value::Obj(members) => {
            let member = |(key, v): (&Value, &Value)| {
                let shown = match value::as_str(key) {
                    Some("authentication" | "authentications") => without_credentials(v),
                    _ => redacted(v),
                };
                (key.clone(), shown)
            };
            Value::obj(members.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

fn without_credentials(policy: &Value) -> Value {
    match policy {
        Value::Arr(items) => items.iter().map(without_credentials).collect(),
        Value::Obj(members) => {
            let member = |(key, v): (&Value, &Value)| {
                let is_credential = value::as_str(key).is_some_and(|k| CREDENTIALS.contains(&k));
                let shown = match value::as_str(v) {
                    Some(text) if is_credential && crate::expression::strip(text).is_none() => {
                        value::string(MASK)
                    }
                    _ => without_credentials(v),
                };
                (key.clone(), shown)
            };
            Value::obj(members.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> Vec<String> {
        ["a", "b", "c-d"].map(str::to_owned).into()
    }

    #[test]
    fn named_secrets_are_found_and_computed_names_mean_all() {
        for (source, expected) in [
            ("$secrets.a", vec!["a"]),
            ("$secrets.a + $secrets[\"c-d\"].x", vec!["a", "c-d"]),
            ("$secrets.\"c-d\"", vec!["c-d"]),
            ("$secrets[.name]", vec!["a", "b", "c-d"]),
            ("$secrets.a, ($secrets | keys)", vec!["a", "b", "c-d"]),
            ("$authorization.scheme", vec![]),
        ] {
            assert_eq!(names(source, &declared()), expected, "{source}");
        }
    }

    #[test]
    fn credentials_are_redacted_in_policies_only() {
        let definition = value::parse(
            r#"{"use":{"authentications":{"p":{"basic":{"username":"u","password":"p"}}}},
                "do":[{"t":{"call":"http","with":{"endpoint":{"uri":"x","authentication":{"oauth2":{
                    "client":{"id":"i","secret":"s"},"subject":{"token":"t","type":"k"},"password":"${ .p }"}}}}},
                    "u":{"set":{"password":"data"}}}]}"#,
        );
        let shown = value::to_json_string(&redacted(&definition.unwrap()));
        let expected = concat!(
            r#"{"use":{"authentications":{"p":{"basic":{"username":"u","password":"***"}}}},"#,
            r#""do":[{"t":{"call":"http","with":{"endpoint":{"uri":"x","authentication":{"oauth2":{"#,
            r#""client":{"id":"i","secret":"***"},"subject":{"token":"***","type":"k"},"password":"${ .p }"}}}}},"#,
            r#""u":{"set":{"password":"data"}}}]}"#,
        );
        assert_eq!(shown, expected);
    }
}
