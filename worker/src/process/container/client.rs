//! The few requests that container hosts need: JSON over HTTP, on a socket of this machine or over the network.

use std::path::PathBuf;
use std::time::Duration;

use millrace_common::{ErrorKind, limits};
use reqwest::{Client, ClientBuilder, Method, Response};
use serde_json::Value;

use crate::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One API. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Api {
    /// For messages: `Docker`.
    what: &'static str,
    http: Client,
    base: String,
    /// File with a bearer token. Read for each request: tokens are exchanged while a pod runs.
    token: Option<PathBuf>,
}

/// An answer that was read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Api {
    pub(super) fn new(
        what: &'static str,
        builder: ClientBuilder,
        base: impl Into<String>,
        token: Option<PathBuf>,
    ) -> Result<Self, String> {
        let http = builder
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| format!("cannot set up a client for {what}: {:#}", anyhow::Error::from(e)))?;
        let base = base.into().trim_end_matches('/').to_owned();
        Ok(Self {
            what,
            http,
            base,
            token,
        })
    }

    /// Sends a request; gives the answer whatever its status.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Response, Failure> {
        let request = self.request(method, path, query).await?;
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await.map_err(|e| self.unreachable(&e))
    }

    /// Asks for the connection itself; the answer must be 101.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<reqwest::Upgraded, Failure> {
        let request = self.request(Method::POST, path, query).await?;
        let request = request.header("connection", "Upgrade").header("upgrade", "tcp");
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status().as_u16() != 101 {
            return Err(self.refused("attach", &self.read(response).await?));
        }
        response.upgrade().await.map_err(|e| self.unreachable(&e))
    }

    /// Sends a request and reads the answer as JSON, `null` when it is none.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let response = self.send(method, path, query, body).await?;
        self.read(response).await
    }

    async fn read(&self, mut response: Response) -> Result<Answer, Failure> {
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > limits::CONTAINER_ANSWER_BYTES_MAX {
                return Err(Failure::runtime(format!(
                    "{} answered {status} with more than {} bytes, the bound for an answer",
                    self.what,
                    limits::CONTAINER_ANSWER_BYTES_MAX
                )));
            }
        }
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status, body })
    }

    /// The error of an answer that was not expected.
    pub(super) fn refused(&self, doing: &str, answer: &Answer) -> Failure {
        let message = answer.body["message"].as_str().unwrap_or_default();
        let separator = if message.is_empty() { "" } else { ": " };
        let text = format!(
            "{} answered {} to {doing}{separator}{message}",
            self.what, answer.status
        );
        match answer.status {
            401 | 403 => Failure::new(
                ErrorKind::Configuration,
                format!("{text}; the worker lacks the right"),
            ),
            status @ 400..=599 => Failure::communication(status, text),
            _ => Failure::runtime(text),
        }
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut text = format!("cannot talk to {}: {error}", self.what);
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        Failure::communication(500, text)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<reqwest::RequestBuilder, Failure> {
        let mut url = url::Url::parse(&format!("{}{path}", self.base))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        let Some(file) = &self.token else {
            return Ok(request);
        };
        let token = tokio::fs::read_to_string(file).await.map_err(|e| {
            let text = format!("cannot read the token of {} ({}): {e}", self.what, file.display());
            Failure::new(ErrorKind::Configuration, text)
        })?;
        Ok(request.bearer_auth(token.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::testing::serve;

    #[tokio::test]
    async fn an_answer_above_the_bound_is_an_error() {
        let large = || async { format!("\"{}\"", "x".repeat(limits::CONTAINER_ANSWER_BYTES_MAX)) };
        let base = serve(axum::Router::new().fallback(large)).await;
        let api = Api::new("Docker", Client::builder(), base, None).unwrap();
        let failed = api
            .ask(Method::GET, "/x", &[], None)
            .await
            .unwrap_err()
            .to_string();
        assert!(failed.contains("Docker answered 200 with more than"), "{failed}");
    }
}
