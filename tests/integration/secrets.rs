//! No secret is stored, sent, logged or told: a run uses secrets in every way, and afterwards everything that the servers
//! and processes kept is searched for them.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use millrace_tests::{Stack, Stub, authority, eventually};
use serde_json::json;

use crate::definition;

const KEY: &str = "key-kept-secret-4711";
const PASSWORD: &str = authority::PASSWORD;
const WRONG: &str = "wrong-client-secret-4713";

/// Everything that went over NATS, messages that are acknowledged and gone included.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

#[tokio::test]
async fn a_secret_appears_nowhere() -> anyhow::Result<()> {
    let stub = Stub::start()?;
    let stack = start(&stub).await?;
    let (heard, listening) = listen(&stack).await?;
    let client = stack.client();

    let done = client
        .run(&defined("uses-secrets", &tasks()), json!({"name": "Milou"}))
        .await?;
    ensure!(done["status"] == "completed", "{done}");
    let expected = json!({
        "header": true, "basic": true, "digest": "ann", "token": true, "function": {"key": "***", "name": "Milou"},
        "echo": "***", "sent": "***", "caught": 418, "refused": 401,
    });
    ensure!(done["output"] == expected, "{}", done["output"]);

    // An error that ends an instance, with a detail that the service made of the secret.
    let fails = "- t: {call: http, with: {method: get, endpoint: 'http://stub.test/own/refuse', \
                 headers: {X-Key: '${ $secrets.key }'}}}";
    let failed = client
        .run(&defined("fails-with-secrets", fails), json!({}))
        .await?;
    let detail = failed["error"]["detail"].as_str().unwrap_or_default();
    ensure!(
        failed["status"] == "faulted" && detail.contains("***"),
        "{failed}"
    );

    let absent = "- t: {call: 'noop:1.0.0@default', with: {x: '${ $secrets.absent }'}}";
    let lacking = client.run(&defined("lacks-secrets", absent), json!({})).await?;
    ensure!(lacking["error"]["status"] == 403, "{lacking}");
    let detail = lacking["error"]["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("MILLRACE_SECRET_ABSENT"), "{detail}");

    let mut kept = vec![("messages", heard.0.lock().expect("not poisoned").clone())];
    listening.abort();
    for run in [&done, &failed, &lacking] {
        let id = run["id"].as_str().context("an id")?;
        kept.push(("instance", run.to_string().into_bytes()));
        kept.push((
            "history",
            json!(client.history(id).await?).to_string().into_bytes(),
        ));
    }
    kept.push(("redis", everything_in_redis(&stack).await?));
    kept.push(("streams", everything_in_streams(&stack).await?));
    eventually("spans of the calls have arrived", async || {
        // The masked error of a call is the status of its span.
        holds(&stub.exports(), b"***").then_some(())
    })
    .await?;
    kept.push(("spans", stub.exports()));
    for process in stack.processes() {
        kept.push(("log", process.log().into_bytes()));
    }
    files(stack.dir(), &mut kept)?;
    for (place, bytes) in &kept {
        for secret in forms() {
            ensure!(
                !holds(bytes, secret.as_bytes()),
                "`{secret}` is in {place}: {}",
                around(bytes, &secret)
            );
        }
    }
    // What is searched is really there.
    let all: Vec<u8> = kept.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
    for known in ["uses-secrets", "$secrets.key", "Milou", "call:http"] {
        ensure!(holds(&all, known.as_bytes()), "`{known}` was not found anywhere");
    }
    Ok(())
}

async fn start(stub: &Stub) -> anyhow::Result<Stack> {
    Stack::builder()
        .env("MILLRACE_LOG", "debug")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &stub.url())
        .worker_env("MILLRACE_HTTP_REDIRECTS", stub.redirects())
        .worker_env("MILLRACE_SECRET_KEY", KEY)
        .worker_env(
            "MILLRACE_SECRET_LOGIN",
            json!({"username": "ann", "password": PASSWORD}).to_string(),
        )
        .worker_env("MILLRACE_SECRET_CLIENT", authority::CLIENT_SECRET)
        .worker_env("MILLRACE_SECRET_WRONG", WRONG)
        .start()
        .await
}

