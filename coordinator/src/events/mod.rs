//! The way into the stream of events, for the api and for `emit`. Any client may publish there too; what is in the
//! stream is read by the correlator of each partition (`partition::correlator`).

pub mod index;
pub mod lifecycle;
pub mod source;

use std::sync::Arc;

use async_nats::HeaderMap;
use millrace_common::{CloudEvent, names};
use millrace_runtime::nats::{Ack, PublishError, Publisher, expected_stream};

/// Content type of structured mode.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Clonable handle to the stream of events.
#[derive(Clone, Debug)]
pub struct Events {
    publisher: Arc<Publisher>,
}

impl Events {
    /// Over a publisher.
    pub const fn new(publisher: Arc<Publisher>) -> Self {
        Self { publisher }
    }

    /// Publishes an event; resolves when the stream holds it.
    ///
    /// # Errors
    /// As the publisher. Publishing again is safe: the stream drops repeats of the same source and id.
    pub async fn publish(&self, event: &CloudEvent) -> Result<Ack, PublishError> {
        let (subject, headers) = route(event);
        let payload = event.raw.text().to_owned().into();
        self.publisher.publish(subject, headers, payload).await
    }
}

/// Subject and headers of an event.
pub(crate) fn route(event: &CloudEvent) -> (String, Option<HeaderMap>) {
    to(names::EVENTS_STREAM, names::event_subject(&event.kind), event)
}

/// The same, of a lifecycle event.
pub(crate) fn lifecycle_route(event: &CloudEvent) -> (String, Option<HeaderMap>) {
    to(
        names::LIFECYCLE_STREAM,
        names::lifecycle_subject(&event.kind),
        event,
    )
}

fn to(stream: &str, subject: String, event: &CloudEvent) -> (String, Option<HeaderMap>) {
    let mut headers = expected_stream(stream);
    headers.insert("Nats-Msg-Id", event.message_id());
    headers.insert("content-type", CONTENT_TYPE);
    (subject, Some(headers))
}
