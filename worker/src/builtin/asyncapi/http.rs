//! AsyncAPI over HTTP. A message is published by one request (`POST` unless the binding names a method). Messages are
//! consumed from the answers to `GET`: events of a stream (server-sent events, or a JSON value a line), or a JSON value, of
//! which an array is several messages. When an answer ends, the next is asked for, a second later: long polling.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use millrace_common::{ErrorKind, limits};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde_json::value::RawValue;

use super::document::Target;
use super::{Inbound, Outbound};
use crate::builtin::authenticate::Policy;
use crate::builtin::exchange::configuration;
use crate::builtin::exchange::{self, Wire};
use crate::builtin::sse::Parser;
use crate::{Context, Failure};

/// Between the end of an answer and the next request.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const ACCEPTED: &str = "text/event-stream, application/x-ndjson, application/json;q=0.9, */*;q=0.1";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells servers that support it which requests are repeats.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) async fn publish(
    ctx: &Context,
    name: &str,
    target: &Target,
    policy: Option<&Policy>,
    message: &Outbound,
) -> Result<(), Failure> {
    let method = method(target, Method::POST)?;
    let prepare = |mut r: RequestBuilder| {
        r = r.header(IDEMPOTENCY_KEY, ctx.idempotency_key());
        let given = message
            .headers()
            .any(|(key, _)| key.eq_ignore_ascii_case(CONTENT_TYPE.as_str()));
        if !given {
            r = r.header(CONTENT_TYPE, target.content_type.as_str());
        }
        let r = message.headers().fold(r, |r, (key, value)| r.header(key, value));
        r.body(message.body().to_owned())
    };
    let response = request(ctx, name, (method, &url(target)?), policy, prepare).await?;
    accepted(ctx, name, response).await.map(drop)
}

fn method(target: &Target, default: Method) -> Result<Method, Failure> {
    let Some(name) = &target.method else {
        return Ok(default);
    };
    Method::from_bytes(name.to_ascii_uppercase().as_bytes())
        .map_err(|_e| configuration(format!("`{name}` of the HTTP binding is not a method")))
}

/// The channel's address below the server's.
fn url(target: &Target) -> Result<Url, Failure> {
    let mut url = target.server.clone();
    let (path, query) = target.address.split_once('?').unwrap_or((&target.address, ""));
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}/{}", path.trim_start_matches('/')));
    if !query.is_empty() {
        url.set_query(Some(query));
    }
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(configuration(format!(
            "a server of protocol http has an address of scheme `{other}`"
        ))),
    }
}

async fn request(
    ctx: &Context,
    name: &str,
    to: (Method, &Url),
    policy: Option<&Policy>,
    prepare: impl Fn(RequestBuilder) -> RequestBuilder,
) -> Result<Response, Failure> {
    let failed = |text| Failure::new(ErrorKind::Communication, format!("{name}: {text}"));
    exchange::send(ctx, to, Wire::Any, policy, prepare, failed).await
}

async fn accepted(ctx: &Context, name: &str, response: Response) -> Result<Response, Failure> {
    let status = response.status();
    match status.is_success() {
        true => Ok(response),
        false => Err(Failure::communication(
            status.as_u16(),
            exchange::refusal(ctx, name, response).await,
        )),
    }
}

/// Messages as they come.
pub(super) struct Source<'a> {
    ctx: &'a Context,
    name: &'a str,
    target: &'a Target,
    policy: Option<&'a Policy>,
    answer: Option<Answer>,
    ready: VecDeque<Inbound>,
    last_id: Option<HeaderValue>,
    asked: bool,
}

/// An answer that is being read.
struct Answer {
    response: Response,
    form: Form,
    headers: Headers,
}

/// Of an answer: those of all its messages.
type Headers = Arc<BTreeMap<String, String>>;

enum Form {
    Events(Parser),
    Lines(Vec<u8>),
    Whole,
}

impl<'a> Source<'a> {
    pub(super) const fn new(
        ctx: &'a Context,
        name: &'a str,
        target: &'a Target,
        policy: Option<&'a Policy>,
    ) -> Self {
        Self {
            ctx,
            name,
            target,
            policy,
            answer: None,
            ready: VecDeque::new(),
            last_id: None,
            asked: false,
        }
    }

