//! How a command ends when it does not succeed: an exit code that scripts act on, a message, and what to do.

use std::process::ExitCode;

use serde_json::Value;

use crate::args::Format;
use crate::terminal::Style;

/// Exit codes; documented in `millrace --help` ([`CODES`]) and never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The instance faulted.
    Faulted,
    /// Bad usage, an invalid definition, or a request that the coordinator refuses as it stands.
    Usage,
    /// The instance was cancelled.
    Cancelled,
    /// The time to wait was over.
    TimedOut,
    /// The coordinator cannot be reached, or cannot do it now.
    Unreachable,
    /// The command failed for another reason: a fault of the coordinator, or of this machine.
    Failed,
    /// Ended by this signal.
    Signal(u8),
}

/// The codes, as `--help` shows them.
pub(crate) const CODES: &str = "Exit codes:
  0  done; the instance completed
  1  the instance faulted; its problem is on stderr as JSON
  2  bad usage, an invalid definition, or a request that the coordinator refuses
     (unknown name, wrong state, conflict, no permission)
  3  the instance was cancelled
  4  the time given with --timeout was over
  5  the coordinator cannot be reached, or cannot do it now
  6  anything else: a stack that does not start, a fault inside the coordinator
  128 + n  ended by signal n (130: Ctrl-C)
`millrace coordinator` and `millrace worker` become those programs and end with their codes.";

impl Exit {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Faulted => 1,
            Self::Usage => 2,
            Self::Cancelled => 3,
            Self::TimedOut => 4,
            Self::Unreachable => 5,
            Self::Failed => 6,
            Self::Signal(number) => 128 + number,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Written above the message as it is: diagnostics, a problem, the tail of a log.
    pub(crate) report: Option<String>,
    /// What the API answered; shown to programs.
    pub(crate) problem: Option<Box<Value>>,
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
            problem: None,
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

    /// Writes everything to stderr and gives the exit code. Who asked for JSON gets the API's problem as a line of it.
    pub(crate) fn finish(self, format: Format) -> ExitCode {
        let style = Style::stderr();
        if let Some(report) = &self.report {
            eprintln!("{}", report.trim_end());
        }
        if let (Some(problem), Format::Json) = (&self.problem, format) {
            eprintln!("{problem}");
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
