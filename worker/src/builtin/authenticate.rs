//! Authentication of calls: from a policy of the language to what a request carries.
//!
//! A policy is `{<scheme>: {…}}` as in a definition, with its expressions evaluated, or `{<scheme>: {use: <secret>}}`.
//! For calls of other protocols: [`Policy::authorization`] gives scheme and parameter of the `authorization` header,
//! [`Policy::login`] user name and password. For HTTP, [`send`] also answers the challenges of digest, and asks for a
//! new token when a service refuses a kept one.
//!
//! Whatever is secret here is concealed before it is used: what comes from a secret everywhere, what stands in the
//! definition or its data in messages.

mod digest;
mod discovery;
mod jwt;
mod oauth;
mod tokens;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_common::ErrorKind;
use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{Context, Failure};

pub(crate) use tokens::Tokens;

/// One scheme and its configuration.
#[derive(Clone, PartialEq)]
pub(crate) struct Policy {
    scheme: Scheme,
    settings: Value,
}

/// The schemes of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer,
    Digest,
    OAuth2,
    Oidc,
}

/// What a request says about who sends it: `$authorization` of the language.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Authorization {
    /// `Basic`, `Bearer`, …
    pub(crate) scheme: String,
    /// Credentials or token.
    pub(crate) parameter: String,
}

/// User name and password, of `basic` and `digest`.
#[derive(Clone, Deserialize)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
}

#[derive(Deserialize)]
struct Bearer {
    token: String,
}

impl Scheme {
    const ALL: [Self; 5] = [Self::Basic, Self::Bearer, Self::Digest, Self::OAuth2, Self::Oidc];

    const fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::Digest => "digest",
            Self::OAuth2 => "oauth2",
            Self::Oidc => "oidc",
        }
    }
}

impl Policy {
    /// What to send without being asked. `None` for `digest`, whose answer depends on the server's challenge.
    ///
    /// # Errors
    /// `authorization` when a secret is missing, `authentication` when a token is refused, `configuration` when the
    /// policy lacks something, `communication` when an authority cannot be reached.
    pub(crate) async fn authorization(&self, ctx: &Context) -> Result<Option<Authorization>, Failure> {
        let authorization = match self.scheme {
            Scheme::Digest => return Ok(None),
            Scheme::Basic => self.login(ctx)?.map(|login| {
                let authorization = basic(&login);
                ctx.conceal_credential(&authorization.parameter, ctx.knows_as_secret(&login.password));
                authorization
            }),
            Scheme::Bearer => Some(Authorization::bearer(self.bearer(ctx)?)),
            Scheme::OAuth2 | Scheme::Oidc => {
                let authorization = self.token(ctx).await?.authorization();
                ctx.conceal(&authorization.parameter);
                Some(authorization)
            }
        };
        Ok(authorization)
    }

    /// User name and password, for protocols that take those; `None` when the scheme has none.
    ///
    /// # Errors
    /// As [`Self::authorization`].
    pub(crate) fn login(&self, ctx: &Context) -> Result<Option<Login>, Failure> {
        if !matches!(self.scheme, Scheme::Basic | Scheme::Digest) {
            return Ok(None);
        }
        let login: Login = self.settings(ctx)?;
        self.conceal(ctx, &login.password);
        Ok(Some(login))
    }

    fn bearer(&self, ctx: &Context) -> Result<String, Failure> {
        // A secret for `bearer` may be the token itself.
        let token = match self.resolved(ctx)? {
            Value::String(token) => token,
            settings => self.decode::<Bearer>(settings)?.token,
        };
        self.conceal(ctx, &token);
        Ok(token)
    }

    fn conceal(&self, ctx: &Context, text: &str) {
        ctx.conceal_credential(text, self.secret().is_some() || ctx.knows_as_secret(text));
    }

    async fn token(&self, ctx: &Context) -> Result<tokens::Token, Failure> {
        let settings = self.resolved(ctx)?;
        let key = tokens::Key::of(self.scheme.name(), &settings);
        let policy: oauth::Policy = self.decode(settings)?;
        policy.conceal(ctx);
        ctx.tokens()
            .get(&key, |before| {
                oauth::obtain(ctx, &policy, self.scheme == Scheme::Oidc, before)
            })
            .await
    }

    /// Forgets the kept token after a service refused it. False when there was none, or a newer one is there.
    async fn forget(&self, ctx: &Context, used: &Authorization) -> Result<bool, Failure> {
        if !matches!(self.scheme, Scheme::OAuth2 | Scheme::Oidc) {
            return Ok(false);
        }
        let key = tokens::Key::of(self.scheme.name(), &self.resolved(ctx)?);
        Ok(ctx.tokens().forget(&key, &used.parameter).await)
    }

    fn settings<T: DeserializeOwned>(&self, ctx: &Context) -> Result<T, Failure> {
        self.decode(self.resolved(ctx)?)
    }

    fn decode<T: DeserializeOwned>(&self, settings: Value) -> Result<T, Failure> {
        let scheme = self.scheme.name();
        let place = match self.secret() {
            Some(name) => format!("secret `{name}` does not fit `{scheme}` authentication"),
            None => format!("`{scheme}` authentication is incomplete"),
        };
        // serde's reason names members and types, but could show a value: those are not for everyone.
        serde_json::from_value(settings).map_err(|e| configuration(format!("{place}: {}", reason(&e))))
    }

