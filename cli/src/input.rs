//! What users type: inputs, durations, names with versions, labels.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::failure::{Exit, Failure, Outcome};

/// Reads `--input`: JSON, `@FILE`, or `-` for standard input.
pub(crate) fn read_input(text: &str) -> Outcome<Value> {
    let (what, text) = match text.strip_prefix('@') {
        Some(path) => (path.to_owned(), read_text(Path::new(path))?),
        None if text == "-" => ("standard input".to_owned(), read_text(Path::new("-"))?),
        None => ("--input".to_owned(), text.to_owned()),
    };
    serde_json::from_str(&text).map_err(|e| {
        Failure::new(Exit::Usage, format!("{what} is not JSON: {e}"))
            .hint("quote it for the shell: --input '{\"name\": \"value\"}', or use --input @FILE")
    })
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read_text(path: &Path) -> Outcome<String> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map_err(|e| Failure::new(Exit::Usage, format!("cannot read {}: {e}", path.display())))
}

/// Reads `500ms`, `30s`, `5m`, `2h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration such as 500ms, 30s, 5m or 2h");
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().map_err(|_number| bad())?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs).ok_or_else(bad);
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => Err(bad()),
    }
}

/// Splits `NAME[@VERSION]`.
pub(crate) fn name_and_version(text: &str) -> (&str, Option<&str>) {
    text.split_once('@')
        .map_or((text, None), |(name, version)| (name, Some(version)))
}

/// Reads repeated `KEY=VALUE`.
pub(crate) fn labels(texts: &[String]) -> Outcome<BTreeMap<&str, &str>> {
    let read = |text: &'_ String| -> Outcome<(usize, usize)> {
        let at = text.find('=').ok_or_else(|| {
            Failure::new(Exit::Usage, format!("label `{text}` has no value")).hint("expected KEY=VALUE")
        })?;
        Ok((at, at + 1))
    };
    texts
        .iter()
        .map(|text| read(text).map(|(end, start)| (&text[..end], &text[start..])))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_as_json_or_from_files() {
        assert_eq!(read_input("{\"a\":1}").unwrap()["a"], 1);
        let path = std::env::temp_dir().join(format!("millrace-input-{}", std::process::id()));
        std::fs::write(&path, "[2]").unwrap();
        assert_eq!(read_input(&format!("@{}", path.display())).unwrap()[0], 2);
        std::fs::remove_file(path).unwrap();
        assert_eq!(read_input("{a:1}").unwrap_err().exit, Exit::Usage);
        assert_eq!(read_input("@/no/such/file").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "5", "s", "1d", "-1s", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_keys_with_values() {
        let texts = ["a=1".to_owned(), "b=x=y".to_owned()];
        assert_eq!(
            labels(&texts).unwrap(),
            BTreeMap::from([("a", "1"), ("b", "x=y")])
        );
        assert!(labels(&["a".to_owned()]).is_err());
    }
}
