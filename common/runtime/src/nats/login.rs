//! Credentials that stand in a server's URL. The client library parses them and then ignores them.

use millrace_common::percent::decoded_text;

/// What to log in with.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    Password { user: String, password: String },
    Token(String),
}

impl Login {
    /// `nats://user:password@host` or `nats://token@host`; the first URL that has any counts for all.
    pub(super) fn of(urls: &[String]) -> Option<Self> {
        urls.iter().find_map(|url| {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            let (login, _) = authority.rsplit_once('@')?;
            Some(match login.split_once(':') {
                Some((user, password)) => Self::Password {
                    user: decoded_text(user),
                    password: decoded_text(password),
                },
                None => Self::Token(decoded_text(login)),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(url: &str) -> Option<Login> {
        Login::of(&["nats://first:4222".to_owned(), url.to_owned()])
    }

    #[test]
    fn users_and_tokens_are_found_and_decoded() {
        let user = Login::Password {
            user: "me".into(),
            password: "p@ss%".into(),
        };
        assert!(login("nats://me:p%40ss%25@b:4222/x") == Some(user));
        assert!(login("tls://t0k%2Fen@b") == Some(Login::Token("t0k/en".into())));
        assert!(login("b:4222").is_none());
        assert!(login("nats://b:4222").is_none());
    }
}
