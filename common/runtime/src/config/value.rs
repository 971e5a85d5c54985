//! Texts of the environment as typed values.

use std::net::SocketAddr;
use std::time::Duration;

/// A type that a variable can hold.
pub(super) trait Value: Sized {
    /// Reads the trimmed, non-empty text.
    ///
    /// # Errors
    /// What is wrong and what is expected, to be read after the variable's name.
    fn parse(text: &str) -> Result<Self, String>;
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl Value for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_e| format!("`{text}` is not an address such as 127.0.0.1:7400"))
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(format!("`{text}` is neither true nor false")),
        }
    }
}

impl Value for std::path::PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

macro_rules! whole_numbers {
    ($($t:ty),*) => {$(
        impl Value for $t {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_e| format!("`{text}` is not a whole number from 0 to {}", <$t>::MAX))
            }
        }
    )*};
}
whole_numbers!(u16, u32, u64, usize);

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a duration such as 500ms, 30s, 5m, 24h or 7d");
        let (number, unit) = split_unit(text).ok_or_else(bad)?;
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        number.checked_mul(factor).map(Self::from_millis).ok_or_else(bad)
    }
}

/// A number of bytes: `64MiB`, `1GiB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes(pub(super) u64);

impl Value for Bytes {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a size such as 64MiB, 1GiB or 4096");
        let (number, unit) = split_unit(text).ok_or_else(bad)?;
        let shift = match unit {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

/// `a,b,c`: at least one entry, none empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List(pub(super) Vec<String>);

impl Value for List {
    fn parse(text: &str) -> Result<Self, String> {
        let items: Vec<String> = text.split(',').map(|i| i.trim().to_owned()).collect();
        if items.iter().any(String::is_empty) {
            return Err(format!(
                "`{text}` has an empty entry; separate entries by one comma"
            ));
        }
        Ok(Self(items))
    }
}

/// `key=value,key=value`; a value may itself hold `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

impl Value for Pairs {
    fn parse(text: &str) -> Result<Self, String> {
        let pair = |item: String| {
            let (key, value) = item
                .split_once('=')
                .ok_or_else(|| format!("`{item}` is not key=value"))?;
            if key.is_empty() || value.is_empty() {
                return Err(format!("`{item}` has an empty key or value"));
            }
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        };
        List::parse(text)?
            .0
            .into_iter()
            .map(pair)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..at].parse().ok()?, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_carry_their_unit() {
        assert_eq!(Duration::parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(Duration::parse("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(Duration::parse("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(Bytes::parse("64MiB"), Ok(Bytes(64 << 20)));
        assert_eq!(Bytes::parse("4096"), Ok(Bytes(4096)));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "5 s",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(Duration::parse(bad).is_err(), "{bad}");
        }
        for bad in ["MiB", "1MB", "1.5GiB", "99999999999TiB"] {
            assert!(Bytes::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs_keep_equals_signs_of_values() {
        let pairs = Pairs::parse("a.b=http://x/?q=1, c=d").unwrap();
        assert_eq!(
            pairs.0,
            [("a.b".into(), "http://x/?q=1".into()), ("c".into(), "d".into())]
        );
        for bad in ["a", "a=", "=b", "a=b,,c=d"] {
            assert!(Pairs::parse(bad).is_err(), "{bad}");
        }
    }
}
