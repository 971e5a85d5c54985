//! Definition files and their faults.

use std::path::Path;

use millrace_dsl::{Diagnostic, Severity};

use crate::failure::{Exit, Failure, Outcome};
use crate::input::read_text;
use crate::terminal::Style;

/// A definition that passed every check that needs no coordinator.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The text.
    pub(crate) text: String,
    /// `document.namespace`.
    pub(crate) namespace: String,
    /// `document.name`.
    pub(crate) name: String,
    /// `document.version`.
    pub(crate) version: String,
    /// Remarks that were shown.
    pub(crate) remarks: Vec<Diagnostic>,
}

/// Reads and checks a file. Warnings go to stderr.
pub(crate) fn read(path: &Path) -> Outcome<Checked> {
    checked(path, read_text(path)?)
}

/// Checks a text; the path is only told.
pub(crate) fn checked(path: &Path, text: String) -> Outcome<Checked> {
    let (document, faults) = check(&text);
    let style = Style::stderr();
    let report = render(&path.display().to_string(), &faults, style);
    match document {
        Some(document) => {
            if !report.is_empty() {
                eprint!("{report}");
            }
            let (namespace, name) = (document.namespace.clone(), document.name.clone());
            Ok(Checked {
                text,
                namespace,
                name,
                version: document.version.clone(),
                remarks: faults,
            })
        }
        None => {
            let count = faults.iter().filter(|f| f.severity == Severity::Error).count();
            let errors = if count == 1 {
                "1 error".to_owned()
            } else {
                format!("{count} errors")
            };
            Err(Failure::new(Exit::Usage, format!("{errors} in {}", path.display())).report(report))
        }
    }
}

/// Parses a text; gives no document when there is an error among the faults.
pub(crate) fn check(
    text: &str,
) -> (
    Option<std::sync::Arc<millrace_dsl::model::Document>>,
    Vec<Diagnostic>,
) {
    match millrace_dsl::parse(text) {
        Err(faults) => (None, faults),
        Ok(parsed) => {
            let mut faults = parsed.warnings;
            faults.extend(millrace_dsl::unsupported(&parsed.document));
            faults.extend(parsed.missing.iter().map(|missing| {
                let message = format!(
                    "`{}` is not checked here: it is fetched at deployment",
                    missing.url
                );
                Diagnostic::warning(missing.pointer.as_str(), missing.span, message)
            }));
            let refused = faults.iter().any(|f| f.severity == Severity::Error);
            ((!refused).then_some(parsed.document), faults)
        }
    }
}

/// `file:line:column: error: message`, each with its hint on the next line.
pub(crate) fn render(file: &str, faults: &[Diagnostic], style: Style) -> String {
    faults.iter().map(|fault| rendered(file, fault, style)).collect()
}

fn rendered(file: &str, fault: &Diagnostic, style: Style) -> String {
    let word = match fault.severity {
        Severity::Error => style.red("error:"),
        Severity::Warning => style.yellow("warning:"),
    };
    let place = format!("{file}:{}:{}:", fault.span.line, fault.span.column);
    let mut text = format!("{place} {word} {}\n", fault.message);
    if let Some(hint) = &fault.hint {
        text += &format!("  {} {hint}\n", style.cyan("hint:"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_a_place_and_a_hint() {
        let text = "document: {dsl: 1.0.3, namespace: default, name: a, version: 1.0.0}\ndo:\n  - a:\n      call: http\n      with: {method: get, endpont: \"http://x\"}\n";
        let (document, faults) = check(text);
        assert!(document.is_none());
        let report = render("a.yaml", &faults, Style::plain());
        assert!(
            report
                .lines()
                .any(|l| l.starts_with("a.yaml:5:") && l.contains(": error: ")),
            "{report}"
        );
        assert!(report.lines().any(|l| l.starts_with("  hint: ")), "{report}");
    }
}
