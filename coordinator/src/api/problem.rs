//! Errors of the API: `application/problem+json` (RFC 9457) with a stable `code` that clients act on.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// Every code, with its status and title. Listed in `openapi.json` (a test compares); never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request cannot be read: syntax, unknown field, bad value.
    InvalidRequest,
    /// A token is needed, or the one given is wrong.
    Unauthorized,
    /// No such path.
    NotFound,
    /// The path exists, not with this method.
    MethodNotAllowed,
    /// No such definition or version.
    DefinitionNotFound,
    /// No such instance, or its retention is over.
    InstanceNotFound,
    /// The id exists in more than one namespace.
    AmbiguousInstance,
    /// No such worker.
    WorkerNotFound,
    /// No such queue.
    QueueNotFound,
    /// No such schedule.
    ScheduleNotFound,
    /// The version exists with other content.
    DefinitionConflict,
    /// The id is taken by an instance with another definition or input.
    InstanceConflict,
    /// The instance is in a state in which the action makes no sense.
    NotAllowedNow,
    /// The body is larger than allowed.
    TooLarge,
    /// The body's content type is not one of those accepted.
    UnsupportedMediaType,
    /// The definition has faults; all are listed.
    InvalidDefinition,
    /// A bound of the cluster is reached; later it may fit.
    Overloaded,
    /// NATS or Redis does not answer. Nothing was done.
    Unavailable,
    /// It may have been accepted or not; repeat with the same id.
    OutcomeUnknown,
    /// Not part of this release, or of this server.
    NotSupported,
    /// A fault of Millrace.
    Internal,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::DefinitionNotFound,
        Self::InstanceNotFound,
        Self::AmbiguousInstance,
        Self::WorkerNotFound,
        Self::QueueNotFound,
        Self::ScheduleNotFound,
        Self::DefinitionConflict,
        Self::InstanceConflict,
        Self::NotAllowedNow,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidDefinition,
        Self::Overloaded,
        Self::Unavailable,
        Self::OutcomeUnknown,
        Self::NotSupported,
        Self::Internal,
    ];

    /// As it stands in `code` and at the end of `type`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::InvalidRequest => (400, "invalidRequest", "Invalid request"),
            Self::Unauthorized => (401, "unauthorized", "Unauthorized"),
            Self::NotFound => (404, "notFound", "Not found"),
            Self::MethodNotAllowed => (405, "methodNotAllowed", "Method not allowed"),
            Self::DefinitionNotFound => (404, "definitionNotFound", "Definition not found"),
            Self::InstanceNotFound => (404, "instanceNotFound", "Instance not found"),
            Self::AmbiguousInstance => (409, "ambiguousInstance", "Ambiguous instance id"),
            Self::WorkerNotFound => (404, "workerNotFound", "Worker not found"),
            Self::QueueNotFound => (404, "queueNotFound", "Queue not found"),
            Self::ScheduleNotFound => (404, "scheduleNotFound", "Schedule not found"),
            Self::DefinitionConflict => (
                409,
                "definitionConflict",
                "Definition version exists with other content",
            ),
            Self::InstanceConflict => (409, "instanceConflict", "Instance id is taken"),
            Self::NotAllowedNow => (409, "notAllowedNow", "Not allowed in this state"),
            Self::TooLarge => (413, "tooLarge", "Too large"),
            Self::UnsupportedMediaType => (415, "unsupportedMediaType", "Unsupported media type"),
            Self::InvalidDefinition => (422, "invalidDefinition", "Invalid definition"),
            Self::Overloaded => (503, "overloaded", "Overloaded"),
            Self::Unavailable => (503, "unavailable", "Unavailable"),
            Self::OutcomeUnknown => (503, "outcomeUnknown", "Outcome unknown"),
            Self::NotSupported => (501, "notSupported", "Not supported"),
            Self::Internal => (500, "internal", "Internal error"),
        }
    }
}

/// An error on its way to the client.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: Code,
    detail: String,
    hint: Option<String>,
    more: Map<String, Value>,
    retry_after_s: Option<u32>,
}

/// What handlers return.
pub(super) type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    /// With what happened this time.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            hint: None,
            more: Map::new(),
            retry_after_s: None,
        }))
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// With another member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.more.insert(name.into(), value.into());
        self
    }

    /// Asks the client to come again after so many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    fn body(&self) -> Value {
        let (status, name, title) = self.0.code.row();
        let mut body = json!({
            "type": format!("urn:millrace:problem:{name}"), "title": title, "status": status, "detail": self.0.detail, "code": name,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.0.hint.clone().map(|hint| ("hint".to_owned(), hint.into())));
            members.extend(self.0.more.clone());
        }
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.row().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.body().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.0.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<crate::registry::StoreError> for ApiError {
    fn from(e: crate::registry::StoreError) -> Self {
        Self::new(Code::Unavailable, e.to_string()).retry_after(1)
    }
}

impl From<crate::registry::Unavailable> for ApiError {
    fn from(e: crate::registry::Unavailable) -> Self {
        Self::new(Code::Unavailable, e.to_string()).retry_after(1)
    }
}

impl From<crate::queries::QueryError> for ApiError {
    fn from(e: crate::queries::QueryError) -> Self {
        match e {
            crate::queries::QueryError::Store(e) => e.into(),
            e @ (crate::queries::QueryError::Instance(..) | crate::queries::QueryError::Schedule(..)) => {
                Self::new(Code::Internal, e.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_problems_carry_them() {
        let mut names: Vec<_> = Code::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        let body = ApiError::new(Code::TooLarge, "input of 9 bytes")
            .hint("send less")
            .with("max", 5)
            .body();
        assert_eq!(
            body.to_string(),
            r#"{"type":"urn:millrace:problem:tooLarge","title":"Too large","status":413,"detail":"input of 9 bytes","code":"tooLarge","hint":"send less","max":5}"#
        );
    }
}
