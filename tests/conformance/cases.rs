//! The project's own cases: `tests/cases/**/*.yaml`, one rule of the language each. `tests/cases/README.md` says what
//! stands in a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, stream};
use millrace_tests::{Client, yaml};
use serde_json::{Map, Value, json};

use crate::kit::task_starts;
use crate::{World, rows, world};

/// Cases run at the same time: the stack is real, and so is the machine.
const AT_A_TIME: usize = 8;

/// Keys of a case and of its `expect`; another one is a typing error.
const KEYS: [&str; 6] = ["name", "rule", "definition", "others", "input", "expect"];
const EXPECT_KEYS: [&str; 8] = [
    "status",
    "output",
    "outputHolds",
    "error",
    "refused",
    "trace",
    "seconds",
    "warning",
];

/// A file.
pub(crate) struct Case {
    path: PathBuf,
    text: Value,
}

#[tokio::test]
async fn every_case_holds() -> anyhow::Result<()> {
    let only = std::env::var("MILLRACE_TEST_CASE").ok();
    let mut cases = all()?;
    cases.retain(|case| {
        only.as_ref()
            .is_none_or(|only| case.path.to_string_lossy().contains(only))
    });
    ensure!(
        only.is_some() || cases.len() >= 400,
        "only {} cases found",
        cases.len()
    );
    let world = world().await?;
    let outcomes = outcomes(&world, &cases).await;
    let failures: Vec<String> = outcomes
        .iter()
        .filter_map(|(case, outcome)| {
            let error = outcome.as_ref().err()?;
            Some(format!("{} ({}): {error:#}", case.slug(), case.rule()))
        })
        .collect();
    println!(
        "language cases: {} of {} hold",
        cases.len() - failures.len(),
        cases.len()
    );
    ensure!(failures.is_empty(), "cases failed:\n{}", failures.join("\n"));
    ensure!(
        only.is_some() || world.stub.calls("case-order") > 0,
        "no case reached the stub"
    );
    Ok(())
}

/// All of them, by path.
pub(crate) fn all() -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"), &mut cases)?;
    Ok(cases)
}

/// Runs cases; in the order given.
pub(crate) async fn outcomes<'c>(world: &World, cases: &'c [Case]) -> Vec<(&'c Case, anyhow::Result<()>)> {
    let client = &world.stack.client();
    stream::iter(cases)
        .map(|case| async move { (case, check(client, case).await) })
        .buffered(AT_A_TIME)
        .collect()
        .await
}

fn collect(dir: &Path, cases: &mut Vec<Case>) -> anyhow::Result<()> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, cases)?;
        } else if path.extension().is_some_and(|e| e == "yaml") {
            let text = yaml::read(&std::fs::read_to_string(&path)?);
            let text = text.with_context(|| path.display().to_string())?;
            cases.push(Case { path, text });
        }
    }
    Ok(())
}

async fn check(client: &Client, case: &Case) -> anyhow::Result<()> {
    case.check_keys()?;
    let expect = &case.text["expect"];
    for (number, other) in case.text["others"].as_array().into_iter().flatten().enumerate() {
        let text = other.as_str().context("`others` holds texts")?;
        client.apply(&case.document(text, &format!("-{number}"))).await?;
    }
    let definition = case.document(
        case.text["definition"]
            .as_str()
            .context("`definition` is a text")?,
        "",
    );
    let applied = client.try_apply(&definition).await?;
    if let Some(refused) = expect.get("refused") {
        return check_refused(applied.status, &applied.body, refused);
    }
    ensure!(matches!(applied.status, 200 | 201), "refused: {}", applied.body);
    if let Some(warning) = expect["warning"].as_str() {
        let warnings = applied.body["warnings"].to_string();
        ensure!(
            warnings.contains(warning),
            "expected a warning with `{warning}`, got {warnings}"
        );
    }
    let input = case.text.get("input").cloned().unwrap_or_else(|| json!({}));
    let name = yaml::read(&definition)?["document"].clone();
    let reference = json!({"namespace": name["namespace"], "name": name["name"], "version": name["version"]});
    let id = client.start(&reference, input).await?;
    let instance = client.wait(&id).await?;
    check_end(client, &id, &instance, expect).await
}

async fn check_end(client: &Client, id: &str, instance: &Value, expect: &Value) -> anyhow::Result<()> {
    let status = expect["status"].as_str().unwrap_or("completed");
    ensure!(
        instance["status"] == status,
        "expected {status}, got {}: {}{}",
        instance["status"],
        instance["error"],
        instance["output"]
    );
    if let Some(output) = expect.get("output") {
        let found = &instance["output"];
        ensure!(yaml::same(found, output), "expected output {output}, got {found}");
    }
    if let Some(part) = expect.get("outputHolds") {
        let found = &instance["output"];
        ensure!(
            yaml::holds(found, part),
            "expected output with {part}, got {found}"
        );
    }
    if let Some(error) = expect.get("error") {
        check_error(&instance["error"], error)?;
    }
    if let Some(trace) = expect["trace"].as_array() {
        let found = task_starts(&client.history(id).await?);
        ensure!(
            json!(found) == json!(trace),
            "expected tasks {trace:?}, got {found:?}"
        );
    }
    if let Some(range) = expect["seconds"].as_array() {
        check_seconds(instance, range)?;
    }
    Ok(())
}

