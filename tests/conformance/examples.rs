//! The examples and use cases of the specification: each is accepted, or refused because this build does not execute a
//! part of it yet; and each whose own text defines an end is run to that end against the stub.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, stream};
use millrace_tests::{Client, yaml};
use serde_json::{Value, json};

use crate::kit::specification;
use crate::{World, skipped, world};

/// Examples of 1.0.3 and of what was added since, and the blocks of the use cases that are YAML.
const EXAMPLES_MIN: usize = 68;

/// What this build refuses as not executed yet: a name more or less is a change that somebody means.
const REFUSED: [&str; 6] = [
    "call-asyncapi-subscribe-consume-forever-foreach",
    "schedule-event-driven",
    "set-expression",
    "set",
    "use case managing-ev-charging-stations",
    "use case managing-github-issues",
];

/// A definition of the specification.
pub(crate) struct Example {
    name: String,
    text: String,
}

/// What came of it.
pub(crate) enum Outcome {
    /// It ran to the end that its text defines.
    Ran,
    /// It is accepted; its text defines no end that a stub could bring about.
    Accepted,
    /// A part of it is not executed yet.
    NotSupportedYet,
    Failed(anyhow::Error),
}

/// An end: the name of the example, input, status, and what output or error hold.
struct End {
    name: &'static str,
    input: Value,
    status: &'static str,
    holds: Value,
}

#[tokio::test]
async fn every_example_is_accepted_and_runs_to_its_end() -> anyhow::Result<()> {
    let Some(examples) = all()? else {
        return skipped(
            "the examples are not here (set MILLRACE_SHARED to the directory that holds spec/examples)",
        );
    };
    let outcomes = outcomes(&*world().await?, &examples).await;
    print!("{}", summary(&outcomes));
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|(example, outcome)| match outcome {
            Outcome::Failed(error) => Some(format!("{}: {error:#}", example.name)),
            _ => None,
        })
        .collect();
    ensure!(failed.is_empty(), "examples failed:\n{}", failed.join("\n"));
    let refused: Vec<&str> = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::NotSupportedYet))
        .map(|(example, _)| example.name.as_str())
        .collect();
    ensure!(
        refused == REFUSED,
        "refused as not supported yet: {refused:?}, expected {REFUSED:?}"
    );
    let names: Vec<&str> = examples.iter().map(|e| e.name.as_str()).collect();
    let unknown: Vec<_> = ends()
        .into_iter()
        .map(|e| e.name)
        .filter(|n| !names.contains(n))
        .collect();
    ensure!(
        unknown.is_empty(),
        "ends of examples that do not exist: {unknown:?}"
    );
    Ok(())
}

/// All of them, if the specification is here.
pub(crate) fn all() -> anyhow::Result<Option<Vec<Example>>> {
    let Some(spec) = specification() else {
        return Ok(None);
    };
    let mut examples = Vec::new();
    for path in sorted(spec.join("examples"))? {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(&path)?;
        examples.push(Example { name, text });
    }
    for path in sorted(spec.join("use-cases"))? {
        let Ok(text) = std::fs::read_to_string(path.join("README.md")) else {
            continue;
        };
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // One block has a text without the quotes that its `: ` needs: it is no YAML.
        let blocks = blocks(&text).into_iter().filter(|text| yaml::read(text).is_ok());
        examples.extend(blocks.map(|text| Example {
            name: format!("use case {name}"),
            text,
        }));
    }
    ensure!(
        examples.len() >= EXAMPLES_MIN,
        "only {} examples found",
        examples.len()
    );
    Ok(Some(examples))
}

fn sorted(directory: PathBuf) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}

/// Fenced blocks that are definitions.
fn blocks(text: &str) -> Vec<String> {
    let blocks = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("\n```"));
    let blocks = blocks.map(|(block, _)| format!("{block}\n"));
    blocks.filter(|block| block.starts_with("document:")).collect()
}

/// Deploys all, and runs those with an end; in the order given.
pub(crate) async fn outcomes<'e>(world: &World, examples: &'e [Example]) -> Vec<(&'e Example, Outcome)> {
    let client = &world.stack.client();
    stream::iter(examples.iter().enumerate())
        .map(|(number, example)| async move {
            let outcome = play(client, number, example).await;
            (example, outcome.unwrap_or_else(Outcome::Failed))
        })
        .buffered(8)
        .collect()
        .await
}

