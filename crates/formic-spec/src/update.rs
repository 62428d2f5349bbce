//! How a service changes from one revision to the next, and what one service waits for in another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::HumanDuration;

/// `update`: how instances of a new revision take the place of the old ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Update {
    /// A few at a time, or all at once: `rolling`.
    pub strategy: Strategy,
    /// How many instances there may be beyond the wanted ones: 25 %, at least 1. A quarter costs little
    /// memory and is through in four steps.
    pub surge: Share,
    /// How many of the wanted instances may be missing meanwhile: 0, no capacity is lost.
    pub unavailable: Share,
    /// How long an instance must have been ready before it counts: 10 s, in which most that crash under
    /// their first calls have crashed.
    pub min_ready: HumanDuration,
    /// How long it may take until the next instance is ready: 5 min.
    pub progress_deadline: HumanDuration,
    /// How long old instances are kept running without calls, for a way back: 60 s.
    pub keep_old: HumanDuration,
}

/// `update.strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// A few instances at a time.
    #[default]
    Rolling,
    /// All new instances beside all old ones, then every call to the new ones at once.
    BlueGreen,
}

/// A number of instances, `2`, or a part of the wanted ones, `"25%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many in a hundred.
    Percent(u32),
}

/// A text is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is neither a number nor a part from 0% to 100%")]
pub struct InvalidShare;

/// What a service must have come to before another that depends on it is first started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// An instance of it runs.
    Started,
    /// An instance of it is ready.
    #[default]
    Healthy,
    /// It has run to its end, with success.
    Completed,
}

/// `restart.dependents`: what a restart of a service means for the services that depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependents {
    /// Nothing: they call again.
    #[default]
    None,
    /// They are restarted after it, for those that cannot go on with a new one.
    Rest,
}

// === impl Update ===

impl Default for Update {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rolling,
            surge: Share::Percent(25),
            unavailable: Share::Count(0),
            min_ready: HumanDuration::from_secs(10),
            progress_deadline: HumanDuration::from_secs(300),
            keep_old: HumanDuration::from_secs(60),
        }
    }
}

impl Update {
    /// How many instances there may be beyond `replicas`. A part is rounded up; there is always a way
    /// forward, so at least one where none may be missing.
    #[must_use]
    pub fn surge(&self, replicas: u32) -> u32 {
        match self.strategy {
            Strategy::BlueGreen => replicas,
            Strategy::Rolling => {
                let least = u32::from(self.unavailable(replicas) == 0);
                self.surge.up(replicas).max(least)
            }
        }
    }

    /// How many of `replicas` may be missing. A part is rounded down.
    #[must_use]
    pub fn unavailable(&self, replicas: u32) -> u32 {
        match self.strategy {
            Strategy::BlueGreen => 0,
            Strategy::Rolling => self.unavailable.down(replicas).min(replicas),
        }
    }
}

// === impl Share ===

impl Share {
    /// Rounded up.
    #[must_use]
    pub fn up(self, of: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => part(u64::from(of) * u64::from(percent) + 99),
        }
    }

    /// Rounded down.
    #[must_use]
    pub fn down(self, of: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => part(u64::from(of) * u64::from(percent)),
        }
    }
}

fn part(hundredths: u64) -> u32 {
    u32::try_from(hundredths / 100).unwrap_or(u32::MAX)
}

impl FromStr for Share {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        let number = |text: &str| -> Result<u32, InvalidShare> {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or(InvalidShare)
        };
        match text.strip_suffix('%') {
            Some(percent) => number(percent.trim_end())
                .and_then(|n| if n <= 100 { Ok(Self::Percent(n)) } else { Err(InvalidShare) }),
            None => number(text).map(Self::Count),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Started => "started",
            Self::Healthy => "healthy",
            Self::Completed => "completed",
        })
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rolling => "rolling",
            Self::BlueGreen => "blue-green",
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_quarter_is_rounded_up_and_is_never_nothing() {
        let update = Update::default();
        let surge: Vec<u32> = [0, 1, 2, 4, 5, 8, 9, 100].map(|n| update.surge(n)).into();
        assert_eq!(surge, [1, 1, 1, 1, 2, 2, 3, 25]);
        assert_eq!(update.unavailable(100), 0);
        let none = Update { surge: Share::Count(0), ..Update::default() };
        assert_eq!(none.surge(4), 1, "else nothing could ever change");
        let other = Update { surge: Share::Count(0), unavailable: Share::Percent(30), ..Update::default() };
        assert_eq!((other.surge(4), other.unavailable(4)), (0, 1));
        // Rounded down to nothing: then one more is needed after all.
        assert_eq!((other.surge(3), other.unavailable(3)), (1, 0));
        let all = Update { strategy: Strategy::BlueGreen, ..Update::default() };
        assert_eq!((all.surge(4), all.unavailable(4)), (4, 0));
    }

    #[test]
    fn shares_as_text() {
        for (text, share) in
            [("2", Share::Count(2)), ("25%", Share::Percent(25)), ("100%", Share::Percent(100))]
        {
            assert_eq!(text.parse(), Ok(share));
            assert_eq!(share.to_string(), text);
            let json = serde_json::to_string(&share).unwrap();
            assert_eq!(serde_json::from_str::<Share>(&json).unwrap(), share);
        }
        for text in ["", "%", "-1", "+1", "101%", "a", "1.5", "99999999999"] {
            assert_eq!(text.parse::<Share>(), Err(InvalidShare), "{text}");
        }
    }
}
