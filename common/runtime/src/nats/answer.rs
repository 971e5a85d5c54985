//! What the server answers to a message for a stream.

use async_nats::StatusCode;
use serde::Deserialize;

use super::{Ack, PublishError};

#[derive(Deserialize)]
struct ApiAnswer {
    #[serde(default)]
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

pub(super) fn outcome_of(message: &async_nats::Message) -> Result<Ack, PublishError> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(PublishError::Unavailable("no responders".into()));
    }
    match quick_ack(&message.payload) {
        Some(ack) => Ok(ack),
        None => full_answer(&message.payload),
    }
}

/// Reads `{"stream":"NAME","seq":123}` without a parser: every message on the hot path ends here.
fn quick_ack(payload: &[u8]) -> Option<Ack> {
    let text = std::str::from_utf8(payload).ok()?;
    let rest = text.strip_prefix("{\"stream\":\"")?;
    // Stream names hold no quotes.
    let rest = &rest[rest.find('"')?..];
    let rest = rest
        .strip_prefix("\",\"seq\":")
        .or_else(|| rest.strip_prefix("\", \"seq\":"))?;
    let digits = rest.strip_suffix('}')?;
    digits.parse().ok().map(|sequence| Ack {
        sequence,
        duplicate: false,
    })
}

fn full_answer(payload: &[u8]) -> Result<Ack, PublishError> {
    let answer: ApiAnswer = serde_json::from_slice(payload).map_err(|_e| PublishError::Other {
        code: 0,
        description: format!("unreadable confirmation: {}", String::from_utf8_lossy(payload)),
    })?;
    match answer.error {
        Some(e) if e.err_code == 0 && e.code == 503 => Err(PublishError::Unavailable(e.description)),
        Some(e) => Err(PublishError::from_api(e.err_code, &e.description)),
        None => Ok(Ack {
            sequence: answer.seq,
            duplicate: answer.duplicate,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirmations_are_read_in_every_form() {
        let ack = |sequence, duplicate| Some(Ack { sequence, duplicate });
        assert_eq!(quick_ack(br#"{"stream":"MR_LOG_0","seq":17}"#), ack(17, false));
        assert_eq!(quick_ack(br#"{"stream":"MR_LOG_0", "seq":17}"#), ack(17, false));
        assert_eq!(quick_ack(br#"{"stream":"S","seq":17,"duplicate":true}"#), None);
        assert_eq!(
            full_answer(br#"{"stream":"S","domain":"d","seq":17,"duplicate":true}"#).ok(),
            ack(17, true)
        );
        let full = br#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"S","seq":0}"#;
        assert!(matches!(full_answer(full), Err(PublishError::Full(_))));
        assert!(matches!(full_answer(b"?"), Err(PublishError::Other { .. })));
    }
}
