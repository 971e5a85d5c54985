//! The HTTP API as users call it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{eventually_within, yaml};

const ENDED: [&str; 3] = ["completed", "faulted", "cancelled"];
const WAIT_MAX: Duration = Duration::from_secs(120);

/// An answer of the API.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body as JSON; a text when it is none; `null` when it is empty.
    pub body: Value,
}

/// Speaks to one of several coordinators, and to the next one when it cannot be reached.
#[derive(Debug)]
pub struct Client {
    urls: Vec<String>,
    current: AtomicUsize,
    http: reqwest::Client,
}

impl Answer {
    /// Itself, if the status is the expected one.
    ///
    /// # Errors
    /// Status and body, when it is another.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "expected status {status}, got {}: {}",
            self.status,
            self.body
        );
        Ok(self)
    }

    /// `detail` of a problem.
    pub fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap_or_default()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    /// For the coordinators at these URLs.
    ///
    /// # Panics
    /// When no HTTP client can be made.
    pub fn new(urls: Vec<String>) -> Self {
        millrace_runtime::tls::install_provider();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(90))
            .build();
        Self {
            urls,
            current: AtomicUsize::new(0),
            http: http.expect("a client without TLS can always be made"),
        }
    }

    /// Sum of a metric over all its labels; a histogram is asked for by `…_count` or `…_sum`.
    ///
    /// # Errors
    /// When nobody answers, or there is no such metric.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = self.get("/metrics").await?.expect(200)?;
        let text = answer.body.as_str().unwrap_or_default();
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let is_whole_name = rest.starts_with(['{', ' ']);
            is_whole_name.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        let values: Vec<f64> = text.lines().filter_map(value).collect();
        if values.is_empty() {
            bail!("no metric {name}");
        }
        Ok(values.iter().sum())
    }

    /// `GET`.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, None).await
    }

    /// `POST` of JSON.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, Some(("application/json", body.to_string())))
            .await
    }

    /// Any request. On a broken connection the next coordinator's turn comes, with the next request.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, String)>,
    ) -> anyhow::Result<Answer> {
        let at = self.current.load(Ordering::Relaxed);
        let url = format!("{}{path}", self.urls[at % self.urls.len()]);
        let mut request = self.http.request(method, &url);
        if let Some((media_type, text)) = body {
            request = request.header("content-type", media_type).body(text);
        }
        let response = request
            .send()
            .await
            .inspect_err(|_| self.current.store(at + 1, Ordering::Relaxed));
        let response = response.with_context(|| format!("no answer from {url}"))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = match text.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        };
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// Applies a definition.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn try_apply(&self, definition: &str) -> anyhow::Result<Answer> {
        self.send(
            Method::POST,
            "/api/v1/definitions",
            Some(("application/yaml", definition.into())),
        )
        .await
    }

    /// Applies a definition that must be accepted; gives what `start` takes.
    ///
    /// # Errors
    /// When it is not.
    pub async fn apply(&self, definition: &str) -> anyhow::Result<Value> {
        let answer = self.try_apply(definition).await?;
        ensure!(
            matches!(answer.status, 200 | 201),
            "definition refused: {}\n{definition}",
            answer.body
        );
        let document = &yaml::read(definition)?["document"];
        Ok(json!({
            "namespace": document["namespace"], "name": document["name"], "version": document["version"],
        }))
    }

    /// Starts an instance; gives its id.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn start(&self, definition: &Value, input: Value) -> anyhow::Result<String> {
        let answer = self
            .post(
                "/api/v1/instances",
                &json!({"definition": definition, "input": input}),
            )
            .await?;
        id_of(&answer.expect(201)?)
    }

    /// Starts an instance with a given id that must be new.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn start_new(&self, id: &str, definition: &Value, input: Value) -> anyhow::Result<()> {
        self.start_as(id, definition, input).await?.expect(201).map(drop)
    }

    /// Starts an instance with a given id.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn start_as(&self, id: &str, definition: &Value, input: Value) -> anyhow::Result<Answer> {
        let body = json!({"definition": definition, "id": id, "input": input});
        self.post("/api/v1/instances", &body).await
    }

    /// An instance.
    ///
    /// # Errors
    /// When it is not found.
    pub async fn instance(&self, id: &str) -> anyhow::Result<Value> {
        Ok(self
            .get(&format!("/api/v1/instances/{id}"))
            .await?
            .expect(200)?
            .body)
    }

    /// Waits until an instance has ended.
    ///
    /// # Errors
    /// When it has not within two minutes; with what it does instead.
    pub async fn wait(&self, id: &str) -> anyhow::Result<Value> {
        self.until(id, "it has ended", |view| {
            ENDED.iter().any(|s| view["status"] == *s)
        })
        .await
    }

    /// Waits until an instance is as `is` says.
    ///
    /// # Errors
    /// When it is not within two minutes; with what it is instead.
    pub async fn until(&self, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let path = format!("/api/v1/instances/{id}");
        let check = async || {
            let answer = self.get(&path).await.ok()?;
            (answer.status == 200 && is(&answer.body)).then_some(answer.body)
        };
        match eventually_within(WAIT_MAX, &format!("instance {id}: {what}"), check).await {
            Ok(view) => Ok(view),
            Err(error) => {
                let found = self
                    .get(&path)
                    .await
                    .map(|a| a.body.to_string())
                    .unwrap_or_else(|e| e.to_string());
                let history = self.history(id).await.unwrap_or_default();
                Err(error.context(format!("found {found}\nhistory {}", Value::from(history))))
            }
        }
    }

    /// Starts an instance of a definition and waits for its end.
    ///
    /// # Errors
    /// When any of it fails; a faulted instance is no failure.
    pub async fn run(&self, definition: &str, input: Value) -> anyhow::Result<Value> {
        let definition = self.apply(definition).await?;
        let id = self.start(&definition, input).await?;
        self.wait(&id).await
    }

    /// All entries of an instance's history.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn history(&self, id: &str) -> anyhow::Result<Vec<Value>> {
        let mut entries: Vec<Value> = Vec::new();
        let mut after = String::new();
        loop {
            let page = self
                .get(&format!("/api/v1/instances/{id}/history?limit=1000{after}"))
                .await?
                .expect(200)?;
            entries.extend(page.body["entries"].as_array().cloned().unwrap_or_default());
            match &page.body["nextAfter"] {
                Value::Null => return Ok(entries),
                next => after = format!("&after={next}"),
            }
            if entries.len() > 1_000_000 {
                bail!("history of {id} does not end");
            }
        }
    }

    /// `cancel`, `suspend`, `resume` or `retry` of an instance.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn control(&self, id: &str, action: &str) -> anyhow::Result<Answer> {
        self.post(&format!("/api/v1/instances/{id}:{action}"), &json!({}))
            .await
    }
}

fn id_of(answer: &Answer) -> anyhow::Result<String> {
    let id = answer.body["id"].as_str();
    id.map(Into::into)
        .with_context(|| format!("the answer has no id: {}", answer.body))
}
