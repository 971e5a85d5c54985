//! How a text is written elsewhere: in URLs, in forms, in JSON. For the mask, which finds texts and not values.

use std::borrow::Cow;

use reqwest::Url;

/// Other ways to write a text: all but unreserved characters escaped, as in a form, as URLs take it, and as JSON does. Only
/// those that differ from it.
pub(super) fn forms(text: &str) -> impl Iterator<Item = String> {
    let escaped: String = text.bytes().map(escaped).collect();
    let form: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let mut all = vec![escaped, form.replace('+', "%20"), form];
    all.extend(in_url(text));
    let json = serde_json::Value::from(text).to_string();
    all.push(json[1..json.len() - 1].to_owned());
    all.retain(|form| form != text);
    all.sort();
    all.dedup();
    all.into_iter()
}

fn escaped(byte: u8) -> Cow<'static, str> {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            Cow::Owned(char::from(byte).to_string())
        }
        other => Cow::Owned(format!("%{other:02X}")),
    }
}

/// As a path and as a query that were given with the text as it is.
fn in_url(text: &str) -> Vec<String> {
    let Ok(mut url) = Url::parse("http://x/") else {
        return Vec::new();
    };
    url.set_path(&format!("/{text}"));
    url.set_query(Some(text));
    let path = url.path().trim_start_matches('/').to_owned();
    [path, url.query().unwrap_or_default().to_owned()]
        .into_iter()
        .filter(|form| form.len() >= text.len())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts_have_no_other_form() {
        assert_eq!(forms("plain-text_1.0").count(), 0);
        let forms: Vec<String> = forms("a b").collect();
        assert_eq!(forms, ["a%20b", "a+b"]);
    }
}
