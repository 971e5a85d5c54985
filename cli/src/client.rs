//! The API over HTTP: one answer or one [`Failure`] for every call.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::args::Connect;
use crate::failure::{Exit, Failure, Outcome};

/// Longest wait for an ordinary answer. The API itself answers a start within 10 s.
const ANSWER: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(3);

/// A client of one coordinator. Keeps its connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// An answer that is not an error.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

/// The members of a problem that the command line acts on.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Problem {
    #[serde(default)]
    pub(crate) code: String,
    #[serde(default)]
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) detail: String,
    #[serde(default)]
    pub(crate) hint: Option<String>,
    #[serde(default)]
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// One fault of a definition, as the API tells it.
#[derive(Debug, Deserialize)]
pub(crate) struct Diagnostic {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) severity: String,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) hint: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No connection, or no answer in time.
    Unreachable(String),
    /// The API refused.
    Refused(StatusCode, Box<Problem>),
}

impl Client {
    /// For the coordinator that the options name. Connects at the first call.
    pub(crate) fn new(connect: &Connect) -> Outcome<Self> {
        let base = connect.url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            let message = format!("the coordinator's URL starts with neither http:// nor https://: {base}");
            return Err(Failure::new(Exit::Usage, message));
        }
        // Fails only when one is installed already, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .no_proxy()
            .pool_max_idle_per_host(1024)
            .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot prepare HTTP: {e}")))?;
        Ok(Self {
            http,
            base,
            token: connect.token.clone(),
        })
    }

    /// Where it connects to.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// `GET`; the path begins with `/`.
    pub(crate) async fn get(&self, path: &str) -> Outcome<Value> {
        self.try_get(path).await.map_err(|e| self.failure(e))
    }

    /// [`Self::get`] for callers that act on errors.
    pub(crate) async fn try_get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None, ANSWER)
            .await
            .map(|answer| answer.body)
    }

    /// `POST` of JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Outcome<Answer> {
        self.try_post(path, body, ANSWER)
            .await
            .map_err(|e| self.failure(e))
    }

    /// [`Self::post`] with a time limit, for callers that act on errors.
    pub(crate) async fn try_post(
        &self,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<Answer, CallError> {
        self.call(
            Method::POST,
            path,
            Some(("application/json", body.to_string())),
            limit,
        )
        .await
    }

    /// `POST` of a definition's text.
    pub(crate) async fn post_source(&self, path: &str, text: &str) -> Result<Answer, CallError> {
        self.call(
            Method::POST,
            path,
            Some(("application/yaml", text.to_owned())),
            ANSWER,
        )
        .await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, String)>,
        limit: Duration,
    ) -> Result<Answer, CallError> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .timeout(limit);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some((media_type, body)) = body {
            request = request.header(header::CONTENT_TYPE, media_type).body(body);
        }
        let unreachable = |e: reqwest::Error| CallError::Unreachable(cause(&e));
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return match serde_json::from_slice(&bytes) {
                Ok(body) => Ok(Answer { status, body }),
                Err(e) => Err(CallError::Unreachable(format!("the answer is not JSON: {e}"))),
            };
        }
        let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_other| Problem {
            detail: String::from_utf8_lossy(&bytes).trim().to_owned(),
            ..Problem::default()
        });
        Err(CallError::Refused(status, Box::new(problem)))
    }

    /// What to tell the user.
    pub(crate) fn failure(&self, error: CallError) -> Failure {
        match error {
            CallError::Unreachable(why) => {
                let message = format!("cannot reach the coordinator at {}: {why}", self.base);
                Failure::new(Exit::Unreachable, message)
                    .hint("start a stack with `millrace dev`, or set MILLRACE_URL to a running coordinator")
            }
            CallError::Refused(status, problem) => refused(status, *problem),
        }
    }
}

fn refused(status: StatusCode, problem: Problem) -> Failure {
    let exit = match status.as_u16() {
        400 | 413 | 415 | 422 | 501 => Exit::Usage,
        502 | 504 => Exit::Unreachable,
        _ => Exit::Failed,
    };
    let message = match (problem.detail.is_empty(), problem.title.is_empty()) {
        (false, _) => problem.detail,
        (true, false) => problem.title,
        (true, true) => format!("the coordinator answered {status}"),
    };
    Failure {
        hint: problem.hint,
        ..Failure::new(exit, message)
    }
}

/// The innermost cause: the outer ones only say that a request was not sent.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().to_lowercase()
}

/// Encodes a text as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':');
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// Builds a query from pairs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(String);

impl Query {
    /// Adds a pair.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0 += name;
        self.0.push('=');
        self.0 += &segment(value);
    }

    /// Adds a pair if there is a value.
    pub(crate) fn add_some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// The text with its `?`, empty when there is no pair.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let mut query = Query::default();
        query.add("label", "a=b c");
        query.add_some("namespace", None);
        query.add_some("id", Some("x:y"));
        assert_eq!(query.text(), "?label=a%3Db%20c&id=x:y");
        assert_eq!(Query::default().text(), "");
    }

    #[test]
    fn refusals_map_to_exit_codes() {
        let exit = |status: u16| refused(StatusCode::from_u16(status).unwrap(), Problem::default()).exit;
        assert_eq!(
            (exit(404), exit(409), exit(503)),
            (Exit::Failed, Exit::Failed, Exit::Failed)
        );
        assert_eq!((exit(400), exit(422)), (Exit::Usage, Exit::Usage));
        assert_eq!(exit(502), Exit::Unreachable);
    }
}
