//! Every definition of the specification (examples, conformance kit, use cases) parses. Needs the specification
//! beside the repository; skipped without it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use millrace_dsl::parse;
use support::{blocks, files, show, specification};

#[test]
fn examples_parse() {
    let Some(spec) = specification() else { return };
    let files = files(spec.join("examples"), "yaml");
    assert_eq!(files.len(), 68, "{} examples", files.len());
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

#[test]
fn use_cases_parse() {
    let Some(spec) = specification() else { return };
    let mut count = 0;
    for directory in std::fs::read_dir(spec.join("use-cases")).unwrap() {
        let readme = directory.unwrap().path().join("README.md");
        let Ok(text) = std::fs::read_to_string(&readme) else {
            continue;
        };
        for block in blocks(&text, "```yaml", "```") {
            // Not YAML: `as: $context + { text: .text }` without quotes (dsl.md, section 0).
            if block.contains("as: $context + {") {
                assert!(parse(&block).is_err());
                continue;
            }
            count += 1;
            if let Err(faults) = parse(&block) {
                panic!("{}\n{block}\n{}", readme.display(), show(&faults));
            }
        }
    }
    assert_eq!(count, 3);
}
