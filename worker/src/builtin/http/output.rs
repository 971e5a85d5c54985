//! A step's output from a response.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_common::RawJson;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use serde::Serialize;

use super::body::{essence, is_json};
use super::{Output, Prepared};
use crate::Failure;

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
    pub(super) fn of(prepared: &Prepared) -> Self {
        let mut headers = prepared.headers.clone();
        headers.remove(AUTHORIZATION.as_str());
        let mut url = prepared.url.clone();
        // Only fails for URLs that cannot hold credentials.
        let _ = url.set_password(None);
        Self {
            method: prepared.method.to_string(),
            uri: url.into(),
            headers,
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
        Ok(match std::str::from_utf8(&self.body) {
            Ok(text) => RawJson::encode(text)?,
            Err(_not_text) => RawJson::encode(&STANDARD.encode(&self.body))?,
        })
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

/// Headers by name; repeated ones joined by a comma.
pub(super) fn headers(map: &HeaderMap) -> BTreeMap<String, String> {
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