fn defined(name: &str, tasks: &str) -> String {
    let uses = "\nuse: {secrets: [key, login, client, wrong, absent]}\ndo:\n";
    definition(name, tasks).replacen("\ndo:\n", uses, 1)
}

/// Services compare hashes: the definition holds none of the secrets either.
fn tasks() -> String {
    let basic = format!("Basic {}", STANDARD.encode(format!("ann:{PASSWORD}")));
    let get = "call: http\n    with:\n      method: get\n";
    let keep = |name: &str, value: &str| format!("    export: {{as: '$context + {{{name}: {value}}}'}}\n");
    let oauth = |secret: &str| {
        format!(
            "authentication: {{oauth2: {{authority: 'http://stub.test/auth', grant: client_credentials, \
             client: {{id: app, secret: '${{ $secrets.{secret} }}'}}}}}}"
        )
    };
    let refused = format!(
        "endpoint: {{uri: 'http://stub.test/own/bearer', {}}}",
        oauth("wrong")
    );
    let mut tasks = String::new();
    tasks += &format!(
        "- header:\n    {get}      endpoint: http://stub.test/own/hash/x-key/{}\n      headers: {{X-Key: '${{ $secrets.key }}'}}\n{}",
        authority::hex(KEY),
        keep("header", ".granted")
    );
    tasks += &format!(
        "- basic:\n    {get}      endpoint: {{uri: 'http://stub.test/own/hash/authorization/{}', authentication: {{basic: {{use: login}}}}}}\n{}",
        authority::hex(&basic),
        keep("basic", ".granted")
    );
    tasks += &format!(
        "- digest:\n    {get}      endpoint: {{uri: 'http://stub.test/own/digest/ann', authentication: {{digest: {{use: login}}}}}}\n{}",
        keep("digest", ".user")
    );
    tasks += &format!(
        "- token:\n    {get}      endpoint: {{uri: 'http://stub.test/own/bearer', {}}}\n{}",
        oauth("client"),
        keep("token", ".granted")
    );
    tasks += &format!(
        "- function:\n    call: noop:1.0.0@default\n    with: {{key: '${{ $secrets.key }}', name: '${{ $workflow.input.name }}'}}\n{}",
        keep("function", ".")
    );
    tasks += &format!(
        "- echo:\n    {get}      endpoint: http://stub.test/own/echo\n      headers: {{X-Key: '${{ $secrets.key }}'}}\n      output: response\n{}",
        keep(
            "echo",
            ".content.headers[\"x-key\"], sent: .request.headers[\"x-key\"]"
        )
    );
    tasks += &format!(
        "- caught:\n    try:\n    - t:\n        call: http\n        with: {{method: get, endpoint: 'http://stub.test/own/refuse', \
         headers: {{X-Key: '${{ $secrets.key }}'}}}}\n    catch:\n      do:\n      - keep: {{set: {{x: '${{ $error }}'}}, {}}}\n",
        "export: {as: '$context + {caught: .x.status}'}"
    );
    tasks += &format!(
        "- refused:\n    try:\n    - t: {{call: http, with: {{method: get, {refused}}}}}\n    catch:\n      do:\n      - keep: {{set: {{x: '${{ $error }}'}}, {}}}\n",
        "export: {as: '$context + {refused: .x.status}'}"
    );
    tasks += "- last: {set: '${ $context }'}\n";
    tasks
}

/// What is searched for: the secrets, what is made of them, and tokens.
fn forms() -> Vec<String> {
    let login = STANDARD.encode(format!("ann:{PASSWORD}"));
    let mut forms = vec![authority::TOKEN_PREFIX.to_owned(), login];
    for secret in [KEY, PASSWORD, WRONG, authority::CLIENT_SECRET] {
        forms.push(secret.to_owned());
        forms.push(STANDARD.encode(secret).trim_end_matches('=').to_owned());
    }
    forms
}

