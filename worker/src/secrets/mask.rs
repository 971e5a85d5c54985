//! Replaces what must not leave the worker by `***`.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use millrace_common::{Problem, RawJson, limits};
use millrace_dsl::{Value, value};
use millrace_runtime::telemetry::mask;

use super::forms::forms;
use crate::Failure;

/// Texts that one step knows and nobody else may: values of secrets, and what was made of them (tokens, headers). Each
/// also as URLs, forms and JSON write it.
///
/// Errors and spans of the step are looked through for all of them. Outputs and checkpoints are data: they are looked
/// through for what comes from secrets and has at least `limits::MASK_OUTPUT_BYTES_MIN` bytes, since a short one is
/// found in innocent data too. Credentials that stand in a definition or its data are hidden in messages only.
#[derive(Default)]
pub(crate) struct Mask(RwLock<BTreeMap<Longest, Where>>);

/// Where a text is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Where {
    Messages,
    Everywhere,
}

/// Longer texts first: one may be part of another.
#[derive(PartialEq, Eq)]
struct Longest(String);

impl Ord for Longest {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.0.len(), &other.0).cmp(&(self.0.len(), &self.0))
    }
}

impl PartialOrd for Longest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask")
    }
}

impl Mask {
    /// From now on, this text is replaced; in log lines of the whole process too.
    pub(crate) fn hide(&self, text: &str) {
        self.add(text, Where::Everywhere);
    }

    /// As [`Self::hide`], but not in data.
    pub(crate) fn hide_in_messages(&self, text: &str) {
        self.add(text, Where::Messages);
    }

