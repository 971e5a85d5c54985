//! `millrace apply FILE…`: checks all files first, then stores them.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::args::FilesArgs;
use crate::client::{Answer, CallError, Client, Diagnostic, Problem};
use crate::failure::{Exit, Failure, Outcome};
use crate::limit::Limit;
use crate::persist::persist;
use crate::source::{self, Checked};
use crate::terminal::Style;

const PATH: &str = "/api/v1/definitions";

pub(super) async fn run(args: &FilesArgs, client: &Client) -> Outcome {
    let checked: Vec<_> = args
        .files
        .iter()
        .map(|path| source::read(path))
        .collect::<Outcome<_>>()?;
    let limit = Limit::after(None);
    for (path, source) in args.files.iter().zip(checked) {
        let created = apply(client, &limit, path, &source).await?;
        let word = if created { "applied" } else { "unchanged" };
        eprintln!(
            "{}: {word}: {}/{}@{}",
            path.display(),
            source.namespace,
            source.name,
            source.version
        );
    }
    Ok(())
}

/// Stores a definition, and waits for a coordinator that cannot do it now; true when it was new.
pub(super) async fn apply(client: &Client, limit: &Limit, path: &Path, source: &Checked) -> Outcome<bool> {
    let posting = persist(client, limit, async || {
        client.post_source(PATH, &source.text).await
    });
    conclude(client, path, source, posting.await)
}

/// The same with one try.
pub(super) async fn apply_once(client: &Client, path: &Path, source: &Checked) -> Outcome<bool> {
    let answer = client.post_source(PATH, &source.text).await;
    conclude(client, path, source, answer)
}

fn conclude(
    client: &Client,
    path: &Path,
    source: &Checked,
    answer: Result<Answer, CallError>,
) -> Outcome<bool> {
    match answer {
        Ok(answer) => {
            eprint!("{}", remarks(path, source, &answer.body["warnings"]));
            Ok(answer.status.as_u16() == 201)
        }
        Err(CallError::Refused(_, problem, _)) if problem.code == "definitionConflict" => {
            let (name, version) = (&source.name, &source.version);
            let message = format!(
                "{}: {name} {version} was applied before with other content",
                path.display()
            );
            Err(Failure::new(Exit::Usage, message).hint("bump document.version: a version never changes"))
        }
        // The coordinator may be of another release and know more or less than this program.
        Err(CallError::Refused(_, problem, _)) if problem.code == "invalidDefinition" => {
            Err(invalid(path, &problem))
        }
        Err(error) => Err(client.failure(error)),
    }
}

/// What the coordinator remarks beyond what was found here: it knows the fleet.
fn remarks(path: &Path, source: &Checked, warnings: &Value) -> String {
    let is_known = |d: &Diagnostic| {
        source
            .remarks
            .iter()
            .any(|r| (r.span.line, r.span.column, &r.message) == (d.line, d.column, &d.message))
    };
    // A coordinator that says it otherwise is of a later release; the definition is stored all the same.
    let warnings = Vec::<Diagnostic>::deserialize(warnings).unwrap_or_default();
    let news = warnings.iter().filter(|d| !is_known(d));
    news.map(|d| line(path, d)).collect()
}

fn line(path: &Path, d: &Diagnostic) -> String {
    let style = Style::stderr();
    let word = match d.severity.as_str() {
        "warning" => style.yellow("warning:"),
        other => style.red(&format!("{other}:")),
    };
    let place = format!("{}:{}:{}:", path.display(), d.line, d.column);
    let hint = d.hint.as_ref();
    let hint = hint.map(|hint| format!("  {} {hint}\n", style.cyan("hint:")));
    format!("{place} {word} {}\n{}", d.message, hint.unwrap_or_default())
}

fn invalid(path: &Path, problem: &Problem) -> Failure {
    let report: String = problem.diagnostics.iter().map(|d| line(path, d)).collect();
    Failure::new(Exit::Usage, format!("the coordinator refused {}", path.display())).report(report)
}
