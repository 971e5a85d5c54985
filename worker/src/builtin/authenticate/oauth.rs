//! Asks an authority for a token: `oauth2` (RFC 6749, 7521, 7523, 8693), and `oidc`, whose addresses are discovered.
//!
//! Where the specification is silent: the code of `authorization_code` and the token of `refresh_token` are
//! `subject.token`; a token that came with a refresh token is renewed with that one first.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_common::{ErrorKind, limits};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::digest::nonce;
use super::tokens::Token;
use super::{configuration, discovery, jwt, refused};
use crate::builtin::http::{failed, read_body, shown};
use crate::{Context, Failure};

/// Time for an authority to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
const TOKEN_PATH: &str = "/oauth2/token";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Bytes of an authority's refusal that are shown.
const DETAIL_BYTES_MAX: usize = 512;

/// An `oauth2` or `oidc` policy.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    authority: String,
    grant: Grant,
    #[serde(default)]
    endpoints: Endpoints,
    #[serde(default)]
    client: Client,
    #[serde(default)]
    request: Request,
    #[serde(default)]
    issuers: Vec<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    audiences: Vec<String>,
    username: Option<String>,
    password: Option<String>,
    subject: Option<Given>,
    actor: Option<Given>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Grant {
    #[serde(rename = "authorization_code")]
    Code,
    #[serde(rename = "client_credentials")]
    Client,
    #[serde(rename = "password")]
    Password,
    #[serde(rename = "refresh_token")]
    Refresh,
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange")]
    Exchange,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    token: Option<String>,
}

#[derive(Default, Deserialize)]
struct Client {
    id: Option<String>,
    secret: Option<String>,
    assertion: Option<String>,
    authentication: Option<Proof>,
}

/// How a client proves who it is.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Proof {
    ClientSecretBasic,
    ClientSecretPost,
    ClientSecretJwt,
    PrivateKeyJwt,
    None,
}

#[derive(Default, Deserialize)]
struct Request {
    encoding: Option<Encoding>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Encoding {
    #[serde(rename = "application/x-www-form-urlencoded")]
    Form,
    #[serde(rename = "application/json")]
    Json,
}

/// A token that stands for somebody.
#[derive(Deserialize)]
struct Given {
    token: String,
    #[serde(rename = "type")]
    kind: String,
}

/// What an authority answers.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: Option<String>,
    /// Some authorities write it as a text.
    expires_in: Option<Value>,
    refresh_token: Option<String>,
    id_token: Option<String>,
}

/// Parameters of a token request, in order; a name may stand there more than once.
#[derive(Default)]
struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }
}

impl Policy {
    /// Hides its credentials; those from secrets are hidden everywhere already.
    pub(super) fn conceal(&self, ctx: &Context) {
        let tokens = [&self.subject, &self.actor]
            .into_iter()
            .flatten()
            .map(|given| &given.token);
        let own = [&self.password, &self.client.secret, &self.client.assertion]
            .into_iter()
            .flatten();
        own.chain(tokens)
            .for_each(|text| ctx.conceal_credential(text, ctx.knows_as_secret(text)));
    }

