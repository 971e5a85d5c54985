//! Texts: formats and filters that jaq lacks or that must be bounded.

use std::fmt::Write;

use jaq_core::{Error, ValR};
use jaq_json::Val;

use super::bounded::{Bounded, fail};
use super::{meter, number};
use crate::value;

/// Bytes of a text that `fromjson` reads: its containers take up to fifty times as much memory.
const JSON_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of a format of times.
const TIME_FORMAT_BYTES_MAX: usize = 256;

/// `fromjson`.
pub(super) fn from_json(text: &Bounded) -> ValR<Bounded> {
    let text = text.try_str()?;
    if text.len() > JSON_BYTES_MAX {
        return Err(fail(format!(
            "a text of more than {JSON_BYTES_MAX} bytes cannot be parsed as JSON"
        )));
    }
    meter::spend(text.len() as u64 * 8);
    let parsed = value::parse(text).map_err(|e| fail(e.detail.unwrap_or_default()))?;
    let mut parsed = Bounded::outside(parsed);
    parsed.tighten();
    Ok(parsed)
}

/// `tonumber`.
pub(super) fn to_number(v: Bounded) -> ValR<Bounded> {
    let Some(text) = v.as_str() else {
        return if matches!(v.value(), Val::Num(_)) {
            Ok(v)
        } else {
            Err(Error::typ(v, "number"))
        };
    };
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let numeric = unsigned
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_digit() || b == b'.')
        && unsigned
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let parsed = if numeric {
        number::literal(unsigned).ok()
    } else {
        None
    };
    match parsed {
        Some(n) if unsigned.len() < text.len() => -n,
        Some(n) => Ok(n),
        None => Err(fail(format!("{v} cannot be parsed as a number"))),
    }
}

/// `length`: characters, items, members, or the absolute value of a number.
pub(super) fn length(v: Bounded) -> ValR<Bounded> {
    match v.value() {
        Val::Null => Ok(0_usize.into()),
        Val::Bool(_) => Err(fail(format!("{v} has no length"))),
        Val::Num(n) if number::double(n) < 0.0 => -v,
        Val::Num(_) => Ok(v),
        Val::BStr(b) => Ok(b.len().into()),
        Val::TStr(b) => {
            meter::spend_scan(b.len());
            Ok(v.try_str()?.chars().count().into())
        }
        Val::Arr(items) => Ok(items.len().into()),
        Val::Obj(members) => Ok(members.len().into()),
    }
}

/// `join`: texts, numbers and booleans; `null` is empty.
pub(super) fn join(list: &Bounded, separator: &Bounded) -> ValR<Bounded> {
    let mut out = String::new();
    for (i, item) in list.try_items()?.iter().enumerate() {
        if i > 0 {
            push(&mut out, separator.try_str()?);
        }
        match item {
            Val::Null => {}
            Val::TStr(_) => push(&mut out, value::as_str(item).unwrap_or_default()),
            Val::Bool(_) | Val::Num(_) => push(&mut out, &value::to_json_string(item)),
            other => {
                return Err(fail(format!(
                    "{} cannot be joined to a string",
                    Bounded::outside(other.clone())
                )));
            }
        }
    }
    Ok(Bounded::text(out))
}

/// Appends within bounds.
fn push(out: &mut String, text: &str) {
    meter::spend_text_grown(text.len(), out.len() + text.len());
    meter::spend(meter::VISIT);
    out.push_str(text);
}

/// `@csv`: an array as a line, texts in quotes.
pub(super) fn csv(row: &Bounded) -> ValR<Bounded> {
    line(row, ",", "csv", |text| {
        format!("\"{}\"", text.replace('"', "\"\""))
    })
}

/// `@tsv`: an array as a line, tabs and line ends escaped.
pub(super) fn tsv(row: &Bounded) -> ValR<Bounded> {
    let escape = |text: &str| {
        text.replace('\\', "\\\\")
            .replace('\t', "\\t")
            .replace('\n', "\\n")
            .replace('\r', "\\r")
    };
    line(row, "\t", "tsv", escape)
}