    pub(super) async fn next(&mut self) -> Result<Inbound, Failure> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(message);
            }
            match self.answer.take() {
                Some(answer) => self.read(answer).await?,
                None => self.ask().await?,
            }
        }
    }

    async fn ask(&mut self) -> Result<(), Failure> {
        if std::mem::replace(&mut self.asked, true) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let last_id = self.last_id.clone();
        let prepare = |r: RequestBuilder| {
            let r = r.header(ACCEPT, ACCEPTED);
            last_id.iter().fold(r, |r, id| r.header(LAST_EVENT_ID, id))
        };
        let method = method(self.target, Method::GET)?;
        let response = request(
            self.ctx,
            self.name,
            (method, &url(self.target)?),
            self.policy,
            prepare,
        )
        .await?;
        let response = accepted(self.ctx, self.name, response).await?;
        if response.status() != StatusCode::NO_CONTENT {
            self.answer = Some(Answer::of(response));
        }
        Ok(())
    }

    /// Reads a piece, and keeps the answer unless it ended.
    async fn read(&mut self, mut answer: Answer) -> Result<(), Failure> {
        let name = self.name;
        let failed =
            |e: &dyn std::fmt::Display| Failure::new(ErrorKind::Communication, format!("{name}: {e}"));
        if let Form::Whole = answer.form {
            let body = exchange::body(&mut answer.response, limits::PAYLOAD_BYTES_MAX).await;
            let body = body.map_err(|e| failed(&e))?;
            self.ready
                .extend(messages(&body, &answer.headers).map_err(|e| failed(&e))?);
            return Ok(());
        }
        let Some(piece) = exchange::chunk(&mut answer.response)
            .await
            .map_err(|e| failed(&e))?
        else {
            if let Form::Lines(rest) = &answer.form {
                self.ready.extend(line(rest, &answer.headers));
            }
            return Ok(());
        };
        match &mut answer.form {
            Form::Events(parser) => {
                for event in parser.feed(&piece).map_err(|e| failed(&e))? {
                    let mut headers = BTreeMap::clone(&answer.headers);
                    headers.extend(event.kind.map(|kind| ("event".to_owned(), kind)));
                    if let Some(id) = event.id {
                        self.last_id = HeaderValue::try_from(&id).ok().or_else(|| self.last_id.take());
                        headers.insert("id".to_owned(), id);
                    }
                    self.ready
                        .push_back(Inbound::of(event.data.as_bytes(), headers.into()));
                }
            }
            Form::Lines(buffer) => {
                buffer.extend_from_slice(&piece);
                while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    let whole: Vec<u8> = buffer.drain(..=end).collect();
                    self.ready.extend(line(&whole, &answer.headers));
                }
                if buffer.len() > limits::PAYLOAD_BYTES_MAX {
                    return Err(failed(&format!(
                        "a line is larger than {} bytes",
                        limits::PAYLOAD_BYTES_MAX
                    )));
                }
            }
            Form::Whole => {}
        }
        self.answer = Some(answer);
        Ok(())
    }
}

impl Answer {
    fn of(response: Response) -> Self {
        let headers = crate::builtin::http::output::headers(response.headers());
        let content_type = headers.get(CONTENT_TYPE.as_str()).map_or("", String::as_str);
        let essence = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let form = match essence.as_str() {
            "text/event-stream" => Form::Events(Parser::new(limits::PAYLOAD_BYTES_MAX)),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Form::Lines(Vec::new()),
            _ => Form::Whole,
        };
        Self {
            response,
            form,
            headers: headers.into(),
        }
    }
}

/// The items of an array, or the one value; nothing is no message.
fn messages(body: &[u8], headers: &Headers) -> Result<Vec<Inbound>, String> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    match serde_json::from_slice::<Vec<&RawValue>>(body) {
        Ok(items) if items.len() > limits::ANSWER_MESSAGES_MAX => Err(format!(
            "the answer is an array of {} messages, at most {} are taken from one answer",
            items.len(),
            limits::ANSWER_MESSAGES_MAX
        )),
        Ok(items) => {
            let message = |item: &RawValue| Inbound::of(item.get().as_bytes(), headers.clone());
            Ok(items.into_iter().map(message).collect())
        }
        Err(_no_array) => Ok(vec![Inbound::of(body, headers.clone())]),
    }
}

fn line(line: &[u8], headers: &Headers) -> Option<Inbound> {
    let line = line.trim_ascii();
    (!line.is_empty()).then(|| Inbound::of(line, headers.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_bounded_and_its_messages_share_headers() {
        let headers: Headers = Arc::new(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        let array = |items: usize| format!("[{}]", vec!["1"; items].join(","));
        let most = messages(array(limits::ANSWER_MESSAGES_MAX).as_bytes(), &headers).unwrap();
        assert_eq!(
            (most.len(), Arc::strong_count(&headers)),
            (limits::ANSWER_MESSAGES_MAX, limits::ANSWER_MESSAGES_MAX + 1)
        );
        let error = messages(array(limits::ANSWER_MESSAGES_MAX + 1).as_bytes(), &headers)
            .err()
            .unwrap();
        assert!(error.contains("10001 messages"), "{error}");
    }
}
