//! Against an authority in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response as Reply;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::builtin::http::failed;
use crate::secrets::Secrets;

/// Requests for tokens, in order: their `authorization` header, content type and parameters.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Asked>>>);

type Asked = (String, String, HashMap<String, String>);

impl Seen {
    fn all(&self) -> Vec<Asked> {
        self.0.lock().unwrap().clone()
    }

    fn last(&self) -> Asked {
        self.all().pop().expect("a request")
    }
}

async fn serve() -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let app = Router::new()
        .fallback(answer)
        .with_state((base.clone(), seen.clone()));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (base, seen)
}

fn reply(status: u16, body: Value) -> Reply<Body> {
    let reply = Reply::builder()
        .status(status)
        .header("content-type", "application/json");
    reply.body(Body::from(body.to_string())).unwrap()
}

async fn answer(State((base, seen)): State<(String, Seen)>, request: Request) -> Reply<Body> {
    let (parts, body) = request.into_parts();
    let header = |name: &str| {
        let value = parts.headers.get(name).and_then(|v| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (authorization, content_type) = (header("authorization"), header("content-type"));
    let path = parts.uri.path().to_owned();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    match path.as_str() {
        "/realm/oauth2/token" | "/discovered" => {
            let parameters = match content_type.as_str() {
                "application/json" => serde_json::from_slice::<HashMap<String, String>>(&body).unwrap(),
                _ => url::form_urlencoded::parse(&body).into_owned().collect(),
            };
            let mut all = seen.0.lock().unwrap();
            all.push((authorization, content_type, parameters.clone()));
            let refused = parameters
                .get("client_secret")
                .is_some_and(|s| s == "wrong-secret");
            match refused {
                true => reply(
                    401,
                    json!({"error": "invalid_client", "error_description": "wrong-secret is wrong"}),
                ),
                false => reply(
                    200,
                    json!({"access_token": format!("token-{}", all.len()), "expires_in": 3600}),
                ),
            }
        }
        "/realm/.well-known/openid-configuration" => {
            reply(200, json!({"token_endpoint": format!("{base}/discovered")}))
        }
        "/broken/oauth2/token" => reply(503, json!({})),
        "/protected" if authorization == "Bearer token-1" => reply(401, json!({})),
        "/protected" => reply(200, json!({"authorization": authorization})),
        "/digest" if authorization.starts_with("Digest ") => {
            reply(200, json!({"authorization": authorization}))
        }
        "/digest" => Reply::builder()
            .status(401)
            .header(
                "www-authenticate",
                "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256",
            )
            .body(Body::empty())
            .unwrap(),
        _ => reply(404, json!({})),
    }
}

fn context() -> Context {
    let variables = |name: &str| match name {
        "MILLRACE_SECRET_LOGIN" => Some(r#"{"username":"u","password":"p4ssword"}"#.to_owned()),
        "MILLRACE_SECRET_TOKEN" => Some("plain-token".to_owned()),
        _ => None,
    };
    let mut step = Context::detached("call:http", millrace_common::RawJson::null())
        .step()
        .clone();
    step.late = Some(millrace_common::Late {
        policies: ["login", "token", "absent"].map(str::to_owned).into(),
        ..Default::default()
    });
    Context::detached_step(step, Secrets::new(variables, None))
}

fn policy(policy: Value) -> Policy {
    serde_json::from_value(policy).unwrap()
}

async fn header(ctx: &Context, given: Value) -> Result<String, Failure> {
    let authorization = policy(given).authorization(ctx).await?.expect("no digest");
    Ok(format!("{} {}", authorization.scheme, authorization.parameter))
}

fn kind(failure: &Failure) -> ErrorKind {
    failure.problem().unwrap().standard().unwrap()
}

fn oauth(base: &str, more: Value) -> Value {
    let mut policy = json!({
        "authority": format!("{base}/realm"), "grant": "client_credentials", "client": {"id": "app", "secret": "s3cret"},
    });
    let members = more.as_object().unwrap().clone();
    policy.as_object_mut().unwrap().extend(members);
    json!({"oauth2": policy})
}

#[tokio::test]
async fn basic_and_bearer_come_inline_or_from_a_secret() {
    let ctx = context();
    let inline = json!({"basic": {"username": "u", "password": "p4ssword"}});
    for given in [inline, json!({"basic": {"use": "login"}})] {
        assert_eq!(header(&ctx, given).await.unwrap(), "Basic dTpwNHNzd29yZA==");
    }
    assert_eq!(
        header(&ctx, json!({"bearer": {"token": "t"}})).await.unwrap(),
        "Bearer t"
    );
    assert_eq!(
        header(&ctx, json!({"bearer": {"use": "token"}})).await.unwrap(),
        "Bearer plain-token"
    );
    assert!(ctx.knows_as_secret("dTpwNHNzd29yZA==") && ctx.knows_as_secret("plain-token"));
    assert!(
        policy(json!({"digest": {"use": "login"}}))
            .authorization(&ctx)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn what_is_lacking_is_said_without_values() {
    let ctx = context();
    let failed = header(&ctx, json!({"bearer": {"use": "absent"}}))
        .await
        .unwrap_err();
    assert_eq!(kind(&failed), ErrorKind::Authorization);
    let failed = header(&ctx, json!({"basic": {"use": "token"}}))
        .await
        .unwrap_err();
    assert_eq!(kind(&failed), ErrorKind::Configuration);
    let text = failed.to_string();
    assert!(
        text.contains("secret `token`") && !text.contains("plain-token"),
        "{text}"
    );
    let failed = header(&ctx, json!({"basic": {"username": "u"}}))
        .await
        .unwrap_err();
    assert!(failed.to_string().contains("`password`"), "{failed}");
    assert!(serde_json::from_value::<Policy>(json!({"basic": {}, "bearer": {}})).is_err());
    assert!(serde_json::from_value::<Policy>(json!({"kerberos": {}})).is_err());
}

#[tokio::test]
async fn a_token_is_asked_for_once() {
    let (base, seen) = serve().await;
    let ctx = context();
    let given = oauth(&base, json!({"scopes": ["a", "b"], "audiences": ["x"]}));
    for _ in 0..3 {
        assert_eq!(header(&ctx, given.clone()).await.unwrap(), "Bearer token-1");
    }
    let (_, content_type, sent) = seen.last();
    assert_eq!(
        (seen.all().len(), content_type.as_str()),
        (1, "application/x-www-form-urlencoded")
    );
    for (name, value) in [
        ("grant_type", "client_credentials"),
        ("client_id", "app"),
        ("client_secret", "s3cret"),
        ("scope", "a b"),
        ("audience", "x"),
    ] {
        assert_eq!(sent[name], value, "{name}");
    }
    assert_eq!(
        header(&ctx, oauth(&base, json!({"scopes": ["c"]})))
            .await
            .unwrap(),
        "Bearer token-2"
    );
}

#[tokio::test]
async fn every_grant_sends_what_it_needs() {
    let (base, seen) = serve().await;
    let ctx = context();
    let subject = json!({"token": "subject-token", "type": "urn:t"});
    let exchange = "urn:ietf:params:oauth:grant-type:token-exchange";
    for (grant, more, expected) in [
        (
            "password",
            json!({"username": "me", "password": "mine"}),
            vec![("username", "me"), ("password", "mine")],
        ),
        (
            "authorization_code",
            json!({"subject": subject}),
            vec![("code", "subject-token")],
        ),
        (
            "refresh_token",
            json!({"subject": subject}),
            vec![("refresh_token", "subject-token")],
        ),
        (
            exchange,
            json!({"subject": subject, "actor": {"token": "actor-token", "type": "urn:a"}}),
            vec![
                ("subject_token", "subject-token"),
                ("subject_token_type", "urn:t"),
                ("actor_token", "actor-token"),
            ],
        ),
    ] {
        let mut more = more;
        more["grant"] = json!(grant);
        header(&ctx, oauth(&base, more)).await.unwrap();
        let (_, _, sent) = seen.last();
        assert_eq!(sent["grant_type"], grant);
        for (name, value) in expected {
            assert_eq!(sent[name], value, "{grant}: {name}");
        }
        let lacking = header(&ctx, oauth(&base, json!({"grant": grant, "scopes": ["other"]})))
            .await
            .unwrap_err();
        assert_eq!(kind(&lacking), ErrorKind::Configuration, "{grant}");
    }
}

#[tokio::test]
async fn clients_prove_themselves_in_every_way() {
    let (base, seen) = serve().await;
    let ctx = context();
    let ask = async |client: Value| {
        header(&ctx, oauth(&base, json!({"client": client})))
            .await
            .unwrap();
        seen.last()
    };
    let (authorization, _, sent) =
        ask(json!({"id": "a b", "secret": "s3cret", "authentication": "client_secret_basic"})).await;
    assert_eq!(authorization, format!("Basic {}", STANDARD.encode("a+b:s3cret")));
    assert!(!sent.contains_key("client_secret"));
    let (_, _, sent) =
        ask(json!({"id": "app", "secret": "s3cret", "authentication": "client_secret_jwt"})).await;
    assert_eq!(jwt::issuer(&sent["client_assertion"]).as_deref(), Some("app"));
    let (_, _, sent) =
        ask(json!({"id": "app", "assertion": "a.b.c", "authentication": "private_key_jwt"})).await;
    assert_eq!(sent["client_assertion"], "a.b.c");
    assert!(sent["client_assertion_type"].ends_with("jwt-bearer"));
    let (authorization, _, sent) = ask(json!({"id": "app", "authentication": "none"})).await;
    assert_eq!(
        (authorization.as_str(), sent["client_id"].as_str(), sent.len()),
        ("", "app", 2)
    );
}

#[tokio::test]
async fn requests_may_be_json_and_addresses_discovered() {
    let (base, seen) = serve().await;
    let ctx = context();
    let mut given = oauth(&base, json!({"request": {"encoding": "application/json"}}));
    header(&ctx, given.clone()).await.unwrap();
    assert_eq!(seen.last().1, "application/json");
    for authority in ["/realm", "/realm/.well-known/openid-configuration"] {
        given["oauth2"]["authority"] = json!(format!("{base}{authority}"));
        let discovered = header(&ctx, json!({"oidc": given["oauth2"]})).await.unwrap();
        assert_eq!(discovered, format!("Bearer token-{}", seen.all().len()));
    }
    assert_eq!(seen.all().len(), 3);
}

#[tokio::test]
async fn a_refused_token_request_is_an_authentication_error() {
    let (base, _) = serve().await;
    let ctx = context();
    let client = json!({"client": {"id": "app", "secret": "wrong-secret"}});
    let refused = header(&ctx, oauth(&base, client)).await.unwrap_err();
    assert_eq!(
        (kind(&refused), refused.problem().unwrap().status),
        (ErrorKind::Authentication, 401)
    );
    let text = refused.to_string();
    assert!(text.contains("invalid_client (*** is wrong)"), "{text}");
    let mut given = oauth(&base, json!({}));
    given["oauth2"]["authority"] = json!(format!("{base}/broken"));
    let broken = header(&ctx, given.clone()).await.unwrap_err();
    assert_eq!(
        (kind(&broken), broken.problem().unwrap().status),
        (ErrorKind::Communication, 503)
    );
    given["oauth2"]["authority"] = json!("http://127.0.0.1:9");
    assert_eq!(
        kind(&header(&ctx, given).await.unwrap_err()),
        ErrorKind::Communication
    );
}

#[tokio::test]
async fn tokens_of_other_issuers_are_refused() {
    let (base, _) = serve().await;
    let refused = header(&context(), oauth(&base, json!({"issuers": ["https://issuer"]})))
        .await
        .unwrap_err();
    assert_eq!(kind(&refused), ErrorKind::Authentication);
    assert!(refused.to_string().contains("names no issuer"), "{refused}");
}

async fn get(ctx: &Context, url: String, given: Value) -> Value {
    let url = reqwest::Url::parse(&url).unwrap();
    let make = || ctx.http().request_to(Method::GET, url.clone());
    let response = send(ctx, Some(&policy(given)), make, |e| failed("test", e))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

#[tokio::test]
async fn a_service_that_refuses_a_kept_token_gets_a_new_one() {
    let (base, seen) = serve().await;
    let found = get(&context(), format!("{base}/protected"), oauth(&base, json!({}))).await;
    assert_eq!(
        (found["authorization"].as_str().unwrap(), seen.all().len()),
        ("Bearer token-2", 2)
    );
}

#[tokio::test]
async fn digest_answers_the_challenge() {
    let (base, _) = serve().await;
    let found = get(
        &context(),
        format!("{base}/digest?x=1"),
        json!({"digest": {"use": "login"}}),
    )
    .await;
    let header = found["authorization"].as_str().unwrap();
    for part in [
        "username=\"u\"",
        "uri=\"/digest?x=1\"",
        "algorithm=SHA-256",
        "qop=auth, nc=00000001",
    ] {
        assert!(header.contains(part), "{part} in {header}");
    }
}

#[tokio::test]
async fn only_secrets_that_the_definition_names_are_read() {
    let mut step = Context::detached("call:a2a", millrace_common::RawJson::null())
        .step()
        .clone();
    step.late = None;
    let secrets = || Secrets::new(|_| Some("plain-token".to_owned()), None);
    let undeclared = Context::detached_step(step.clone(), secrets());
    step.late = Some(millrace_common::Late {
        policies: vec!["other".to_owned()],
        ..Default::default()
    });
    let declares_another = Context::detached_step(step, secrets());
    for ctx in [undeclared, declares_another] {
        let failed = header(&ctx, json!({"bearer": {"use": "any"}})).await.unwrap_err();
        assert_eq!(kind(&failed), ErrorKind::Authorization);
        assert!(failed.to_string().contains("secret `any` is not one"), "{failed}");
    }
}
