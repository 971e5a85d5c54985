//! What the queue says about a step beside its content: how often it was delivered, and where to answer.

use async_nats::Subject;

/// Answers that JetStream understands.
pub(crate) mod answer {
    use bytes::Bytes;

    /// Done: remove it.
    pub(crate) const ACK: Bytes = Bytes::from_static(b"+ACK");
    /// Not done: deliver it again at once.
    pub(crate) const NAK: Bytes = Bytes::from_static(b"-NAK");
    /// Still at it: begin `ack_wait` anew.
    pub(crate) const PROGRESS: Bytes = Bytes::from_static(b"+WPI");

    /// Not done: deliver it again after a delay.
    pub(crate) fn nak_after(delay: std::time::Duration) -> Bytes {
        format!("-NAK {{\"delay\":{}}}", delay.as_nanos()).into()
    }
}

/// Where a step came from, read from the subject for answers:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or the newer form with domain
/// and account in front of the stream (ADR-15 of NATS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Deliveries so far, from 1.
    pub(crate) delivered: u32,
    /// Sequence of the step in the queue.
    pub(crate) sequence: u64,
    /// When the queue stored it: Unix ms of the server's clock.
    pub(crate) stored_ms: i64,
}

pub(crate) fn origin(reply: &Subject) -> Option<Origin> {
    let rest = reply.strip_prefix("$JS.ACK.")?;
    let has_domain = rest.bytes().filter(|b| *b == b'.').count() >= 8;
    let mut tokens = rest.split('.').skip(if has_domain { 4 } else { 2 });
    Some(Origin {
        delivered: tokens.next()?.parse().ok()?,
        sequence: tokens.next()?.parse().ok()?,
        stored_ms: tokens.nth(1)?.parse::<i64>().ok()? / 1_000_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_answer_subject_are_read() {
        let expected = Some(Origin {
            delivered: 3,
            sequence: 17,
            stored_ms: 1_700_000_000_000,
        });
        assert_eq!(
            origin(&"$JS.ACK.MR_STEPS.q-default.3.17.20.1700000000000000000.5".into()),
            expected
        );
        assert_eq!(
            origin(&"$JS.ACK._.acc.MR_STEPS.q-default.3.17.20.1700000000000000000.5.tok".into()),
            expected
        );
        assert_eq!(
            origin(&"$JS.ACK._.acc.MR_STEPS.q-default.3.17.20.1700000000000000000.5".into()),
            expected
        );
        assert_eq!(origin(&"_INBOX.x".into()), None);
        assert_eq!(origin(&"$JS.ACK.MR_STEPS.q.x.1.1.1.1".into()), None);
    }
}
