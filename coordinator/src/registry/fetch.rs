//! Fetches what definitions refer to elsewhere, when they are deployed: never afterwards, so that running instances do
//! not drift and nothing but the stores is needed for a restart.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use millrace_common::limits;
use millrace_dsl::{Diagnostic, External, Resources};
use millrace_runtime::config::Redirects;
use reqwest::{Client, Response, Url, header};

/// Hops of one document.
const HOPS_MAX: usize = 10;
/// Documents fetched at the same time.
const AT_A_TIME: usize = 8;
const ACCEPT: &str = "application/yaml, application/json, text/yaml, text/plain, */*;q=0.5";

/// Clonable handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetcher(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    redirects: Redirects,
    client: OnceLock<Client>,
}

impl Fetcher {
    pub(super) fn new(redirects: Redirects) -> Self {
        Self(Arc::new(Shared {
            redirects,
            client: OnceLock::new(),
        }))
    }

    /// Fetches what is missing and puts it to the rest. `source`: bytes of the definition.
    ///
    /// # Errors
    /// What could not be fetched, at the places that refer to it.
    pub(super) async fn complete(
        &self,
        source: usize,
        missing: &[External],
        known: &mut Resources,
    ) -> Result<(), Vec<Diagnostic>> {
        let urls: BTreeSet<&str> = missing.iter().map(|m| m.url.as_str()).collect();
        if known.len() + urls.len() > limits::DEFINITION_RESOURCES_MAX {
            let max = limits::DEFINITION_RESOURCES_MAX;
            let text = format!("the definition refers to more than {max} documents elsewhere");
            return Err(at_each(missing.iter().take(1), &text));
        }
        let urls: Vec<String> = urls.into_iter().map(str::to_owned).collect();
        let fetched: Vec<(String, Result<String, String>)> = stream::iter(urls)
            .map(|url| async move {
                let result = self.within_time(&url).await;
                (url, result)
            })
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        let mut faults = Vec::new();
        for (url, result) in fetched {
            match result {
                Ok(text) => _ = known.insert(url, text),
                Err(reason) => {
                    let text = format!("cannot fetch `{url}`: {reason}");
                    faults.extend(at_each(missing.iter().filter(|m| m.url == url), &text));
                }
            }
        }
        let (total, max) = (source + size(known), limits::DEFINITION_BYTES_MAX);
        if faults.is_empty() && total > max {
            let text = format!(
                "the definition has {total} bytes together with all it refers to, at most {max} are allowed"
            );
            faults.extend(at_each(missing.iter().take(1), &text));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    async fn within_time(&self, url: &str) -> Result<String, String> {
        let most = Duration::from_millis(limits::DEFINITION_RESOURCE_FETCH_MS_MAX);
        match tokio::time::timeout(most, self.fetch(url)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(format!(
                "no answer within {} ms",
                limits::DEFINITION_RESOURCE_FETCH_MS_MAX
            )),
        }
    }

    async fn fetch(&self, url: &str) -> Result<String, String> {
        let mut url = Url::parse(url).map_err(|e| e.to_string())?;
        for _ in 0..HOPS_MAX {
            let request = self.client().get(self.route(&url)).header(header::ACCEPT, ACCEPT);
            let answer = request.send().await.map_err(|e| reason(&e))?;
            let status = answer.status();
            if status.is_redirection() {
                url = next(&url, &answer)?;
                continue;
            }
            if !status.is_success() {
                return Err(format!("the server answered {status}"));
            }
            return text(answer).await;
        }
        Err(format!("more than {HOPS_MAX} redirections"))
    }

    /// The operator's table holds here too.
    fn route(&self, url: &Url) -> Url {
        let base = url
            .host_str()
            .and_then(|host| self.0.redirects.base_of(host, url.port_or_known_default()));
        let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
        base.and_then(|base| Url::parse(&format!("{base}{}{query}", url.path())).ok())
            .unwrap_or_else(|| url.clone())
    }

    fn client(&self) -> &Client {
        self.0.client.get_or_init(|| {
            millrace_runtime::tls::install_provider();
            Client::builder()
                .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("the settings are constant and the TLS provider is installed")
        })
    }
}

fn at_each<'m>(places: impl Iterator<Item = &'m External>, text: &str) -> Vec<Diagnostic> {
    places
        .map(|m| Diagnostic::error(m.pointer.as_str(), m.span, text))
        .collect()
}

fn size(resources: &Resources) -> usize {
    resources.iter().map(|(url, text)| url.len() + text.len()).sum()
}

fn next(from: &Url, answer: &Response) -> Result<Url, String> {
    let location = answer
        .headers()
        .get(header::LOCATION)
        .and_then(|l| l.to_str().ok());
    let location = location.ok_or("a redirection without a location")?;
    let url = from
        .join(location)
        .map_err(|e| format!("redirected to `{location}`: {e}"))?;
    if ["http", "https"].contains(&url.scheme()) {
        Ok(url)
    } else {
        Err(format!("redirected to `{url}`, which is neither http nor https"))
    }
}

async fn text(mut answer: Response) -> Result<String, String> {
    let max = limits::DEFINITION_RESOURCE_BYTES_MAX;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| reason(&e))? {
        body.extend_from_slice(&chunk);
        if body.len() > max {
            return Err(format!("it has more than {max} bytes"));
        }
    }
    String::from_utf8(body).map_err(|_e| "it is not UTF-8 text".to_owned())
}

/// The innermost cause says it best.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
