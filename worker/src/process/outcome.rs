//! From how a process ended to the output or the error of its task.

use millrace_common::{RawJson, limits};
use serde::Serialize;

use super::request::Output;
use crate::Failure;

/// A shell tells with codes above this one that a signal ended a process.
const SIGNAL_CODES: i64 = 128;

/// A process that ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: i64,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

#[derive(Serialize)]
struct All<'a> {
    code: i64,
    stdout: &'a str,
    stderr: &'a str,
}

impl Ended {
    /// What `return` asks for. Another code than 0 is an error unless the code itself is asked for.
    pub(super) fn into_output(self, what: &str, output: Output) -> Result<RawJson, Failure> {
        if self.code != 0 && !output.tells_code() {
            return Err(self.failed(what));
        }
        let (stdout, stderr) = (
            String::from_utf8_lossy(&self.stdout),
            String::from_utf8_lossy(&self.stderr),
        );
        let json = match output {
            Output::Stdout => RawJson::encode(&*stdout),
            Output::Stderr => RawJson::encode(&*stderr),
            Output::Code => RawJson::encode(&self.code),
            Output::All => RawJson::encode(&All {
                code: self.code,
                stdout: &stdout,
                stderr: &stderr,
            }),
            Output::None => Ok(RawJson::null()),
        };
        Ok(json?)
    }

    fn failed(&self, what: &str) -> Failure {
        let signal = match self.code - SIGNAL_CODES {
            signal @ 1..=64 => format!(" (ended by signal {signal})"),
            _ => String::new(),
        };
        let start = self.stderr.len().saturating_sub(limits::PROCESS_DETAIL_BYTES_MAX);
        let last = String::from_utf8_lossy(&self.stderr[start..]);
        let separator = if last.trim().is_empty() { "" } else { ": " };
        Failure::runtime(format!(
            "{what} ended with exit code {}{signal}{separator}{}",
            self.code,
            last.trim()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i64) -> Ended {
        Ended {
            code,
            stdout: b"out\n".to_vec(),
            stderr: b"err\xff\n".to_vec(),
        }
    }

    fn output(code: i64, output: Output) -> String {
        match ended(code).into_output("the command", output) {
            Ok(json) => json.text().to_owned(),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn output_is_text_as_it_was_written() {
        assert_eq!(output(0, Output::Stdout), r#""out\n""#);
        assert_eq!(output(0, Output::Stderr), "\"err\u{fffd}\\n\"");
        assert_eq!(output(0, Output::None), "null");
    }

    #[test]
    fn a_code_is_an_error_unless_it_is_asked_for() {
        assert_eq!(output(3, Output::Code), "3");
        assert_eq!(
            output(3, Output::All),
            "{\"code\":3,\"stdout\":\"out\\n\",\"stderr\":\"err\u{fffd}\\n\"}"
        );
        for failing in [Output::Stdout, Output::Stderr, Output::None] {
            assert_eq!(
                output(3, failing),
                "runtime error 500: the command ended with exit code 3: err\u{fffd}"
            );
        }
        assert!(output(137, Output::None).contains("137 (ended by signal 9)"));
    }
}