    fn grant(&self) -> Result<Parameters, Failure> {
        let mut with = Parameters::default();
        match self.grant {
            Grant::Client => with.add("grant_type", "client_credentials"),
            Grant::Password => {
                with.add("grant_type", "password");
                with.add(
                    "username",
                    needed(self.username.as_ref(), "password", "username")?,
                );
                with.add(
                    "password",
                    needed(self.password.as_ref(), "password", "password")?,
                );
            }
            Grant::Code => {
                with.add("grant_type", "authorization_code");
                with.add(
                    "code",
                    needed(self.subject(), "authorization_code", "subject.token")?,
                );
            }
            Grant::Refresh => {
                with.add("grant_type", "refresh_token");
                with.add(
                    "refresh_token",
                    needed(self.subject(), "refresh_token", "subject.token")?,
                );
            }
            Grant::Exchange => {
                with.add("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
                let Some(subject) = &self.subject else {
                    return Err(lacks("token-exchange", "subject"));
                };
                with.add("subject_token", subject.token.as_str());
                with.add("subject_token_type", subject.kind.as_str());
                if let Some(actor) = &self.actor {
                    with.add("actor_token", actor.token.as_str());
                    with.add("actor_token_type", actor.kind.as_str());
                }
            }
        }
        self.add_wishes(&mut with);
        Ok(with)
    }

    fn subject(&self) -> Option<&String> {
        self.subject.as_ref().map(|s| &s.token)
    }

    fn refreshment(&self, refresh: &str) -> Parameters {
        let mut with = Parameters::default();
        with.add("grant_type", "refresh_token");
        with.add("refresh_token", refresh);
        self.add_wishes(&mut with);
        with
    }

    fn add_wishes(&self, with: &mut Parameters) {
        if !self.scopes.is_empty() {
            with.add("scope", self.scopes.join(" "));
        }
        self.audiences
            .iter()
            .for_each(|a| with.add("audience", a.as_str()));
    }

    /// Adds who the client is; gives the header of `client_secret_basic`.
    fn identify(&self, with: &mut Parameters, endpoint: &Url) -> Result<Option<String>, Failure> {
        let client = &self.client;
        let id = || needed(client.id.as_ref(), "this", "client.id");
        let secret = || needed(client.secret.as_ref(), "this", "client.secret");
        match client.authentication.unwrap_or(Proof::ClientSecretPost) {
            // The default with nothing to prove: a public client.
            Proof::ClientSecretPost if client.authentication.is_none() && client.secret.is_none() => {
                client.id.iter().for_each(|id| with.add("client_id", id.as_str()));
            }
            Proof::None => client.id.iter().for_each(|id| with.add("client_id", id.as_str())),
            Proof::ClientSecretPost => {
                with.add("client_id", id()?);
                with.add("client_secret", secret()?);
            }
            Proof::ClientSecretBasic => {
                let encoded =
                    |text: String| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                return Ok(Some(STANDARD.encode(format!(
                    "{}:{}",
                    encoded(id()?),
                    encoded(secret()?)
                ))));
            }
            Proof::ClientSecretJwt => {
                let made = match &client.assertion {
                    Some(assertion) => assertion.clone(),
                    None => jwt::assertion(&id()?, &secret()?, endpoint.as_str(), now_s(), &nonce()?),
                };
                self.assert(with, made);
            }
            Proof::PrivateKeyJwt => {
                let assertion = needed(client.assertion.as_ref(), "private_key_jwt", "client.assertion")?;
                self.assert(with, assertion);
            }
        }
        Ok(None)
    }

    fn assert(&self, with: &mut Parameters, assertion: String) {
        self.client
            .id
            .iter()
            .for_each(|id| with.add("client_id", id.as_str()));
        with.add("client_assertion_type", ASSERTION_TYPE);
        with.add("client_assertion", assertion);
    }
}

/// Gets a token; `before` is the one that has ended.
///
/// # Errors
/// `authentication` when the authority refuses, `communication` when it cannot be reached or is out of order,
/// `configuration` when the policy lacks something.
pub(super) async fn obtain(
    ctx: &Context,
    policy: &Policy,
    is_oidc: bool,
    before: Option<Token>,
) -> Result<Token, Failure> {
    let endpoint = match is_oidc {
        true => discovery::token_endpoint(ctx, &policy.authority).await?,
        false => token_endpoint(&policy.authority, policy.endpoints.token.as_deref())?,
    };
    if let Some(refresh) = before.and_then(|token| token.refresh) {
        match request(ctx, policy, &endpoint, policy.refreshment(&refresh)).await {
            Ok(mut token) => {
                token.refresh.get_or_insert(refresh);
                return Ok(token);
            }
            Err(failure) => tracing::debug!(%failure, "a token was not renewed, asking for a new one"),
        }
    }
    request(ctx, policy, &endpoint, policy.grant()?).await
}

/// The path of the endpoint goes behind the authority's; a URL stands for itself.
fn token_endpoint(authority: &str, endpoint: Option<&str>) -> Result<Url, Failure> {
    let endpoint = endpoint.unwrap_or(TOKEN_PATH);
    if endpoint.contains("://") {
        return parse_url(endpoint);
    }
    let joined = format!(
        "{}/{}",
        authority.trim_end_matches('/'),
        endpoint.trim_start_matches('/')
    );
    parse_url(&joined)
}

pub(super) fn parse_url(text: &str) -> Result<Url, Failure> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        Ok(_) => Err(configuration(format!(
            "`{}`: an authority has an http or https URL",
            shown(text)
        ))),
        Err(e) => Err(configuration(format!(
            "`{}` is not the URL of an authority: {e}",
            shown(text)
        ))),
    }
}

async fn request(
    ctx: &Context,
    policy: &Policy,
    endpoint: &Url,
    mut with: Parameters,
) -> Result<Token, Failure> {
    let basic = policy.identify(&mut with, endpoint)?;
    with.0
        .iter()
        .filter(|(name, _)| is_secret(name))
        .for_each(|(_, value)| ctx.conceal_credential(value, ctx.knows_as_secret(value)));
    let mut request = ctx
        .http()
        .request_to(Method::POST, endpoint.clone())
        .timeout(ctx.remaining().unwrap_or(TIMEOUT).min(TIMEOUT))
        .header(ACCEPT, "application/json");
    if let Some(basic) = basic {
        ctx.conceal(&basic);
        request = request.header(AUTHORIZATION, format!("Basic {basic}"));
    }
    let request = encode(request, policy.request.encoding.unwrap_or(Encoding::Form), with);
    let name = format!("token request to {}", shown(endpoint.as_str()));
    let response = request.send().await.map_err(|e| failed(&name, e))?;
    let status = response.status();
    let body = read_body(&name, response, limits::DOCUMENT_BYTES_MAX).await?;
    if !status.is_success() {
        return Err(refusal(ctx, &name, status, &body));
    }
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|_e| refused(format!("{name}: the answer holds no `access_token`")))?;
    accept(ctx, policy, &name, answer)
}

