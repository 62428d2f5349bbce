//! What a test that failed said, as far as it fits: where it says why, and its last lines. A log may be cut anywhere before its
//! end, so the end repeats it.

use std::collections::{BTreeMap, VecDeque};

/// From the line on that says that something panicked.
const WHY: usize = 12;
/// The last ones.
const LAST: usize = 20;
/// Characters of a line.
const WIDEST: usize = 300;

/// Takes any number of lines and keeps the few that count.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Excerpt {
    seen: usize,
    why: Vec<(usize, String)>,
    last: VecDeque<(usize, String)>,
}

impl Excerpt {
    pub(crate) fn push(&mut self, line: &str) {
        let begins = self.why.is_empty() && line.contains(" panicked at ");
        let goes_on = !self.why.is_empty() && self.why.len() < WHY;
        let numbered = (self.seen, line.chars().take(WIDEST).collect::<String>());
        if begins || goes_on {
            self.why.push(numbered.clone());
        }
        self.last.push_back(numbered);
        if self.last.len() > LAST {
            self.last.pop_front();
        }
        self.seen += 1;
    }

    /// The lines in their order, with `…` for those that are left out; none of the empty ones at the end.
    pub(crate) fn lines(&self) -> Vec<String> {
        let kept: BTreeMap<usize, &String> =
            self.why.iter().chain(&self.last).map(|(number, line)| (*number, line)).collect();
        let (mut lines, mut next) = (Vec::new(), 0);
        for (number, line) in kept {
            if number != next {
                lines.push("…".to_owned());
            }
            lines.push(line.clone());
            next = number + 1;
        }
        let end = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        lines.truncate(end);
        lines
    }
}

impl<'l> FromIterator<&'l str> for Excerpt {
    fn from_iter<I: IntoIterator<Item = &'l str>>(lines: I) -> Self {
        let mut excerpt = Self::default();
        lines.into_iter().for_each(|line| excerpt.push(line));
        excerpt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_kept_whole() {
        let excerpt: Excerpt = ["one", "", "two", ""].into_iter().collect();
        assert_eq!(excerpt.lines(), ["one", "", "two"]);
        assert!(Excerpt::default().lines().is_empty());
    }

    #[test]
    fn of_much_the_cause_and_the_end_are_kept() {
        let mut excerpt = Excerpt::default();
        for number in 0..1000 {
            match number {
                100 => excerpt.push("thread 'a' panicked at src/lib.rs:1:1:"),
                101 => excerpt.push("the cause"),
                500 => excerpt.push("thread 'b' panicked at src/lib.rs:2:2:"),
                _ => excerpt.push(&format!("line {number}{}", "x".repeat(1000))),
            }
        }
        let lines = excerpt.lines();
        assert_eq!(lines[..3], ["…", "thread 'a' panicked at src/lib.rs:1:1:", "the cause"]);
        assert_eq!(lines.len(), 1 + WHY + 1 + LAST);
        assert_eq!(lines[1 + WHY], "…");
        assert!(lines.last().is_some_and(|line| line.starts_with("line 999x") && line.len() == WIDEST));
    }

    #[test]
    fn no_line_is_told_twice() {
        let text = "one\nthread 'a' panicked at x:1:1:\nwhy\ntwo";
        assert_eq!(text.lines().collect::<Excerpt>().lines(), text.lines().collect::<Vec<_>>());
    }
}
