//! `docs/conformance.md`: every row of the language, the cases that show it, and whether they hold.
//!
//! `tools/conformance-page` runs everything and writes it. An ordinary run of the tests compares the page with what
//! would be written when every case holds, which is what the other tests of this binary make sure of.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::ensure;

use crate::cases::{self, Case};
use crate::kit;
use crate::rows::{self, Part, Row};
use crate::{World, examples, world};

/// Written instead of compared when this is set to 1.
const WRITE: &str = "MILLRACE_WRITE_DOCS";

/// What follows it in the page comes from a run with the specification at hand, and is kept when that is not here.
const OUTSIDE: &str = "## The kit and the examples of the specification\n";

/// Case and whether it holds.
type Outcomes<'c> = Vec<(&'c Case, bool)>;

#[tokio::test]
async fn the_page_is_current() -> anyhow::Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let kept = found.split_once(OUTSIDE).map_or("", |(_, rest)| rest);
    let cases = cases::all()?;
    if std::env::var(WRITE).is_ok_and(|set| set == "1") {
        let world = world().await?;
        let outcomes = cases::outcomes(&world, &cases).await;
        let outcomes: Outcomes = outcomes
            .iter()
            .map(|(case, result)| (*case, result.is_ok()))
            .collect();
        let outside = outside(&world).await?.unwrap_or_else(|| kept.to_owned());
        std::fs::write(&path, page(&rows::read()?, &outcomes, &outside))?;
        return Ok(());
    }
    let outcomes: Outcomes = cases.iter().map(|case| (case, true)).collect();
    ensure!(
        page(&rows::read()?, &outcomes, kept) == found,
        "docs/conformance.md is not what the cases of this tree make of it\nhint: run tools/conformance-page and commit \
         the page with your cases; after a conflict in the page too, never merge it by hand"
    );
    Ok(())
}

fn page(parts: &[Part], outcomes: &Outcomes<'_>, outside: &str) -> String {
    let shown = shown(outcomes);
    let all = || parts.iter().flat_map(|p| &p.rows);
    let with = all().filter(|row| shown.contains_key(row.rule.as_str())).count();
    let hold = outcomes.iter().filter(|(_, holds)| *holds).count();
    let mut text = format!(
        "# Conformance\n\n<!-- Written by tools/conformance-page. Do not edit. -->\n\nWhat the language says, row by row, \
         and the cases of [tests/cases](../tests/cases/README.md) that show it. Every case is one small file with the rule \
         it shows; all run on a real stack in every run of the tests.\n\n{hold} of {} cases hold. {with} of {} rows have \
         cases; a row without one is not executed yet, or is shown by tests of another level ([testing](testing.md)).\n",
        outcomes.len(),
        all().count(),
    );
    for part in parts {
        add_part(&mut text, part, &shown);
    }
    text + "\n" + OUTSIDE + outside
}

/// Rule -> its cases.
fn shown<'c>(outcomes: &Outcomes<'c>) -> BTreeMap<&'c str, Outcomes<'c>> {
    let mut shown: BTreeMap<&str, Outcomes<'c>> = BTreeMap::new();
    for (case, holds) in outcomes {
        for rule in rows::rules(case.rule()) {
            shown.entry(rule).or_default().push((case, *holds));
        }
    }
    shown
}

fn add_part(text: &mut String, part: &Part, shown: &BTreeMap<&str, Outcomes<'_>>) {
    let column = if part.is_ours { "decision" } else { "rule" };
    *text += &format!(
        "\n## {}\n\n| {column} | hold | cases |\n| --- | --- | --- |\n",
        part.title
    );
    for row in &part.rows {
        let cases = shown
            .get(row.rule.as_str())
            .map(Vec::as_slice)
            .unwrap_or_default();
        add_row(text, row, cases);
    }
}

fn add_row(text: &mut String, row: &Row, cases: &[(&Case, bool)]) {
    let hold = cases.iter().filter(|(_, holds)| *holds).count();
    let count = match cases.len() {
        0 => "–".to_owned(),
        all => format!("{hold} of {all}"),
    };
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "| {} | {count} | {} |",
        row.text.replace('|', "\\|"),
        links(cases)
    );
}

fn links(cases: &[(&Case, bool)]) -> String {
    let link = |(case, holds): &(&Case, bool)| {
        let name = case.name();
        let failed = if *holds { "" } else { " **fails**" };
        format!("[{name}](../tests/cases/{name}.yaml){failed}")
    };
    cases.iter().map(link).collect::<Vec<_>>().join(", ")
}

/// What the kit and the examples show; `None` when the specification is not here.
async fn outside(world: &World) -> anyhow::Result<Option<String>> {
    let (Some(kit), Some(examples)) = (kit::all()?, examples::all()?) else {
        return Ok(None);
    };
    let outcomes = kit::outcomes(world, &kit).await;
    let passed = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    let mut text = format!(
        "\nThe specification's own conformance kit: {passed} of {} scenarios pass.\n",
        outcomes.len()
    );
    for (scenario, _) in outcomes.iter().filter(|(_, outcome)| outcome.is_err()) {
        text += &format!("- {} / {}: **fails**\n", scenario.feature, scenario.name);
    }
    text += &examples::summary(&examples::outcomes(world, &examples).await);
    Ok(Some(text))
}
