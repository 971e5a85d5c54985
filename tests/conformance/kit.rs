//! Runs the official conformance kit: its feature files are not part of this repository. They are looked for in
//! `$MILLRACE_SHARED/spec/ctk/features`, else in `../shared/spec/ctk/features` beside the repository.
//!
//! Two scenarios of the kit have the same definition name and version with different content, so every scenario gets a
//! name of its own; nothing else of the text is touched.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, stream};
use millrace_tests::{Client, yaml};
use serde_json::{Value, json};

use crate::gherkin::{Scenario, Step, scenarios};
use crate::{World, skipped, world};

#[tokio::test]
async fn the_official_kit_passes() -> anyhow::Result<()> {
    let Some(all) = all()? else {
        return skipped(
            "the conformance kit is not here (set MILLRACE_SHARED to the directory that holds spec/ctk)",
        );
    };
    report(&outcomes(&*world().await?, &all).await)
}

/// All scenarios, if the kit is here.
pub(crate) fn all() -> anyhow::Result<Option<Vec<Scenario>>> {
    let Some(dir) = features() else {
        return Ok(None);
    };
    let mut files: Vec<_> = std::fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(std::fs::DirEntry::path);
    let mut all = Vec::new();
    for file in files {
        all.extend(scenarios(&std::fs::read_to_string(file.path())?));
    }
    ensure!(
        all.len() >= 21,
        "{} scenarios found, expected at least 21",
        all.len()
    );
    Ok(Some(all))
}

/// Runs scenarios; in the order given.
pub(crate) async fn outcomes<'s>(
    world: &World,
    all: &'s [Scenario],
) -> Vec<(&'s Scenario, anyhow::Result<()>)> {
    let client = &world.stack.client();
    stream::iter(all.iter().enumerate())
        .map(|(number, scenario)| async move { (scenario, play(client, number, scenario).await) })
        .buffered(4)
        .collect()
        .await
}

fn report(outcomes: &[(&Scenario, anyhow::Result<()>)]) -> anyhow::Result<()> {
    let (mut passed, mut failures) = (0, String::new());
    for (scenario, outcome) in outcomes {
        match outcome {
            Ok(()) => passed += 1,
            Err(error) => failures += &format!("\n{} / {}: {error:#}", scenario.feature, scenario.name),
        }
    }
    println!("conformance kit: {passed} of {} scenarios pass", outcomes.len());
    ensure!(failures.is_empty(), "scenarios failed:{failures}");
    Ok(())
}

fn features() -> Option<PathBuf> {
    let dir = specification()?.join("ctk/features");
    dir.is_dir().then_some(dir)
}

/// The directory of the specification, if it is here.
pub(crate) fn specification() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let given = std::env::var_os("MILLRACE_SHARED").map(PathBuf::from);
    let dir = given.unwrap_or_else(|| beside.into()).join("spec");
    dir.is_dir().then_some(dir)
}

#[derive(Default)]
struct Play {
    definition: String,
    input: Value,
    instance: Value,
    /// Names of tasks in the order in which they started.
    trace: Vec<String>,
}

async fn play(client: &Client, number: usize, scenario: &Scenario) -> anyhow::Result<()> {
    let mut play = Play {
        input: json!({}),
        ..Play::default()
    };
    for step in &scenario.steps {
        play.step(client, number, step)
            .await
            .with_context(|| format!("step `{}`", step.text))?;
    }
    Ok(())
}

