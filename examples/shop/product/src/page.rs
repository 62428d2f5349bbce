//! Pages of a list: a limit, and an opaque token that says where the next page starts.
//!
//! The token is an offset, which is sound because the catalogue does not change while it is read; it carries a hash of the
//! question, so that a token of another list is refused instead of giving a page of nonsense.

/// What a caller gets who does not say.
const DEFAULT_LIMIT: u32 = 20;

/// Keeps an answer within some tens of kilobytes.
const MAX_LIMIT: u32 = 100;

/// A window of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) offset: u32,
    pub(crate) limit: u32,
    question: u32,
}

/// Which field of the request is wrong, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    Limit,
    Token,
}

// === impl Page ===

impl Page {
    /// `question` is what is listed, such as the method and the text that is searched.
    pub(crate) fn new(question: &[&str], limit: u32, token: &str) -> Result<Self, PageFault> {
        let limit = match limit {
            0 => DEFAULT_LIMIT,
            1..=MAX_LIMIT => limit,
            _ => return Err(PageFault::Limit),
        };
        let question = hash(question);
        let offset = if token.is_empty() { 0 } else { parse(token, question).ok_or(PageFault::Token)? };
        Ok(Self { offset, limit, question })
    }

    /// The token of the page after this one.
    pub(crate) fn next_token(self) -> String {
        format!("{:08x}{:08x}", self.question, self.offset.saturating_add(self.limit))
    }
}

impl PageFault {
    pub(crate) fn field(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Token => "page_token",
        }
    }

    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Limit => "must be at most 100",
            Self::Token => "is not the next_page_token of this list",
        }
    }
}

fn parse(token: &str, question: u32) -> Option<u32> {
    if token.len() != 16 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (asked, offset) = token.split_at(8);
    (u32::from_str_radix(asked, 16).ok()? == question).then(|| u32::from_str_radix(offset, 16).ok())?
}

/// FNV-1a: the same in every process and version, unlike the standard library's hasher.
fn hash(parts: &[&str]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_token_leads_on_in_the_same_list_only() {
        let first = Page::new(&["search", "lamp"], 0, "").unwrap();
        assert_eq!((first.offset, first.limit), (0, 20));
        let token = first.next_token();
        let second = Page::new(&["search", "lamp"], 50, &token).unwrap();
        assert_eq!((second.offset, second.limit), (20, 50));
        assert_eq!(Page::new(&["search", "lamps"], 0, &token), Err(PageFault::Token));
        assert_eq!(Page::new(&["searchlamp", ""], 0, &token), Err(PageFault::Token));
    }

    #[test]
    fn nonsense_is_refused() {
        for token in ["x", "0123456789abcdeg", "+123456789abcdef", "éééééééé"] {
            assert_eq!(Page::new(&["list"], 0, token), Err(PageFault::Token), "{token}");
        }
        assert_eq!(Page::new(&["list"], 101, ""), Err(PageFault::Limit));
    }
}
