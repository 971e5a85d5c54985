//! Keys that are often written at the wrong level, and where they belong.

/// Advice for a key that belongs elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Advice {
    /// Name of the object that the key was found in, or its start.
    what: &'static str,
    keys: &'static [&'static str],
    /// Where they belong.
    pub(super) place: &'static str,
    /// Key of the found object that leads there: not reported as missing as well.
    pub(super) leads: &'static str,
}

const EVENT: &[&str] = &[
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
];
const ERROR: &[&str] = &["type", "status", "instance", "title", "detail"];
const USES: &[&str] = &[
    "authentications",
    "errors",
    "extensions",
    "functions",
    "retries",
    "secrets",
    "timeouts",
];

const fn inside(
    what: &'static str,
    keys: &'static [&'static str],
    place: &'static str,
    leads: &'static str,
) -> Advice {
    Advice {
        what,
        keys,
        place,
        leads,
    }
}

const ADVICE: &[Advice] = &[
    inside(
        "the definition",
        &["dsl", "namespace", "name", "version", "title"],
        "inside `document`",
        "document",
    ),
    inside("the definition", USES, "inside `use`", "use"),
    inside("the task", &["await", "return"], "inside `run`", "run"),
    inside(
        "the task",
        &["retry", "errors", "as", "exceptWhen"],
        "inside `catch`",
        "catch",
    ),
    inside("the task", &["branches", "compete"], "inside `fork`", "fork"),
    inside("the task", &["each", "in", "at"], "inside `for`", "for"),
    inside(
        "the task",
        &["method", "endpoint", "headers", "query", "body"],
        "inside `with`",
        "with",
    ),
    inside("the task", &["schema", "from"], "inside `input`", "input"),
    inside("`for`", &["do", "while"], "beside `for`, in the task", "for"),
    inside("`listen`", &["foreach"], "beside `listen`, in the task", "listen"),
    inside("`listen`", &["all", "any", "one", "until"], "inside `to`", "to"),
    inside("an event filter", EVENT, "inside `with`", "with"),
    inside("`emit`", EVENT, "inside `event.with`", "event"),
    inside("`emit`", &["with"], "inside `event`", "event"),
    inside("`event`", EVENT, "inside `with`", "with"),
    inside("`raise`", ERROR, "inside `error`", "error"),
    inside("`catch`", ERROR, "inside `errors.with`", "errors"),
    inside(
        "`catch`",
        &["delay", "backoff", "jitter", "limit"],
        "inside `retry`",
        "retry",
    ),
    inside("`errors`", ERROR, "inside `with`", "with"),
    inside("a retry policy", &["attempt"], "inside `limit`", "limit"),
    inside("a retry policy", &["count"], "inside `limit.attempt`", "limit"),
    inside("`limit`", &["count"], "inside `attempt`", "attempt"),
    inside(
        "`schema`",
        &["type", "properties", "required", "items", "enum"],
        "inside `document`",
        "document",
    ),
    inside(
        "`timeout`",
        &["days", "hours", "minutes", "seconds", "milliseconds"],
        "inside `after`",
        "after",
    ),
    inside(
        "`with` of `call: http`",
        &["uri", "authentication"],
        "inside `endpoint`",
        "endpoint",
    ),
];

/// Where a key that was found in `what` belongs, if that is known.
pub(super) fn advice(what: &str, key: &str) -> Option<Advice> {
    ADVICE
        .iter()
        .find(|a| what.starts_with(a.what) && a.keys.contains(&key))
        .copied()
}
