//! Tokens kept by a worker until shortly before they end. In memory only; one request at a time for the same policy.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_common::limits;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Authorization;
use crate::Failure;

/// Kept when the authority does not say for how long the token is valid.
const UNKNOWN_LIFE: Duration = Duration::from_secs(60);
/// Longest time for which a token is used. What authorities say may be more than a clock can count.
const LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A token is not used any more when this much of its life is left, or a tenth of it if that is less: the call takes
/// time, and clocks differ.
const MARGIN: Duration = Duration::from_secs(30);

/// What an authority gave.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) scheme: String,
    pub(super) access: String,
    pub(super) refresh: Option<String>,
    /// Until when it is used.
    until: Instant,
}

/// Stands for a policy with all its credentials, without holding them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Arc<Mutex<HashMap<Key, Entry>>>);

struct Entry {
    token: Slot,
    used: Instant,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

impl Key {
    pub(super) fn of(scheme: &str, settings: &Value) -> Self {
        let hash = Sha256::new()
            .chain_update(scheme)
            .chain_update([0])
            .chain_update(settings.to_string());
        Self(hash.finalize().into())
    }
}

impl Token {
    pub(super) fn new(
        scheme: String,
        access: String,
        refresh: Option<String>,
        life: Option<Duration>,
    ) -> Self {
        let life = life.unwrap_or(UNKNOWN_LIFE).min(LIFE_MAX);
        Self {
            scheme,
            access,
            refresh,
            until: Instant::now() + life.saturating_sub(MARGIN.min(life / 10)),
        }
    }

    pub(super) fn authorization(&self) -> Authorization {
        Authorization {
            scheme: self.scheme.clone(),
            parameter: self.access.clone(),
        }
    }

    fn is_valid(&self) -> bool {
        self.until > Instant::now()
    }
}

impl Tokens {
    /// The kept token, or the one that `obtain` gets; `obtain` is given the token that has ended.
    pub(super) async fn get<F: Future<Output = Result<Token, Failure>>>(
        &self,
        key: &Key,
        obtain: impl FnOnce(Option<Token>) -> F,
    ) -> Result<Token, Failure> {
        let slot = self.slot(key);
        let mut kept = slot.lock().await;
        if let Some(token) = kept.as_ref().filter(|t| t.is_valid()) {
            return Ok(token.clone());
        }
        // Kept until there is a new one: what it can be refreshed with is still good after a failure.
        let token = obtain(kept.clone()).await?;
        *kept = Some(token.clone());
        Ok(token)
    }

    /// Forgets a token, unless another one is kept by now. True when asking again may help.
    pub(super) async fn forget(&self, key: &Key, access: &str) -> bool {
        let slot = self.slot(key);
        let mut kept = slot.lock().await;
        match kept.as_mut() {
            Some(token) if token.access == access => {
                // What it can be refreshed with is still good.
                token.until = Instant::now();
                true
            }
            Some(_) => true,
            None => false,
        }
    }

    fn slot(&self, key: &Key) -> Slot {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= limits::TOKENS_MAX && !all.contains_key(key) {
            let oldest = all.iter().min_by_key(|(_, e)| e.used).map(|(key, _)| *key);
            oldest.and_then(|oldest| all.remove(&oldest));
        }
        let entry = all.entry(*key).or_insert_with(|| Entry {
            token: Slot::default(),
            used: Instant::now(),
        });
        entry.used = Instant::now();
        entry.token.clone()
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(n: usize) -> Key {
        Key::of("oauth2", &json!({"n": n}))
    }

    fn token(access: &str, seconds: u64) -> Token {
        Token::new(
            "Bearer".into(),
            access.into(),
            Some("r".into()),
            Some(Duration::from_secs(seconds)),
        )
    }

    async fn get(tokens: &Tokens, n: usize, token: Token) -> (String, bool) {
        let mut had_one = false;
        let key = key(n);
        let got = tokens.get(&key, |before| {
            had_one = before.is_some();
            async { Ok(token) }
        });
        let got = got.await.unwrap().access;
        (got, had_one)
    }

    #[tokio::test]
    async fn tokens_are_kept_until_shortly_before_they_end() {
        let tokens = Tokens::default();
        assert_eq!(get(&tokens, 1, token("a", 60)).await, ("a".into(), false));
        assert_eq!(get(&tokens, 1, token("b", 60)).await, ("a".into(), false));
        assert_eq!(get(&tokens, 2, token("c", 0)).await, ("c".into(), false));
        assert_eq!(
            get(&tokens, 2, token("d", 60)).await,
            ("d".into(), true),
            "the old one was over"
        );
    }

    #[tokio::test]
    async fn a_refused_token_is_forgotten_once() {
        let tokens = Tokens::default();
        assert!(!tokens.forget(&key(1), "a").await);
        get(&tokens, 1, token("a", 60)).await;
        assert!(tokens.forget(&key(1), "a").await);
        assert_eq!(get(&tokens, 1, token("b", 60)).await, ("b".into(), true));
        assert!(tokens.forget(&key(1), "a").await, "a newer one is there");
        assert_eq!(get(&tokens, 1, token("c", 60)).await.0, "b");
    }

    #[tokio::test]
    async fn a_token_is_kept_while_no_new_one_comes() {
        let tokens = Tokens::default();
        get(&tokens, 1, token("a", 0)).await;
        let first = key(1);
        let failed = tokens.get(&first, |_| async { Err(Failure::runtime("away")) });
        assert!(failed.await.is_err());
        assert_eq!(get(&tokens, 1, token("b", 60)).await, ("b".into(), true));
    }

    #[test]
    fn no_life_is_too_long_for_a_clock() {
        let token = token("a", u64::MAX);
        assert!(token.is_valid() && token.until <= Instant::now() + LIFE_MAX);
    }

    #[tokio::test]
    async fn the_number_of_tokens_is_bounded() {
        let tokens = Tokens::default();
        for n in 0..limits::TOKENS_MAX + 10 {
            get(&tokens, n, token("x", 60)).await;
        }
        assert_eq!(tokens.0.lock().unwrap().len(), limits::TOKENS_MAX);
        assert_eq!(get(&tokens, limits::TOKENS_MAX + 9, token("y", 60)).await.0, "x");
        assert_eq!(
            get(&tokens, 0, token("y", 60)).await.0,
            "y",
            "the oldest one went"
        );
    }
}
