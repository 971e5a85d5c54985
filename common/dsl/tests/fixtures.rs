//! Every definition of the specification (examples, conformance kit, use cases) parses. Needs the specification
//! beside the repository; skipped without it.

use std::path::PathBuf;

use millrace_dsl::{Diagnostic, parse};

/// The specification: `MILLRACE_SHARED`, or `../shared` beside the repository.
fn specification() -> Option<PathBuf> {
    let shared = std::env::var_os("MILLRACE_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let spec = shared.join("spec");
    if !spec.is_dir() {
        eprintln!("skipped: no specification at {}", spec.display());
        return None;
    }
    Some(spec)
}

fn files(directory: PathBuf, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

fn show(faults: &[Diagnostic]) -> String {
    let line = |f: &Diagnostic| {
        format!(
            "  {f} [{}] {}\n",
            f.pointer,
            f.hint.as_deref().unwrap_or_default()
        )
    };
    faults.iter().map(line).collect()
}

/// The fenced blocks of a text that open with `fence` and hold a definition, without their indentation.
fn blocks(text: &str, fence: &str, close: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != fence {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let body: Vec<&str> = lines.by_ref().take_while(|l| l.trim() != close).collect();
        let body: String = body
            .iter()
            .map(|l| format!("{}\n", l.get(indent..).unwrap_or_default()))
            .collect();
        if body.starts_with("document:") {
            found.push(body);
        }
    }
    found
}

#[test]
fn examples_parse() {
    let Some(spec) = specification() else { return };
    let files = files(spec.join("examples"), "yaml");
    assert!(files.len() >= 67, "{} examples", files.len());
    let mut failed = String::new();
    for file in files {
        if let Err(faults) = parse(&std::fs::read_to_string(&file).unwrap()) {
            failed += &format!("{}\n{}", file.display(), show(&faults));
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn conformance_kit_parses() {
    let Some(spec) = specification() else { return };
    let mut count = 0;
    for file in files(spec.join("ctk/features"), "feature") {
        let text = std::fs::read_to_string(&file).unwrap();
        for block in blocks(&text, "\"\"\"yaml", "\"\"\"") {
            count += 1;
            if let Err(faults) = parse(&block) {
                panic!("{}\n{block}\n{}", file.display(), show(&faults));
            }
        }
    }
    assert_eq!(count, 21);
}
