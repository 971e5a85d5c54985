//! Who may call: everybody on the same machine, or whoever knows the token.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::problem::{ApiError, Code};

/// The API would be open to other machines without a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot listen on {0} without authentication: set MILLRACE_TOKEN, or MILLRACE_ALLOW_UNAUTHENTICATED=true \
     where something in front of it authenticates"
)]
pub struct ListenError(SocketAddr);

/// Refuses an address that other machines reach, unless callers must authenticate or the operator allows it.
///
/// # Errors
/// [`ListenError`].
pub fn check_listen(
    listen: SocketAddr,
    token: Option<&str>,
    allow_unauthenticated: bool,
) -> Result<(), ListenError> {
    match listen.ip().is_loopback() || token.is_some() || allow_unauthenticated {
        true => Ok(()),
        false => Err(ListenError(listen)),
    }
}

/// Middleware: asks for the token where one is set.
pub(super) async fn check(State(api): State<ApiState>, request: Request, next: Next) -> Response {
    let Some(token) = api.token.as_deref() else {
        return next.run(request).await;
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
    match given {
        Some(given) if same(given.trim().as_bytes(), token.as_bytes()) => next.run(request).await,
        Some(_) => ApiError::new(Code::Unauthorized, "the token is wrong").into_response(),
        None => ApiError::new(Code::Unauthorized, "a bearer token is needed")
            .hint("send `Authorization: Bearer …`; the command line takes it from MILLRACE_TOKEN")
            .into_response(),
    }
}

/// Compares in a time that depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |seen, (x, y)| seen | (x ^ y))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_need_a_token_or_a_word_of_the_operator() {
        let open: SocketAddr = "0.0.0.0:7400".parse().unwrap();
        assert!(check_listen("127.0.0.1:7400".parse().unwrap(), None, false).is_ok());
        assert!(check_listen("[::1]:7400".parse().unwrap(), None, false).is_ok());
        assert!(
            check_listen(open, None, false)
                .unwrap_err()
                .to_string()
                .contains("0.0.0.0:7400")
        );
        assert!(check_listen(open, Some("t"), false).is_ok());
        assert!(check_listen(open, None, true).is_ok());
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"ab", b"abc"));
    }
}