fn is_secret(name: &str) -> bool {
    !matches!(
        name,
        "grant_type" | "client_id" | "scope" | "audience" | "username" | "client_assertion_type"
    ) && !name.ends_with("_token_type")
}

fn encode(request: RequestBuilder, encoding: Encoding, with: Parameters) -> RequestBuilder {
    match encoding {
        Encoding::Form => {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(with.0)
                .finish();
            request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form)
        }
        Encoding::Json => {
            let mut values: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
            for (name, value) in with.0 {
                values.entry(name).or_default().push(Value::String(value));
            }
            let single = |mut all: Vec<Value>| match all.len() {
                1 => all.remove(0),
                _ => Value::Array(all),
            };
            let body: Map<String, Value> = values
                .into_iter()
                .map(|(k, v)| (k.to_owned(), single(v)))
                .collect();
            request
                .header(CONTENT_TYPE, "application/json")
                .body(Value::Object(body).to_string())
        }
    }
}

/// What the authority says is `authentication`; when it is out of order itself, `communication`.
fn refusal(ctx: &Context, name: &str, status: StatusCode, body: &[u8]) -> Failure {
    let said = serde_json::from_slice::<Value>(body).ok().and_then(|answer| {
        let error = answer["error"].as_str()?;
        let more = answer["error_description"]
            .as_str()
            .map_or_else(String::new, |d| format!(" ({d})"));
        Some(format!("{error}{more}"))
    });
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    // Masked before it is cut: half a secret would not be recognised.
    let said = ctx.mask().text(&said);
    let said = &said[..said.floor_char_boundary(DETAIL_BYTES_MAX)];
    let separator = if said.is_empty() { "" } else { ": " };
    let detail = format!("{name} answered {status}{separator}{said}");
    match status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
        true => refused(detail),
        false => Failure::communication(status.as_u16(), detail),
    }
}

fn accept(ctx: &Context, policy: &Policy, name: &str, answer: Answer) -> Result<Token, Failure> {
    let secrets = [
        Some(&answer.access_token),
        answer.refresh_token.as_ref(),
        answer.id_token.as_ref(),
    ];
    secrets.into_iter().flatten().for_each(|text| ctx.conceal(text));
    if !policy.issuers.is_empty() {
        let named = answer
            .id_token
            .as_deref()
            .and_then(jwt::issuer)
            .or_else(|| jwt::issuer(&answer.access_token));
        match named {
            Some(issuer) if policy.issuers.contains(&issuer) => {}
            Some(issuer) => {
                return Err(refused(format!(
                    "{name}: the token is of issuer `{issuer}`, which `issuers` does not list"
                )));
            }
            None => {
                return Err(refused(format!(
                    "{name}: `issuers` is given, but the token names no issuer"
                )));
            }
        }
    }
    let scheme = answer.token_type.filter(|t| !t.eq_ignore_ascii_case("bearer"));
    let life = answer
        .expires_in
        .and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
    Ok(Token::new(
        scheme.unwrap_or_else(|| "Bearer".into()),
        answer.access_token,
        answer.refresh_token,
        life.map(Duration::from_secs),
    ))
}

fn needed(value: Option<&String>, grant: &str, member: &str) -> Result<String, Failure> {
    value.cloned().ok_or_else(|| lacks(grant, member))
}

fn lacks(grant: &str, member: &str) -> Failure {
    Failure::new(
        ErrorKind::Configuration,
        format!("oauth2 or oidc authentication lacks `{member}`: {grant} needs it"),
    )
}

fn now_s() -> i64 {
    crate::steps::flight::unix_ms(std::time::SystemTime::now()) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_goes_behind_the_authority() {
        let of = |authority: &str, endpoint: Option<&str>| {
            token_endpoint(authority, endpoint).unwrap().to_string()
        };
        assert_eq!(of("http://a/realms/r", None), "http://a/realms/r/oauth2/token");
        assert_eq!(
            of("http://a/realms/r/", Some("/token")),
            "http://a/realms/r/token"
        );
        assert_eq!(of("http://a", Some("https://b/t")), "https://b/t");
        assert!(token_endpoint("nowhere", None).is_err() && token_endpoint("ftp://a", None).is_err());
    }
}
