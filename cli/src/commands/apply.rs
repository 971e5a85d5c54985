//! `millrace apply FILE…`: checks all files first, then stores them.

use std::path::Path;

use crate::args::FilesArgs;
use crate::client::{CallError, Client, Problem};
use crate::failure::{Exit, Failure, Outcome};
use crate::source::{self, Checked};

pub(super) async fn run(args: &FilesArgs, client: &Client) -> Outcome {
    let checked: Vec<_> = args
        .files
        .iter()
        .map(|path| source::read(path))
        .collect::<Outcome<_>>()?;
    for (path, source) in args.files.iter().zip(checked) {
        let created = apply(client, path, &source).await?;
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

/// Stores a definition; true when it was new.
pub(super) async fn apply(client: &Client, path: &Path, source: &Checked) -> Outcome<bool> {
    match client.post_source("/api/v1/definitions", &source.text).await {
        Ok(answer) => Ok(answer.status.as_u16() == 201),
        Err(CallError::Refused(_, problem)) if problem.code == "definitionConflict" => {
            let (name, version) = (&source.name, &source.version);
            let message = format!(
                "{}: {name} {version} was applied before with other content",
                path.display()
            );
            Err(Failure::new(Exit::Usage, message).hint("bump document.version: a version never changes"))
        }
        // The coordinator may be of another release and know more or less than this program.
        Err(CallError::Refused(_, problem)) if problem.code == "invalidDefinition" => {
            Err(invalid(path, &problem))
        }
        Err(error) => Err(client.failure(error)),
    }
}

fn invalid(path: &Path, problem: &Problem) -> Failure {
    let file = path.display();
    let line = |d: &crate::client::Diagnostic| {
        let hint = d
            .hint
            .as_ref()
            .map(|hint| format!("  hint: {hint}\n"))
            .unwrap_or_default();
        format!(
            "{file}:{}:{}: {}: {}\n{hint}",
            d.line, d.column, d.severity, d.message
        )
    };
    let report: String = problem.diagnostics.iter().map(line).collect();
    Failure::new(Exit::Usage, format!("the coordinator refused {file}")).report(report)
}
