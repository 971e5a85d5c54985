//! How a command ends when it does not succeed: an exit code that scripts act on, a message, and what to do.

use std::process::ExitCode;

use crate::terminal::Style;

/// Exit codes; documented in `millrace --help` and never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The instance faulted, or the command failed.
    Failed,
    /// Bad usage, or an invalid definition.
    Usage,
    /// The instance was cancelled.
    Cancelled,
    /// The time to wait was over.
    TimedOut,
    /// The coordinator cannot be reached.
    Unreachable,
    /// Interrupted by the user.
    Interrupted,
}

impl Exit {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Cancelled => 3,
            Self::TimedOut => 4,
            Self::Unreachable => 5,
            Self::Interrupted => 130,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Written above the message as it is: diagnostics, a problem, the tail of a log.
    pub(crate) report: Option<String>,
    /// Lowercase, the value last.
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// With a message.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            report: None,
            message: message.into(),
            hint: None,
        }
    }

    /// With advice.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With text above.
    #[must_use]
    pub(crate) fn report(mut self, report: impl Into<String>) -> Self {
        self.report = Some(report.into());
        self
    }

    /// Writes everything to stderr and gives the exit code.
    pub(crate) fn finish(self) -> ExitCode {
        let style = Style::stderr();
        if let Some(report) = &self.report {
            eprintln!("{}", report.trim_end());
        }
        if !self.message.is_empty() {
            eprintln!("{} {}", style.red("error:"), self.message);
        }
        if let Some(hint) = &self.hint {
            eprintln!("{} {hint}", style.cyan("hint:"));
        }
        ExitCode::from(self.exit.code())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}
