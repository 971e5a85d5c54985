//! When cron expressions are due: fields, ends of months, time zones, and the days on which a clock jumps.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use millrace_dsl::calendar::{Calendar, CalendarError, UTC, is_zone, zone_like};

/// Unix ms of an RFC 3339 text.
fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn text(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

/// The next due times after a moment.
fn due(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let calendar = Calendar::parse(cron, zone).unwrap();
    let mut at = ms(after);
    std::iter::repeat_with(|| {
        at = calendar.after(at).unwrap();
        text(at)
    })
    .take(count)
    .collect()
}

#[test]
fn five_and_six_fields() {
    for (cron, after, expected) in [
        (
            "* * * * *",
            "2026-11-24T10:40:00Z",
            ["2026-11-24T10:41:00Z", "2026-11-24T10:42:00Z"],
        ),
        (
            "*/15 * * * *",
            "2026-11-24T10:40:00.5Z",
            ["2026-11-24T10:45:00Z", "2026-11-24T11:00:00Z"],
        ),
        (
            "0 9 * * MON-FRI",
            "2026-11-27T09:00:00Z",
            ["2026-11-30T09:00:00Z", "2026-12-01T09:00:00Z"],
        ),
        (
            "*/20 * * * * *",
            "2026-11-24T10:40:00Z",
            ["2026-11-24T10:40:20Z", "2026-11-24T10:40:40Z"],
        ),
        (
            "5 0 0 1 1 *",
            "2026-11-24T10:40:00Z",
            ["2027-01-01T00:00:05Z", "2028-01-01T00:00:05Z"],
        ),
        (
            "0 0 * * 0",
            "2026-11-24T10:40:00Z",
            ["2026-11-29T00:00:00Z", "2026-12-06T00:00:00Z"],
        ),
        (
            "0 0 * * 7",
            "2026-11-24T10:40:00Z",
            ["2026-11-29T00:00:00Z", "2026-12-06T00:00:00Z"],
        ),
    ] {
        assert_eq!(due(cron, UTC, after, 2), expected, "{cron}");
    }
}

#[test]
fn a_moment_just_before_a_second_is_not_that_second() {
    let calendar = Calendar::parse("* * * * *", UTC).unwrap();
    let at = ms("2026-11-24T10:41:00Z");
    assert_eq!(calendar.after(at - 1), Some(at));
    assert_eq!(calendar.after(at), Some(at + 60_000));
    assert_eq!(
        (calendar.last(at), calendar.last(at - 1)),
        (Some(at), Some(at - 60_000))
    );
    assert_eq!(calendar.last(at + 59_999), Some(at));
}

#[test]
fn ends_of_months() {
    for (cron, after, expected) in [
        (
            "0 0 31 * *",
            "2026-01-31T00:00:00Z",
            ["2026-03-31T00:00:00Z", "2026-05-31T00:00:00Z"],
        ),
        (
            "0 0 29 2 *",
            "2026-01-01T00:00:00Z",
            ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
        ),
        (
            "0 0 L * *",
            "2028-01-31T00:00:00Z",
            ["2028-02-29T00:00:00Z", "2028-03-31T00:00:00Z"],
        ),
        (
            "0 12 28-31 * *",
            "2026-02-27T12:00:00Z",
            ["2026-02-28T12:00:00Z", "2026-03-28T12:00:00Z"],
        ),
        (
            "0 0 * * FRI#2",
            "2026-11-01T00:00:00Z",
            ["2026-11-13T00:00:00Z", "2026-12-11T00:00:00Z"],
        ),
    ] {
        assert_eq!(due(cron, UTC, after, 2), expected, "{cron}");
    }
}

#[test]
fn zones_shift_the_day() {
    let cases = [
        (
            "0 0 * * *",
            "Europe/Vienna",
            "2026-11-24T10:40:00Z",
            "2026-11-24T23:00:00Z",
        ),
        (
            "0 0 * * *",
            "America/New_York",
            "2026-11-24T10:40:00Z",
            "2026-11-25T05:00:00Z",
        ),
        (
            "0 9 * * *",
            "Asia/Kolkata",
            "2026-11-24T10:40:00Z",
            "2026-11-25T03:30:00Z",
        ),
        (
            "0 0 1 * *",
            "Pacific/Kiritimati",
            "2026-11-24T10:40:00Z",
            "2026-11-30T10:00:00Z",
        ),
    ];
    for (cron, zone, after, expected) in cases {
        assert_eq!(due(cron, zone, after, 1), [expected], "{cron} in {zone}");
    }
}

#[test]
fn a_skipped_time_of_day_comes_at_the_end_of_the_gap() {
    // In Vienna the clock goes from 02:00 to 03:00 on 2026-03-29, at 01:00 UTC.
    assert_eq!(
        due("30 2 * * *", "Europe/Vienna", "2026-03-28T01:30:00Z", 2),
        ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
    );
}

#[test]
fn a_repeated_time_of_day_comes_once() {
    // In Vienna the clock goes from 03:00 back to 02:00 on 2026-10-25, at 01:00 UTC.
    assert_eq!(
        due("30 2 * * *", "Europe/Vienna", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
    );
}

#[test]
fn what_repeats_within_the_day_keeps_its_rhythm_over_a_jump() {
    assert_eq!(
        due("*/30 * * * *", "Europe/Vienna", "2026-03-29T00:00:00Z", 4),
        [
            "2026-03-29T00:30:00Z",
            "2026-03-29T01:00:00Z",
            "2026-03-29T01:30:00Z",
            "2026-03-29T02:00:00Z"
        ]
    );
    assert_eq!(
        due("*/30 * * * *", "Europe/Vienna", "2026-10-25T00:00:00Z", 4),
        [
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:00:00Z"
        ]
    );
}

#[test]
fn looking_back_finds_what_looking_ahead_found() {
    for (cron, zone, from) in [
        ("30 2 * * *", "Europe/Vienna", "2026-03-25T00:00:00Z"),
        ("30 2 * * *", "Europe/Vienna", "2026-10-22T00:00:00Z"),
        ("*/30 * * * *", "Europe/Vienna", "2026-10-25T00:00:00Z"),
        ("0 0 31 * *", "America/New_York", "2026-01-01T00:00:00Z"),
    ] {
        let calendar = Calendar::parse(cron, zone).unwrap();
        let mut at = ms(from);
        for _ in 0..8 {
            at = calendar.after(at).unwrap();
            assert_eq!(calendar.last(at).map(text), Some(text(at)), "{cron} in {zone}");
        }
    }
}

#[test]
fn what_is_no_calendar_says_why() {
    let refused = |cron: &str, zone: &str| Calendar::parse(cron, zone).unwrap_err();
    assert!(matches!(refused("* * *", UTC), CalendarError::Cron(..)));
    assert!(matches!(refused("61 * * * *", UTC), CalendarError::Cron(..)));
    assert!(matches!(refused("0 0 1 1 * 2030", UTC), CalendarError::Cron(..)));
    assert_eq!(
        refused("0 0 30 2 *", UTC).to_string(),
        "`0 0 30 2 *` never comes: no date matches it"
    );
    assert_eq!(
        refused("* * * * *", "Vienna").to_string(),
        "`Vienna` is not a time zone"
    );
}

#[test]
fn zones_are_spelled_one_way() {
    assert!(is_zone("Europe/Vienna") && is_zone("UTC") && is_zone("America/Argentina/Buenos_Aires"));
    assert!(!is_zone("europe/vienna") && !is_zone("CEST") && !is_zone(""));
    assert_eq!(zone_like("europe/vienna").as_deref(), Some("Europe/Vienna"));
    assert_eq!(zone_like("New York").as_deref(), Some("America/New_York"));
    assert_eq!(zone_like("nowhere"), None);
}

#[test]
fn a_pattern_that_never_comes_is_found_out_quickly() {
    let started = std::time::Instant::now();
    assert!(Calendar::parse("* * * 30 2 *", UTC).is_err());
    assert!(started.elapsed().as_millis() < 2_000, "{:?}", started.elapsed());
}
