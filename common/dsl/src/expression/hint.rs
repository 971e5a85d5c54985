//! Advice for expressions that do not compile.

use std::collections::BTreeSet;

/// Why a filter of jq is not here, and what to do instead.
pub(super) fn absent(name: &str) -> Option<&'static str> {
    Some(match name {
        "env" | "getenv" => {
            "there is no environment: evaluation is deterministic; pass the value as workflow input"
        }
        "input" | "inputs" | "input_filename" | "input_line_number" => {
            "an expression has no inputs beside `.` and its variables"
        }
        "debug" | "stderr" => "an expression has no output beside its value; remove it",
        "halt" | "halt_error" => "an expression cannot end a process; use `error(\"…\")`",
        "localtime" | "strflocaltime" => "evaluation is in UTC; use `gmtime` and `strftime`",
        "uuid" | "random" | "rand" => {
            "evaluation is deterministic; make random values in a function of a worker, or use `$workflow.id`"
        }
        "import" | "include" | "modulemeta" | "get_search_list" => "there are no modules",
        "tobytes" | "@base32" | "@base32d" => "bytes and base32 are not supported; use `@base64`",
        "uppercase" | "toupper" | "upper" | "ascii_uppercase" => "the filter is called `ascii_upcase`",
        "lowercase" | "tolower" | "lower" | "ascii_lowercase" => "the filter is called `ascii_downcase`",
        "size" | "count" | "len" => "the filter is called `length`",
        "filter" | "where" => "use `map(select(…))`",
        "concat" => "use `+`, `add` or `join`",
        "replace" => "use `sub` or `gsub`",
        "undefined" | "None" | "nil" => "use `null`",
        _ => return None,
    })
}

/// Why a variable of jq or of another runtime is not here.
pub(super) fn absent_variable(name: &str) -> Option<&'static str> {
    Some(match name {
        "$ENV" => "there is no environment: evaluation is deterministic; pass the value as workflow input",
        "$__loc__" | "$__prog_args" | "$__prog_name" => "it is not supported",
        _ => return None,
    })
}

/// The candidate that is meant, if one is close enough.
pub(super) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = match name.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    };
    let scored = candidates
        .into_iter()
        .map(|c| (distance(name, c), c))
        .filter(|(d, _)| *d <= allowed);
    scored.min().map(|(_, c)| c)
}

/// Edits (insert, delete, replace, swap) from one name to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut before = None;
    for (i, f) in from.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, t) in to.iter().enumerate() {
            let mut best = (last[j] + usize::from(f != *t))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if j > 0 && before == Some(*t) && f == to[j - 1] {
                best = best.min(older[j - 1] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut last, row);
        before = Some(f);
    }
    last[to.len()]
}

/// `` `a`, `b` and `c` ``.
pub(super) fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// The numbers of arguments with which a filter exists.
pub(super) fn arities(name: &str, known: &BTreeSet<(&str, usize)>) -> Vec<String> {
    known
        .iter()
        .filter(|(n, _)| *n == name)
        .map(|(_, args)| args.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_found_and_far_ones_are_not() {
        let names = ["context", "input", "workflow", "secrets", "map"];
        for (typo, meant) in [
            ("contxt", Some("context")),
            ("secret", Some("secrets")),
            ("inptu", Some("input")),
            ("wrkflow", Some("workflow")),
            ("mpa", Some("map")),
            ("x", None),
            ("customer", None),
        ] {
            assert_eq!(closest(typo, names), meant, "{typo}");
        }
    }

    #[test]
    fn lists_read_like_sentences() {
        let names = ["a", "b", "c"].map(String::from);
        assert_eq!(list(&names), "`a`, `b` and `c`");
        assert_eq!(list(&names[..1]), "`a`");
        assert_eq!(list(&[]), "");
    }
}
