//! The connection to NATS, with the settings that keep a dead link from looking alive, and the check of what is at
//! the other end. [`Publisher`] is the way to JetStream for everything that must arrive.

mod answer;
mod login;
mod publish_error;
mod publisher;
mod server;
mod window;

use std::time::Duration;

use async_nats::jetstream;
use async_nats::{ConnectOptions, Event};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::config::NatsConfig;

use login::Login;

pub use publish_error::PublishError;
pub use publisher::{Ack, Completion, Completions, Publisher, PublisherOptions, expected_stream};
pub(crate) use server::parse_version;
pub use server::{MIN_VERSION, ServerFault};

/// An unanswered ping every 5 s: a silent link is given up after the third. The client's own default of 60 s
/// would hide it for three minutes.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between attempts to connect.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(4);

/// Between two complaints about a server that cannot be reached.
const SAY_SO_EVERY: Duration = Duration::from_secs(10);

/// Why the connection could not even be prepared.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The credentials file cannot be used.
    #[error("cannot read NATS credentials {path}: {source}")]
    Credentials {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A URL or certificate cannot be used.
    #[error("cannot connect to NATS at {urls}: {source}")]
    Connect {
        /// The servers, without passwords.
        urls: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
}

/// State of the link; see [`Nats::link`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether the client is connected now.
    pub connected: bool,
    /// Connections made so far. A change means that everything read before may be outdated: readers check their
    /// position again, workers register again.
    pub connects: u64,
}

/// A connection that is made again for ever; cheap to clone.
#[derive(Clone, Debug)]
pub struct Nats {
    client: async_nats::Client,
    jetstream: jetstream::Context,
    link: watch::Receiver<Link>,
}

/// Prepares the connection and returns at once; it is made, and made again, in the background. `name` is shown in
/// the server's connection list. Call [`Nats::ready`] before relying on it.
///
/// # Errors
/// Only what no retry can heal: an unreadable credentials file, a malformed URL.
pub async fn connect(config: &NatsConfig, name: &str) -> Result<Nats, ConnectError> {
    let (link_sender, link) = watch::channel(Link::default());
    let options = options(config, name).await?.event_callback(move |event| {
        note(&link_sender, &event);
        std::future::ready(())
    });
    let connected = options.connect(config.urls.clone()).await;
    let client = connected.map_err(|source| ConnectError::Connect {
        urls: without_passwords(&config.urls),
        source,
    })?;
    let jetstream = jetstream::new(client.clone());
    Ok(Nats {
        client,
        jetstream,
        link,
    })
}

impl Nats {
    /// The plain client.
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// For the API of JetStream (stream and consumer information). Publish through a [`Publisher`] instead.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Follows the link. `wait_for(|l| l.connected)` waits for a connection; a changed
    /// [`Link::connects`] tells of a reconnect.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Whether the client is connected now.
    pub fn is_connected(&self) -> bool {
        self.link.borrow().connected
    }

    /// Waits until a server answers and JetStream works, with endless retries.
    ///
    /// # Errors
    /// When the server can never do: too old, or JetStream is not enabled for the account.
    pub async fn ready(&self) -> Result<(), ServerFault> {
        let mut backoff = Backoff::for_servers();
        loop {
            self.connected().await;
            match server::check(&self.client, &self.jetstream).await {
                Ok(()) => return Ok(()),
                Err(fault) if fault.is_permanent() => return Err(fault),
                Err(fault) if backoff.attempts() % 8 == 4 => {
                    tracing::warn!(error = %fault, "waiting for JetStream")
                }
                Err(_not_now) => {}
            }
            backoff.sleep().await;
        }
    }

    /// As [`Self::ready`] without asking about JetStream, for which a worker needs no permission.
    ///
    /// # Errors
    /// When the server is too old.
    pub async fn greeted(&self) -> Result<(), ServerFault> {
        self.connected().await;
        server::check_version(&self.client.server_info().version)
    }

    /// Waits for a connection and says so from time to time: wrong credentials look like a server that is away.
    async fn connected(&self) {
        let mut link = self.link.clone();
        // The sender lives in the client's callback, so the channel does not close before this handle.
        while tokio::time::timeout(SAY_SO_EVERY, link.wait_for(|l| l.connected))
            .await
            .is_err()
        {
            tracing::warn!("still not connected to NATS: is it there, and are the credentials right?");
        }
    }

    /// Sends what is queued and waits for the server's answer, at most `limit`. The last thing before exit.
    pub async fn flush(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.client.flush()).await.is_err() {
            tracing::warn!("NATS did not take the last messages in time");
        }
    }
}

async fn options(config: &NatsConfig, name: &str) -> Result<ConnectOptions, ConnectError> {
    let jitter = crate::random::number();
    let mut options = ConnectOptions::new()
        .name(name)
        .custom_inbox_prefix(format!("_INBOX_{}", inbox_token(name)))
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .retry_on_initial_connect()
        .reconnect_delay_callback(move |attempts| reconnect_delay(attempts, jitter));
    match Login::of(&config.urls) {
        Some(Login::Password { user, password }) => options = options.user_and_password(user, password),
        Some(Login::Token(token)) => options = options.token(token),
        None => {}
    }
    if let Some(path) = &config.credentials {
        let fault = |source| ConnectError::Credentials {
            path: path.display().to_string(),
            source,
        };
        options = options.credentials_file(path).await.map_err(fault)?;
    }
    if let Some(path) = &config.ca {
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    Ok(options)
}

/// An inbox of its own lets the server's permissions keep workers out of each other's replies.
fn inbox_token(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect()
}

fn reconnect_delay(attempts: usize, seed: u64) -> Duration {
    // The first attempt is immediate: most lost links are a server's restart, seen by its RST.
    let Some(earlier) = attempts.checked_sub(2) else {
        return Duration::ZERO;
    };
    let earlier = u32::try_from(earlier).unwrap_or(u32::MAX);
    Backoff::at(Duration::from_millis(50), RECONNECT_DELAY_MAX, seed, earlier)
}

fn note(link: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => {
            link.send_modify(|l| {
                *l = Link {
                    connected: true,
                    connects: l.connects + 1,
                }
            });
            tracing::info!("connected to NATS");
        }
        Event::Disconnected => {
            link.send_modify(|l| l.connected = false);
            tracing::warn!("lost the connection to NATS");
        }
        Event::Closed => {
            link.send_modify(|l| l.connected = false);
        }
        // The client drops messages here; nothing of ours may come near its bound of 65,536.
        Event::SlowConsumer(id) => {
            tracing::error!(subscription = id, "messages were dropped: a reader is too slow")
        }
        other => tracing::warn!(event = %other, "NATS client event"),
    }
}

fn without_passwords(urls: &[String]) -> String {
    let tidy = |url: &String| match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.clone(),
    };
    urls.iter().map(tidy).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_reach_messages() {
        let urls = ["nats://me:secret@a:4222".to_owned(), "b:4222".to_owned()];
        assert_eq!(without_passwords(&urls), "nats://a:4222,b:4222");
    }

    #[test]
    fn the_first_reconnect_is_immediate_and_later_ones_are_capped() {
        assert_eq!(reconnect_delay(1, 7), Duration::ZERO);
        assert!(reconnect_delay(2, 7) >= Duration::from_millis(25));
        assert!(reconnect_delay(usize::MAX, 7) <= RECONNECT_DELAY_MAX);
    }
}
