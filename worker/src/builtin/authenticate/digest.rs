//! Digest access authentication (RFC 7616): the answer to a server's challenge.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512_256};

use super::{Login, configuration};
use crate::Failure;

/// What a server asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    /// The algorithm's name as the server wrote it; absent when it wrote none.
    named: Option<String>,
    /// The session's key depends on the nonces too.
    session: bool,
    protection: Protection,
    hashes_user: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Md5,
    Sha256,
    Sha512,
}

/// `qop`: what the answer protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    /// Of RFC 2069, without `qop`.
    Old,
    Request,
    RequestAndBody,
}

impl Challenge {
    /// The strongest digest challenge of `www-authenticate` headers that can be answered.
    pub(super) fn choose<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Self> {
        let challenges = headers.flat_map(challenges).filter_map(|(scheme, parameters)| {
            scheme
                .eq_ignore_ascii_case("digest")
                .then(|| Self::read(&parameters))
                .flatten()
        });
        // The first of equally strong ones, as the server prefers it.
        challenges.fold(None, |best: Option<Self>, next| match best {
            Some(best) if best.algorithm >= next.algorithm => Some(best),
            _ => Some(next),
        })
    }

    fn read(parameters: &BTreeMap<String, String>) -> Option<Self> {
        let named = parameters.get("algorithm").cloned();
        let name = named.as_deref().unwrap_or("MD5").to_ascii_uppercase();
        let (base, session) = match name.strip_suffix("-SESS") {
            Some(base) => (base, true),
            None => (name.as_str(), false),
        };
        let algorithm = match base {
            "MD5" => Algorithm::Md5,
            "SHA-256" => Algorithm::Sha256,
            "SHA-512-256" => Algorithm::Sha512,
            _ => return None,
        };
        let protection = match parameters.get("qop") {
            None => Protection::Old,
            Some(offered) => {
                let offers = |what: &str| offered.split(',').any(|o| o.trim().eq_ignore_ascii_case(what));
                match (offers("auth"), offers("auth-int")) {
                    (true, _) => Protection::Request,
                    (false, true) => Protection::RequestAndBody,
                    (false, false) => return None,
                }
            }
        };
        Some(Self {
            realm: parameters.get("realm").cloned().unwrap_or_default(),
            nonce: parameters.get("nonce")?.clone(),
            opaque: parameters.get("opaque").cloned(),
            algorithm,
            named,
            session,
            protection,
            hashes_user: parameters
                .get("userhash")
                .is_some_and(|v| v.eq_ignore_ascii_case("true")),
        })
    }

    /// Value of the `authorization` header. A nonce of the server is used once, so the count is always one.
    pub(super) fn answer(
        &self,
        login: &Login,
        method: &str,
        target: &str,
        body: &[u8],
        cnonce: &str,
    ) -> String {
        const COUNT: &str = "00000001";
        let h = |text: &str| self.algorithm.hash(text.as_bytes());
        let Login { username, password } = login;
        let mut key = h(&format!("{username}:{}:{password}", self.realm));
        if self.session {
            key = h(&format!("{key}:{}:{cnonce}", self.nonce));
        }
        let request = match self.protection {
            Protection::RequestAndBody => h(&format!("{method}:{target}:{}", self.algorithm.hash(body))),
            Protection::Old | Protection::Request => h(&format!("{method}:{target}")),
        };
        let protection = self.protection.name();
        let response = match protection {
            None => h(&format!("{key}:{}:{request}", self.nonce)),
            Some(qop) => h(&format!("{key}:{}:{COUNT}:{cnonce}:{qop}:{request}", self.nonce)),
        };
        let user = match self.hashes_user {
            true => h(&format!("{username}:{}", self.realm)),
            false => username.clone(),
        };
        let mut out = String::from("Digest ");
        let mut quoted = |name: &str, value: &str| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            // Writing to a text cannot fail.
            let _ = write!(out, "{name}=\"{value}\", ");
        };
        quoted("username", &user);
        quoted("realm", &self.realm);
        quoted("nonce", &self.nonce);
        quoted("uri", target);
        if let Some(opaque) = &self.opaque {
            quoted("opaque", opaque);
        }
        if protection.is_some() || self.session {
            quoted("cnonce", cnonce);
        }
        quoted("response", &response);
        if let Some(algorithm) = &self.named {
            out += &format!("algorithm={algorithm}, ");
        }
        if self.hashes_user {
            out += "userhash=true, ";
        }
        if let Some(qop) = protection {
            out += &format!("qop={qop}, nc={COUNT}, ");
        }
        out.truncate(out.len() - 2);
        out
    }
}

impl Protection {
    const fn name(self) -> Option<&'static str> {
        match self {
            Self::Old => None,
            Self::Request => Some("auth"),
            Self::RequestAndBody => Some("auth-int"),
        }
    }
}

