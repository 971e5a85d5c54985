//! How a handler says that it failed.

use std::fmt;

use millrace_common::{ErrorKind, Problem, StepOutcome};

/// What a handler returns instead of its output: an error as the workflow language defines it, matched by `catch` and
/// retried by `retry` in the definition. Whether a failure is worth a retry is decided there, not here.
///
/// Every error type converts with `?` into a `runtime` error (status 500) whose detail is the error and its causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(Reason);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    Problem(Problem),
    Cancelled,
}

impl Failure {
    /// A standard error with a detail for people.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self(Reason::Problem(Problem::new(kind, detail)))
    }

    /// A `runtime` error (500): what failed inside the handler.
    pub fn runtime(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Runtime, detail)
    }

    /// A `communication` error with the status of the other side.
    pub fn communication(status: u16, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Communication, detail).status(status)
    }

    /// An error of your own: `kind` is its URI.
    pub fn custom(kind: impl Into<String>, status: u16, detail: impl Into<String>) -> Self {
        let detail = Some(detail.into());
        Self(Reason::Problem(Problem {
            kind: kind.into(),
            status,
            title: None,
            detail,
            instance: None,
        }))
    }

    /// An error that is given whole, such as one received from elsewhere.
    pub fn from_problem(problem: Problem) -> Self {
        Self(Reason::Problem(problem))
    }

    /// The handler stopped because it was asked to ([`crate::Context::cancelled`]). Not an error.
    pub fn cancelled() -> Self {
        Self(Reason::Cancelled)
    }

    /// With this HTTP-like status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        if let Reason::Problem(p) = &mut self.0 {
            p.status = status;
        }
        self
    }

    /// With this title: short, the same for every failure of the kind.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        if let Reason::Problem(p) = &mut self.0 {
            p.title = Some(title.into());
        }
        self
    }

    /// The same with texts of at most so many bytes.
    pub(crate) fn cut(mut self, bytes_max: usize) -> Self {
        let cut = |text: &mut String| {
            if text.len() > bytes_max {
                text.truncate(text.floor_char_boundary(bytes_max));
                text.push('…');
            }
        };
        if let Reason::Problem(p) = &mut self.0 {
            cut(&mut p.kind);
            p.title.iter_mut().chain(&mut p.detail).for_each(cut);
        }
        self
    }

    /// The error; `None` when the handler was cancelled.
    pub fn problem(&self) -> Option<&Problem> {
        match &self.0 {
            Reason::Problem(p) => Some(p),
            Reason::Cancelled => None,
        }
    }

    pub(crate) fn into_outcome(self) -> StepOutcome {
        match self.0 {
            Reason::Problem(p) => StepOutcome::Error(p),
            Reason::Cancelled => StepOutcome::Cancelled,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Problem(p) => p.fmt(f),
            Reason::Cancelled => f.write_str("cancelled"),
        }
    }
}

// Not a std error itself: that is what lets every std error convert.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::runtime(format!("{:#}", error.into()))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn parse(text: &str) -> Result<u16, Failure> {
        Ok(text.parse::<u16>()?)
    }

    fn explain(text: &str) -> Result<u16, Failure> {
        Ok(text.parse::<u16>().context("cannot read the port")?)
    }

    #[test]
    fn errors_convert_with_their_causes() {
        let problem = parse("x").unwrap_err().problem().cloned().unwrap();
        assert_eq!(
            (problem.standard(), problem.status),
            (Some(ErrorKind::Runtime), 500)
        );
        assert_eq!(
            explain("x").unwrap_err().problem().unwrap().detail.as_deref(),
            Some("cannot read the port: invalid digit found in string")
        );
    }

    #[test]
    fn long_texts_are_cut() {
        let failure = Failure::runtime("ü".repeat(100)).title("short").cut(101);
        let problem = failure.problem().unwrap();
        assert_eq!(problem.detail, Some(format!("{}…", "ü".repeat(50))));
        assert_eq!(problem.title.as_deref(), Some("short"));
    }

    #[test]
    fn own_errors_keep_type_status_and_title() {
        let failure =
            Failure::custom("https://example.com/errors/out-of-stock", 409, "no bolts").title("Out of stock");
        let problem = failure.problem().unwrap();
        assert_eq!(
            (problem.status, problem.title.as_deref()),
            (409, Some("Out of stock"))
        );
        assert_eq!(problem.standard(), None);
        assert_eq!(Failure::cancelled().into_outcome(), StepOutcome::Cancelled);
    }
}
