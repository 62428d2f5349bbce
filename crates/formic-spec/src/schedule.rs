//! What runs to an end: jobs, and when cron jobs are due.
//!
//! Time zones are those that the program was built with, not the machine's: the same manifest is due at the
//! same moments everywhere.

use std::fmt;

use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::HumanDuration;

/// The most runs that a cron job remembers.
pub const MAX_HISTORY: u32 = 100;

/// A schedule that is never due in the years that this finds is refused. Its first moment: 2026-01-01.
const PROBE: i64 = 1_767_225_600;

/// `job`: a service whose instances run to an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Job {
    /// How often it is tried again after a failure: 3.
    pub retries: u32,
    /// How long one try may take; without it, as long as it likes.
    pub deadline: Option<HumanDuration>,
}

/// `cron`: a job that is run again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cron {
    /// When.
    pub schedule: Schedule,
    /// What happens to a run that is due while another one runs: `forbid`.
    pub concurrency: Concurrency,
    /// How many ended runs are remembered: 10.
    pub history: u32,
    /// How late a run may begin, after the engine was away: 1 min. Of several that were missed only the last
    /// is made up for.
    pub catch_up: HumanDuration,
}

/// `cron.concurrency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    /// It is left out.
    #[default]
    Forbid,
    /// The running one is stopped, and it begins when that is gone.
    Replace,
    /// Both run.
    Allow,
}

/// When something is due: a cron pattern in a time zone.
///
/// Five fields (minute, hour, day, month, weekday), or six with seconds first; or `@hourly` and its like. A
/// moment that a change to summer time leaves out is moved to the first one after it where hours and minutes
/// are fixed; one that comes twice counts once. What runs at intervals just goes on.
#[derive(Clone)]
pub struct Schedule {
    pattern: String,
    zone: String,
    cron: Box<croner::Cron>,
    at: TimeZone,
}

/// A schedule is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// The pattern cannot be read.
    #[error("{0}")]
    Pattern(String),
    /// There is no such time zone.
    #[error("there is no time zone `{0}`")]
    Zone(String),
    /// It is due at no moment, such as on 31 February.
    #[error("it would never be due")]
    Never,
}

// === impl Schedule ===

impl Schedule {
    /// A pattern such as `0 3 * * *` in a zone such as `Europe/Berlin` or `UTC`.
    ///
    /// # Errors
    /// One of the two is none, or together they are never due.
    pub fn new(pattern: &str, zone: &str) -> Result<Self, InvalidSchedule> {
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(pattern).map_err(|error| InvalidSchedule::Pattern(error.to_string()))?;
        let at = TimeZoneDatabase::bundled()
            .get(zone)
            .map_err(|_| InvalidSchedule::Zone(zone.chars().take(64).collect()))?;
        let schedule = Self { pattern: pattern.into(), zone: zone.into(), cron: Box::new(cron), at };
        let probe = u64::try_from(PROBE).unwrap_or_default() * 1000;
        if schedule.next(probe).is_some() { Ok(schedule) } else { Err(InvalidSchedule::Never) }
    }

    /// The first moment after one, both in milliseconds since 1970; nothing if there is none.
    #[must_use]
    pub fn next(&self, after_unix_ms: u64) -> Option<u64> {
        let next = self.cron.find_next_occurrence(&self.zoned(after_unix_ms)?, false).ok()?;
        unix_ms(&next)
    }

    /// The last moment at or before one.
    #[must_use]
    pub fn previous(&self, unix_ms_: u64) -> Option<u64> {
        let previous = self.cron.find_previous_occurrence(&self.zoned(unix_ms_)?, true).ok()?;
        unix_ms(&previous)
    }

    /// A moment as a person in its time zone says it.
    #[must_use]
    pub fn show(&self, unix_ms_: u64) -> String {
        self.zoned(unix_ms_).map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M:%S %Z").to_string())
    }

    /// The pattern as it was given.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The name of the time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    fn zoned(&self, unix_ms: u64) -> Option<Zoned> {
        let at = Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
        Some(at.to_zoned(self.at.clone()))
    }
}

