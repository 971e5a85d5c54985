//! Reading request bodies within bounds: size before anything else, then depth, then shape.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use millrace_common::limits;

use super::problem::{ApiError, ApiResult, Code};

/// Bytes of a refused body that are still read, and the time for it.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Reads a whole body.
pub(super) async fn read(what: &str, headers: &HeaderMap, body: Body, max: usize) -> ApiResult<Bytes> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > max) {
        drain(body).await;
        return Err(too_large(what, Some(bytes), max));
    }
    // A body longer than announced cannot be: so this is one of unknown length, or a broken connection.
    to_bytes(body, max).await.map_err(|error| match announced {
        None => too_large(what, None, max),
        Some(_) => ApiError::new(Code::InvalidRequest, format!("cannot read {what}: {error}")),
    })
}

/// Reads and drops what a client still sends, within bounds. Answered earlier, the connection would be reset under the
/// answer, and most clients would report that instead of it.
async fn drain(body: Body) {
    let reading = async {
        let mut chunks = body.into_data_stream();
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Whoever is slower than this gets the reset.
    drop(tokio::time::timeout(DRAIN_MAX, reading).await);
}

/// Refuses what is too large, with both sizes.
pub(super) fn too_large(what: &str, bytes: Option<usize>, max: usize) -> ApiError {
    let detail = match bytes {
        Some(bytes) => format!("{what} has {bytes} bytes, at most {max} are allowed"),
        None => format!("{what} has more than the {max} bytes that are allowed"),
    };
    let error = ApiError::new(Code::TooLarge, detail).with("maxBytes", max);
    match bytes {
        Some(bytes) => error.with("bytes", bytes),
        None => error,
    }
}

/// Decodes JSON of bounded depth; unknown fields are refused by the types.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    let depth = millrace_common::json_depth(bytes);
    // The request's own nesting stands around the values that it carries.
    if depth > limits::VALUE_DEPTH_MAX + 2 {
        let detail = format!(
            "the body is nested {depth} levels deep, at most {} are allowed",
            limits::VALUE_DEPTH_MAX
        );
        return Err(ApiError::new(Code::InvalidRequest, detail));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::new(Code::InvalidRequest, format!("cannot read the body: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_bodies_are_refused_before_they_are_parsed() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let error = json::<serde_json::Value>(deep.as_bytes()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest);
    }

    #[tokio::test]
    async fn large_bodies_are_refused_with_both_sizes() {
        let headers: HeaderMap = [(header::CONTENT_LENGTH, "11".parse().unwrap())]
            .into_iter()
            .collect();
        let announced = read("the input", &headers, Body::from("x".repeat(11)), 10)
            .await
            .unwrap_err();
        assert_eq!(announced.code(), Code::TooLarge);
        let streamed = read("the input", &HeaderMap::new(), Body::from("x".repeat(11)), 10)
            .await
            .unwrap_err();
        assert_eq!(streamed.code(), Code::TooLarge);
        assert_eq!(
            read("the input", &HeaderMap::new(), Body::from("x"), 10)
                .await
                .unwrap(),
            "x"
        );
    }
}
