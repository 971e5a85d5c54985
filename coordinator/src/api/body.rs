//! Reading request bodies within bounds: size before anything else, then depth, then shape.

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use millrace_common::limits;

use super::problem::{ApiError, ApiResult, Code};

/// Reads a whole body.
pub(super) async fn read(what: &str, headers: &HeaderMap, body: Body, max: usize) -> ApiResult<Bytes> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > max) {
        return Err(too_large(what, Some(bytes), max));
    }
    // A body longer than announced cannot be: so this is one of unknown length, or a broken connection.
    to_bytes(body, max).await.map_err(|error| match announced {
        None => too_large(what, None, max),
        Some(_) => ApiError::new(Code::InvalidRequest, format!("cannot read {what}: {error}")),
    })
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
    let depth = depth(bytes);
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

/// Nesting of a JSON text, counted without building it: brackets outside of strings.
pub(super) fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in json {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_ignores_brackets_in_strings() {
        assert_eq!(depth(b"1"), 0);
        assert_eq!(depth(br#"{"a":[1,{"b":[]}]}"#), 4);
        assert_eq!(depth(br#"["[[[\"[[", "\\", []]"#), 2);
    }

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