async fn listen(stack: &Stack) -> anyhow::Result<(Heard, tokio::task::JoinHandle<()>)> {
    let client = async_nats::connect(stack.nats.url()).await?;
    let mut messages = client.subscribe(">").await?;
    client.flush().await?;
    let heard = Heard::default();
    let kept = heard.clone();
    let task = tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            let mut all = kept.0.lock().expect("not poisoned");
            all.extend_from_slice(message.subject.as_bytes());
            all.extend_from_slice(format!("{:?}", message.headers).as_bytes());
            all.extend_from_slice(&message.payload);
        }
    });
    Ok((heard, task))
}

async fn everything_in_redis(stack: &Stack) -> anyhow::Result<Vec<u8>> {
    let mut redis = stack.redis.connection().await?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await?;
    ensure!(!keys.is_empty(), "Redis is empty");
    let mut all = Vec::new();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await?;
        let mut read = match kind.as_str() {
            "string" => redis::cmd("GET"),
            "hash" => redis::cmd("HGETALL"),
            "zset" => redis::cmd("ZRANGE"),
            "list" => redis::cmd("LRANGE"),
            "set" => redis::cmd("SMEMBERS"),
            other => anyhow::bail!("a key of type {other} is not searched yet"),
        };
        read.arg(&key);
        if matches!(kind.as_str(), "zset" | "list") {
            read.arg(0).arg(-1);
        }
        let value: redis::Value = read.query_async(&mut redis).await?;
        all.extend_from_slice(key.as_bytes());
        flatten(&value, &mut all);
    }
    Ok(all)
}

fn flatten(value: &redis::Value, into: &mut Vec<u8>) {
    match value {
        redis::Value::BulkString(bytes) => into.extend_from_slice(bytes),
        redis::Value::SimpleString(text) => into.extend_from_slice(text.as_bytes()),
        redis::Value::Array(items) | redis::Value::Set(items) => items.iter().for_each(|v| flatten(v, into)),
        redis::Value::Map(pairs) => pairs.iter().for_each(|(k, v)| {
            flatten(k, into);
            flatten(v, into);
        }),
        _ => {}
    }
}

async fn everything_in_streams(stack: &Stack) -> anyhow::Result<Vec<u8>> {
    let client = async_nats::connect(stack.nats.url()).await?;
    let jetstream = async_nats::jetstream::new(client);
    let mut names = jetstream.stream_names();
    let mut all = Vec::new();
    while let Some(name) = names.next().await {
        let mut stream = jetstream.get_stream(name?).await?;
        let state = stream.info().await?.state.clone();
        for sequence in state.first_sequence..=state.last_sequence {
            // Acknowledged and trimmed ones are gone; those were heard.
            if let Ok(message) = stream.get_raw_message(sequence).await {
                all.extend_from_slice(format!("{:?}", message.headers).as_bytes());
                all.extend_from_slice(&message.payload);
            }
        }
    }
    ensure!(!all.is_empty(), "no stream holds a message");
    Ok(all)
}

/// Data directories of both servers: also what was deleted and not yet overwritten.
fn files(dir: &Path, kept: &mut Vec<(&'static str, Vec<u8>)>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, kept)?;
        } else if path.is_file() {
            match std::fs::read(&path) {
                Ok(bytes) => kept.push(("a file", bytes)),
                // The servers run on and replace their files.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e).with_context(|| path.display().to_string()),
            }
        }
    }
    Ok(())
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    find(bytes, part).is_some()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn around(bytes: &[u8], part: &str) -> String {
    let at = find(bytes, part.as_bytes()).unwrap_or_default();
    let part = &bytes[at.saturating_sub(200)..bytes.len().min(at + 200)];
    String::from_utf8_lossy(part).into_owned()
}
