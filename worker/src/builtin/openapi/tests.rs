//! Against a service in this process that describes itself in three ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response as Reply;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

const SWAGGER: &str = r##"{"swagger": "2.0", "basePath": "/v2", "consumes": ["application/json"],
"produces": ["application/xml", "application/json"],
"parameters": {"id": {"name": "petId", "in": "path", "required": true, "type": "integer"}},
"paths": {
 "/pet/{petId}": {
  "parameters": [{"$ref": "#/parameters/id"}],
  "get": {"operationId": "getPet", "parameters": [{"name": "fields", "in": "query", "type": "array"}]},
  "post": {"operationId": "renamePet", "consumes": ["application/x-www-form-urlencoded"],
   "parameters": [{"name": "name", "in": "formData", "required": true}, {"name": "tags", "in": "formData"}]},
  "patch": {"operationId": "picturePet", "consumes": ["multipart/form-data"],
   "parameters": [{"name": "picture", "in": "formData", "type": "file"}]}},
 "/pet": {"put": {"operationId": "putPet", "parameters": [{"name": "pet", "in": "body", "required": true}]}}
}}"##;

const OPENAPI: &str = r##"
openapi: 3.1.0
servers: [ { url: '{root}/v3', variables: { root: { default: /api } } } ]
paths:
  /pets/{pet.id}/{kind}:
    $ref: '#/components/pathItems/pet'
  /pets:
    post:
      operationId: addPet
      parameters: [ { name: X-Tenant, in: header }, { name: session, in: cookie }, { name: theme, in: cookie } ]
      requestBody: { $ref: '#/components/requestBodies/pet' }
    put:
      operationId: formPet
      servers: [ { url: /other } ]
      requestBody: { content: { application/x-www-form-urlencoded: {} } }
  /circle: { get: { operationId: circle, parameters: [ { $ref: '#/components/parameters/a' } ] } }
  /away: { get: { operationId: away, parameters: [ { $ref: 'other.yaml#/x' } ] } }
components:
  pathItems:
    pet:
      get:
        operationId: getPet
        parameters:
          - { name: pet.id, in: path, required: true }
          - { name: kind, in: path, required: true, style: label }
          - { name: filter, in: query, style: deepObject }
          - { name: kind, in: query }
        responses:
          '200': { content: { text/csv: {}, application/hal+json: {} } }
          '404': { content: { text/html: {} } }
  requestBodies:
    pet: { required: true, content: { application/xml: {}, application/json: {} } }
  parameters: { a: { $ref: '#/components/parameters/b' }, b: { $ref: '#/components/parameters/a' } }
"##;

#[derive(Clone, Default)]
struct Fetched(Arc<AtomicUsize>);

async fn serve() -> (String, Fetched) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let fetched = Fetched::default();
    let app = Router::new().fallback(answer).with_state(fetched.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (base, fetched)
}

async fn answer(State(fetched): State<Fetched>, request: Request) -> Reply<Body> {
    let (parts, body) = request.into_parts();
    let plain = |text: String| {
        Reply::builder()
            .header("content-type", "text/plain")
            .body(Body::from(text))
            .unwrap()
    };
    match parts.uri.path() {
        "/swagger.json" => {
            fetched.0.fetch_add(1, Ordering::Relaxed);
            plain(SWAGGER.into())
        }
        "/openapi.yaml" => plain(OPENAPI.into()),
        "/openapi-3.0.json" => {
            plain(json!({"openapi": "3.0.3", "paths": {"/x": {"get": {"operationId": "x"}}}}).to_string())
        }
        "/html" => plain("<html>".into()),
        "/old.json" => plain(json!({"swagger": "1.2"}).to_string()),
        "/missing" => Reply::builder().status(404).body(Body::empty()).unwrap(),
        _ => {
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
            let echo = json!({
                "method": parts.method.as_str(), "uri": parts.uri.to_string(), "body": String::from_utf8_lossy(&bytes),
                "accept": header("accept"), "type": header("content-type"), "tenant": header("x-tenant"),
                "cookie": header("cookie"), "authorization": header("authorization"),
            });
            Reply::builder()
                .header("content-type", "application/json")
                .body(Body::from(echo.to_string()))
                .unwrap()
        }
    }
}

async fn run_in(ctx: &Context, input: Value) -> Result<Value, Failure> {
    let input: Call = serde_json::from_value::<Value>(input)
        .map(|v| serde_json::from_str(&v.to_string()).unwrap())
        .unwrap();
    call(ctx.clone(), input)
        .await
        .map(|output| output.decode().unwrap())
}

async fn run(document: &str, operation: &str, parameters: Value) -> Result<Value, Failure> {
    let ctx = Context::detached("call:openapi", RawJson::null());
    let input =
        json!({"document": {"endpoint": document}, "operationId": operation, "parameters": parameters});
    run_in(&ctx, input).await
}

fn refused(result: Result<Value, Failure>, kind: ErrorKind, part: &str) {
    let problem = result.unwrap_err().problem().unwrap().clone();
    assert_eq!(problem.standard(), Some(kind), "{problem}");
    assert!(problem.detail.as_ref().unwrap().contains(part), "{problem}");
}

