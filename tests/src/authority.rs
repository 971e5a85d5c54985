//! The part of the stub that asks who calls: an authority that gives tokens, and services that want credentials.
//!
//! | path | answer |
//! | --- | --- |
//! | `/auth/oauth2/token` | a token for client `app` with secret `app-secret-of-the-stub`, in every form of the language |
//! | `/auth/.well-known/openid-configuration` | where that is |
//! | `/own/bearer` | 200 for a token of the authority, else 401; tells what the caller sent, masked to its length |
//! | `/own/digest/{user}` | 200 for an answer to its challenge (SHA-256) |
//! | `/own/hash/{header}/{sha256}` | 200 when the header's value has this hash |

use std::collections::HashMap;

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::stub::json;

/// Secret of the client `app`.
pub const CLIENT_SECRET: &str = "app-secret-of-the-stub";
/// Password of the user `ann`.
pub const PASSWORD: &str = "password-of-ann-at-the-stub";
/// How every token begins.
pub const TOKEN_PREFIX: &str = "token-of-the-stub-";

/// A token for whoever proves to be the client.
pub(crate) fn token(headers: &HeaderMap, body: &[u8], number: u64) -> Response {
    let content_type = header(headers, "content-type");
    let given: HashMap<String, String> = match content_type.as_str() {
        "application/json" => serde_json::from_slice(body).unwrap_or_default(),
        _ => form_urlencoded::parse(body).into_owned().collect(),
    };
    let of = |name: &str| given.get(name).map(String::as_str).unwrap_or_default();
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("app:{CLIENT_SECRET}"));
    let is_client = of("client_id") == "app" && of("client_secret") == CLIENT_SECRET
        || header(headers, "authorization") == format!("Basic {basic}");
    let is_grant = match of("grant_type") {
        "client_credentials" => true,
        "password" => of("username") == "ann" && of("password") == PASSWORD,
        "authorization_code" => !of("code").is_empty(),
        "refresh_token" => !of("refresh_token").is_empty(),
        _ => !of("subject_token").is_empty(),
    };
    match (is_client, is_grant) {
        (false, _) => {
            let secret = of("client_secret");
            json(
                401,
                json!({"error": "invalid_client", "error_description": format!("`{secret}` is wrong")}),
            )
        }
        (true, false) => json(400, json!({"error": "invalid_grant"})),
        (true, true) => json(
            200,
            json!({"access_token": format!("{TOKEN_PREFIX}{number}"), "token_type": "bearer", "expires_in": 3600}),
        ),
    }
}

/// The document of discovery.
pub(crate) fn discovery() -> Response {
    json(
        200,
        json!({"issuer": "http://stub.test/auth", "token_endpoint": "http://stub.test/auth/oauth2/token"}),
    )
}

/// Wants a token of the authority.
pub(crate) fn bearer(headers: &HeaderMap) -> Response {
    let sent = header(headers, "authorization");
    match sent
        .strip_prefix("Bearer ")
        .is_some_and(|t| t.starts_with(TOKEN_PREFIX))
    {
        true => json(200, json!({"granted": true})),
        false => json(401, json!({"granted": false})),
    }
}

/// Wants a header whose value has a hash.
pub(crate) fn hash(headers: &HeaderMap, name: &str, hash: &str) -> Response {
    let granted = hex(&header(headers, name)) == hash;
    json(if granted { 200 } else { 403 }, json!({"granted": granted}))
}

/// SHA-256, hexadecimal.
pub fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Wants the answer to a challenge.
pub(crate) fn digest(method: &str, uri: &str, headers: &HeaderMap, user: &str) -> Response {
    let sent = header(headers, "authorization");
    let part = |name: &str| {
        let rest = sent.split_once(&format!("{name}=\""))?.1;
        rest.split_once('"').map(|(value, _)| value)
    };
    let cnonce = part("cnonce").unwrap_or_default();
    let h = |text: String| hex(&text);
    let (key, request) = (h(format!("{user}:stub:{PASSWORD}")), h(format!("{method}:{uri}")));
    let expected = h(format!(
        "{key}:nonce-of-the-stub:00000001:{cnonce}:auth:{request}"
    ));
    if part("response") == Some(expected.as_str()) && part("uri") == Some(uri) {
        return json(200, json!({"user": part("username")}));
    }
    let challenge = "Digest realm=\"stub\", qop=\"auth\", algorithm=SHA-256, nonce=\"nonce-of-the-stub\"";
    let mut refused = json(401, json!({"granted": false})).into_response();
    if let Ok(value) = challenge.parse() {
        refused.headers_mut().insert("www-authenticate", value);
    }
    refused
}

/// The description of the pet store, as far as tests call it.
pub(crate) fn swagger() -> Value {
    json!({
        "swagger": "2.0", "info": {"title": "pets", "version": "1.0.0"},
        "host": "petstore.swagger.io", "basePath": "/v2", "schemes": ["https", "http"],
        "paths": {
            "/pet/findByStatus": {"get": {
                "operationId": "findPetsByStatus", "produces": ["application/xml", "application/json"],
                "parameters": [{
                    "name": "status", "in": "query", "required": true, "type": "array", "items": {"type": "string"},
                    "collectionFormat": "multi",
                }],
                "responses": {"200": {"description": "found"}},
            }},
            "/pet/{petId}": {"get": {
                "operationId": "getPetById", "produces": ["application/xml", "application/json"],
                "parameters": [{"name": "petId", "in": "path", "required": true, "type": "integer"}],
                "responses": {"200": {"description": "found"}, "404": {"description": "not found"}},
            }},
        },
    })
}

/// A service of the stub in OpenAPI 3.1: what it is asked for comes back.
pub(crate) const OPENAPI: &str = r##"
openapi: 3.1.0
info: { title: echo, version: 1.0.0 }
servers: [ { url: /own } ]
paths:
  /echo/{kind}:
    parameters: [ { $ref: '#/components/parameters/kind' } ]
    get:
      operationId: look
      parameters:
        - { name: tags, in: query, explode: false }
        - { name: filter, in: query, style: deepObject }
        - { name: X-Tenant, in: header }
        - { name: session, in: cookie }
    post:
      operationId: store
      requestBody: { required: true, content: { application/json: {} } }
  /bearer: { get: { operationId: protected } }
  /redirect: { get: { operationId: moved } }
  /status/{code}: { get: { operationId: fail, parameters: [ { name: code, in: path, required: true } ] } }
components:
  parameters:
    kind: { name: kind, in: path, required: true, style: matrix }
"##;

fn header(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|v| v.to_str().ok());
    value.unwrap_or_default().to_owned()
}
