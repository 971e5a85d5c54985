//! External resources: documents that a call needs before it can be made. They come over HTTP, or from a directory that
//! the worker's configuration opens to definitions (`MILLRACE_FILES`).

use std::path::{Component, Path, PathBuf};

use millrace_common::{ErrorKind, limits, percent};
use reqwest::header::LOCATION;
use reqwest::{Method, Url};
use serde::Deserialize;

use super::authenticate::Policy;
use super::exchange::configuration;
use super::exchange::{self, Wire};
use super::http::shown;
use crate::{Context, Failure};

/// Redirections followed for one resource.
const REDIRECTS_MAX: usize = 10;

/// `{ name?, endpoint }`
#[derive(Clone, Deserialize)]
pub(super) struct Resource {
    pub(super) endpoint: Endpoint,
}

/// A URI with or without authentication.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Endpoint {
    Uri(String),
    Full {
        uri: String,
        #[serde(default)]
        authentication: Option<Policy>,
    },
}

/// What was loaded, and from where.
pub(super) struct Loaded {
    pub(super) url: Url,
    pub(super) text: String,
}

impl Endpoint {
    pub(super) fn uri(&self) -> &str {
        match self {
            Self::Uri(uri) | Self::Full { uri, .. } => uri,
        }
    }

    pub(super) const fn policy(&self) -> Option<&Policy> {
        match self {
            Self::Uri(_) => None,
            Self::Full { authentication, .. } => authentication.as_ref(),
        }
    }
}

impl Resource {
    /// Loads a text. `what` names it in errors: `the AsyncAPI document`.
    ///
    /// # Errors
    /// `configuration` when it cannot be had at all, `communication` when it cannot be had now.
    pub(super) async fn load(&self, ctx: &Context, what: &str) -> Result<Loaded, Failure> {
        let uri = self.endpoint.uri();
        let url =
            Url::parse(uri).map_err(|e| configuration(format!("{what} `{}`: not a URL: {e}", shown(uri))))?;
        load(ctx, what, url, self.endpoint.policy()).await
    }
}

/// As [`Resource::load`], from a parsed URL.
pub(super) async fn load(
    ctx: &Context,
    what: &str,
    url: Url,
    policy: Option<&Policy>,
) -> Result<Loaded, Failure> {
    let (url, bytes) = match url.scheme() {
        "http" | "https" => download(ctx, what, url, policy).await?,
        "file" => read(ctx, what, url).await?,
        other => {
            let text = format!(
                "{what} `{}`: `{other}` is none of http, https and file",
                shown(url.as_str())
            );
            return Err(configuration(text));
        }
    };
    let text = String::from_utf8(bytes)
        .map_err(|_e| configuration(format!("{what} `{}` is not a text in UTF-8", shown(url.as_str()))))?;
    Ok(Loaded { url, text })
}

async fn download(
    ctx: &Context,
    what: &str,
    mut url: Url,
    policy: Option<&Policy>,
) -> Result<(Url, Vec<u8>), Failure> {
    let origin = url.origin();
    let unavailable = |text: String| Failure::new(ErrorKind::Communication, format!("{what}: {text}"));
    for _ in 0..=REDIRECTS_MAX {
        // Credentials never leave for another host.
        let policy = policy.filter(|_| url.origin() == origin);
        let sent = exchange::send(ctx, (Method::GET, &url), Wire::Any, policy, |r| r, unavailable);
        let mut response = sent.await?;
        let status = response.status();
        if status.is_success() {
            let body = exchange::body(&mut response, limits::RESOURCE_BYTES_MAX).await;
            return match body {
                Ok(body) => Ok((url, body)),
                Err(error) => Err(unavailable(format!("`{}`: {error}", shown(url.as_str())))),
            };
        }
        let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        match location
            .and_then(|l| url.join(l).ok())
            .filter(|_| status.is_redirection())
        {
            Some(next) if matches!(next.scheme(), "http" | "https") => url = next,
            _ => {
                let name = format!("{what}: `{}`", shown(url.as_str()));
                let text = exchange::refusal(ctx, &name, response).await;
                return Err(Failure::communication(status.as_u16(), text));
            }
        }
    }
    Err(unavailable(format!(
        "more than {REDIRECTS_MAX} redirections, the last to `{}`",
        shown(url.as_str())
    )))
}

async fn read(ctx: &Context, what: &str, url: Url) -> Result<(Url, Vec<u8>), Failure> {
    let wrong = |why: &str| configuration(format!("{what} `{url}`: {why}"));
    let Some(root) = ctx.files() else {
        return Err(wrong(
            "this worker reads no files; name a directory in MILLRACE_FILES",
        ));
    };
    let Some(path) = inside(root, &url) else {
        return Err(wrong("the path leaves the directory of MILLRACE_FILES"));
    };
    let file = open(root, &path).await.map_err(|e| wrong(&e.to_string()))?;
    let mut bytes = Vec::new();
    let bound = u64::try_from(limits::RESOURCE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut limited = tokio::io::AsyncReadExt::take(file, bound + 1);
    tokio::io::AsyncReadExt::read_to_end(&mut limited, &mut bytes)
        .await
        .map_err(|e| wrong(&e.to_string()))?;
    match bytes.len() > limits::RESOURCE_BYTES_MAX {
        true => Err(wrong(&format!("larger than {bound} bytes"))),
        false => Ok((url, bytes)),
    }
}

/// The path below the directory. Its first part may stand where a URL has its host: `file://app/greet.proto`.
fn inside(root: &Path, url: &Url) -> Option<PathBuf> {
    let path = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
    let path = percent::strictly_decoded(&path).filter(|path| !path.contains('\0'))?;
    let relative = Path::new(path.trim_matches('/'));
    let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
    plain.then(|| root.join(relative))
}

/// Opens a file that is really below the directory, wherever links lead.
async fn open(root: &Path, path: &Path) -> std::io::Result<tokio::fs::File> {
    let (root, path) = (
        tokio::fs::canonicalize(root).await?,
        tokio::fs::canonicalize(path).await?,
    );
    if !path.starts_with(root) {
        return Err(std::io::Error::other(
            "a link leads out of the directory of MILLRACE_FILES",
        ));
    }
    tokio::fs::File::open(path).await
}
