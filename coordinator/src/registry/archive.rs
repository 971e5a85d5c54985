//! The durable copy of every definition: a JetStream stream keyed by subject, each message the text as it was applied
//! (no envelope that could push a large one over the broker's bound). It outlives a lost Redis.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use millrace_common::{DefinitionRef, names};
use millrace_dsl::Resources;
use serde::{Deserialize, Serialize};

use super::StoredDefinition;
use super::definitions::Unavailable;

/// Longest wait for the acknowledgement.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// Header that tells a message with pinned resources (JSON) from one that is the text alone.
const FORM: &str = "Mr-Form";
const PINNED: &str = "pinned";

/// Clonable handle.
#[derive(Clone)]
pub(super) struct Archive {
    jetstream: jetstream::Context,
}

/// What [`Archive::keep`] found.
pub(super) enum Kept {
    /// Stored now.
    New,
    /// There before.
    Earlier(StoredDefinition),
}

impl Archive {
    pub(super) fn new(jetstream: jetstream::Context) -> Self {
        Self { jetstream }
    }

    /// Stores a version unless one is there, and says which of both.
    pub(super) async fn keep(
        &self,
        key: &DefinitionRef,
        stored: &StoredDefinition,
    ) -> Result<Kept, Unavailable> {
        if let Some(earlier) = self.kept(key).await? {
            return Ok(Kept::Earlier(earlier));
        }
        match self.publish(key, stored).await {
            Ok(()) => Ok(Kept::New),
            // Somebody was faster, or it was an earlier try of ours whose answer was lost.
            Err(e) if e.kind() == PublishErrorKind::WrongLastSequence => match self.kept(key).await? {
                Some(earlier) => Ok(Kept::Earlier(earlier)),
                None => Err(Unavailable::Nats(format!("{key} vanished from its stream"))),
            },
            Err(e) => Err(nats(e)),
        }
    }

    async fn publish(&self, key: &DefinitionRef, stored: &StoredDefinition) -> Result<(), PublishError> {
        let mut message = PublishMessage::build();
        message = match stored.resources.is_empty() {
            true => message.payload(stored.source.clone().into()),
            false => message.header(FORM, PINNED).payload(pinned(stored).into()),
        };
        let message = message
            .expected_stream(names::DEFINITIONS_STREAM)
            .expected_last_subject_sequence(0);
        let sent = self
            .jetstream
            .send_publish(names::definition_subject(key), message)
            .await?;
        match tokio::time::timeout(ACKNOWLEDGE, sent).await {
            Ok(acknowledged) => acknowledged.map(drop),
            Err(_elapsed) => Err(PublishErrorKind::TimedOut.into()),
        }
    }

    /// What is stored under a version.
    pub(super) async fn kept(&self, key: &DefinitionRef) -> Result<Option<StoredDefinition>, Unavailable> {
        let subject = names::definition_subject(key);
        match self
            .stream()
            .await?
            .get_last_raw_message_by_subject(&subject)
            .await
        {
            Ok(message) => read(&message).map(Some),
            Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(e) => Err(nats(e)),
        }
    }

    /// Everything, oldest first: what fills an empty Redis again.
    pub(super) async fn all(&self) -> Result<Vec<StoredDefinition>, Unavailable> {
        let stream = self.stream().await?;
        let state = stream.get_info().await.map_err(nats)?.state;
        let mut all = Vec::new();
        let mut next = state.first_sequence;
        while state.messages > 0 && next <= state.last_sequence {
            match stream
                .raw_message_builder()
                .sequence(next)
                .next_by_subject(names::DEFINITIONS_SUBJECTS)
                .send()
                .await
            {
                Ok(message) => {
                    all.push(read(&message)?);
                    next = message.sequence + 1;
                }
                Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => break,
                Err(e) => return Err(nats(e)),
            }
        }
        Ok(all)
    }

    async fn stream(&self) -> Result<Stream<()>, Unavailable> {
        self.jetstream
            .get_stream_no_info(names::DEFINITIONS_STREAM)
            .await
            .map_err(nats)
    }
}

fn read(message: &StreamMessage) -> Result<StoredDefinition, Unavailable> {
    let text = std::str::from_utf8(&message.payload);
    let text = text.map_err(|e| Unavailable::Nats(format!("{} holds no text: {e}", message.subject)))?;
    let created_ms = message.time.unix_timestamp_nanos() / 1_000_000;
    let is_pinned = message
        .headers
        .get(FORM)
        .is_some_and(|form| form.as_str() == PINNED);
    let form = match is_pinned {
        true => serde_json::from_str(text)
            .map_err(|e| Unavailable::Nats(format!("{} cannot be decoded: {e}", message.subject)))?,
        false => Pinned {
            source: text.into(),
            resources: Resources::new(),
        },
    };
    Ok(StoredDefinition {
        source: form.source,
        created_ms: i64::try_from(created_ms).unwrap_or(0),
        resources: form.resources,
    })
}

/// A definition with what it refers to elsewhere.
#[derive(Serialize, Deserialize)]
struct Pinned {
    source: String,
    resources: Resources,
}

fn pinned(stored: &StoredDefinition) -> Vec<u8> {
    let form = Pinned {
        source: stored.source.clone(),
        resources: stored.resources.clone(),
    };
    serde_json::to_vec(&form).expect("texts can always be written")
}

fn nats(error: impl std::fmt::Display) -> Unavailable {
    Unavailable::Nats(error.to_string())
}
