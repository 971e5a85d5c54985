//! What the fleet can run now. A call that no worker offers is legal, since the worker may come later; but whoever wrote
//! it is told, because most of the time it is a slip of the pen.

use std::collections::BTreeSet;

use millrace_dsl::model::FunctionUse;
use millrace_dsl::{Diagnostic, closest};

use super::{Health, WorkerView};

/// Remarks about one definition: the first calls of so many functions.
const REMARKS_MAX: usize = 50;

/// Functions and call types of every worker that is there and takes new steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers(BTreeSet<String>);

impl Offers {
    /// Of these workers.
    pub(super) fn of(workers: &[WorkerView]) -> Self {
        let takes = |w: &&WorkerView| w.health != Health::Gone && !w.draining;
        let all = workers.iter().filter(takes);
        Self(
            all.flat_map(|w| w.functions.iter().chain(&w.capabilities))
                .cloned()
                .collect(),
        )
    }

    /// Whether a worker offers a function (`name:semver`) or call type (`call:http`).
    pub fn has(&self, function: &str) -> bool {
        self.0.contains(function)
    }

    /// Says that nobody offers a function, and which one may have been meant.
    pub fn missing(&self, function: &str) -> String {
        match self.advice(function) {
            Some(advice) => format!("no worker offers {function}; {advice}"),
            None => format!("no worker offers {function}"),
        }
    }

    /// A remark for every function of a definition that nobody offers, at its first call.
    pub fn remarks(&self, uses: &[FunctionUse]) -> Vec<Diagnostic> {
        let mut seen = BTreeSet::new();
        uses.iter()
            .filter(|u| !self.has(&u.function) && seen.insert(&u.function))
            .take(REMARKS_MAX)
            .map(|u| {
                let message = format!("no worker offers function `{}` now", u.function);
                let advice = self.advice(&u.function);
                Diagnostic::warning(&u.pointer, u.span, message)
                    .hint(advice.unwrap_or_else(|| "its calls wait until a worker offers it".into()))
            })
            .collect()
    }

    fn advice(&self, function: &str) -> Option<String> {
        let (name, version) = function.split_once(':')?;
        if name == "run" {
            return Some(format!(
                "allow it with MILLRACE_PROCESSES={version} on a worker; until then its steps wait"
            ));
        }
        let others = self.versions(name);
        if !others.is_empty() {
            return Some(format!("`{name}` is offered in version {}", others.join(", ")));
        }
        let close = closest(name, self.functions().map(|(n, _)| n))?;
        let versions = self.versions(close);
        let same = versions.iter().find(|v| **v == version);
        let meant = same.or_else(|| versions.last())?;
        Some(format!("did you mean `{close}:{meant}`?"))
    }

    fn versions(&self, name: &str) -> Vec<&str> {
        let of_name = self.functions().filter(|(n, _)| *n == name);
        of_name.map(|(_, version)| version).collect()
    }

    /// Names and versions; call types have no version.
    fn functions(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter().filter_map(|o| o.split_once(':'));
        all.filter(|(_, version)| version.starts_with(|c: char| c.is_ascii_digit()))
    }
}

#[cfg(test)]
mod tests {
    use millrace_dsl::Span;

    use super::*;

    fn offers(functions: &[&str]) -> Offers {
        Offers(functions.iter().map(|f| (*f).to_owned()).collect())
    }

    fn called(function: &str, line: u32) -> FunctionUse {
        FunctionUse {
            function: function.into(),
            pointer: format!("/do/{line}/a/call"),
            span: Span { line, column: 9 },
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_told_with_what_was_meant() {
        let offers = offers(&["charge:1.0.0", "charge:2.0.0", "ship:1.0.0", "call:http"]);
        assert_eq!(
            offers.missing("chrage:1.0.0"),
            "no worker offers chrage:1.0.0; did you mean `charge:1.0.0`?"
        );
        assert_eq!(
            offers.missing("charge:1.0.1"),
            "no worker offers charge:1.0.1; `charge` is offered in version 1.0.0, 2.0.0"
        );
        assert_eq!(offers.missing("cal:1.0.0"), "no worker offers cal:1.0.0");
        assert_eq!(
            offers.missing("run:shell"),
            "no worker offers run:shell; allow it with MILLRACE_PROCESSES=shell on a worker; until then its steps wait"
        );
        // The version of another function is no likeness.
        assert_eq!(offers.missing("noop:1.0.0"), "no worker offers noop:1.0.0");
    }

    #[test]
    fn a_function_is_remarked_upon_once_and_only_when_nobody_offers_it() {
        let uses = [
            called("ship:1.0.0", 3),
            called("refund:1.0.0", 4),
            called("refund:1.0.0", 5),
            called("shpi:1.0.0", 6),
        ];
        let remarks = offers(&["ship:1.0.0"]).remarks(&uses);
        let told: Vec<_> = remarks
            .iter()
            .map(|r| (r.to_string(), r.hint.clone().unwrap_or_default()))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "4:9: warning: no worker offers function `refund:1.0.0` now".to_owned(),
                    "its calls wait until a worker offers it".to_owned()
                ),
                (
                    "6:9: warning: no worker offers function `shpi:1.0.0` now".to_owned(),
                    "did you mean `ship:1.0.0`?".to_owned()
                ),
            ]
        );
    }
}
