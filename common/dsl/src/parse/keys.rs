//! The closest of some names to a mistyped one.

/// Candidates that are looked at, and length of a mistyped name that is: a definition with thousands of unknown
/// names must not keep the parser busy.
const CANDIDATES_MAX: usize = 500;
/// See [`CANDIDATES_MAX`].
const TYPED_BYTES_MAX: usize = 40;

/// The candidate that was probably meant, if one is close: one edit for short names, two for longer ones, three
/// from nine characters on. A transposition is one edit; case does not count.
pub fn closest<'c>(typed: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let typed = typed.to_lowercase();
    let allowed = |other: &str| match typed.chars().count().max(other.chars().count()) {
        0..=3 => 1,
        4..=8 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .filter(|c| c.len().abs_diff(typed.len()) <= 3 && typed.len() <= TYPED_BYTES_MAX)
        .map(|c| (distance(&typed, &c.to_lowercase()), c))
        .filter(|(d, c)| *d <= allowed(c) && *d < c.chars().count())
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Edits (insert, delete, replace, swap of neighbours) between two texts.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut row = vec![0; b.len() + 1];
    for i in 1..=a.len() {
        row[0] = i;
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last[b.len()]
}

/// A hint for a name that is not one of `names`: the closest one, or all of them.
pub(super) fn suggest<'c>(
    typed: &str,
    names: impl IntoIterator<Item = &'c str> + Clone,
    what: &str,
) -> String {
    if let Some(name) = closest(typed, names.clone()) {
        return format!("did you mean `{name}`?");
    }
    let (shown, more) = {
        let mut all = names.into_iter();
        let shown: Vec<&str> = all.by_ref().take(20).collect();
        (shown, all.count())
    };
    match (shown.is_empty(), more) {
        (true, _) => format!("there are no {what}"),
        (_, 0) => format!("{what}: {}", shown.join(", ")),
        _ => format!("{what}: {} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let keys = ["endpoint", "method", "headers", "body", "query"];
        assert_eq!(closest("endpont", keys), Some("endpoint"));
        assert_eq!(closest("mehtod", keys), Some("method"));
        assert_eq!(closest("Body", keys), Some("body"));
        assert_eq!(closest("payload", keys), None);
        assert_eq!(closest("htpp", ["http", "grpc"]), Some("http"));
        assert_eq!(closest("x", ["y"]), None);
    }

    #[test]
    fn lists_the_legal_names_otherwise() {
        assert_eq!(suggest("zzz", ["a", "b"], "legal keys"), "legal keys: a, b");
        assert_eq!(
            suggest("zzz", [], "retries in `use.retries`"),
            "there are no retries in `use.retries`"
        );
    }
}
