//! Which calls go first when not all of them can.

use formic_core::Metadata;
use http::HeaderName;

/// The metadata that says it, unless the settings name another.
pub const HEADER: HeaderName = HeaderName::from_static("formic-priority");

/// How much a call matters while there is not room for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Goes first, and pushes out what matters less.
    High,
    /// What says nothing.
    #[default]
    Normal,
    /// Background work: the first to be refused.
    Low,
}

impl Priority {
    /// How many there are.
    pub(crate) const COUNT: usize = 3;

    /// What the metadata says; anything unknown is [`Normal`](Self::Normal).
    #[must_use]
    pub fn of(metadata: &Metadata, header: &HeaderName) -> Self {
        match metadata.as_headers().get(header).map(http::HeaderValue::as_bytes) {
            Some(b"high") => Self::High,
            Some(b"low") => Self::Low,
            _ => Self::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn three_words_and_all_else_is_normal() {
        let mut metadata = Metadata::new();
        assert_eq!(Priority::of(&metadata, &HEADER), Priority::Normal);
        for (word, priority) in [
            ("high", Priority::High),
            ("low", Priority::Low),
            ("HIGH", Priority::Normal),
            ("7", Priority::Normal),
        ] {
            metadata.insert("formic-priority", word).unwrap();
            assert_eq!(Priority::of(&metadata, &HEADER), priority, "{word}");
        }
        metadata.insert("x-tier", "low").unwrap();
        assert_eq!(Priority::of(&metadata, &HeaderName::from_static("x-tier")), Priority::Low);
    }
}
