//! HTTP calls leaving the worker: one connection pool, the operator's table of redirections, trace context.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use millrace_runtime::config::Redirects;
use millrace_runtime::telemetry::TraceContext;
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Url};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Sent with every call.
const USER_AGENT: &str = concat!("millrace/", env!("CARGO_PKG_VERSION"));
/// Tells a gateway for which host a redirected call was meant.
const ORIGINAL_HOST: &str = "x-forwarded-host";

/// Shared by all steps of a worker; cheap to clone. The pool is built at the first call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Egress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    redirects: Redirects,
    client: OnceLock<Client>,
    /// For gRPC, which is HTTP/2 without a way to agree on it.
    http2: OnceLock<Client>,
}

impl Egress {
    pub(crate) fn new(redirects: Redirects) -> Self {
        Self(Arc::new(Shared {
            redirects,
            client: OnceLock::new(),
            http2: OnceLock::new(),
        }))
    }

    pub(crate) fn with(&self, trace: Option<TraceContext>) -> Http<'_> {
        Http { egress: self, trace }
    }

    fn client(&self) -> &Client {
        self.0.client.get_or_init(|| build(Client::builder()))
    }

    fn http2(&self) -> &Client {
        self.0
            .http2
            .get_or_init(|| build(Client::builder().http2_prior_knowledge()))
    }

    /// Where a call really goes, and the host it was meant for if that differs.
    fn route(&self, url: Url) -> (Url, Option<String>) {
        let base = url
            .host_str()
            .and_then(|host| self.0.redirects.base_of(host, url.port_or_known_default()));
        let Some(base) = base else { return (url, None) };
        let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
        let Ok(target) = Url::parse(&format!("{base}{}{query}", url.path())) else {
            return (url, None);
        };
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        (target, Some(host))
    }
}

fn build(builder: ClientBuilder) -> Client {
    millrace_runtime::tls::install_provider();
    builder
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        // Followed by the caller, so that the table holds for every hop.
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .build()
        .expect("the settings are constant and the TLS provider is installed")
}

/// An HTTP client for one step; see [`crate::Context::http`]. Redirects are not followed.
#[derive(Clone, Copy, Debug)]
pub struct Http<'a> {
    egress: &'a Egress,
    trace: Option<TraceContext>,
}

impl Http<'_> {
    /// A request to this URL, with the step's `traceparent`.
    ///
    /// # Errors
    /// When the URL cannot be parsed.
    pub fn request(&self, method: Method, url: &str) -> Result<RequestBuilder, url::ParseError> {
        Ok(self.request_to(method, Url::parse(url)?))
    }

    /// As [`Self::request`] with a parsed URL.
    pub fn request_to(&self, method: Method, url: Url) -> RequestBuilder {
        self.request_by(self.egress.client(), method, url)
    }

    /// As [`Self::request_to`], over HTTP/2 from the first byte on.
    pub(crate) fn http2_request_to(&self, method: Method, url: Url) -> RequestBuilder {
        self.request_by(self.egress.http2(), method, url)
    }

    fn request_by(&self, client: &Client, method: Method, url: Url) -> RequestBuilder {
        let (target, original_host) = self.egress.route(url);
        let mut request = client.request(method, target);
        if let Some(host) = original_host {
            request = request.header(ORIGINAL_HOST, host);
        }
        if let Some(trace) = &self.trace {
            request = request.header(TraceContext::HEADER, trace.to_string());
        }
        request
    }

    /// `GET`.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn get(&self, url: &str) -> Result<RequestBuilder, url::ParseError> {
        self.request(Method::GET, url)
    }

    /// `POST`.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn post(&self, url: &str) -> Result<RequestBuilder, url::ParseError> {
        self.request(Method::POST, url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_scheme_and_authority_only() {
        let table = Redirects::new([(
            "petstore.swagger.io".to_owned(),
            "http://127.0.0.1:9/gate/".to_owned(),
        )]);
        let egress = Egress::new(table);
        let (url, host) = egress.route(Url::parse("https://petstore.swagger.io/v2/pet/1?a=b").unwrap());
        assert_eq!(url.as_str(), "http://127.0.0.1:9/gate/v2/pet/1?a=b");
        assert_eq!(host.as_deref(), Some("petstore.swagger.io"));
        let (url, host) = egress.route(Url::parse("https://other.example/x").unwrap());
        assert_eq!((url.as_str(), host), ("https://other.example/x", None));
    }

    #[test]
    fn requests_carry_trace_context_and_agent() {
        let trace: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .unwrap();
        let egress = Egress::default();
        let request = egress
            .with(Some(trace))
            .get("http://127.0.0.1:9/")
            .unwrap()
            .build()
            .unwrap();
        assert_eq!(request.headers()["traceparent"], trace.to_string().as_str());
    }
}
