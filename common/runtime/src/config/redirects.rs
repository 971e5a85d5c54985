//! The egress table: which host's HTTP calls really go elsewhere.

use std::collections::BTreeMap;

use super::value::{Pairs, Value};

/// `host` or `host:port` to a base URL; an exact `host:port` wins over `host`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirects(BTreeMap<String, String>);

impl Redirects {
    /// A table of pairs `(host, base URL)`.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let tidy = |(host, base): (String, String)| {
            (host.to_ascii_lowercase(), base.trim_end_matches('/').to_owned())
        };
        Self(pairs.into_iter().map(tidy).collect())
    }

    /// Whether no call is redirected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The base URL (without a slash at its end) that replaces scheme and authority of calls to this host.
    pub fn base_of(&self, host: &str, port: Option<u16>) -> Option<&str> {
        let host = host.to_ascii_lowercase();
        let exact = port.and_then(|p| self.0.get(&format!("{host}:{p}")));
        exact.or_else(|| self.0.get(&host)).map(String::as_str)
    }
}

impl Value for Redirects {
    fn parse(text: &str) -> Result<Self, String> {
        let pairs = Pairs::parse(text)?.0;
        for (host, base) in &pairs {
            let rest = base
                .strip_prefix("http://")
                .or_else(|| base.strip_prefix("https://"));
            if rest.is_none_or(|r| r.is_empty() || r.starts_with('/')) {
                return Err(format!("`{base}` (for `{host}`) is not an http or https URL"));
            }
            if host.contains('/') {
                return Err(format!("`{host}` is not a host or host:port"));
            }
        }
        Ok(Self::new(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_port_wins_over_the_host() {
        let table =
            Redirects::parse("Api.example=http://127.0.0.1:1/, api.example:8443=https://gate/x").unwrap();
        assert_eq!(table.base_of("api.EXAMPLE", None), Some("http://127.0.0.1:1"));
        assert_eq!(table.base_of("api.example", Some(80)), Some("http://127.0.0.1:1"));
        assert_eq!(table.base_of("api.example", Some(8443)), Some("https://gate/x"));
        assert_eq!(table.base_of("other.example", None), None);
    }

    #[test]
    fn targets_must_be_http_urls() {
        for bad in ["a=ftp://x", "a=http://", "http://a=http://b", "a"] {
            assert!(Redirects::parse(bad).is_err(), "{bad}");
        }
    }
}