impl Algorithm {
    fn hash(self, bytes: &[u8]) -> String {
        match self {
            Self::Md5 => hex(&Md5::digest(bytes)),
            Self::Sha256 => hex(&Sha256::digest(bytes)),
            Self::Sha512 => hex(&Sha512_256::digest(bytes)),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A number that nobody can guess, for `cnonce` and `jti`.
pub(super) fn nonce() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| configuration(format!("the system gives no random numbers: {e}")))?;
    Ok(hex(&bytes))
}

/// Schemes and parameters of one header: several challenges may stand in it, separated like their parameters.
fn challenges(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for item in items(header) {
        let (head, value) = match item.split_once('=') {
            Some((head, value)) if !head.trim().is_empty() => (head.trim(), Some(value.trim())),
            _ => (item.trim(), None),
        };
        // `Digest realm="x"` begins a challenge, `nonce="y"` goes on with it.
        let name = match (head.split_once(char::is_whitespace), value) {
            (Some((scheme, name)), Some(_)) => {
                found.push((scheme.to_owned(), BTreeMap::new()));
                name.trim()
            }
            (None, Some(_)) => head,
            (_, None) => {
                let scheme = head.split_whitespace().next().unwrap_or_default();
                found.push((scheme.to_owned(), BTreeMap::new()));
                continue;
            }
        };
        if let (Some((_, parameters)), Some(value)) = (found.last_mut(), value) {
            parameters.insert(name.to_ascii_lowercase(), unquoted(value));
        }
    }
    found
}

/// Splits at commas outside of quotes.
fn items(header: &str) -> Vec<&str> {
    let (mut items, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in header.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                items.push(&header[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&header[start..]);
    items.retain(|i| !i.trim().is_empty());
    items
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return value.to_owned();
    };
    let (mut out, mut escaped) = (String::with_capacity(inner.len()), false);
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(c);
            escaped = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login {
            username: "Mufasa".into(),
            password: "Circle of Life".into(),
        }
    }

    const NONCE: &str = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
    const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

    fn challenge(algorithm: &str) -> String {
        format!(
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
             nonce=\"{NONCE}\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        )
    }

    fn response(answer: &str) -> &str {
        answer
            .split_once("response=\"")
            .unwrap()
            .1
            .split('"')
            .next()
            .unwrap()
    }

    /// The examples of RFC 7616, section 3.9.1.
    #[test]
    fn the_examples_of_the_rfc_come_out() {
        for (algorithm, expected) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            (
                "SHA-256",
                "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
            ),
        ] {
            let header = challenge(algorithm);
            let challenge = Challenge::choose([header.as_str()].into_iter()).unwrap();
            let answer = challenge.answer(&login(), "GET", "/dir/index.html", b"", CNONCE);
            assert_eq!(response(&answer), expected, "{answer}");
            assert!(
                answer.contains("qop=auth, nc=00000001") && answer.contains("opaque=\"FQhe"),
                "{answer}"
            );
        }
    }

    /// The example of RFC 2069 (with its erratum), which knows no `qop`.
    #[test]
    fn servers_without_qop_get_the_old_answer() {
        let header = "Digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\"";
        let challenge = Challenge::choose([header].into_iter()).unwrap();
        let login = Login {
            username: "Mufasa".into(),
            password: "CircleOfLife".into(),
        };
        let answer = challenge.answer(&login, "GET", "/dir/index.html", b"", CNONCE);
        assert_eq!(response(&answer), "1949323746fe6a43ef61f9606e7febea");
        assert!(!answer.contains("qop") && !answer.contains("cnonce"), "{answer}");
    }

    #[test]
    fn the_strongest_algorithm_is_chosen() {
        let both = format!("{}, {}", challenge("MD5"), challenge("SHA-256"));
        let headers = ["Basic realm=\"x\"", both.as_str()];
        assert_eq!(
            Challenge::choose(headers.into_iter()).unwrap().algorithm,
            Algorithm::Sha256
        );
        assert_eq!(Challenge::choose(["Basic realm=\"x\""].into_iter()), None);
        assert_eq!(
            Challenge::choose(["Digest realm=\"x\", nonce=\"y\", algorithm=NEW"].into_iter()),
            None
        );
        assert_eq!(Challenge::choose(["Digest realm=\"x\""].into_iter()), None);
    }

    #[test]
    fn sessions_users_and_bodies_change_the_answer() {
        let of = |algorithm: &str, rest: &str, body: &[u8]| {
            let header = format!("Digest realm=\"r\", nonce=\"n\", algorithm={algorithm}{rest}");
            let challenge = Challenge::choose([header.as_str()].into_iter()).unwrap();
            challenge.answer(&login(), "POST", "/x", body, "c")
        };
        let plain = of("MD5", "", b"");
        assert_ne!(response(&of("MD5-sess", "", b"")), response(&plain));
        let int = |body: &[u8]| of("MD5", ", qop=\"auth-int\"", body);
        assert!(int(b"a").contains("qop=auth-int"));
        assert_ne!(response(&int(b"a")), response(&int(b"b")));
        let hashed = of("SHA-512-256", ", userhash=true", b"");
        assert!(
            hashed.contains("userhash=true") && !hashed.contains("Mufasa"),
            "{hashed}"
        );
    }

    #[test]
    fn headers_are_taken_apart() {
        let header = r#"Negotiate, Digest realm="a, \"b\"", nonce=plain, Bearer"#;
        let found = challenges(header);
        let names: Vec<&str> = found.iter().map(|(scheme, _)| scheme.as_str()).collect();
        assert_eq!(names, ["Negotiate", "Digest", "Bearer"]);
        assert_eq!(found[1].1["realm"], "a, \"b\"");
        assert_eq!(found[1].1["nonce"], "plain");
    }
}
