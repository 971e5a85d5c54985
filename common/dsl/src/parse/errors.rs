//! `raise`, `try` with `catch`, and retry policies.

use millrace_common::limits;

use super::core::{Fields, Parser};
use super::env::Env;
use super::node::{At, Node};
use super::scope::{Locals, Position, Vars};
use super::settings::is_saga;
use super::uses::Kind;
use crate::duration::Duration;
use crate::model::{Backoff, Catch, DurationValue, ErrorFilter, ErrorTemplate, Retry, Try};

const ERROR_KEYS: [&str; 5] = ["type", "status", "instance", "title", "detail"];
const FILTER_KEYS: [&str; 6] = ["type", "status", "instance", "title", "detail", "details"];
const CATCH_KEYS: [&str; 7] = ["errors", "as", "when", "exceptWhen", "retry", "do", "then"];
const RETRY_KEYS: [&str; 6] = ["when", "exceptWhen", "delay", "backoff", "jitter", "limit"];
const BACKOFFS: [&str; 3] = ["constant", "linear", "exponential"];

impl Parser<'_> {
    pub(super) fn raise(
        &mut self,
        node: &Node,
        task: &Fields<'_>,
        at: &At<'_>,
        vars: &Vars,
    ) -> Option<ErrorTemplate> {
        if let Some(then) = task.get("then") {
            let pointer = at.sibling(then);
            let message = "`then` of a `raise` task has no effect";
            self.report(pointer.warning(message).hint("the error leaves the list"));
        }
        let fields = self.fields(node, at, "`raise`", &["error"])?;
        let error = self.required(&fields, at, "`raise`", "error")?;
        self.named_or(Kind::Error, &error.node, &at.entry(error), |p, node, at| {
            p.error_template(node, at, vars)
        })
    }

    pub(super) fn error_template(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<ErrorTemplate> {
        let fields = self.fields(node, at, "an error", &ERROR_KEYS)?;
        let kind = self.required(&fields, at, "an error", "type").map(|e| {
            self.check_uri(&e.node, &at.entry(e));
            self.text_template(&e.node, &at.entry(e), vars, true)
        });
        let status = self
            .required(&fields, at, "an error", "status")
            .and_then(|e| self.status(&e.node, &at.entry(e)));
        let mut text = |key: &str| {
            let entry = fields.get(key)?;
            Some(self.text_template(&entry.node, &at.entry(entry), vars, true))
        };
        let (title, detail, instance) = (text("title"), text("detail"), text("instance"));
        Some(ErrorTemplate {
            kind: kind?,
            status: status?,
            title,
            detail,
            instance,
        })
    }

    fn status(&mut self, node: &Node, at: &At<'_>) -> Option<u16> {
        if node.text().is_some() {
            let hint =
                "it must be known when the definition is deployed; raise different errors in a `switch`";
            self.expected_hint("an integer from 100 to 999", node, at, hint);
            return None;
        }
        u16::try_from(self.integer(node, at, 100, 999)?).ok()
    }

    pub(super) fn try_task(
        &mut self,
        node: &Node,
        task: &Fields<'_>,
        at: &At<'_>,
        env: &Env<'_>,
    ) -> Option<Try> {
        let attempt = at.entry(task.get("try")?);
        let inside = Env {
            saga: env.saga || is_saga(task),
            ..*env
        };
        let body = self.tasks(node, &attempt, &inside);
        if node.items().is_some_and(<[Node]>::is_empty) {
            self.report(attempt.warning("`try` has no task"));
        }
        let catch = self.required(task, at, "a `try` task", "catch")?;
        let catch = self.catch(&catch.node, &at.entry(catch), env)?;
        Some(Try { body, catch })
    }

    fn catch(&mut self, node: &Node, at: &At<'_>, env: &Env<'_>) -> Option<Catch> {
        let fields = self.fields(node, at, "`catch`", &CATCH_KEYS)?;
        let filter = fields.get("errors").map(|e| self.filter(&e.node, &at.entry(e)));
        let variable = fields
            .get("as")
            .and_then(|e| self.variable(&e.node, &at.entry(e), env))
            .unwrap_or("error");
        let names = [variable];
        let locals = Locals {
            outer: env.locals,
            names: &names,
        };
        let own = Env {
            locals: Some(&locals),
            ..*env
        };
        let vars = self.vars(Position::Definition, &own);
        let when = fields
            .get("when")
            .map(|e| self.expression(&e.node, &at.entry(e), &vars));
        let except = fields
            .get("exceptWhen")
            .map(|e| self.expression(&e.node, &at.entry(e), &vars));
        let retry = fields.get("retry").map(|e| {
            self.named_or(Kind::Retry, &e.node, &at.entry(e), |p, node, at| {
                p.retry_policy(node, at, &own)
            })
        });
        let handler = fields
            .get("do")
            .map(|e| self.tasks_with(&e.node, &at.entry(e), env, &names));
        let then = fields.get("then").map(|e| self.flow(&e.node, &at.entry(e), env));
        Some(Catch {
            filter: filter.flatten().unwrap_or_default(),
            variable: variable.to_owned(),
            when: when.flatten(),
            except_when: except.flatten(),
            retry: retry.flatten(),
            handler,
            then: then.flatten(),
        })
    }

    fn filter(&mut self, node: &Node, at: &At<'_>) -> Option<ErrorFilter> {
        let fields = self.fields(node, at, "`errors`", &["with"])?;
        let with = fields.get("with")?;
        let at = at.entry(with);
        let fields = self.fields(&with.node, &at, "`with`", &FILTER_KEYS)?;
        if fields.is_empty() {
            self.report(
                at.error("`with` names no member of the error")
                    .hint("leave it out to catch all errors"),
            );
        }
        if let (Some(_), Some(both)) = (fields.get("detail"), fields.get("details")) {
            self.report(
                at.entry(both)
                    .error("`details` repeats `detail`")
                    .hint("keep `detail`"),
            );
        }
        let status = fields
            .get("status")
            .and_then(|e| self.integer(&e.node, &at.entry(e), 100, 999));
        let mut text = |key: &str| {
            let entry = fields.get(key)?;
            self.filter_text(&entry.node, &at.entry(entry))
        };
        Some(ErrorFilter {
            kind: text("type"),
            status: status.and_then(|s| u16::try_from(s).ok()),
            instance: text("instance"),
            title: text("title"),
            detail: text("detail").or_else(|| text("details")),
        })
    }

    fn filter_text(&mut self, node: &Node, at: &At<'_>) -> Option<String> {
        let text = self.text(node, at, "a text")?;
        if crate::expression::strip(text).is_some() {
            let message = "`errors.with` compares with constants, this expression is not evaluated";
            self.report(
                at.warning_in(node, message)
                    .hint("write the condition in `catch.when`"),
            );
        }
        Some(text.to_owned())
    }

    /// A retry policy. `env` has the variable of the error.
    pub(super) fn retry_policy(&mut self, node: &Node, at: &At<'_>, env: &Env<'_>) -> Option<Retry> {
        let fields = self.fields(node, at, "a retry policy", &RETRY_KEYS)?;
        let vars = self.vars(Position::Definition, env);
        let when = fields
            .get("when")
            .map(|e| self.expression(&e.node, &at.entry(e), &vars));
        let except = fields
            .get("exceptWhen")
            .map(|e| self.expression(&e.node, &at.entry(e), &vars));
        let mut retry = Retry {
            when: when.flatten(),
            except_when: except.flatten(),
            ..Retry::default()
        };
        retry.delay = fields
            .get("delay")
            .and_then(|e| self.duration(&e.node, &at.entry(e), &vars));
        if let Some(entry) = fields.get("backoff") {
            retry.backoff = self
                .backoff(&entry.node, &at.entry(entry), &vars)
                .unwrap_or_default();
        }
        retry.jitter = fields
            .get("jitter")
            .and_then(|e| self.jitter(&e.node, &at.entry(e), &vars));
        if let Some(entry) = fields.get("limit") {
            self.retry_limit(&entry.node, &at.entry(entry), &vars, &mut retry);
        }
        if !fields.has("limit") {
            let fault = at.warning("the retry policy has no limit");
            let hint = format!(
                "after {} retries the error is raised; set `limit.attempt.count` or `limit.duration`",
                limits::RETRY_ATTEMPTS_MAX
            );
            self.report(fault.hint(hint));
        }
        Some(retry)
    }

    fn jitter(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<(DurationValue, DurationValue)> {
        let fields = self.fields(node, at, "`jitter`", &["from", "to"])?;
        let mut bound = |key| {
            let entry = self.required(&fields, at, "`jitter`", key)?;
            self.duration(&entry.node, &at.entry(entry), vars)
        };
        let (from, to) = (bound("from"), bound("to"));
        if let (Some(DurationValue::Fixed(from)), Some(DurationValue::Fixed(to))) = (&from, &to)
            && from > to
        {
            self.report(
                at.error("`jitter` ends before it starts")
                    .hint("`from` is the smaller duration"),
            );
        }
        Some((from?, to?))
    }

    fn retry_limit(&mut self, node: &Node, at: &At<'_>, vars: &Vars, retry: &mut Retry) {
        let Some(fields) = self.fields(node, at, "`limit`", &["attempt", "duration"]) else {
            return;
        };
        retry.total = fields
            .get("duration")
            .and_then(|e| self.duration(&e.node, &at.entry(e), vars));
        let Some(attempt) = fields.get("attempt") else {
            return;
        };
        let at = at.entry(attempt);
        let Some(fields) = self.fields(&attempt.node, &at, "`attempt`", &["count", "duration"]) else {
            return;
        };
        if let Some(entry) = fields.get("count") {
            let count = self.integer(&entry.node, &at.entry(entry), 0, i64::from(u32::MAX));
            retry.count = count.and_then(|n| u32::try_from(n).ok());
        }
        retry.attempt_timeout = fields
            .get("duration")
            .and_then(|e| self.duration(&e.node, &at.entry(e), vars));
    }

    fn backoff(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Backoff> {
        let fields = self.fields(node, at, "`backoff`", &BACKOFFS)?;
        let entry = self.exactly_one(&fields, at, "`backoff`", &BACKOFFS)?;
        let at = at.entry(entry);
        if entry.node.entries().is_none() {
            let hint = format!("write `{}: {{}}`", entry.key);
            self.expected_hint("an object", &entry.node, &at, &hint);
            return None;
        }
        match entry.key.as_str() {
            "constant" => Some(Backoff::Constant),
            "linear" => Some(Backoff::Linear),
            _ => self.exponential(&entry.node, &at, vars),
        }
    }

    /// The language leaves the object open; `factor` and `maxDelay` are what we read.
    fn exponential(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Backoff> {
        let fields = self.fields(node, at, "`exponential`", &["factor", "maxDelay"])?;
        if let Some(first) = node.entries().and_then(<[_]>::first) {
            let what = format!("`{}` of `exponential`", first.key);
            self.extra(
                what,
                "other runtimes double the delay, without a cap",
                &at.entry(first),
            );
        }
        let mut factor = 2.0;
        if let Some(entry) = fields.get("factor") {
            factor = self.factor(&entry.node, &at.entry(entry))?;
        }
        let max_delay = match fields.get("maxDelay") {
            Some(entry) => Some(self.fixed_duration(&entry.node, &at.entry(entry), vars)?),
            None => None,
        };
        Some(Backoff::Exponential { factor, max_delay })
    }

    fn factor(&mut self, node: &Node, at: &At<'_>) -> Option<f64> {
        let number = match &node.value {
            crate::Value::Num(n) => n.to_string().parse::<f64>().ok(),
            _ => None,
        };
        let factor = number.filter(|f| (1.0..=1000.0).contains(f));
        if factor.is_none() {
            self.expected("a number from 1 to 1000", node, at);
        }
        factor
    }

    fn fixed_duration(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Duration> {
        match self.duration(node, at, vars)? {
            DurationValue::Fixed(duration) => Some(duration),
            DurationValue::Computed(_) => {
                self.report(at.error_in(node, "expected a duration, found an expression"));
                None
            }
        }
    }

    /// The only one of some keys that is there.
    pub(super) fn exactly_one<'n>(
        &mut self,
        fields: &Fields<'n>,
        at: &At<'_>,
        what: &str,
        keys: &[&'static str],
    ) -> Option<&'n super::node::Entry> {
        let mut found = keys.iter().filter_map(|k| fields.get(k));
        match (found.next(), found.next()) {
            (Some(entry), None) => Some(entry),
            (Some(first), Some(second)) => {
                let (first, second) = if first.span <= second.span {
                    (first, second)
                } else {
                    (second, first)
                };
                let message = format!("{what} has both `{}` and `{}`", first.key, second.key);
                self.report(at.entry(second).error(message).hint("keep one of them"));
                None
            }
            (None, _) => {
                if !fields.has_unknown() {
                    self.report(at.error(format!("{what} needs one of {}", keys.join(", "))));
                }
                None
            }
        }
    }
}
