//! JSON Web Tokens: the assertion of a client that has a secret, and the issuer that a token names.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How long an assertion is valid. It is used at once; clocks differ.
const VALID_SECONDS: i64 = 120;
/// Block of SHA-256 in bytes.
const BLOCK: usize = 64;

/// The assertion of `client_secret_jwt`: signed with the client's secret (HS256).
pub(super) fn assertion(client: &str, secret: &str, audience: &str, now_s: i64, id: &str) -> String {
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let claims = json!({
        "iss": client, "sub": client, "aud": audience,
        "iat": now_s, "exp": now_s + VALID_SECONDS, "jti": id,
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(hmac(secret.as_bytes(), signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// `iss` of a token. The signature is not checked: the token came from the authority itself. `None` when it is no JWT.
pub(super) fn issuer(token: &str) -> Option<String> {
    let claims = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    claims["iss"].as_str().map(str::to_owned)
}

/// HMAC (RFC 2104) with SHA-256.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new()
        .chain_update(block.map(|b| b ^ 0x36))
        .chain_update(text)
        .finalize();
    let outer = Sha256::new()
        .chain_update(block.map(|b| b ^ 0x5c))
        .chain_update(inner);
    outer.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::digest::hex;
    use super::*;

    /// RFC 4231, test cases 2 and 6.
    #[test]
    fn hmac_gives_the_values_of_the_rfc() {
        assert_eq!(
            hex(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let long = hmac(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
        );
        assert_eq!(
            hex(&long),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn assertions_name_client_audience_and_time() {
        let token = assertion("app", "secret", "https://a/token", 1_000, "id");
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(
            (&claims["sub"], &claims["aud"]),
            (&json!("app"), &json!("https://a/token"))
        );
        assert_eq!((&claims["exp"], &claims["jti"]), (&json!(1_120), &json!("id")));
        assert_eq!(issuer(&token).as_deref(), Some("app"));
        assert_eq!(issuer("opaque"), None);
    }
}
