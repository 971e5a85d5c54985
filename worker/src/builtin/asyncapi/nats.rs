//! AsyncAPI over NATS: the channel's address is a subject. Consumers of the same queue (NATS binding of the operation)
//! share the messages.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap, HeaderName, HeaderValue, Subscriber};
use futures_util::StreamExt;
use millrace_common::ErrorKind;
use tokio::sync::mpsc;

use super::document::Target;
use super::{Inbound, Outbound};
use crate::builtin::authenticate::Policy;
use crate::builtin::exchange::configuration;
use crate::{Context, Failure};

/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the server to object to a message that was sent.
const CONFIRM_LIMIT: Duration = Duration::from_secs(2);
/// Objections of the server that wait to be read; more are as good as one.
const OBJECTIONS_MAX: usize = 8;
/// Tells consumers that care which messages are repeats.
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// A connection, and what its server objects to.
struct Link {
    client: Client,
    objections: mpsc::Receiver<String>,
}

impl Link {
    async fn open(
        ctx: &Context,
        name: &str,
        target: &Target,
        policy: Option<&Policy>,
    ) -> Result<Self, Failure> {
        if target.address.is_empty() || target.address.contains(char::is_whitespace) {
            let text = format!("{name}: `{}` cannot be the subject of a message", target.address);
            return Err(configuration(text));
        }
        let (sender, objections) = mpsc::channel(OBJECTIONS_MAX);
        let options = ConnectOptions::new()
            .name(ctx.worker())
            .connection_timeout(CONNECT_TIMEOUT)
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    // Full: an earlier one has not been read yet.
                    let _kept = sender.try_send(error.to_string());
                }
                std::future::ready(())
            });
        let options = match policy {
            Some(policy) => login(ctx, policy, options).await?,
            None => options,
        };
        let server = target.server.as_str().trim_end_matches('/');
        millrace_runtime::tls::install_provider();
        let client = options.connect(server).await.map_err(|e| {
            let shown = crate::builtin::http::shown(server);
            failed(name, &format!("cannot connect to `{shown}`: {e:#}"))
        })?;
        Ok(Self { client, objections })
    }
}

/// User name and password, or a token.
async fn login(ctx: &Context, policy: &Policy, options: ConnectOptions) -> Result<ConnectOptions, Failure> {
    if let Some(login) = policy.login(ctx)? {
        return Ok(options.user_and_password(login.username, login.password));
    }
    let authorization = policy.authorization(ctx).await?;
    Ok(authorization
        .into_iter()
        .fold(options, |o, a| o.token(a.parameter)))
}

fn failed(name: &str, what: &str) -> Failure {
    Failure::new(ErrorKind::Communication, format!("{name}: {what}"))
}

/// Sends a message and waits until the server took it.
pub(super) async fn publish(
    ctx: &Context,
    name: &str,
    target: &Target,
    policy: Option<&Policy>,
    message: &Outbound,
) -> Result<(), Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(MESSAGE_ID, ctx.idempotency_key());
    for (key, text) in message.headers() {
        let header = (key.parse::<HeaderName>(), text.parse::<HeaderValue>());
        let (Ok(key), Ok(text)) = header else {
            return Err(configuration(format!("{name}: `{key}` is not a valid header")));
        };
        headers.insert(key, text);
    }
    let mut link = Link::open(ctx, name, target, policy).await?;
    let inbox = link.client.new_inbox();
    let sent = send(&mut link, &inbox, target, headers, message).await;
    sent.map_err(|e| failed(name, &format!("cannot publish: {e:#}")))?;
    // Who may not subscribe to its inbox may publish all the same.
    let about_inbox = inbox.to_lowercase();
    while let Ok(objection) = link.objections.try_recv() {
        if !objection.to_lowercase().contains(&about_inbox) {
            return Err(failed(name, &format!("the server refused: {objection}")));
        }
    }
    Ok(())
}

/// The server reads in order: when a second message is back, it took the first, or has objected to it.
async fn send(
    link: &mut Link,
    inbox: &str,
    target: &Target,
    headers: HeaderMap,
    message: &Outbound,
) -> anyhow::Result<()> {
    let mut back = link.client.subscribe(inbox.to_owned()).await?;
    let body = message.body().to_owned().into();
    link.client
        .publish_with_headers(target.address.clone(), headers, body)
        .await?;
    link.client.publish(inbox.to_owned(), "".into()).await?;
    link.client.flush().await?;
    if tokio::time::timeout(CONFIRM_LIMIT, back.next()).await.is_err() {
        tracing::debug!("the NATS server gave no confirmation of a message");
    }
    Ok(())
}

/// Messages as they come.
pub(super) struct Source<'a> {
    name: &'a str,
    link: Link,
    messages: Subscriber,
}

impl<'a> Source<'a> {
    pub(super) async fn open(
        ctx: &Context,
        name: &'a str,
        target: &Target,
        policy: Option<&Policy>,
    ) -> Result<Self, Failure> {
        let link = Link::open(ctx, name, target, policy).await?;
        let subject = target.address.clone();
        let messages = match &target.queue {
            Some(queue) => link.client.queue_subscribe(subject, queue.clone()).await,
            None => link.client.subscribe(subject).await,
        };
        let messages = messages.map_err(|e| failed(name, &format!("cannot subscribe: {e:#}")))?;
        let flushed = link.client.flush().await;
        flushed.map_err(|e| failed(name, &format!("cannot subscribe: {e:#}")))?;
        Ok(Self { name, link, messages })
    }

    pub(super) async fn next(&mut self) -> Result<Inbound, Failure> {
        tokio::select! {
            message = self.messages.next() => match message {
                Some(message) => Ok(inbound(&message)),
                None => Err(failed(self.name, "the subscription ended")),
            },
            Some(objection) = self.link.objections.recv() => {
                Err(failed(self.name, &format!("the server refused: {objection}")))
            }
        }
    }
}

/// Repeated headers are joined by a comma.
fn inbound(message: &async_nats::Message) -> Inbound {
    let mut headers = BTreeMap::new();
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        let values: Vec<&str> = values.iter().map(HeaderValue::as_str).collect();
        headers.insert(name.to_string(), values.join(", "));
    }
    Inbound::of(&message.payload, headers.into())
}