async fn play(client: &Client, number: usize, example: &Example) -> anyhow::Result<Outcome> {
    let definition = renamed(&example.text, number)?;
    let applied = client.try_apply(&definition).await?;
    let ends: Vec<End> = ends()
        .into_iter()
        .filter(|end| end.name == example.name)
        .collect();
    if applied.status == 422 && ends.is_empty() {
        return refused(&applied.body);
    }
    ensure!(matches!(applied.status, 200 | 201), "refused: {}", applied.body);
    if ends.is_empty() {
        return Ok(Outcome::Accepted);
    }
    if example.name == "run-subflow" {
        client.apply(REGISTER_CUSTOMER).await?;
    }
    for end in ends {
        let instance = client.run(&definition, end.input.clone()).await?;
        ensure!(
            instance["status"] == end.status,
            "expected {}, got {instance}",
            end.status
        );
        let found = &instance[if end.status == "completed" {
            "output"
        } else {
            "error"
        }];
        ensure!(
            yaml::holds(found, &end.holds),
            "expected {}, got {found}",
            end.holds
        );
    }
    Ok(Outcome::Ran)
}

/// Only for what this build does not execute may an example be refused.
fn refused(body: &Value) -> anyhow::Result<Outcome> {
    let diagnostics = body["diagnostics"].as_array().context("diagnostics")?;
    let mut errors = diagnostics.iter().filter(|d| d["severity"] == "error");
    let pending = |d: &Value| {
        d["message"]
            .as_str()
            .is_some_and(|text| text.contains("not supported"))
    };
    ensure!(errors.all(pending), "refused: {body}");
    Ok(Outcome::NotSupportedYet)
}

/// Under a name that no other example has: several share one.
fn renamed(definition: &str, number: usize) -> anyhow::Result<String> {
    let name = yaml::read(definition)?["document"]["name"]
        .as_str()
        .context("a name")?
        .to_owned();
    Ok(definition.replacen(
        &format!("name: {name}"),
        &format!("name: example{number}-{name}"),
        1,
    ))
}

/// Counts, and the examples that did not run.
pub(crate) fn summary(outcomes: &[(&Example, Outcome)]) -> String {
    let names = |which: fn(&Outcome) -> bool| {
        let found = outcomes
            .iter()
            .filter(|(_, o)| which(o))
            .map(|(e, _)| e.name.as_str());
        found.collect::<Vec<_>>()
    };
    let ran = names(|o| matches!(o, Outcome::Ran));
    let mut text = format!(
        "\nExamples and use cases of the specification: {} of {} run to the end that their text defines.\n",
        ran.len(),
        outcomes.len()
    );
    for (what, names) in [
        (
            "accepted, their text defines no end that a stub could bring about",
            names(|o| matches!(o, Outcome::Accepted)),
        ),
        (
            "refused as not supported yet",
            names(|o| matches!(o, Outcome::NotSupportedYet)),
        ),
        ("**failed**", names(|o| matches!(o, Outcome::Failed(_)))),
    ] {
        if !names.is_empty() {
            text += &format!("- {} {what}: {}\n", names.len(), names.join(", "));
        }
    }
    text
}

/// The child of `run-subflow`, which the specification does not show.
const REGISTER_CUSTOMER: &str =
    "document: { dsl: 1.0.3, namespace: test, name: register-customer, version: 0.1.0 }
do: [ { register: { set: { registered: '${ .customer }' } } } ]
";

fn end(name: &'static str, input: Value, holds: Value) -> End {
    End {
        name,
        input,
        status: "completed",
        holds,
    }
}

fn fault(name: &'static str, input: Value, holds: Value) -> End {
    End {
        status: "faulted",
        ..end(name, input, holds)
    }
}

/// The ends that the examples' texts define. A text that reads like an expression but is none in strict mode stays what
/// it is: `.customer`, `$error`.
fn ends() -> Vec<End> {
    [calls(), tasks(), errors()].into_iter().flatten().collect()
}

