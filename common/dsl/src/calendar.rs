//! When a cron expression is due in a time zone. Zones come from the database that is built in, never from the machine,
//! so that every coordinator computes the same times.
//!
//! Where a clock jumps: an expression with one time of day (`30 2 * * *`) whose time is skipped is due at the first
//! moment after the gap, and once when its time comes twice; an expression that repeats within the day (`*/15 * * * *`)
//! keeps its rhythm, so it is due in both halves of a repeated hour and not within a gap.

use croner::parser::{CronParser, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

/// Zone of schedules that name none.
pub const UTC: &str = "UTC";

/// Why a text is no calendar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The text is not a cron expression; why.
    #[error("`{0}` is not a cron expression: {1}")]
    Cron(String, String),
    /// It is one, but no day matches it.
    #[error("`{0}` never comes: no date matches it")]
    Never(String),
    /// The database knows no such zone.
    #[error("`{0}` is not a time zone")]
    Zone(String),
}

/// A cron expression of five fields (minute, hour, day, month, weekday) or six (seconds first) in a time zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    cron: croner::Cron,
    zone: TimeZone,
}

impl Calendar {
    /// Reads both.
    ///
    /// # Errors
    /// [`CalendarError`].
    pub fn parse(cron: &str, zone: &str) -> Result<Self, CalendarError> {
        let zone = time_zone(zone)?;
        let parsed = CronParser::builder().year(Year::Disallowed).build().parse(cron);
        let calendar = Self {
            cron: parsed.map_err(|e| CalendarError::Cron(cron.into(), reason(&e.to_string())))?,
            zone,
        };
        match calendar.after(0) {
            Some(_) => Ok(calendar),
            None => Err(CalendarError::Never(cron.into())),
        }
    }

    /// The first due time after a moment; both in Unix ms. `None` beyond the end of the calendar.
    pub fn after(&self, ms: i64) -> Option<i64> {
        let found = self.cron.find_next_occurrence(&self.at(ms)?, false).ok()?;
        Some(found.timestamp().as_millisecond()).filter(|found| *found > ms)
    }

    /// The last due time at or before a moment; both in Unix ms.
    pub fn last(&self, ms: i64) -> Option<i64> {
        let found = self.cron.find_previous_occurrence(&self.at(ms)?, true).ok()?;
        Some(found.timestamp().as_millisecond()).filter(|found| *found <= ms)
    }

    fn at(&self, ms: i64) -> Option<Zoned> {
        let moment = Timestamp::from_millisecond(ms).ok()?;
        Some(moment.to_zoned(self.zone.clone()))
    }
}

/// A moment as people write it, RFC 3339 with an offset or `Z`, in Unix ms.
pub fn moment(text: &str) -> Option<i64> {
    Some(text.parse::<Timestamp>().ok()?.as_millisecond())
}

/// Whether the database knows a zone, such as `Europe/Vienna`.
pub fn is_zone(name: &str) -> bool {
    time_zone(name).is_ok()
}

/// The zone that was probably meant, for hints: the same name in other letters, or the one with this city.
pub fn zone_like(name: &str) -> Option<String> {
    let wanted = name.to_lowercase().replace(' ', "_");
    let bundled = TimeZoneDatabase::bundled();
    bundled
        .available()
        .map(|known| known.as_str().to_owned())
        .find(|known| {
            let known = known.to_lowercase();
            known == wanted || known.rsplit('/').next() == Some(&wanted)
        })
}

fn time_zone(name: &str) -> Result<TimeZone, CalendarError> {
    let unknown = || CalendarError::Zone(name.into());
    let zone = TimeZoneDatabase::bundled().get(name).ok().ok_or_else(unknown)?;
    // The database does not mind case; we do, so that a name is spelled one way everywhere.
    match zone.iana_name() == Some(name) {
        true => Ok(zone),
        false => Err(unknown()),
    }
}

/// The crate's reason in our voice: lower case, without its own prefix and full stop.
fn reason(text: &str) -> String {
    let text = text.to_lowercase();
    let text = text.rsplit(": ").next().unwrap_or_default();
    let text = text.trim_end_matches('.');
    text.trim_end_matches(" when years are disallowed").to_owned()
}