    fn secret(&self) -> Option<&str> {
        self.settings.get("use").and_then(Value::as_str)
    }

    /// The settings, from a secret if the policy names one. A name counts only where the definition names it: input may
    /// hold data of others.
    fn resolved(&self, ctx: &Context) -> Result<Value, Failure> {
        match self.secret() {
            Some(name) if ctx.policy_may_name(name) => ctx.secret(name),
            Some(name) => Err(Failure::new(
                ErrorKind::Authorization,
                format!(
                    "secret `{name}` is not one that an authentication of this task names in its definition; \
                     write `use: {name}` there, and list it in `use.secrets`"
                ),
            )),
            None => Ok(self.settings.clone()),
        }
    }
}

/// What is missing or has the wrong type, without the value that was found.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.strip_prefix("invalid type: ") {
        Some(rest) => match rest.split_once(", ") {
            Some((_found, expected)) => format!("a member has the wrong type, {expected}"),
            None => "a member has the wrong type".into(),
        },
        None if text.starts_with("unknown variant") || text.starts_with("invalid value") => {
            let expected = text
                .split_once(", ")
                .map_or("another value", |(_, expected)| expected);
            format!("a member has an unknown value, {expected}")
        }
        None => text,
    }
}

fn basic(login: &Login) -> Authorization {
    Authorization {
        scheme: "Basic".into(),
        parameter: STANDARD.encode(format!("{}:{}", login.username, login.password)),
    }
}

impl Authorization {
    fn bearer(token: String) -> Self {
        Self {
            scheme: "Bearer".into(),
            parameter: token,
        }
    }

    /// As a header's value, marked as sensitive.
    ///
    /// # Errors
    /// `configuration` when the parameter has characters that a header cannot hold.
    pub(crate) fn header(&self) -> Result<HeaderValue, Failure> {
        let text = format!("{} {}", self.scheme, self.parameter);
        let mut value = HeaderValue::from_str(&text).map_err(|_e| {
            configuration("the credentials have characters that a header cannot hold".into())
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Sends a request as a policy wants it. `make` builds the request, again when it must be sent again; `name` stands in
/// errors.
///
/// # Errors
/// As [`Policy::authorization`], and what `failed` makes of an error of the connection.
pub(crate) async fn send(
    ctx: &Context,
    policy: Option<&Policy>,
    make: impl Fn() -> RequestBuilder,
    failed: impl Fn(reqwest::Error) -> Failure,
) -> Result<Response, Failure> {
    let Some(policy) = policy else {
        return make().send().await.map_err(failed);
    };
    let Some(used) = policy.authorization(ctx).await? else {
        return send_digest(ctx, policy, make, failed).await;
    };
    let response = make()
        .header(AUTHORIZATION, used.header()?)
        .send()
        .await
        .map_err(&failed)?;
    if response.status() != StatusCode::UNAUTHORIZED || !policy.forget(ctx, &used).await? {
        return Ok(response);
    }
    // The token was kept from earlier and may have been revoked: one new one is worth a try.
    let Some(fresh) = policy.authorization(ctx).await? else {
        return Ok(response);
    };
    make()
        .header(AUTHORIZATION, fresh.header()?)
        .send()
        .await
        .map_err(failed)
}

async fn send_digest(
    ctx: &Context,
    policy: &Policy,
    make: impl Fn() -> RequestBuilder,
    failed: impl Fn(reqwest::Error) -> Failure,
) -> Result<Response, Failure> {
    let Some(login) = policy.login(ctx)? else {
        return make().send().await.map_err(failed);
    };
    let (client, request) = make().build_split();
    let request = request.map_err(&failed)?;
    let (method, url) = (request.method().clone(), request.url().clone());
    let body = request
        .body()
        .and_then(|b| b.as_bytes())
        .unwrap_or_default()
        .to_vec();
    let response = client.execute(request).await.map_err(&failed)?;
    if response.status() != StatusCode::UNAUTHORIZED {
        return Ok(response);
    }
    let challenges = response.headers().get_all(WWW_AUTHENTICATE);
    let challenges = challenges.iter().filter_map(|v| v.to_str().ok());
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let Some(challenge) = digest::Challenge::choose(challenges) else {
        return Ok(response);
    };
    let answer = challenge.answer(&login, method.as_str(), &target, &body, &digest::nonce()?);
    let mut value = HeaderValue::from_str(&answer)
        .map_err(|_e| configuration("the user name has characters that a header cannot hold".into()))?;
    value.set_sensitive(true);
    make().header(AUTHORIZATION, value).send().await.map_err(failed)
}

fn configuration(detail: String) -> Failure {
    Failure::new(ErrorKind::Configuration, detail)
}

fn refused(detail: String) -> Failure {
    Failure::new(ErrorKind::Authentication, detail)
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Policy;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an authentication policy")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Policy, A::Error> {
                let Some((name, settings)) = map.next_entry::<String, Value>()? else {
                    return Err(A::Error::custom("an authentication policy names a scheme"));
                };
                if map.next_key::<String>()?.is_some() {
                    return Err(A::Error::custom("an authentication policy names one scheme"));
                }
                let scheme = Scheme::ALL.into_iter().find(|s| s.name() == name);
                let scheme = scheme
                    .ok_or_else(|| A::Error::custom(format!("`{name}` is not an authentication scheme")))?;
                Ok(Policy { scheme, settings })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl std::hash::Hash for Policy {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.scheme.name().hash(state);
        self.settings.to_string().hash(state);
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
