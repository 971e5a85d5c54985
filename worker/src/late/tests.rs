use serde_json::json;

use super::*;
use crate::secrets::Secrets;

fn hole(at: &str, expression: &str, secrets: &[&str]) -> Hole {
    Hole {
        at: at.into(),
        expression: expression.into(),
        secrets: secrets.iter().map(|s| (*s).to_owned()).collect(),
    }
}

async fn filled(input: serde_json::Value, holes: Vec<Hole>) -> (Context, Result<serde_json::Value, Failure>) {
    let variables = |name: &str| match name {
        "MILLRACE_SECRET_KEY" => Some("open-sesame".to_owned()),
        "MILLRACE_SECRET_KEYS" => Some(r#"{"t1":"first-of-keys"}"#.to_owned()),
        _ => None,
    };
    let late = Late {
        input: Some(RawJson::encode(&json!({"tenant": "t1", "text": "${ $secrets.key }"})).unwrap()),
        variables: [("context".to_owned(), RawJson::encode(&json!({"n": 7})).unwrap())].into(),
        now_ms: 0,
        holes,
        policies: Vec::new(),
    };
    let mut step = Context::detached("call:http", RawJson::encode(&input).unwrap())
        .step()
        .clone();
    step.late = Some(late.clone());
    let ctx = Context::detached_step(step, Secrets::new(variables, None));
    let result = fill(ctx.clone(), late).await.map(|raw| raw.decode().unwrap());
    (ctx, result)
}

#[tokio::test]
async fn places_are_filled_and_data_stays_data() {
    let input = json!({"headers": {"a": null}, "list": [1, null], "text": "${ $secrets.key }"});
    let holes = vec![
        hole("/headers/a", "\"Key \\($secrets.key) \\($context.n)\"", &["key"]),
        hole("/list/1", "$secrets.keys[.tenant]", &["keys"]),
        hole("/headers/x~1y", ".text", &[]),
    ];
    let (_, found) = filled(input, holes).await;
    let expected = json!({
        "headers": {"a": "Key open-sesame 7", "x/y": "${ $secrets.key }"},
        "list": [1, "first-of-keys"], "text": "${ $secrets.key }",
    });
    assert_eq!(found.unwrap(), expected);
}

#[tokio::test]
async fn a_missing_secret_is_an_authorization_error() {
    let (_, found) = filled(
        json!({"a": null}),
        vec![hole("/a", "$secrets.absent", &["absent"])],
    )
    .await;
    let problem = found.unwrap_err().problem().unwrap().clone();
    assert_eq!(
        (problem.standard(), problem.status),
        (Some(ErrorKind::Authorization), 403)
    );
    assert!(problem.detail.unwrap().contains("`absent`"));
}

#[tokio::test]
async fn failures_show_no_value() {
    let (_, found) = filled(
        json!({"a": null}),
        vec![hole("/a", "$secrets.key | error", &["key"])],
    )
    .await;
    let problem = found.unwrap_err().problem().unwrap().clone();
    assert_eq!(problem.standard(), Some(ErrorKind::Expression));
    let detail = problem.detail.unwrap();
    assert!(
        detail.contains("$secrets.key | error") && !detail.contains("sesame"),
        "{detail}"
    );
}

#[tokio::test]
async fn what_is_made_of_a_secret_is_concealed_too() {
    let (ctx, found) = filled(
        json!({"a": null}),
        vec![hole("/a", "$secrets.key | @base64", &["key"])],
    )
    .await;
    let encoded = found.unwrap()["a"].as_str().unwrap().to_owned();
    assert!(ctx.knows_as_secret(&encoded) && ctx.knows_as_secret("an open-sesame"));
}

#[tokio::test]
async fn authorization_is_what_the_call_sends() {
    let input =
        json!({"authentication": {"basic": {"username": "u", "password": null}}, "headers": {"x": null}});
    let holes = vec![
        hole(
            "/headers/x",
            "\"\\($authorization.scheme) \\($authorization.parameter)\"",
            &[],
        ),
        hole("/authentication/basic/password", "$secrets.key", &["key"]),
    ];
    let (_, found) = filled(input, holes).await;
    assert_eq!(found.unwrap()["headers"]["x"], "Basic dTpvcGVuLXNlc2FtZQ==");
    let (_, none) = filled(json!({"x": null}), vec![hole("/x", "$authorization", &[])]).await;
    assert_eq!(none.unwrap(), json!({"x": null}));
}

#[tokio::test]
async fn authorization_cannot_depend_on_itself() {
    let input = json!({"authentication": {"bearer": {"token": null}}});
    let (_, found) = filled(
        input,
        vec![hole("/authentication/bearer/token", "$authorization.scheme", &[])],
    )
    .await;
    assert_eq!(
        found.unwrap_err().problem().unwrap().standard(),
        Some(ErrorKind::Configuration)
    );
}

#[tokio::test]
async fn what_is_made_of_a_secret_is_concealed_in_objects_and_arrays_too() {
    let expression =
        r#"{key: ($secrets.key | @base64), list: [$secrets.key + "-x"], kind: "plain-word", text: .text}"#;
    let (ctx, found) = filled(json!({"body": null}), vec![hole("/body", expression, &["key"])]).await;
    found.unwrap();
    assert!(ctx.knows_as_secret("b3Blbi1zZXNhbWU=") && ctx.knows_as_secret("open-sesame-x"));
    assert!(!ctx.knows_as_secret("plain-word") && !ctx.knows_as_secret("${ $secrets.key }"));
}