fn unix_ms(at: &Zoned) -> Option<u64> {
    u64::try_from(at.timestamp().as_millisecond()).ok()
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        (&self.pattern, &self.zone) == (&other.pattern, &other.zone)
    }
}

impl Eq for Schedule {}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pattern, self.zone)
    }
}

/// How a schedule is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    pattern: String,
    zone: String,
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written { pattern: self.pattern.clone(), zone: self.zone.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written { pattern, zone } = Written::deserialize(deserializer)?;
        Self::new(&pattern, &zone).map_err(serde::de::Error::custom)
    }
}

impl Default for Job {
    fn default() -> Self {
        Self { retries: 3, deadline: None }
    }
}

impl Cron {
    /// A schedule with the defaults for the rest.
    #[must_use]
    pub const fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            concurrency: Concurrency::Forbid,
            history: 10,
            catch_up: HumanDuration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    fn due(pattern: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::new(pattern, zone).unwrap();
        let mut now = at(from);
        let next = |_| {
            now = schedule.next(now).unwrap();
            assert_eq!(schedule.previous(now), Some(now));
            assert_eq!(schedule.previous(now + 1), Some(now));
            schedule.show(now)
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn in_the_time_of_its_zone() {
        assert_eq!(
            due("30 3 * * 1-5", "Europe/Berlin", "2026-11-20T02:30:00Z", 2),
            ["2026-11-23 03:30:00 CET", "2026-11-24 03:30:00 CET"],
            "the moment itself is not after itself; the weekend is left out"
        );
        assert_eq!(due("@daily", "UTC", "2026-02-28T12:00:00Z", 1), ["2026-03-01 00:00:00 UTC"]);
        assert_eq!(due("*/20 * * * * *", "UTC", "2026-01-01T00:00:00Z", 2)[1], "2026-01-01 00:00:40 UTC");
        assert_eq!(due("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 1), ["2028-02-29 00:00:00 UTC"]);
    }

    #[test]
    fn an_hour_that_is_left_out_moves_what_is_fixed_and_an_hour_that_comes_twice_counts_once() {
        // 2026-03-29: 02:00 is 03:00. 2026-10-25: 03:00 is 02:00 again.
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["2026-03-28 02:30:00 CET", "2026-03-29 03:00:00 CEST", "2026-03-30 02:30:00 CEST"]
        );
        assert_eq!(
            due("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25 02:30:00 CEST", "2026-10-26 02:30:00 CET"]
        );
        // What runs each half hour does so through all of it.
        let schedule = Schedule::new("*/30 * * * *", "Europe/Berlin").unwrap();
        let mut now = at("2026-10-24T22:00:00Z");
        for _ in 0..12 {
            let next = schedule.next(now).unwrap();
            assert_eq!(next - now, 30 * 60 * 1000, "{}", schedule.show(next));
            now = next;
        }
    }

    #[test]
    fn what_is_no_schedule() {
        let error = |pattern: &str, zone: &str| Schedule::new(pattern, zone).unwrap_err();
        assert_eq!(error("* * * * *", "Europe/Berlim"), InvalidSchedule::Zone("Europe/Berlim".into()));
        assert_eq!(error("0 0 31 2 *", "UTC"), InvalidSchedule::Never);
        for pattern in ["", "* * * *", "60 * * * *", "* * * * * * 2026", "@never", "a b c d e", "1/0 * * * *"]
        {
            assert!(matches!(error(pattern, "UTC"), InvalidSchedule::Pattern(_)), "{pattern}");
        }
    }

    #[test]
    fn written_and_read_again() {
        let cron = Cron::new(Schedule::new("0 3 * * *", "Asia/Tokyo").unwrap());
        let text = serde_json::to_string(&cron).unwrap();
        assert_eq!(serde_json::from_str::<Cron>(&text).unwrap(), cron);
        assert!(serde_json::from_str::<Schedule>(r#"{"pattern":"x","zone":"UTC"}"#).is_err());
    }
}
