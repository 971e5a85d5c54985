//! `docs/reference/errors.md` names every problem of the API and every error of the language, and nothing else.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;

use millrace_common::ErrorKind;
use millrace_coordinator::api::Code;

/// First cells of the tables under a heading, without backticks.
fn listed(heading: &str) -> BTreeSet<String> {
    let page = include_str!("../../docs/reference/errors.md");
    let section = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"))
        .1;
    let section = section.split("\n## ").next().unwrap();
    let cell = |line: &str| {
        let name = line.strip_prefix("| `")?.split_once('`')?.0;
        Some(name.to_owned())
    };
    section.lines().filter_map(cell).collect()
}

#[test]
fn every_code_of_the_api() {
    let known = Code::ALL.iter().map(|c| c.name().to_owned()).collect();
    assert_eq!(listed("Problems of the API"), known);
}

#[test]
fn every_error_of_the_language() {
    let known = ErrorKind::ALL.iter().map(|k| k.name().to_owned()).collect();
    assert_eq!(listed("Errors of the language"), known);
}
