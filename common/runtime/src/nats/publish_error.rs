//! Why a message was not confirmed, in the kinds that a sender acts on.

/// What became of a message that was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The stream is at its bound; nothing was stored. Slow down and try again.
    #[error("the stream is full: {0}")]
    Full(String),
    /// Nobody serves the stream now: an election, a restart, or a stream that does not exist. Try again; never
    /// create the stream because of it.
    #[error("no stream takes the message now: {0}")]
    Unavailable(String),
    /// No answer in time: it may have been stored. Try again with the same content; the receiver drops repeats.
    #[error("no confirmation in time; the message may have been stored")]
    Unknown,
    /// Larger than the server or the stream takes. Trying again gives the same answer.
    #[error("the message is too large: {0}")]
    Oversize(String),
    /// The stream's last sequence was not the expected one.
    #[error("the stream moved on: {0}")]
    WrongLastSequence(String),
    /// The publisher was closed.
    #[error("the publisher is closed")]
    Closed,
    /// Anything else the server says. Trying again rarely helps.
    #[error("refused with code {code}: {description}")]
    Other {
        /// NATS' error code (10000 and up), or the status.
        code: u64,
        /// Its words.
        description: String,
    },
}

impl PublishError {
    /// Whether trying again can succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Unavailable(_) | Self::Unknown)
    }

    /// Short name of the kind, a label of metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Full(_) => "full",
            Self::Unavailable(_) => "unavailable",
            Self::Unknown => "unknown",
            Self::Oversize(_) => "oversize",
            Self::WrongLastSequence(_) => "wrong_last_sequence",
            Self::Closed => "closed",
            Self::Other { .. } => "other",
        }
    }

    /// From an error of the JetStream API: `err_code` and `description` of its answer.
    pub(super) fn from_api(code: u64, description: &str) -> Self {
        let text = || format!("{description} ({code})");
        match code {
            // 10077 wraps whatever the store said. Its bounds all say "maximum"; the rest (closed store, disk
            // error) heals or not, but nothing was stored.
            10077 if description.contains("maximum") => Self::Full(text()),
            10077 => Self::Unavailable(text()),
            // Resources of the account or the server: 10002, 10023, 10028, 10047.
            10002 | 10023 | 10028 | 10047 => Self::Full(text()),
            // Not available, no leader, not ready, too many requests.
            10008 | 10009 | 10074 | 10167 | 10175 => Self::Unavailable(text()),
            10054 | 10097 => Self::Oversize(text()),
            10071 | 10164 => Self::WrongLastSequence(text()),
            _ => Self::Other {
                code,
                description: description.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_told_from_failures_of_the_store() {
        assert!(matches!(
            PublishError::from_api(10077, "maximum bytes exceeded"),
            PublishError::Full(_)
        ));
        assert!(matches!(
            PublishError::from_api(10077, "file store is closed"),
            PublishError::Unavailable(_)
        ));
        assert!(PublishError::from_api(10047, "insufficient storage").is_transient());
        assert!(!PublishError::from_api(10060, "expected stream does not match").is_transient());
    }
}