fn calls() -> Vec<End> {
    let pet = |id: u64| json!({"id": id, "status": "available"});
    let pets = json!([
        {"id": 1, "name": "pet 1", "status": "available"},
        {"id": 2, "name": "pet 2", "status": "available"},
    ]);
    let people = json!({"results": [{"name": "Luke Skywalker"}]});
    vec![
        end("authentication-bearer", json!({"token": "t"}), pet(1)),
        end(
            "authentication-bearer-uri-format",
            json!({"token": "t", "petId": 1}),
            pet(1),
        ),
        end(
            "authentication-reusable",
            json!({"token": "t", "petId": 2}),
            pet(2),
        ),
        end("call-custom-function-inline", json!({}), pet(69)),
        end("call-http-endpoint-interpolation", json!({"petId": 3}), pet(3)),
        end(
            "call-http-endpoint-interpolation-shorthand",
            json!({"petId": 3}),
            pet(3),
        ),
        end(
            "call-http-query-headers-expressions",
            json!({"searchQuery": "luke"}),
            people.clone(),
        ),
        end(
            "call-http-query-parameters",
            json!({"searchQuery": "luke"}),
            people.clone(),
        ),
        fault(
            "call-http-query-parameters",
            json!({}),
            json!({"status": 400, "instance": "/input"}),
        ),
        end("call-http-redirect", json!({"searchQuery": "luke"}), people),
        end("call-openapi", json!({}), pets.clone()),
        end("call-openapi-redirect", json!({}), pets),
        end("do-single", json!({"petId": 1}), pet(1)),
        // The second call's template is filled from the pet, which has no member `petId`.
        fault(
            "do-multiple",
            json!({"petId": 1}),
            json!({"status": 404, "instance": "/do/1/buyPet"}),
        ),
        end(
            "star-wars-homeworld",
            json!({"id": 1}),
            json!({"name": "Tatooine"}),
        ),
        fault(
            "star-wars-homeworld",
            json!({"id": 0}),
            json!({"status": 400, "instance": "/input"}),
        ),
    ]
}

fn tasks() -> Vec<End> {
    let alarm = json!({"patient": {"fullName": "Ann"}, "room": {"number": 7}});
    let colors = json!([{"name": "red", "hex": "#FF0000"}, {"name": "green", "hex": "#00FF00"}, {"name": "blue", "hex": "#0000FF"}]);
    let client = json!({"firstName": "Cruella", "lastName": "de Vil"});
    let items = json!([{"breed": "dalmatian", "quantity": 101}]);
    vec![
        end(
            "emit",
            json!({}),
            json!({"type": "com.petstore.order.placed.v1", "source": "https://petstore.com", "data": {"client": client, "items": items}}),
        ),
        end("for-inline-array", json!({}), json!({"processed": colors})),
        // Either call may win; both answer.
        end("fork", alarm, json!({})),
        end("run-subflow", json!({}), json!({"registered": ".user"})),
        end(
            "switch-then-string",
            json!({"orderType": "electronic"}),
            json!({"validate": true, "status": "fulfilled"}),
        ),
        end(
            "switch-then-string",
            json!({"orderType": "physical"}),
            json!({"inventory": "clear", "items": 1, "address": "Elmer St"}),
        ),
        end(
            "switch-then-string",
            json!({"orderType": "?"}),
            json!({"log": "warn"}),
        ),
        end("wait-duration-inline", json!({"x": 1}), json!({"x": 1})),
        end("wait-duration-iso8601", json!({"x": 1}), json!({"x": 1})),
    ]
}

fn errors() -> Vec<End> {
    let not_implemented = json!({"type": "https://serverlessworkflow.io/errors/not-implemented", "status": 500, "title": "Not Implemented", "instance": "/do/0/notImplemented"});
    let nobody = json!({"petId": "nobody"});
    vec![
        fault(
            "conditional-task",
            json!({"customer": {"age": 17}}),
            json!({"type": "https://superbet-casinos.com/customer/access-forbidden", "status": 400, "title": "Access Forbidden"}),
        ),
        end(
            "conditional-task",
            json!({"customer": {"age": 18}}),
            json!({"placed": true}),
        ),
        fault("raise-inline", json!({}), not_implemented.clone()),
        fault("raise-reusable", json!({}), not_implemented),
        end("try-catch", nobody.clone(), nobody.clone()),
        end("try-catch", json!({"petId": 1}), json!({"id": 1})),
        end("try-catch-then", nobody.clone(), json!({"error": "$error"})),
        end("try-catch-then-directive", json!({}), json!({"status": "failed"})),
        // What fails with 404 is not retried: the policy is for 503.
        end("try-catch-retry-inline", json!({"petId": 1}), json!({"id": 1})),
        fault(
            "try-catch-retry-inline",
            nobody.clone(),
            json!({"status": 404, "instance": "/do/0/tryGetPet/try/0/getPet"}),
        ),
        end("try-catch-retry-reusable", json!({"petId": 1}), json!({"id": 1})),
        fault("try-catch-retry-reusable", nobody, json!({"status": 404})),
    ]
}