fn line(row: &Bounded, separator: &str, format: &str, escape: fn(&str) -> String) -> ValR<Bounded> {
    let mut out = String::new();
    for (i, cell) in row.try_items()?.iter().enumerate() {
        if i > 0 {
            push(&mut out, separator);
        }
        match cell {
            Val::Null => {}
            Val::TStr(_) => push(&mut out, &escape(value::as_str(cell).unwrap_or_default())),
            Val::Bool(_) | Val::Num(_) => push(&mut out, &value::to_json_string(cell)),
            other => {
                return Err(fail(format!(
                    "{} cannot be a cell of @{format}",
                    Bounded::outside(other.clone())
                )));
            }
        }
    }
    Ok(Bounded::text(out))
}

/// `@sh`: quoted for a POSIX shell; an array as words.
pub(super) fn shell(v: &Bounded) -> ValR<Bounded> {
    let mut out = String::new();
    let one = [v.value().clone()];
    let words = v.try_items().map_or(&one[..], |items| items);
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            push(&mut out, " ");
        }
        match word {
            Val::TStr(_) => {
                let text = value::as_str(word).unwrap_or_default();
                push(&mut out, &format!("'{}'", text.replace('\'', "'\\''")));
            }
            Val::Null | Val::Bool(_) | Val::Num(_) => push(&mut out, &value::to_json_string(word)),
            other => {
                return Err(fail(format!(
                    "{} cannot be quoted for a shell",
                    Bounded::outside(other.clone())
                )));
            }
        }
    }
    Ok(Bounded::text(out))
}

/// `@html` of a text.
pub(super) fn html(text: &Bounded) -> ValR<Bounded> {
    let mut out = String::new();
    let mut rest = text.try_str()?;
    meter::spend_scan(rest.len());
    while let Some(at) = rest.find(['<', '>', '&', '\'', '"']) {
        push(&mut out, &rest[..at]);
        push(
            &mut out,
            match rest.as_bytes()[at] {
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'&' => "&amp;",
                b'\'' => "&#39;",
                _ => "&quot;",
            },
        );
        rest = &rest[at + 1..];
    }
    push(&mut out, rest);
    Ok(Bounded::text(out))
}

/// `@uri` of a text: everything but unreserved characters is percent-encoded.
pub(super) fn uri(text: &Bounded) -> ValR<Bounded> {
    let text = text.try_str()?;
    // Each byte may become three.
    meter::spend_text(text.len() * 3);
    let mut out = String::with_capacity(text.len());
    percent_encode(text, &mut out);
    Ok(Bounded::text(out))
}

/// Appends a text, percent-encoding all but the unreserved characters of RFC 3986.
pub(crate) fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Base64 with its padding put right: jq reads it without, the decoder does not.
pub(super) fn padded(text: &Bounded) -> ValR<Bounded> {
    let bare = text.try_str()?.trim_end_matches('=');
    meter::spend_text(bare.len() + 3);
    Ok(Bounded::text(format!(
        "{bare}{}",
        &"==="[..(4 - bare.len() % 4) % 4]
    )))
}

/// `ltrimstr` and `rtrimstr`: anything that does not fit stays as it is.
pub(super) fn trimmed(
    v: Bounded,
    fix: &Bounded,
    strip: fn(&'_ str, &'_ str) -> Option<(usize, usize)>,
) -> Bounded {
    let (Some(text), Some(fix)) = (v.as_str(), fix.as_str()) else {
        return v;
    };
    match strip(text, fix) {
        Some((from, to)) => v.cut(&text[from..to]),
        None => v,
    }
}

/// Where the rest is when a text starts so.
pub(super) fn without_prefix(text: &str, fix: &str) -> Option<(usize, usize)> {
    text.starts_with(fix).then_some((fix.len(), text.len()))
}

/// Where the rest is when a text ends so.
pub(super) fn without_suffix(text: &str, fix: &str) -> Option<(usize, usize)> {
    text.strip_suffix(fix).map(|rest| (0, rest.len()))
}

/// A format for times without the time zone database, which differs between machines.
pub(super) fn time_format(format: Bounded) -> ValR<Bounded> {
    let text = format.try_str()?;
    if text.len() > TIME_FORMAT_BYTES_MAX {
        return Err(fail(format!(
            "a time format may have at most {TIME_FORMAT_BYTES_MAX} bytes"
        )));
    }
    if text.contains("%Q") || text.contains("%:Q") {
        return Err(fail(
            "names of time zones are not supported; evaluation is in UTC",
        ));
    }
    Ok(format)
}
