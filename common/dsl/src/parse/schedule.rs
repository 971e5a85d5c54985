//! `schedule`, and its settings in `document.metadata.millrace.schedule`.

use millrace_common::{CatchUp, Overlap, RawJson, limits};

use super::core::Parser;
use super::env::Env;
use super::node::{At, Data, Node, excerpt};
use super::scope::{Position, Vars};
use crate::calendar::{self, Calendar, CalendarError};
use crate::duration::Duration;
use crate::expression::strip;
use crate::model::{DurationValue, Feature, Schedule, ScheduleSettings};
use crate::value;

const KEYS: [&str; 5] = ["every", "cron", "after", "on", "read"];
const SETTINGS: [&str; 5] = ["timezone", "overlap", "catchUp", "catchUpMax", "input"];
const OURS: &str = "`metadata.millrace.schedule`";

impl Parser<'_> {
    /// The document's schedule with its settings, which may not stand alone.
    pub(super) fn scheduling(&mut self, root: &Node, at: &At<'_>) -> Option<Schedule> {
        let schedule = root
            .get("schedule")
            .and_then(|e| self.schedule(&e.node, &at.entry(e)));
        let path = ["document", "metadata", "millrace", "schedule"];
        self.settings_at(root, at, &path, schedule)
    }

    /// Goes down to the settings, so that faults know the whole way, and puts them into the schedule.
    fn settings_at(
        &mut self,
        node: &Node,
        at: &At<'_>,
        path: &[&str],
        schedule: Option<Schedule>,
    ) -> Option<Schedule> {
        if let Some((key, rest)) = path.split_first() {
            return match node.get(key) {
                Some(entry) => self.settings_at(&entry.node, &at.entry(entry), rest, schedule),
                None => schedule,
            };
        }
        let settings = self.schedule_settings(node, at)?;
        let Some(mut schedule) = schedule else {
            self.report(at.error("there is no `schedule` that these settings are for"));
            return None;
        };
        if settings.timezone.is_some() && schedule.cron.is_none() {
            let at = node.get("timezone").map_or(*at, |entry| at.entry(entry));
            self.report(at.error("`timezone` only goes with `cron`"));
        }
        schedule.settings = settings;
        Some(schedule)
    }

    fn schedule(&mut self, node: &Node, at: &At<'_>) -> Option<Schedule> {
        let fields = self.fields(node, at, "`schedule`", &KEYS)?;
        if fields.is_empty() {
            self.report(
                at.error("`schedule` is empty")
                    .hint("it needs one of every, cron, after, on"),
            );
        }
        let vars = self.vars(Position::Schedule, &Env::OUTSIDE);
        if let (Some(read), None) = (fields.get("read"), fields.get("on")) {
            self.report(at.entry(read).error("`read` only goes with `on`"));
        }
        if let Some(on) = fields.get("on") {
            self.note(Feature::ScheduleOn, &at.entry(on));
        }
        Some(Schedule {
            every: fields
                .get("every")
                .and_then(|e| self.interval(&e.node, &at.entry(e), &vars)),
            cron: fields.get("cron").and_then(|e| self.cron(&e.node, &at.entry(e))),
            after: fields
                .get("after")
                .and_then(|e| self.interval(&e.node, &at.entry(e), &vars)),
            on: fields
                .get("on")
                .and_then(|e| self.consumption(&e.node, &at.entry(e), &vars, true)),
            read: fields.get("read").and_then(|e| self.read(&e.node, &at.entry(e))),
            settings: ScheduleSettings::default(),
        })
    }

    /// `every` and `after`. An expression would be evaluated before there is an instance to read from.
    fn interval(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<DurationValue> {
        let duration = self.duration(node, at, vars)?;
        match duration {
            DurationValue::Fixed(Duration(ms)) if ms < limits::SCHEDULE_PERIOD_MS_MIN => {
                let message = format!("`{}` must be longer: 1 s is the shortest", at.name());
                self.report(at.error_in(node, message));
            }
            DurationValue::Fixed(_) => {}
            DurationValue::Computed(_) => self.note(Feature::ScheduleExpression, &at.on(node)),
        }
        Some(duration)
    }

    fn cron(&mut self, node: &Node, at: &At<'_>) -> Option<String> {
        let text = self.constant(node, at, "a cron expression")?;
        match Calendar::parse(text, calendar::UTC) {
            Ok(_) => Some(text.to_owned()),
            Err(error) => {
                let hint = match error {
                    CalendarError::Never(_) => "look at day and month",
                    CalendarError::Cron(..) | CalendarError::Zone(_) => {
                        "write five fields: minute hour day month weekday"
                    }
                };
                self.report(at.error_in(node, error.to_string()).hint(hint));
                None
            }
        }
    }

    fn schedule_settings(&mut self, node: &Node, at: &At<'_>) -> Option<ScheduleSettings> {
        let fields = self.fields(node, at, OURS, &SETTINGS)?;
        let mut settings = ScheduleSettings::default();
        if let Some(entry) = fields.get("timezone") {
            settings.timezone = self.timezone(&entry.node, &at.entry(entry));
        }
        if let Some(entry) = fields.get("overlap") {
            let word = self.word(&entry.node, &at.entry(entry), &Overlap::NAMES);
            settings.overlap = pick(word, &Overlap::NAMES, &Overlap::ALL);
        }
        if let Some(entry) = fields.get("catchUp") {
            let word = self.word(&entry.node, &at.entry(entry), &CatchUp::NAMES);
            settings.catch_up = pick(word, &CatchUp::NAMES, &CatchUp::ALL_OF_THEM);
        }
        if let Some(entry) = fields.get("catchUpMax") {
            let at = at.entry(entry);
            let max = self.integer(&entry.node, &at, 1, i64::from(limits::SCHEDULE_CATCH_UP_MAX));
            settings.catch_up_max = max.and_then(|n| u32::try_from(n).ok());
            if settings.catch_up != CatchUp::All {
                self.report(at.error("`catchUpMax` only goes with `catchUp: all`"));
            }
        }
        if let Some(entry) = fields.get("input") {
            settings.input = self.scheduled_input(&entry.node, &at.entry(entry));
        }
        Some(settings)
    }

    fn timezone(&mut self, node: &Node, at: &At<'_>) -> Option<String> {
        let name = self.constant(node, at, "the name of a time zone")?;
        if calendar::is_zone(name) {
            return Some(name.to_owned());
        }
        let hint = match calendar::zone_like(name) {
            Some(like) => format!("did you mean `{like}`?"),
            None => "write a name of the time zone database, such as `Europe/Vienna`".into(),
        };
        let message = format!("`{}` is not a time zone", excerpt(name));
        self.report(at.error_in(node, message).hint(hint));
        None
    }

    /// Data as it is: there is nothing yet that an expression could read.
    fn scheduled_input(&mut self, node: &Node, at: &At<'_>) -> Option<RawJson> {
        if is_expression_within(node) {
            let fault = at.error_in(node, "expressions are not evaluated in the input of a schedule");
            self.report(fault.hint("write data, or compute with `input.from`"));
            return None;
        }
        let input = value::to_raw(&node.value);
        let max = limits::SCHEDULE_INPUT_BYTES_MAX;
        if input.len() > max {
            let message = format!("the input has {} bytes, at most {max} are allowed", input.len());
            self.report(at.error_in(node, message));
            return None;
        }
        Some(input)
    }
}

/// The value at the place of a word.
fn pick<T: Copy + Default>(word: Option<&'static str>, names: &[&str], values: &[T]) -> T {
    let place = word.and_then(|word| names.iter().position(|name| *name == word));
    place
        .and_then(|place| values.get(place))
        .copied()
        .unwrap_or_default()
}

fn is_expression_within(node: &Node) -> bool {
    match &node.data {
        Data::Text(_) => node.text().is_some_and(|text| strip(text).is_some()),
        Data::Array(items) => items.iter().any(is_expression_within),
        Data::Object(entries) => entries.iter().any(|e| is_expression_within(&e.node)),
        Data::Null | Data::Bool(_) | Data::Number => false,
    }
}
