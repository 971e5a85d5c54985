//! The streamable HTTP transport: every message is posted; the answer to a request is JSON, or a stream that ends with
//! it.

use std::time::Duration;

use millrace_common::RawJson;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::HttpTransport;
use crate::builtin::authenticate::Policy;
use crate::builtin::exchange::configuration;
use crate::builtin::exchange::{self, Wire, http_url};
use crate::builtin::json_rpc::{Message, Messages};
use crate::{Context, Failure};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Tells servers that support it which requests are repeats.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Time to tell the server that the session is over.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Link<'a> {
    ctx: &'a Context,
    name: &'a str,
    url: Url,
    policy: Option<&'a Policy>,
    /// Of the definition, and of the session once there is one.
    headers: HeaderMap,
    answers: Option<Messages>,
}

impl<'a> Link<'a> {
    pub(super) fn open(
        ctx: &'a Context,
        name: &'a str,
        transport: &'a HttpTransport,
    ) -> Result<Self, Failure> {
        let mut headers = HeaderMap::new();
        for (key, value) in &transport.headers {
            let header = (HeaderName::try_from(key), HeaderValue::try_from(value));
            let (Ok(key), Ok(value)) = header else {
                return Err(configuration(format!("{name}: `{key}` is not a valid header")));
            };
            headers.insert(key, value);
        }
        Ok(Self {
            ctx,
            name,
            url: http_url(transport.endpoint.uri(), "the MCP server")?,
            policy: transport.endpoint.policy(),
            headers,
            answers: None,
        })
    }

    pub(super) fn agreed(&mut self, version: &str) {
        // A version that cannot be a header was refused before: it is none that is known.
        if let Ok(version) = HeaderValue::try_from(version) {
            self.headers.insert(VERSION, version);
        }
    }

    pub(super) async fn send(&mut self, message: &RawJson) -> Result<(), Failure> {
        let response = self.post(message).await?;
        if let Some(session) = response.headers().get(SESSION) {
            self.headers.insert(SESSION, session.clone());
        }
        self.answers = Some(Messages::of(self.ctx, self.name, response).await?);
        Ok(())
    }

    pub(super) async fn notify(&mut self, message: &RawJson) -> Result<(), Failure> {
        let response = self.post(message).await?;
        match response.status().is_success() {
            true => Ok(()),
            false => Err(Failure::runtime(
                exchange::refusal(self.ctx, self.name, response).await,
            )),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Message>, Failure> {
        match &mut self.answers {
            Some(answers) => answers.next().await,
            None => Ok(None),
        }
    }

    pub(super) async fn close(self) {
        if !self.headers.contains_key(SESSION) {
            return;
        }
        let told = tokio::time::timeout(CLOSE_LIMIT, self.request(Method::DELETE, |r| r)).await;
        // Servers that do not let clients end sessions answer 405.
        let is_fine = |status: StatusCode| status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED;
        if !matches!(&told, Ok(Ok(response)) if is_fine(response.status())) {
            tracing::debug!(
                call = self.name,
                "the MCP server was not told that the session is over"
            );
        }
    }

    async fn post(&self, message: &RawJson) -> Result<Response, Failure> {
        let prepare = |r: RequestBuilder| {
            r.header(CONTENT_TYPE, "application/json")
                .header(ACCEPT, "application/json, text/event-stream")
                .header(IDEMPOTENCY_KEY, self.ctx.idempotency_key())
                .body(message.text().to_owned())
        };
        self.request(Method::POST, prepare).await
    }

    async fn request(
        &self,
        method: Method,
        prepare: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Failure> {
        let failed = |text| Failure::runtime(format!("{}: {text}", self.name));
        let headers = self.headers.clone();
        let prepare = |r: RequestBuilder| prepare(r.headers(headers.clone()));
        exchange::send(
            self.ctx,
            (method, &self.url),
            Wire::Any,
            self.policy,
            prepare,
            failed,
        )
        .await
    }
}
