//! The API over HTTP: one answer or one [`Failure`] for every call.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

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
    /// An answer came: there is a coordinator, though it may be gone for now.
    reached: Arc<AtomicBool>,
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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
    /// No connection: nothing was sent.
    Unreachable(String),
    /// The connection broke, or no answer came in time: what was asked for may have been done.
    Unanswered(String),
    /// The API refused: what a program needs of its answer, and all of it.
    Refused(StatusCode, Box<Problem>, Box<Value>),
}

impl CallError {
    /// Whether the same request may be answered otherwise a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Unanswered(_) => true,
            Self::Refused(status, ..) => exit_of(*status) == Exit::Unreachable,
        }
    }

    /// Whether the API says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(StatusCode::NOT_FOUND, ..))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "no connection to the coordinator: {why}"),
            Self::Unanswered(why) => write!(f, "no answer from the coordinator: {why}"),
            Self::Refused(_, problem, _) if !problem.detail.is_empty() => f.write_str(&problem.detail),
            Self::Refused(status, ..) => write!(f, "the coordinator answered {status}"),
        }
    }
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
            reached: Arc::default(),
        })
    }

    /// Where it connects to.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Whether an answer ever came.
    pub(crate) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
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
        let response = request.send().await.map_err(lost)?;
        self.reached.store(true, Ordering::Relaxed);
        let status = response.status();
        let bytes = response.bytes().await.map_err(lost)?;
        if status.is_success() {
            return match serde_json::from_slice(&bytes) {
                Ok(body) => Ok(Answer { status, body }),
                Err(e) => Err(CallError::Unanswered(format!("the answer is not JSON: {e}"))),
            };
        }
        Err(refusal(status, &bytes))
    }

    /// What to tell the user.
    pub(crate) fn failure(&self, error: CallError) -> Failure {
        match error {
            CallError::Unreachable(why) | CallError::Unanswered(why) => {
                let message = format!("cannot reach the coordinator at {}: {why}", self.base);
                Failure::new(Exit::Unreachable, message)
                    .hint("start a stack with `millrace dev`, or set MILLRACE_URL to a running coordinator")
            }
            CallError::Refused(status, problem, whole) => refused(status, *problem, whole),
        }
    }
}

fn lost(error: reqwest::Error) -> CallError {
    let why = cause(&error);
    if error.is_connect() {
        CallError::Unreachable(why)
    } else {
        CallError::Unanswered(why)
    }
}

/// What is no problem of the API, such as a page of a proxy, becomes one.
fn refusal(status: StatusCode, body: &[u8]) -> CallError {
    let whole = match serde_json::from_slice::<Value>(body) {
        Ok(whole) if whole.is_object() => whole,
        _ => json!({
            "title": status.canonical_reason().unwrap_or("unknown status"), "status": status.as_u16(),
            "detail": String::from_utf8_lossy(body).trim(),
        }),
    };
    let problem = Problem::deserialize(&whole).unwrap_or_else(|_other_members| Problem {
        detail: whole.to_string(),
        ..Problem::default()
    });
    CallError::Refused(status, Box::new(problem), Box::new(whole))
}

fn refused(status: StatusCode, problem: Problem, whole: Box<Value>) -> Failure {
    let message = match (problem.detail.is_empty(), problem.title.is_empty()) {
        (false, _) => problem.detail,
        (true, false) => problem.title,
        (true, true) => format!("the coordinator answered {status}"),
    };
    Failure {
        hint: problem.hint,
        problem: Some(whole),
        ..Failure::new(exit_of(status), message)
    }
}

/// What the user can change is 2, what time may change is 5, the rest is a fault.
fn exit_of(status: StatusCode) -> Exit {
    match status.as_u16() {
        400 | 401 | 403 | 404 | 409 | 410 | 413 | 415 | 422 | 501 => Exit::Usage,
        429 | 502 | 503 | 504 => Exit::Unreachable,
        _ => Exit::Failed,
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
        let exit = |status: u16| exit_of(StatusCode::from_u16(status).unwrap());
        for usage in [400, 401, 403, 404, 409, 413, 415, 422, 501] {
            assert_eq!(exit(usage), Exit::Usage, "{usage}");
        }
        for later in [429, 502, 503, 504] {
            assert_eq!(exit(later), Exit::Unreachable, "{later}");
        }
        for fault in [405, 418, 500] {
            assert_eq!(exit(fault), Exit::Failed, "{fault}");
        }
    }

    #[test]
    fn a_page_of_a_proxy_becomes_a_problem() {
        let CallError::Refused(_, problem, whole) = refusal(StatusCode::BAD_GATEWAY, b"<p>no</p>\n") else {
            panic!("a refusal")
        };
        assert_eq!(problem.detail, "<p>no</p>");
        assert_eq!(
            *whole,
            json!({"title": "Bad Gateway", "status": 502, "detail": "<p>no</p>"})
        );
    }
}
