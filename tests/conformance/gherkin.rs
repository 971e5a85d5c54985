//! The part of Gherkin that the kit uses: features, scenarios, steps with doc-strings, comments.

/// A scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) feature: String,
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// A step: its text without the keyword, and the doc-string below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) text: String,
    pub(crate) document: Option<String>,
}

const KEYWORDS: [&str; 5] = ["Given ", "When ", "Then ", "And ", "But "];
const QUOTES: &str = "\"\"\"";

/// All scenarios of a file.
pub(crate) fn scenarios(text: &str) -> Vec<Scenario> {
    let mut found: Vec<Scenario> = Vec::new();
    let mut feature = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix("Feature:") {
            feature = name.trim().into();
        } else if let Some(name) = trimmed.strip_prefix("Scenario:") {
            let name = name.trim().into();
            found.push(Scenario {
                feature: feature.clone(),
                name,
                steps: Vec::new(),
            });
        } else if trimmed.starts_with(QUOTES) {
            let document = document(line, &mut lines);
            if let Some(step) = found.last_mut().and_then(|s| s.steps.last_mut()) {
                step.document = Some(document);
            }
        } else if let Some(text) = KEYWORDS.iter().find_map(|k| trimmed.strip_prefix(k))
            && let Some(scenario) = found.last_mut()
        {
            scenario.steps.push(Step {
                text: text.trim().into(),
                document: None,
            });
        }
    }
    found
}

/// Lines up to the closing quotes, less the indentation of the opening ones.
fn document<'a>(opening: &str, lines: &mut impl Iterator<Item = &'a str>) -> String {
    let indentation = opening.len() - opening.trim_start().len();
    let less = |line: &str| {
        let spaces = line.len() - line.trim_start().len();
        line[spaces.min(indentation)..].to_owned() + "\n"
    };
    lines
        .take_while(|line| !line.trim().starts_with(QUOTES))
        .map(less)
        .collect()
}

#[test]
fn scenarios_have_steps_and_documents() {
    let text = "Feature: F\n  As a user\n\n  # remark\n  Scenario: S\n    Given a workflow:\n    \"\"\"yaml\n    a:\n      b: 1\n    \"\"\"\n    And x should run first\n  Scenario: T\n    When done";
    let found = scenarios(text);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].feature.as_str(), found[0].name.as_str()), ("F", "S"));
    let given = Step {
        text: "a workflow:".into(),
        document: Some("a:\n  b: 1\n".into()),
    };
    assert_eq!(
        found[0].steps,
        [
            given,
            Step {
                text: "x should run first".into(),
                document: None
            }
        ]
    );
    assert_eq!(found[1].steps[0].text, "done");
}
