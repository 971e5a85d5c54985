//! Percent-decoding: of URLs, of pointers in documents, of headers, and of gRPC's messages.

/// The bytes behind the escapes. What is no escape stays.
pub fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        let escaped = tail
            .first_chunk::<2>()
            .filter(|_| *byte == b'%')
            .and_then(byte_of);
        bytes.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    bytes
}

/// As [`decoded`]; what is no UTF-8 then becomes a replacement character.
pub fn decoded_text(text: &str) -> String {
    String::from_utf8_lossy(&decoded(text.as_bytes())).into_owned()
}

/// As [`decoded`]; `None` when an escape is broken or the result is no text.
pub fn strictly_decoded(text: &str) -> Option<String> {
    let mut escapes = text.split('%').skip(1);
    let is_whole = |escape: &str| escape.as_bytes().first_chunk::<2>().and_then(byte_of).is_some();
    if !escapes.all(is_whole) {
        return None;
    }
    String::from_utf8(decoded(text.as_bytes())).ok()
}

fn byte_of(digits: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_bytes_and_what_is_none_stays() {
        assert_eq!(
            decoded_text("a%20b%2Fc%7e+ %C3%BC 100% %zz %4"),
            "a b/c~+ ü 100% %zz %4"
        );
        assert_eq!(decoded_text("%+1"), "%+1");
        assert_eq!(decoded(b"%FF"), [0xff]);
    }

    #[test]
    fn a_strict_reader_takes_no_broken_escape() {
        assert_eq!(strictly_decoded("a%20b").as_deref(), Some("a b"));
        for broken in ["%", "a%2", "%zz", "%FF", "%+1"] {
            assert_eq!(strictly_decoded(broken), None, "{broken}");
        }
    }
}
