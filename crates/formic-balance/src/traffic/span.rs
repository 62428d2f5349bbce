//! Durations as people write them: `250ms`, `1.5s`, `1m30s`, `1d`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Numbers with their units, one after the other; whole milliseconds each.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let (mut rest, mut millis) = (text.trim(), 0u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let is_digit = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len()));
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        millis = millis.checked_add(scaled(number, scale)?)?;
        rest = after.trim_start();
    }
    Some(Duration::from_millis(millis))
}

/// So many times the scale, if that is whole.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(w, f)| (w, Some(f)));
    let mut sum = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if let Some(fraction) = fraction {
        let parts = 10u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let product = fraction.parse::<u64>().ok()?.checked_mul(scale)?;
        if !product.is_multiple_of(parts) {
            return None;
        }
        sum = sum.checked_add(product / parts)?;
    }
    Some(sum)
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
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("0s", 0),
            ("1.5s", 1_500),
            ("0.25s", 250),
            ("1d", 86_400_000),
            ("1m 30s", 90_000),
            ("5 s", 5_000),
        ] {
            let duration = parse(text).expect(text);
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(parse(&show(duration)), Some(duration));
        }
        for bad in ["", "5", "s", "-1s", ".5s", "1.s", "1.2.3s", "0.5ms", "5days", "1s30"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for large in ["99999999999999999999h", "18446744073709551615h", "0.00000000000000000000001s"] {
            assert_eq!(parse(large), None, "{large}");
        }
    }
}
