//! Durations as people write them: `250ms`, `5s`, `1m30s`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Whole numbers with their units, one after the other.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut millis) = (text.trim(), 0u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        millis = millis.checked_add(number.parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = after;
    }
    Some(Duration::from_millis(millis))
}

/// The shortest text that [`parse`] reads as this.
#[must_use]
pub fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1_000) { format!("{}s", millis / 1_000) } else { format!("{millis}ms") }
}

pub(crate) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&show(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).ok_or_else(|| {
        let expected = &"a duration such as 250ms, 5s or 1m30s";
        serde::de::Error::invalid_value(serde::de::Unexpected::Str(&text), expected)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_what_they_print() {
        for (text, millis) in [("250ms", 250), ("5s", 5_000), ("1m30s", 90_000), ("0s", 0)] {
            let duration = parse(text).expect(text);
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(parse(&show(duration)), Some(duration));
        }
        for bad in
            ["", "5", "s", "5 s", "-1s", "1.5s", "5days", "99999999999999999999h", "18446744073709551615h"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
