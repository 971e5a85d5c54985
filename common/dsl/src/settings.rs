//! The keys of `metadata.millrace`. `docs/options.md` describes each; a test compares it with this list.

use crate::model::Feature;

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On tasks and in `use.functions`; on the document it holds for every task.
    Anywhere,
    /// On tasks and in `use.functions`.
    Tasks,
    /// On `for` tasks.
    For,
    /// On `try` tasks and on the document.
    Saga,
    /// On the document.
    Document,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Where it may stand.
    pub place: Place,
    /// It is about a step: only tasks that hand one to a worker have a use for it.
    pub of_steps: bool,
    /// What a build must execute for it.
    pub feature: Option<Feature>,
    /// What other runtimes do, when a workflow comes out differently there.
    pub elsewhere: Option<&'static str>,
}

const fn step(name: &'static str, elsewhere: Option<&'static str>) -> Setting {
    Setting {
        name,
        place: Place::Anywhere,
        of_steps: true,
        feature: None,
        elsewhere,
    }
}

const fn later(name: &'static str, feature: Feature) -> Setting {
    Setting {
        feature: Some(feature),
        ..step(name, None)
    }
}

const fn of(name: &'static str, place: Place, elsewhere: &'static str) -> Setting {
    Setting {
        place,
        of_steps: false,
        ..step(name, Some(elsewhere))
    }
}

/// All of them.
pub const SETTINGS: [Setting; 13] = [
    step("queue", None),
    Setting {
        place: Place::Tasks,
        ..step(
            "idempotencyKey",
            Some("other runtimes send no key, or one of their own"),
        )
    },
    step(
        "scheduleToStartTimeout",
        Some("other runtimes wait for a worker as long as the task may take"),
    ),
    step(
        "heartbeatTimeout",
        Some("other runtimes wait for a silent handler as long as the task may take"),
    ),
    step("maxDeliveries", None),
    Setting {
        of_steps: false,
        ..step(
            "nonRetryable",
            Some("other runtimes retry these errors as the retry policy says"),
        )
    },
    of(
        "for",
        Place::For,
        "other runtimes run one iteration after the other, each with the output of the one before",
    ),
    of(
        "compensateWith",
        Place::Tasks,
        "other runtimes do not undo the task",
    ),
    of("saga", Place::Saga, "other runtimes do not undo completed tasks"),
    of(
        "schedule",
        Place::Document,
        "other runtimes have their own answers for time zones, overlapping runs and missed times",
    ),
    later("labels", Feature::Labels),
    later("priority", Feature::Priority),
    later("concurrencyKey", Feature::ConcurrencyKey),
];

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name)
}
