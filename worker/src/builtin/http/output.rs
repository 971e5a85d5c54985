//! A step's output from a response.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use encoding_rs::Encoding;
use millrace_common::RawJson;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, PROXY_AUTHORIZATION};
use serde::{Deserialize, Serialize};

use super::Prepared;
use super::body::{essence, is_json};
use crate::{Context, Failure};

/// Form of a call's output.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Output {
    /// The bytes in Base64.
    Raw,
    /// The body as a value.
    #[default]
    Content,
    /// Request, status, headers and body.
    Response,
}

/// A response that was read to its end.
pub(super) struct Received {
    pub(super) status: StatusCode,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// The request as the definition made it, without credentials.
#[derive(Serialize)]
pub(super) struct Request {
    method: String,
    uri: String,
    headers: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    request: Request,
    status_code: u16,
    headers: BTreeMap<String, String>,
    content: RawJson,
}

impl Request {
    pub(super) fn of(ctx: &Context, prepared: &Prepared) -> Self {
        let shown = |name: &String| {
            ![AUTHORIZATION, PROXY_AUTHORIZATION]
                .iter()
                .any(|h| h.as_str() == name)
        };
        let headers = prepared.headers.iter().filter(|(name, _)| shown(name));
        let mut url = prepared.url.clone();
        // Only fails for URLs that cannot hold credentials.
        let _ = url.set_password(None);
        let _ = url.set_username("");
        Self {
            method: prepared.method.to_string(),
            uri: ctx.mask().text(url.as_str()),
            headers: headers
                .map(|(name, value)| (name.clone(), ctx.mask().text(value)))
                .collect(),
        }
    }
}

impl Received {
    pub(super) fn into_output(self, output: Output, request: Request) -> Result<RawJson, Failure> {
        match output {
            Output::Raw if self.body.is_empty() => Ok(RawJson::null()),
            Output::Raw => Ok(RawJson::encode(&STANDARD.encode(&self.body))?),
            Output::Content => self.content(),
            Output::Response => {
                let content = self.content()?;
                let status_code = self.status.as_u16();
                Ok(RawJson::encode(&Whole {
                    request,
                    status_code,
                    headers: self.headers,
                    content,
                })?)
            }
        }
    }

    /// The body as a value: JSON if it is, else text, else Base64; `null` when empty.
    fn content(&self) -> Result<RawJson, Failure> {
        if self.body.is_empty() {
            return Ok(RawJson::null());
        }
        if self.may_be_json()
            && let Ok(value) = RawJson::parse(&self.body)
        {
            return Ok(value);
        }
        Ok(match self.text() {
            Some(text) => RawJson::encode(&text)?,
            None => RawJson::encode(&STANDARD.encode(&self.body))?,
        })
    }

    /// The body as a text: in the charset that the server names, else in UTF-8.
    fn text(&self) -> Option<String> {
        let charset = self.headers.get(CONTENT_TYPE.as_str()).and_then(|t| charset(t));
        match charset.and_then(|label| Encoding::for_label(label.as_bytes())) {
            Some(encoding) => {
                let text = encoding.decode_without_bom_handling_and_without_replacement(&self.body);
                text.map(std::borrow::Cow::into_owned)
            }
            None => std::str::from_utf8(&self.body).ok().map(str::to_owned),
        }
    }

    /// Servers forget the type or say `text/plain`; a number or a word in plain text stays text all the same.
    fn may_be_json(&self) -> bool {
        match self.headers.get(CONTENT_TYPE.as_str()) {
            Some(content_type) if is_json(content_type) => true,
            Some(content_type) if essence(content_type).starts_with("text/") => {
                matches!(self.body.trim_ascii_start().first(), Some(b'{' | b'['))
            }
            _ => true,
        }
    }
}

/// `charset` of a content type.
fn charset(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1).filter_map(|p| p.split_once('='));
    let mut named = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    named.next().map(|(_, value)| value.trim().trim_matches('"'))
}

/// Headers by name; repeated ones joined by a comma.
pub(crate) fn headers(map: &HeaderMap) -> BTreeMap<String, String> {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in map {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|known| {
                known.push_str(", ");
                known.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    headers
}
