//! Follows a stream from a place on, in order, without acknowledging anything: who reads keeps the place elsewhere.
//!
//! The consumer is ephemeral: no durable consumer's memory is trusted (section 1.4 of the protocol study lists why).

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::stream::Stream;

/// The broker forgets a consumer that nobody pulls from for this long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A pull ends after this time and is made again; a lost one hangs no longer.
const PULL: Duration = Duration::from_secs(5);
/// Without a message or a sign of life for twice this time the reader is lost.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Messages from a place on, at most so many asked for at a time.
///
/// # Errors
/// The broker's words, when it does not make the consumer; safe to repeat.
pub(crate) async fn start(
    stream: &Stream<()>,
    from: DeliverPolicy,
    batch: usize,
) -> Result<pull::Stream, String> {
    let config = pull::Config {
        deliver_policy: from,
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: FORGOTTEN_AFTER,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|e| e.to_string())?;
    consumer
        .stream()
        .max_messages_per_batch(batch)
        .expires(PULL)
        .heartbeat(HEARTBEAT)
        .messages()
        .await
        .map_err(|e| e.to_string())
}
