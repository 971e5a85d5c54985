//! Whether the server at the other end will do.

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::AccountErrorKind;

/// Oldest NATS that does not lose streams on kill -9 and whose `sync_interval: always` reaches every file.
pub const MIN_VERSION: (u64, u64, u64) = (2, 10, 25);

/// Why the server will not do, now or ever.
#[derive(Debug, thiserror::Error)]
pub enum ServerFault {
    /// Too old.
    #[error("nats-server {found} is too old: 2.10.25 or newer is needed")]
    TooOld {
        /// Its version.
        found: String,
    },
    /// No JetStream for this account.
    #[error(
        "JetStream is not enabled at this NATS server or for this account: start nats-server with JetStream"
    )]
    NoJetStream,
    /// Not now.
    #[error("JetStream does not answer: {0}")]
    NotNow(String),
}

impl ServerFault {
    /// Whether waiting cannot help.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::NotNow(_))
    }
}

pub(super) async fn check(client: &async_nats::Client, js: &jetstream::Context) -> Result<(), ServerFault> {
    let server = client.server_info();
    check_version(&server.version)?;
    js.query_account()
        .await
        .map(drop)
        .map_err(|e| account_fault(&e.kind(), server.jetstream))
}

pub(super) fn check_version(text: &str) -> Result<(), ServerFault> {
    let too_old = || ServerFault::TooOld { found: text.into() };
    let version = parse_version(text).ok_or_else(too_old)?;
    if version < MIN_VERSION {
        Err(too_old())
    } else {
        Ok(())
    }
}

fn account_fault(kind: &AccountErrorKind, server_has_jetstream: bool) -> ServerFault {
    match kind {
        AccountErrorKind::JetStream(e)
            if matches!(
                e.error_code(),
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            ) =>
        {
            ServerFault::NoJetStream
        }
        // Nobody answers: a cluster without a leader, or a server without JetStream. The latter says so itself.
        AccountErrorKind::JetStreamUnavailable if !server_has_jetstream => ServerFault::NoJetStream,
        other => ServerFault::NotNow(other.to_string()),
    }
}

/// `2.12.8-RC.1` as `(2, 12, 8)`.
pub(crate) fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.trim().trim_start_matches('v').split('.');
    let mut next = || {
        let part = parts.next()?;
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().ok()
    };
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_below_the_floor_are_named() {
        assert!(check_version("2.10.25").is_ok());
        assert!(check_version("2.12.8-RC.1").is_ok());
        assert!(check_version("3.0.0").is_ok());
        let text = check_version("2.9.10").unwrap_err().to_string();
        assert!(text.contains("2.9.10") && text.contains("2.10.25"), "{text}");
        assert!(check_version("").unwrap_err().is_permanent());
    }

    #[test]
    fn only_a_server_without_jetstream_is_given_up() {
        assert!(account_fault(&AccountErrorKind::JetStreamUnavailable, false).is_permanent());
        assert!(!account_fault(&AccountErrorKind::JetStreamUnavailable, true).is_permanent());
        assert!(!account_fault(&AccountErrorKind::TimedOut, false).is_permanent());
    }
}