#[tokio::test]
async fn swagger_2_operations_are_called() {
    let (base, _) = serve().await;
    let document = format!("{base}/swagger.json");
    let got = run(&document, "getPet", json!({"petId": 7, "fields": ["a", "b c"]}))
        .await
        .unwrap();
    assert_eq!(
        (&got["method"], &got["uri"], &got["accept"]),
        (
            &json!("GET"),
            &json!("/v2/pet/7?fields=a,b%20c"),
            &json!("application/json")
        )
    );
    let put = run(&document, "putPet", json!({"pet": {"id": 1.50}}))
        .await
        .unwrap();
    assert_eq!(
        (&put["body"], &put["type"]),
        (&json!(r#"{"id":1.5}"#), &json!("application/json"))
    );
    let form = run(
        &document,
        "renamePet",
        json!({"petId": 1, "name": "a&b", "tags": ["x", "y"]}),
    )
    .await
    .unwrap();
    assert_eq!(
        (&form["body"], &form["type"]),
        (
            &json!("name=a%26b&tags=x&tags=y"),
            &json!("application/x-www-form-urlencoded")
        )
    );
    let picture = run(&document, "picturePet", json!({"petId": 1, "picture": "bytes"}))
        .await
        .unwrap();
    assert_eq!(picture["type"], "multipart/form-data; boundary=millrace");
    assert!(
        picture["body"]
            .as_str()
            .unwrap()
            .contains("name=\"picture\"\r\n\r\nbytes\r\n--millrace--")
    );
}

#[tokio::test]
async fn openapi_3_operations_are_called() {
    let (base, _) = serve().await;
    let document = format!("{base}/openapi.yaml");
    let arguments = json!({"pet.id": "a/b", "kind": "cat", "filter": {"age": 3}});
    let got = run(&document, "getPet", arguments).await.unwrap();
    assert_eq!(got["uri"], "/api/v3/pets/a%2Fb/.cat?filter[age]=3&kind=cat");
    assert_eq!(got["accept"], "application/hal+json");
    let arguments = json!({"X-Tenant": "t", "session": "s", "theme": "dark", "name": "Milou", "age": 3});
    let post = run(&document, "addPet", arguments).await.unwrap();
    assert_eq!(post["body"], r#"{"name":"Milou","age":3}"#);
    assert_eq!(
        (&post["tenant"], &post["cookie"]),
        (&json!("t"), &json!("session=s; theme=dark"))
    );
    let whole = run(&document, "addPet", json!({"body": [1, 2]})).await.unwrap();
    assert_eq!(whole["body"], "[1,2]");
    let form = run(&document, "formPet", json!({"a": 1})).await.unwrap();
    assert_eq!(
        (&form["uri"], &form["body"]),
        (&json!("/other/pets"), &json!("a=1"))
    );
    let old = run(&format!("{base}/openapi-3.0.json"), "x", json!(null))
        .await
        .unwrap();
    assert_eq!(old["uri"], "/x");
}

#[tokio::test]
async fn arguments_must_fit_the_operation() {
    let (base, _) = serve().await;
    let (v2, v3) = (format!("{base}/swagger.json"), format!("{base}/openapi.yaml"));
    refused(
        run(&v2, "getPet", json!({})).await,
        ErrorKind::Validation,
        "`petId` (in path)",
    );
    refused(
        run(&v2, "getPet", json!({"petId": null})).await,
        ErrorKind::Validation,
        "`petId` (in path)",
    );
    refused(
        run(&v2, "putPet", json!({})).await,
        ErrorKind::Validation,
        "`pet` (in body)",
    );
    refused(
        run(&v2, "getPet", json!({"petId": 1, "colour": 2})).await,
        ErrorKind::Validation,
        "it has petId, fields",
    );
    refused(
        run(&v2, "getPet", json!({"petId": ".."})).await,
        ErrorKind::Validation,
        "cannot stand in a path",
    );
    refused(
        run(&v3, "addPet", json!({})).await,
        ErrorKind::Validation,
        "needs a body",
    );
}

#[tokio::test]
async fn faulty_documents_are_configuration_errors() {
    let (base, _) = serve().await;
    let of = |path: &str, operation: &str| {
        let (document, operation) = (format!("{base}{path}"), operation.to_owned());
        async move { run(&document, &operation, json!({})).await }
    };
    refused(
        of("/swagger.json", "getPets").await,
        ErrorKind::Configuration,
        "it has getPet, ",
    );
    refused(
        of("/html", "x").await,
        ErrorKind::Configuration,
        "not an OpenAPI document",
    );
    refused(
        of("/old.json", "x").await,
        ErrorKind::Configuration,
        "version 1.2",
    );
    refused(
        of("/openapi.yaml", "circle").await,
        ErrorKind::Configuration,
        "circle",
    );
    refused(
        of("/openapi.yaml", "away").await,
        ErrorKind::Configuration,
        "another document",
    );
    refused(of("/missing", "x").await, ErrorKind::Communication, "404");
    refused(
        run("file:///etc/hostname", "x", json!({})).await,
        ErrorKind::Configuration,
        "MILLRACE_FILES",
    );
    refused(
        run("nowhere", "x", json!({})).await,
        ErrorKind::Configuration,
        "`nowhere`",
    );
}

#[tokio::test]
async fn documents_are_kept_and_authentication_is_sent() {
    let (base, fetched) = serve().await;
    let ctx = Context::detached("call:openapi", RawJson::null());
    let input = json!({
        "document": {"endpoint": {"uri": format!("{base}/swagger.json")}}, "operationId": "getPet",
        "parameters": {"petId": 1}, "authentication": {"bearer": {"token": "t0ken"}},
    });
    for _ in 0..3 {
        assert_eq!(
            run_in(&ctx, input.clone()).await.unwrap()["authorization"],
            "Bearer t0ken"
        );
    }
    assert_eq!(fetched.0.load(Ordering::Relaxed), 1);
    let mut whole = input;
    whole["output"] = json!("response");
    let whole = run_in(&ctx, whole).await.unwrap();
    assert_eq!(
        (&whole["statusCode"], &whole["request"]["method"]),
        (&json!(200), &json!("GET"))
    );
    assert!(whole["request"]["headers"].get("authorization").is_none());
}