    fn add(&self, text: &str, place: Where) {
        if text.len() < limits::MASK_BYTES_MIN {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for form in std::iter::once(text.to_owned()).chain(forms(text)) {
            mask::hide(&form);
            let entry = known.entry(Longest(form)).or_insert(place);
            *entry = place.max(*entry);
        }
    }

    /// As [`Self::hide`] for every text and number in a value.
    pub(crate) fn hide_all(&self, value: &serde_json::Value) {
        match value {
            serde_json::Value::String(text) => self.hide(text),
            serde_json::Value::Number(number) => self.hide(&number.to_string()),
            serde_json::Value::Array(items) => items.iter().for_each(|v| self.hide_all(v)),
            serde_json::Value::Object(members) => members.values().for_each(|v| self.hide_all(v)),
            serde_json::Value::Null | serde_json::Value::Bool(_) => {}
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// True when the text holds one that is hidden everywhere.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut secret = known.iter().filter(|(_, place)| **place == Where::Everywhere);
        secret.any(|(hidden, _)| text.contains(&hidden.0))
    }

    /// The text without what is hidden.
    pub(crate) fn text(&self, text: &str) -> String {
        self.replaced(text, Where::Messages)
            .unwrap_or_else(|| text.to_owned())
    }

    /// `None` when nothing is hidden in the text.
    fn replaced(&self, text: &str, place: Where) -> Option<String> {
        let bytes_min = match place {
            Where::Messages => 0,
            Where::Everywhere => limits::MASK_OUTPUT_BYTES_MIN,
        };
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut masked: Option<String> = None;
        let known = known
            .iter()
            .filter(|(h, p)| h.0.len() >= bytes_min && **p >= place);
        for (Longest(hidden), _) in known {
            let now = masked.as_deref().unwrap_or(text);
            if now.contains(hidden.as_str()) {
                masked = Some(now.replace(hidden.as_str(), mask::MASK));
            }
        }
        masked
    }

    /// What a handler returned, without what is hidden.
    pub(crate) fn result(&self, result: Result<RawJson, Failure>) -> Result<RawJson, Failure> {
        if self.is_empty() {
            return result;
        }
        match result {
            Ok(output) => self.data(output),
            Err(failure) => Err(self.failure(failure)),
        }
    }

    fn failure(&self, failure: Failure) -> Failure {
        let Some(problem) = failure.problem() else {
            return failure;
        };
        let masked = |text: &Option<String>| text.as_deref().map(|t| self.text(t));
        Failure::from_problem(Problem {
            kind: self.text(&problem.kind),
            status: problem.status,
            title: masked(&problem.title),
            detail: masked(&problem.detail),
            instance: problem.instance.clone(),
        })
    }

    /// Texts and keys of a value, without what is hidden. Numbers stay: a mask is none.
    ///
    /// # Errors
    /// When the value may hold a secret and cannot be read, which is when it is nested too deeply.
    pub(crate) fn data(&self, raw: RawJson) -> Result<RawJson, Failure> {
        // Most outputs hold nothing: those keep their bytes. A text with escapes is always looked at.
        let may_hold = raw.text().contains('\\') || self.replaced(raw.text(), Where::Everywhere).is_some();
        if !may_hold {
            return Ok(raw);
        }
        match value::from_raw(&raw) {
            Ok(value) => Ok(self.masked(&value).map_or(raw, |v| value::to_raw(&v))),
            Err(problem) => Err(Failure::runtime(format!(
                "the step used secrets, and its data cannot be looked through for them: {}",
                self.text(&problem.detail.unwrap_or_default())
            ))),
        }
    }

    /// `None` when nothing changed.
    fn masked(&self, value: &Value) -> Option<Value> {
        match value {
            Value::TStr(_) => self
                .replaced(value::as_str(value)?, Where::Everywhere)
                .map(value::string),
            Value::Arr(items) => {
                let masked: Vec<Option<Value>> = items.iter().map(|v| self.masked(v)).collect();
                let pair = |(new, old): (Option<Value>, &Value)| new.unwrap_or_else(|| old.clone());
                masked
                    .iter()
                    .any(Option::is_some)
                    .then(|| masked.into_iter().zip(items.iter()).map(pair).collect())
            }
            Value::Obj(members) => {
                let mut changed = false;
                let mut part = |v: &Value| match self.masked(v) {
                    Some(masked) => {
                        changed = true;
                        masked
                    }
                    None => v.clone(),
                };
                let masked = members.iter().map(|(k, v)| (part(k), part(v))).collect();
                changed.then(|| Value::obj(masked))
            }
            Value::Null | Value::Bool(_) | Value::Num(_) | Value::BStr(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::ErrorKind;
    use serde_json::json;

    use super::*;

    fn mask(texts: &[&str]) -> Mask {
        let mask = Mask::default();
        texts.iter().for_each(|t| mask.hide(t));
        mask
    }

    fn output(mask: &Mask, text: &str) -> String {
        let raw = RawJson::parse(text.as_bytes()).unwrap();
        mask.result(Ok(raw)).unwrap().text().to_owned()
    }

    #[test]
    fn texts_and_keys_of_outputs_are_masked_and_the_rest_keeps_its_bytes() {
        let mask = mask(&["sesame-open", "12345678"]);
        let found = output(
            &mask,
            r#"{"a":["x sesame-open y"],"sesame-open":1,"n":12345678,"s":"12345678"}"#,
        );
        assert_eq!(found, r#"{"a":["x *** y"],"***":1,"n":12345678,"s":"***"}"#);
        assert_eq!(output(&mask, r#"{ "big": 1.50 }"#), r#"{ "big": 1.50 }"#);
        assert_eq!(output(&mask, r#"{"a":"\u0073esame-open"}"#), r#"{"a":"***"}"#);
    }

    #[test]
    fn short_texts_are_masked_in_errors_only() {
        let mask = mask(&["admin", "x"]);
        assert_eq!(output(&mask, r#""admin""#), r#""admin""#);
        let failure = Failure::new(ErrorKind::Runtime, "user admin and x");
        let masked = mask.result(Err(failure)).unwrap_err();
        assert_eq!(
            masked.problem().unwrap().detail.as_deref(),
            Some("user *** and x")
        );
    }

    #[test]
    fn credentials_of_the_definition_are_masked_in_messages_only() {
        let mask = Mask::default();
        mask.hide_in_messages("from-the-input");
        assert_eq!(output(&mask, r#""from-the-input""#), r#""from-the-input""#);
        assert_eq!(
            (mask.text("a from-the-input"), mask.is_in("from-the-input")),
            ("a ***".into(), false)
        );
        mask.hide("from-the-input");
        mask.hide_in_messages("from-the-input");
        assert_eq!(output(&mask, r#""from-the-input""#), r#""***""#);
    }

    #[test]
    fn the_longest_text_goes_first() {
        let mask = mask(&["password", "password-and-more"]);
        assert_eq!(
            mask.text("the password-and-more, the password"),
            "the ***, the ***"
        );
    }

    #[test]
    fn every_text_of_a_secret_is_hidden() {
        let mask = Mask::default();
        mask.hide_all(&json!({"user": "someone", "keys": ["first-key", 123456], "on": true}));
        assert!(mask.is_in("a first-key") && mask.is_in("123456") && mask.is_in("someone"));
        assert!(!mask.is_in("true"));
    }

    #[test]
    fn secrets_are_found_as_urls_forms_and_json_write_them() {
        let mask = mask(&["p ss/w+rd\"x"]);
        for form in [
            "https://x/?k=p%20ss%2Fw%2Brd%22x",
            "k=p+ss%2Fw%2Brd%22x",
            "https://x/p%20ss/w+rd%22x",
            r#"{"k":"p ss/w+rd\"x"}"#,
        ] {
            let shown = mask.text(form);
            assert!(shown.contains("***") && !shown.contains("ss"), "{form}: {shown}");
        }
        assert_eq!(output(&mask, r#""p+ss%2Fw%2Brd%22x""#), r#""***""#);
    }

    #[test]
    fn data_that_cannot_be_looked_through_is_not_returned() {
        let mask = mask(&["sesame-open"]);
        let nested = |text: &str| format!("{}\"{text}\"{}", "[".repeat(2_000), "]".repeat(2_000));
        let result = |text: &str| mask.result(Ok(RawJson::parse(nested(text).as_bytes()).unwrap()));
        let failure = result("sesame-open").unwrap_err().to_string();
        assert!(
            failure.contains("cannot be looked through") && !failure.contains("sesame"),
            "{failure}"
        );
        assert_eq!(result("nothing").unwrap().text(), nested("nothing"));
    }
}
