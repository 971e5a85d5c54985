//! Query parameters: each is taken by name, and what nobody took is refused.

use std::str::FromStr;
use std::time::Duration;

use super::problem::{ApiError, ApiResult, Code};

/// Parameters of one request.
#[derive(Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the part behind `?`.
    pub(super) fn new(query: Option<&str>) -> Self {
        Self(
            form_urlencoded::parse(query.unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// Every value of a parameter that may be repeated.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, rest) = std::mem::take(&mut self.0)
            .into_iter()
            .partition::<Vec<_>, _>(|(n, _)| n == name);
        self.0 = rest;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// The value of a parameter that may be given once.
    pub(super) fn one(&mut self, name: &str) -> ApiResult<Option<String>> {
        let mut values = self.all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(bad(format!("parameter `{name}` is given more than once"))),
        }
    }

    /// A parsed parameter; `expected` says what it looks like.
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> ApiResult<Option<T>> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_shape| bad(format!("parameter `{name}` is `{text}`, expected {expected}")))
    }

    /// A duration such as `30s` or `500ms`.
    pub(super) fn duration(&mut self, name: &str) -> ApiResult<Option<Duration>> {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        let parsed = duration(&text);
        parsed.map(Some).ok_or_else(|| {
            bad(format!(
                "parameter `{name}` is `{text}`, expected a duration such as `30s`"
            ))
        })
    }

    /// Refuses what nobody took.
    pub(super) fn end(self) -> ApiResult<()> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(bad(format!("unknown parameter `{name}`"))),
        }
    }
}

pub(super) fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidRequest, detail)
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_once_and_leftovers_refused() {
        let mut p = Params::new(Some("label=a%3D1&label=b&limit=5&wait=30s&odd=1"));
        assert_eq!(p.all("label"), ["a=1", "b"]);
        assert_eq!(p.parsed::<usize>("limit", "a number").unwrap(), Some(5));
        assert_eq!(p.duration("wait").unwrap(), Some(Duration::from_secs(30)));
        assert!(p.end().is_err());
        assert!(Params::new(Some("a=1&a=2")).one("a").is_err());
        assert!(
            Params::new(Some("limit=x"))
                .parsed::<usize>("limit", "a number")
                .is_err()
        );
        assert!(Params::new(None).end().is_ok());
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["", "5", "s", "5d", "-1s", "1.5s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
