//! Errors as the language defines them.

use serde::{Deserialize, Serialize};

/// The eight standard errors of the DSL (`dsl-reference.md`, "Standard Error Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A definition asks for what cannot be resolved.
    Configuration,
    /// Data does not fit its schema.
    Validation,
    /// An expression failed, or passed its bounds.
    Expression,
    /// Credentials were refused.
    Authentication,
    /// A permission is missing.
    Authorization,
    /// A deadline passed.
    Timeout,
    /// A call failed.
    Communication,
    /// Everything else that happens while running.
    Runtime,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Configuration,
        Self::Validation,
        Self::Expression,
        Self::Authentication,
        Self::Authorization,
        Self::Timeout,
        Self::Communication,
        Self::Runtime,
    ];

    /// The short name, last segment of the type URI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Validation => "validation",
            Self::Expression => "expression",
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::Timeout => "timeout",
            Self::Communication => "communication",
            Self::Runtime => "runtime",
        }
    }

    /// The default HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::Configuration | Self::Validation | Self::Expression => 400,
            Self::Authentication => 401,
            Self::Authorization => 403,
            Self::Timeout => 408,
            Self::Communication | Self::Runtime => 500,
        }
    }

    /// The type URI of DSL 1.0.3.
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Configuration => "https://serverlessworkflow.io/spec/1.0.0/errors/configuration",
            Self::Validation => "https://serverlessworkflow.io/spec/1.0.0/errors/validation",
            Self::Expression => "https://serverlessworkflow.io/spec/1.0.0/errors/expression",
            Self::Authentication => "https://serverlessworkflow.io/spec/1.0.0/errors/authentication",
            Self::Authorization => "https://serverlessworkflow.io/spec/1.0.0/errors/authorization",
            Self::Timeout => "https://serverlessworkflow.io/spec/1.0.0/errors/timeout",
            Self::Communication => "https://serverlessworkflow.io/spec/1.0.0/errors/communication",
            Self::Runtime => "https://serverlessworkflow.io/spec/1.0.0/errors/runtime",
        }
    }

    /// Recognises a standard error under every spelling in use: three hosts and two paths. Catch filters
    /// compare by this, so documents written for other hosts keep working (conformance kit included).
    pub fn from_uri(uri: &str) -> Option<Self> {
        const HOSTS: [&str; 3] = [
            "https://serverlessworkflow.io",
            "https://serverlessworkflow.io.io",
            "https://open-workflow-specification.org",
        ];
        const PATHS: [&str; 2] = ["/spec/1.0.0/errors/", "/dsl/errors/types/"];
        let rest = HOSTS
            .iter()
            .find_map(|h| uri.strip_prefix(h).filter(|r| r.starts_with('/')))?;
        let name = PATHS.iter().find_map(|p| rest.strip_prefix(p))?;
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// An error in the shape of RFC 9457, as a workflow sees it in `catch` and as an instance ends with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// URI of the kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// HTTP-like status.
    pub status: u16,
    /// Short, the same for every occurrence of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What happened this time: what failed, the value, what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// JSON Pointer of the task that raised it; set by the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

impl Problem {
    /// A standard error with a detail and no instance yet.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.uri().into(),
            status: kind.status(),
            title: Some(title(kind).into()),
            detail: Some(detail.into()),
            instance: None,
        }
    }

    /// With another status (communication errors carry the real one).
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// At a task, unless one is already named.
    #[must_use]
    pub fn at(mut self, pointer: &str) -> Self {
        self.instance.get_or_insert_with(|| pointer.into());
        self
    }

    /// The standard kind, if it is one.
    pub fn standard(&self) -> Option<ErrorKind> {
        ErrorKind::from_uri(&self.kind)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.standard().map_or_else(|| self.kind.as_str(), |k| k.name());
        write!(f, "{name} error {}", self.status)?;
        if let Some(at) = &self.instance {
            write!(f, " at {at}")?;
        }
        match self.detail.as_ref().or(self.title.as_ref()) {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

const fn title(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Configuration => "Configuration Error",
        ErrorKind::Validation => "Validation Error",
        ErrorKind::Expression => "Expression Error",
        ErrorKind::Authentication => "Authentication Error",
        ErrorKind::Authorization => "Authorization Error",
        ErrorKind::Timeout => "Timeout Error",
        ErrorKind::Communication => "Communication Error",
        ErrorKind::Runtime => "Runtime Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_standard_error_is_recognised() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_uri(kind.uri()), Some(kind));
            for host in [
                "serverlessworkflow.io",
                "serverlessworkflow.io.io",
                "open-workflow-specification.org",
            ] {
                for path in ["spec/1.0.0/errors", "dsl/errors/types"] {
                    let uri = format!("https://{host}/{path}/{}", kind.name());
                    assert_eq!(ErrorKind::from_uri(&uri), Some(kind), "{uri}");
                }
            }
        }
        assert_eq!(ErrorKind::from_uri("https://example.com/errors/timeout"), None);
        assert_eq!(
            ErrorKind::from_uri("https://serverlessworkflow.io/spec/1.0.0/errors/other"),
            None
        );
    }
}