/// `type` may be the short name of a standard error; `detail` is a part of the text.
fn check_error(found: &Value, expected: &Value) -> anyhow::Result<()> {
    for (key, value) in expected.as_object().into_iter().flatten() {
        let text = found[key].as_str().unwrap_or_default();
        let wanted = value.as_str().unwrap_or_default();
        let holds = match key.as_str() {
            "type" => text == wanted || text.ends_with(&format!("/errors/{wanted}")),
            "detail" => text.contains(wanted),
            _ => yaml::same(&found[key], value),
        };
        ensure!(holds, "expected error with {key} {value}, got {found}");
    }
    Ok(())
}

fn check_refused(status: u16, body: &Value, expected: &Value) -> anyhow::Result<()> {
    ensure!(status == 422, "expected a refusal, got {status}: {body}");
    let diagnostics = body["diagnostics"].as_array().context("diagnostics")?;
    let matches = |found: &Value| {
        let text = format!("{} {}", found["message"], found["hint"]);
        let said = expected["says"].as_str().is_none_or(|part| text.contains(part));
        let at = expected
            .get("pointer")
            .is_none_or(|pointer| found["pointer"] == *pointer);
        let placed =
            found["line"].as_u64().is_some_and(|n| n > 0) && found["column"].as_u64().is_some_and(|n| n > 0);
        said && at && placed
    };
    ensure!(
        diagnostics.iter().any(matches),
        "expected a diagnostic like {expected}, got {body}"
    );
    Ok(())
}

/// Time from the start to the end of the instance, within a range.
fn check_seconds(instance: &Value, range: &[Value]) -> anyhow::Result<()> {
    let at = |key: &str| {
        instance[key]
            .as_str()
            .and_then(millis_of_day)
            .with_context(|| format!("no {key}"))
    };
    let day = 24 * 3_600_000;
    let took = Duration::from_millis((at("endedAt")? + day - at("createdAt")?) % day).as_secs_f64();
    let [least, most] = [0, 1].map(|n| range.get(n).and_then(Value::as_f64).unwrap_or(0.0));
    ensure!(
        took >= least && took <= most,
        "took {took} s, expected {least} to {most}"
    );
    Ok(())
}

/// Milliseconds since midnight of an RFC 3339 time in UTC.
fn millis_of_day(text: &str) -> Option<u64> {
    let time = text.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = time.split(':');
    let (h, m): (f64, f64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let s: f64 = parts.next()?.parse().ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a day has few milliseconds"
    )]
    Some(((h * 3600.0 + m * 60.0 + s) * 1000.0).round() as u64)
}

impl Case {
    /// Area and name: `for/zero-iterations`.
    pub(crate) fn name(&self) -> String {
        let area = self.path.parent().and_then(Path::file_name).unwrap_or_default();
        let stem = self.path.file_stem().unwrap_or_default();
        format!("{}/{}", area.to_string_lossy(), stem.to_string_lossy())
    }

    /// `rule`, as it stands there.
    pub(crate) fn rule(&self) -> &str {
        self.text["rule"].as_str().unwrap_or_default()
    }

    /// File name without its ending, as part of the definition's name.
    fn slug(&self) -> String {
        let dir = self
            .path
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default()
            .to_string_lossy();
        format!(
            "{dir}-{}",
            self.path.file_stem().unwrap_or_default().to_string_lossy()
        )
    }

    /// The definition with the head that every case would have to repeat, unless it brings its own. `SELF` in it stands
    /// for the definition's name.
    fn document(&self, text: &str, suffix: &str) -> String {
        let text = text.replace("SELF", &self.slug());
        if text.starts_with("document:") {
            return text;
        }
        let name = format!("{}{suffix}", self.slug());
        format!("document:\n  dsl: '1.0.3'\n  namespace: default\n  name: {name}\n  version: 1.0.0\n{text}")
    }

    /// A case that holds whatever happens shows nothing.
    fn can_fail(&self) -> bool {
        let expect = &self.text["expect"];
        let says = |key: &str| match &expect[key] {
            Value::Null => key == "output" && expect.get(key).is_some(),
            Value::Object(members) => key == "output" || !members.is_empty(),
            _ => true,
        };
        EXPECT_KEYS.iter().any(|key| says(key))
    }

    fn check_keys(&self) -> anyhow::Result<()> {
        let unknown = |value: &Value, known: &[&str]| {
            let keys = value.as_object().map(Map::keys).into_iter().flatten();
            keys.filter(|k| !known.contains(&k.as_str()))
                .cloned()
                .collect::<Vec<_>>()
        };
        let wrong = [
            unknown(&self.text, &KEYS),
            unknown(&self.text["expect"], &EXPECT_KEYS),
        ]
        .concat();
        ensure!(wrong.is_empty(), "unknown keys {wrong:?}");
        ensure!(
            self.text["name"].is_string() && self.text["rule"].is_string(),
            "name and rule are needed"
        );
        let unknown = rows::unknown(self.rule())?;
        ensure!(
            unknown.is_empty(),
            "rules that are no rows of tests/conformance/rows.yaml: {unknown:?}"
        );
        ensure!(self.can_fail(), "`expect` says nothing that could be otherwise");
        Ok(())
    }
}
