//! `metadata.millrace`. The language leaves metadata open, we do not: an unknown key, one at the wrong place or with a
//! wrong value is an error, because a setting that is silently ignored is worse than none.

use std::sync::Arc;

use millrace_common::{ErrorKind, limits};

use super::core::{Fields, Parser};
use super::env::Env;
use super::keys::closest;
use super::node::{At, Data, Entry, Node, excerpt};
use super::scope::Position;
use super::uses::Kind;
use crate::model::{DurationValue, Extra, FunctionTarget, Settings, Task};
use crate::settings::{self, Place, SETTINGS, Setting};

const OURS: &str = "millrace";
const WHAT: &str = "`metadata.millrace`";

/// Whose settings are read.
#[derive(Clone, Copy)]
pub(super) enum Owner<'o> {
    Document,
    Task {
        keyword: &'o str,
        node: &'o Node,
        env: &'o Env<'o>,
    },
}

impl Parser<'_> {
    /// `metadata`, of which only `millrace` is ours.
    pub(super) fn settings(&mut self, node: &Node, at: &At<'_>, owner: Owner<'_>) -> Settings {
        for entry in self.map(node, at, "an object") {
            let at = at.entry(entry);
            if entry.key == OURS {
                return self.own_settings(&entry.node, &at, owner);
            }
            if closest(&entry.key, [OURS]).is_some() {
                let fault = at.warning(format!("`{}` is not read by this engine", entry.key));
                self.report(fault.hint(format!("did you mean `{OURS}`?")));
            }
        }
        Settings::default()
    }

    fn own_settings(&mut self, node: &Node, at: &At<'_>, owner: Owner<'_>) -> Settings {
        let Some(fields) = self.fields(node, at, WHAT, &SETTINGS.map(|s| s.name)) else {
            return Settings::default();
        };
        for entry in node.entries().unwrap_or_default() {
            if let Some(setting) = settings::find(&entry.key) {
                self.check_setting(setting, &at.entry(entry), owner);
            }
        }
        let mut settings = Settings {
            queue: fields
                .get("queue")
                .and_then(|e| self.label_text(&e.node, &at.entry(e), "queue")),
            schedule_to_start: self.setting_duration(&fields, at, "scheduleToStartTimeout"),
            heartbeat: self.setting_duration(&fields, at, "heartbeatTimeout"),
            max_deliveries: self.setting_number(&fields, at, "maxDeliveries", limits::STEP_DELIVERIES_MAX),
            non_retryable: fields
                .get("nonRetryable")
                .map(|e| self.error_types(&e.node, &at.entry(e))),
            parallel: fields
                .get("for")
                .and_then(|e| self.parallel(&e.node, &at.entry(e), owner)),
            saga: fields
                .get("saga")
                .and_then(|e| self.boolean(&e.node, &at.entry(e)))
                .unwrap_or_default(),
            ..Settings::default()
        };
        if let Owner::Task { env, .. } = owner {
            settings.idempotency_key = fields.get("idempotencyKey").and_then(|e| {
                let vars = self.vars(Position::Definition, env);
                self.expression(&e.node, &at.entry(e), &vars)
            });
            settings.compensate_with = fields
                .get("compensateWith")
                .and_then(|e| self.compensation(e, &at.entry(e), env));
        }
        settings
    }

    /// Is this key executed, and may it stand here?
    fn check_setting(&mut self, setting: &Setting, at: &At<'_>, owner: Owner<'_>) {
        if let Some(feature) = setting.feature {
            self.note(feature, at);
        }
        let name = setting.name;
        let misplaced = match (setting.place, owner) {
            (Place::Tasks | Place::For, Owner::Document) => Some("a task"),
            (Place::For, Owner::Task { keyword, .. }) if keyword != "for" => Some("a `for` task"),
            (Place::Saga, Owner::Task { keyword, .. }) if keyword != "try" => {
                Some("a `try` task, or to the document")
            }
            (Place::Document, Owner::Task { .. }) => {
                let fault = at.error("a task has no schedule");
                self.report(fault.hint("it belongs into `document.metadata.millrace`"));
                return;
            }
            (Place::Anywhere | Place::Tasks | Place::For | Place::Saga | Place::Document, _) => None,
        };
        if let Some(place) = misplaced {
            self.report(at.error(format!("`{name}` belongs to {place}")));
            return;
        }
        if let (true, Owner::Task { keyword, .. }) = (setting.of_steps, owner)
            && !["call", "run"].contains(&keyword)
        {
            let fault = at.warning(format!("`{name}` has no effect on a `{keyword}` task"));
            self.report(fault.hint("it is about steps that workers run: those of `call` and `run`"));
        }
        if let Some(elsewhere) = setting.elsewhere {
            self.extra(format!("`metadata.millrace.{name}`"), elsewhere, at);
        }
    }

    /// Notes what only this engine knows.
    pub(super) fn extra(&mut self, what: String, elsewhere: &'static str, at: &At<'_>) {
        self.extras.push(Extra {
            what,
            elsewhere,
            pointer: at.pointer(),
            span: at.span,
        });
    }

    fn setting_duration(
        &mut self,
        fields: &Fields<'_>,
        at: &At<'_>,
        key: &str,
    ) -> Option<crate::duration::Duration> {
        let entry = fields.get(key)?;
        let at = at.entry(entry);
        let vars = self.vars(Position::Schedule, &Env::OUTSIDE);
        match self.duration(&entry.node, &at, &vars)? {
            DurationValue::Fixed(duration) if duration.as_millis() > 0 => Some(duration),
            DurationValue::Fixed(_) => {
                self.report(at.error_in(&entry.node, format!("`{key}` is zero")));
                None
            }
            DurationValue::Computed(_) => {
                self.report(at.error_in(&entry.node, "expected a duration, found an expression"));
                None
            }
        }
    }

    fn setting_number(&mut self, fields: &Fields<'_>, at: &At<'_>, key: &str, max: i64) -> Option<u32> {
        let entry = fields.get(key)?;
        let number = self.integer(&entry.node, &at.entry(entry), 1, max)?;
        u32::try_from(number).ok()
    }

    /// Types of errors: URIs, or the short names of the standard errors.
    fn error_types(&mut self, node: &Node, at: &At<'_>) -> Vec<String> {
        let mut types = Vec::new();
        for (i, item) in self
            .list(node, at, "a list of types of errors")
            .iter()
            .enumerate()
        {
            let at = at.index(i, item);
            let Some(text) = self.constant(item, &at, "the type of an error") else {
                continue;
            };
            match ErrorKind::ALL.into_iter().find(|k| k.name() == text) {
                Some(kind) => types.push(kind.uri().to_owned()),
                None if text.contains(':') => types.push(text.to_owned()),
                None => {
                    let names = ErrorKind::ALL.map(ErrorKind::name);
                    let hint = self.suggest(text, names, "standard errors (others are URIs)");
                    let message = format!("`{}` is not the type of an error", excerpt(text));
                    self.report(at.error_in(item, message).hint(hint));
                }
            }
        }
        types
    }

    /// `for: { mode, maxConcurrency }`: how many iterations at a time.
    fn parallel(&mut self, node: &Node, at: &At<'_>, owner: Owner<'_>) -> Option<u32> {
        let fields = self.fields(node, at, "`for` of the settings", &["mode", "maxConcurrency"])?;
        let mode = self.required(&fields, at, "`for` of the settings", "mode")?;
        let mode = self.word(&mode.node, &at.entry(mode), &["sequential", "parallel"])?;
        let max = i64::from(limits::FOR_CONCURRENCY_MAX);
        let number = self.setting_number(&fields, at, "maxConcurrency", max);
        if mode == "sequential" {
            if let Some(entry) = fields.get("maxConcurrency") {
                let fault = at.entry(entry).error("`maxConcurrency` needs `mode: parallel`");
                self.report(fault.hint("a sequential `for` runs one iteration at a time"));
            }
            return None;
        }
        if let Owner::Task { node, .. } = owner
            && let Some(condition) = node.get("while")
        {
            let hint = "iterations that run at the same time do not see each other; leave out one of both";
            let message = "a parallel `for` cannot have a `while`";
            let fault = at.error(message);
            self.report(fault.hint(format!(
                "{hint} (`while` is at {}:{})",
                condition.span.line, condition.span.column
            )));
        }
        Some(number.unwrap_or(limits::FOR_CONCURRENCY_DEFAULT))
    }

    /// The function that undoes a task.
    fn compensation(&mut self, entry: &Entry, at: &At<'_>, env: &Env<'_>) -> Option<Arc<Task>> {
        let name = self.constant(&entry.node, at, "the name of a function")?;
        self.find(Kind::Function, name, &entry.node, at)?;
        if !env.saga {
            let fault = at.error("nothing would run this compensation: no saga is around the task");
            let hint =
                "put `metadata: { millrace: { saga: true } }` on a `try` around it, or on the document";
            self.report(fault.hint(hint));
        }
        match self.function(name, &entry.node, at, env)? {
            FunctionTarget::Inline(task) => Some(task),
            FunctionTarget::Fleet(_) | FunctionTarget::Missing(_) => None,
        }
    }
}

/// True for a `try` task, or a document, whose settings make it a saga.
pub(super) fn is_saga(fields: &Fields<'_>) -> bool {
    let saga = fields
        .get("metadata")
        .and_then(|m| m.node.get(OURS))
        .and_then(|m| m.node.get("saga"));
    saga.is_some_and(|e| matches!(e.node.data, Data::Bool(true)))
}
