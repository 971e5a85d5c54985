//! OpenID Connect Discovery: where an authority takes token requests.

use millrace_common::limits;
use reqwest::header::ACCEPT;
use reqwest::{Method, Url};
use serde::Deserialize;

use super::oauth::{TIMEOUT, parse_url};
use crate::builtin::http::{failed, read_body, shown};
use crate::{Context, Failure};

const PATH: &str = "/.well-known/openid-configuration";

#[derive(Deserialize)]
struct Configuration {
    token_endpoint: String,
}

/// Asks the authority; its token is kept, so this happens once for each token.
///
/// # Errors
/// `communication` when the authority cannot be reached or its answer is not the document; `configuration` when a URL is
/// none.
pub(super) async fn token_endpoint(ctx: &Context, authority: &str) -> Result<Url, Failure> {
    let authority = authority.trim_end_matches('/');
    let address = match authority.ends_with(PATH) {
        true => authority.to_owned(),
        false => format!("{authority}{PATH}"),
    };
    let url = parse_url(&address)?;
    let name = format!("discovery of {}", shown(url.as_str()));
    let request = ctx
        .http()
        .request_to(Method::GET, url)
        .timeout(ctx.remaining().unwrap_or(TIMEOUT).min(TIMEOUT))
        .header(ACCEPT, "application/json");
    let response = request.send().await.map_err(|e| failed(&name, e))?;
    let status = response.status();
    let body = read_body(&name, response, limits::DOCUMENT_BYTES_MAX).await?;
    if !status.is_success() {
        return Err(Failure::communication(
            status.as_u16(),
            format!("{name} answered {status}"),
        ));
    }
    let found: Configuration = serde_json::from_slice(&body)
        .map_err(|_e| Failure::communication(502, format!("{name}: the answer holds no `token_endpoint`")))?;
    parse_url(&found.token_endpoint)
}
