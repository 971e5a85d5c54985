//! `rows.yaml`: the language row by row, and which cases show which row.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use millrace_tests::yaml;
use serde_json::Value;

/// A part of the table.
pub(crate) struct Part {
    pub(crate) title: String,
    /// Decisions of ours, not the specification's words.
    pub(crate) is_ours: bool,
    pub(crate) rows: Vec<Row>,
}

/// A row: the `rule` that cases name, and what it says.
pub(crate) struct Row {
    pub(crate) rule: String,
    pub(crate) text: String,
}

/// The whole table.
pub(crate) fn read() -> anyhow::Result<Vec<Part>> {
    let table = yaml::read(include_str!("rows.yaml"))?;
    let parts: Vec<Part> = table
        .as_array()
        .context("a list of parts")?
        .iter()
        .map(part)
        .collect::<anyhow::Result<_>>()?;
    let mut rules: Vec<&str> = parts
        .iter()
        .flat_map(|p| &p.rows)
        .map(|r| r.rule.as_str())
        .collect();
    let count = rules.len();
    rules.sort_unstable();
    rules.dedup();
    ensure!(rules.len() == count, "a rule stands twice in rows.yaml");
    Ok(parts)
}

fn part(value: &Value) -> anyhow::Result<Part> {
    let text = |value: &Value, key: &str| {
        let found = value[key].as_str().map(str::to_owned);
        found.with_context(|| format!("no `{key}` in {value}"))
    };
    let rows = value["rows"].as_array().context("`rows`")?.iter();
    let rows = rows.map(|row| {
        Ok(Row {
            rule: text(row, "rule")?,
            text: text(row, "text")?,
        })
    });
    Ok(Part {
        title: text(value, "part")?,
        is_ours: value["ours"] == true,
        rows: rows.collect::<anyhow::Result<_>>()?,
    })
}

/// Every rule of the table.
fn known() -> anyhow::Result<&'static BTreeSet<String>> {
    static KNOWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known);
    }
    let rules = read()?.into_iter().flat_map(|part| part.rows).map(|row| row.rule);
    let rules = rules.collect();
    Ok(KNOWN.get_or_init(|| rules))
}

/// The rules of a case that are no rows; a case that names none at all has an empty one.
pub(crate) fn unknown(text: &str) -> anyhow::Result<Vec<&str>> {
    let known = known()?;
    match rules(text).next() {
        None => Ok(vec![text]),
        Some(_) => Ok(rules(text).filter(|rule| !known.contains(*rule)).collect()),
    }
}

/// The rules that a case names: `section 1.3 for; decision 12`.
pub(crate) fn rules(text: &str) -> impl Iterator<Item = &str> {
    text.split([';', ','])
        .map(str::trim)
        .filter(|rule| !rule.is_empty())
}