impl Play {
    async fn step(&mut self, client: &Client, number: usize, step: &Step) -> anyhow::Result<()> {
        let document = || step.document.as_deref().context("a doc-string is needed");
        let words: Vec<&str> = step.text.split_whitespace().collect();
        match words.as_slice() {
            ["a", "workflow", "with", "definition:"] => self.definition = renamed(document()?, number)?,
            ["given", "the", "workflow", "input", "is:"] => self.input = yaml::read(document()?)?,
            ["the", "workflow", "is", "executed"] => self.execute(client).await?,
            ["the", "workflow", "should", "complete"] => self.has_status("completed")?,
            ["the", "workflow", "should", "complete", "with", "output:"] => {
                self.has_status("completed")?;
                equal(&self.instance["output"], &yaml::read(document()?)?)?;
            }
            ["the", "workflow", "should", "fault"] => self.has_status("faulted")?,
            ["the", "workflow", "should", "fault", "with", "error:"] => {
                self.has_status("faulted")?;
                let (error, expected) = (&self.instance["error"], yaml::read(document()?)?);
                ensure!(
                    yaml::holds(error, &expected),
                    "expected error {expected}, got {error}"
                );
            }
            [
                "the",
                "workflow",
                "output",
                "should",
                "have",
                "properties",
                names @ ..,
            ] => {
                for name in names {
                    self.property(name.trim_matches(['\'', ',']))?;
                }
            }
            [
                "the",
                "workflow",
                "output",
                "should",
                "have",
                "a",
                name,
                "property",
                "with",
                "value:",
            ] => {
                equal(self.property(name.trim_matches('\''))?, &yaml::read(document()?)?)?;
            }
            [
                "the",
                "workflow",
                "output",
                "should",
                "have",
                "a",
                name,
                "property",
                "containing",
                count,
                "items",
            ] => {
                let found = self.property(name.trim_matches('\''))?;
                let items = found.as_array().map(Vec::len);
                ensure!(
                    items == Some(count.parse()?),
                    "expected {count} items, got {found}"
                );
            }
            [task, "should", "run", "first"] => ensure!(self.place(task)? == 0, "trace {:?}", self.trace),
            [task, "should", "run", "last"] => {
                ensure!(
                    self.place(task)? + 1 == self.trace.len(),
                    "trace {:?}",
                    self.trace
                );
            }
            [task, "should", "run", "after", other] => {
                ensure!(self.place(task)? > self.place(other)?, "trace {:?}", self.trace);
            }
            [task, "should", "run", "before", other] => {
                ensure!(self.place(task)? < self.place(other)?, "trace {:?}", self.trace);
            }
            _ => bail!("unknown step"),
        }
        Ok(())
    }

    async fn execute(&mut self, client: &Client) -> anyhow::Result<()> {
        self.instance = client.run(&self.definition, self.input.take()).await?;
        let id = self.instance["id"].as_str().context("an id")?;
        self.trace = task_starts(&client.history(id).await?);
        Ok(())
    }

    fn has_status(&self, status: &str) -> anyhow::Result<()> {
        let found = &self.instance["status"];
        ensure!(
            found == status,
            "expected {status}, got {found}: {}",
            self.instance["error"]
        );
        Ok(())
    }

    /// Follows a dotted path in the output.
    fn property(&self, path: &str) -> anyhow::Result<&Value> {
        let output = &self.instance["output"];
        let found = path.split('.').try_fold(output, |value, key| value.get(key));
        found.with_context(|| format!("no `{path}` in {output}"))
    }

    fn place(&self, task: &str) -> anyhow::Result<usize> {
        let place = self.trace.iter().position(|name| name == task);
        place.with_context(|| format!("{task} did not run: {:?}", self.trace))
    }
}

/// Names of the tasks that started, in that order: every entry about a task carries its name and the number of its start.
pub(crate) fn task_starts(history: &[Value]) -> Vec<String> {
    let mut starts: Vec<(u64, &str)> = history
        .iter()
        .filter_map(|entry| Some((entry["start"].as_u64()?, entry["name"].as_str()?)))
        .collect();
    starts.sort_unstable();
    starts.dedup();
    starts.into_iter().map(|(_, name)| name.to_owned()).collect()
}

fn equal(found: &Value, expected: &Value) -> anyhow::Result<()> {
    ensure!(yaml::same(found, expected), "expected {expected}, got {found}");
    Ok(())
}

/// With a name that no other scenario has.
fn renamed(definition: &str, number: usize) -> anyhow::Result<String> {
    let name = yaml::read(definition)?["document"]["name"]
        .as_str()
        .context("a name")?
        .to_owned();
    Ok(definition.replacen(&format!("name: {name}"), &format!("name: kit{number}-{name}"), 1))
}
