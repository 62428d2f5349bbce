//! Durations and sizes as people write them: `"250ms"`, `"1m30s"`, `"256MiB"`.
//!
//! Bare numbers are refused: thirty of what? Whole milliseconds and whole bytes only, so that what is
//! shown is what was meant and a value printed and read again is the same value.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longer than any sensible timeout, and far from any overflow.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

const TIMES: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A length of time in whole milliseconds, written `"250ms"`, `"1.5s"`, `"1m30s"`, `"2h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HumanDuration(Duration);

/// A number of bytes, written `"512B"`, `"64KiB"`, `"256MiB"`, `"1.5GiB"`, `"10MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// Why a text is no duration or no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// Nothing, or nothing but a number.
    #[error("has no unit")]
    NoUnit,
    /// No number before a unit.
    #[error("has no number")]
    NoNumber,
    /// A unit that is not known.
    #[error("has the unknown unit `{0}`")]
    UnknownUnit(String),
    /// More than a year, or more than 2⁶⁴ bytes.
    #[error("is too large")]
    TooLarge,
    /// A fraction of a millisecond or of a byte.
    #[error("is finer than {0}")]
    TooFine(&'static str),
}

// === impl HumanDuration ===

impl HumanDuration {
    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// The standard library's type.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Deref for HumanDuration {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl From<Duration> for HumanDuration {
    /// Rounds down to whole milliseconds.
    fn from(duration: Duration) -> Self {
        Self::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl HumanDuration {
    /// A time that has passed or is left, for people: in whole seconds from the first one on, as nobody wants to read
    /// `3m12s417ms`.
    #[must_use]
    pub fn rough(duration: Duration) -> Self {
        if duration < Duration::from_secs(1) { duration.into() } else { Self::from_secs(duration.as_secs()) }
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let mut rest = text.trim();
        let mut total = 0u64;
        if rest.is_empty() {
            return Err(InvalidUnit::NoUnit);
        }
        while !rest.is_empty() {
            let (millis, after) = quantity(rest, TIMES, "a millisecond")?;
            total = total.checked_add(millis).ok_or(InvalidUnit::TooLarge)?;
            rest = after;
        }
        let duration = Duration::from_millis(total);
        if duration > LONGEST {
            return Err(InvalidUnit::TooLarge);
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.millis();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in TIMES.iter().rev() {
            if left >= *millis {
                write!(f, "{}{unit}", left / millis)?;
                left %= millis;
            }
        }
        Ok(())
    }
}

// === impl ByteSize ===

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidUnit::NoUnit);
        }
        match quantity(text, SIZES, "a byte")? {
            (bytes, "") => Ok(Self(bytes)),
            (_, after) => Err(InvalidUnit::UnknownUnit(after.chars().take(16).collect())),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = SIZES.iter().rev().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes));
        let (unit, bytes) = binary.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

/// Reads one number and its unit, exactly, in the smallest unit; gives what follows them.
fn quantity<'t>(
    text: &'t str,
    units: &[(&str, u64)],
    finest: &'static str,
) -> Result<(u64, &'t str), InvalidUnit> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(digits);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len())),
        None => ("", rest),
    };
    if whole.is_empty() {
        return Err(InvalidUnit::NoNumber);
    }
    let rest = rest.trim_start_matches(' ');
    let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(letters);
    if unit.is_empty() {
        return Err(InvalidUnit::NoUnit);
    }
    let (_, scale) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| InvalidUnit::UnknownUnit(unit.chars().take(16).collect()))?;
    let whole: u128 = whole.parse().map_err(|_| InvalidUnit::TooLarge)?;
    let fraction = fraction.trim_end_matches('0');
    // Twelve places are finer than any unit; more cannot come out whole.
    let places = u32::try_from(fraction.len()).ok().filter(|n| *n <= 12);
    let ten = 10u128.pow(places.ok_or(InvalidUnit::TooFine(finest))?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().unwrap_or(0) };
    let scaled = whole
        .checked_mul(ten)
        .and_then(|n| n.checked_add(fraction))
        .and_then(|n| n.checked_mul(u128::from(*scale)))
        .ok_or(InvalidUnit::TooLarge)?;
    if !scaled.is_multiple_of(ten) {
        return Err(InvalidUnit::TooFine(finest));
    }
    Ok((u64::try_from(scaled / ten).map_err(|_| InvalidUnit::TooLarge)?, after.trim_start_matches(' ')))
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(|fault| serde::de::Error::custom(format_args!("`{text}` {fault}")))
            }
        }
    )*};
}

serde_as_text!(HumanDuration, ByteSize);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("1s", 1000),
            ("1.5s", 1500),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("5 m", 300_000),
            ("2h", 7_200_000),
            ("0s", 0),
            ("0.25s", 250),
        ] {
            assert_eq!(text.parse(), Ok(HumanDuration::from_millis(millis)), "{text}");
        }
        for (text, fault) in [
            ("", InvalidUnit::NoUnit),
            ("30", InvalidUnit::NoUnit),
            ("s", InvalidUnit::NoNumber),
            ("-1s", InvalidUnit::NoNumber),
            ("1 sec", InvalidUnit::UnknownUnit("sec".into())),
            ("1s30", InvalidUnit::NoUnit),
            ("0.5ms", InvalidUnit::TooFine("a millisecond")),
            ("0.0000000000000001s", InvalidUnit::TooFine("a millisecond")),
            ("400d", InvalidUnit::TooLarge),
            ("99999999999999999999999999999999999999999999s", InvalidUnit::TooLarge),
        ] {
            assert_eq!(text.parse::<HumanDuration>(), Err(fault), "{text}");
        }
        assert_eq!(HumanDuration::from_millis(90_061_001).to_string(), "1d1h1m1s1ms");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65536),
            ("256 MiB", 256 << 20),
            ("1.5GiB", 3 << 29),
            ("10MB", 10_000_000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::from_bytes(bytes)), "{text}");
        }
        for (text, fault) in [
            ("256", InvalidUnit::NoUnit),
            ("256Mi", InvalidUnit::UnknownUnit("Mi".into())),
            ("1GiB2", InvalidUnit::UnknownUnit("2".into())),
            ("0.3B", InvalidUnit::TooFine("a byte")),
            ("99999999TiB", InvalidUnit::TooLarge),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(fault), "{text}");
        }
        assert_eq!(ByteSize::from_bytes(256 << 20).to_string(), "256MiB");
        assert_eq!(ByteSize::from_bytes(0).to_string(), "0B");
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_as_itself(millis in 0u64..31_000_000_000) {
            let duration = HumanDuration::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn a_printed_size_reads_as_itself(bytes: u64) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<HumanDuration>();
            let _ = text.parse::<ByteSize>();
        }
    }
}
