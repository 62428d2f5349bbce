//! How much a call matters while there is not room for all.
//!
//! It is a word of floor 0 because it travels: a server reads it, and what the call causes carries it on.

use crate::Metadata;

/// The metadata that says it, in the words of [`Priority::as_str`].
pub const HEADER: &str = "formic-priority";

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
    /// Each of them, the most important first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// What the metadata says; anything unknown is [`Normal`](Self::Normal).
    #[must_use]
    pub fn of(metadata: &Metadata, header: &http::HeaderName) -> Self {
        Self::of_headers(metadata.as_headers(), header)
    }

    /// The same, of the head of a request.
    #[must_use]
    pub fn of_headers(headers: &http::HeaderMap, header: &http::HeaderName) -> Self {
        match headers.get(header).map(http::HeaderValue::as_bytes) {
            Some(b"high") => Self::High,
            Some(b"low") => Self::Low,
            _ => Self::Normal,
        }
    }

    /// As it travels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use http::HeaderName;

    use super::*;

    #[test]
    fn three_words_and_all_else_is_normal() {
        let (mut metadata, header) = (Metadata::new(), HeaderName::from_static(HEADER));
        assert_eq!(Priority::of(&metadata, &header), Priority::Normal);
        for priority in Priority::ALL {
            metadata.insert(HEADER, priority.as_str()).unwrap();
            assert_eq!(Priority::of(&metadata, &header), priority);
        }
        for word in ["HIGH", "7"] {
            metadata.insert(HEADER, word).unwrap();
            assert_eq!(Priority::of(&metadata, &header), Priority::Normal, "{word}");
        }
        metadata.insert("x-tier", "low").unwrap();
        assert_eq!(Priority::of(&metadata, &HeaderName::from_static("x-tier")), Priority::Low);
    }
}
