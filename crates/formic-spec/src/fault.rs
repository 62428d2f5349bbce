//! Faults of a manifest, and how they are shown: like a compiler's, plain, all at once.
//!
//! A fault is data first (serialisable, for `--json` and for editors) and text second. Text from the
//! file is cleaned of control characters before it is shown: a manifest may come from anywhere, and
//! must not be able to drive the terminal of whoever reads what is wrong with it.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// More faults than this are counted, not shown: nobody reads them, and a hostile file makes many.
const SHOWN: usize = 100;

/// A source line longer than this is shown as a window around the fault.
const WINDOW: usize = 120;

/// Every fault found in one manifest, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Faults {
    /// The name of the file, as it was given to the parser.
    pub file: String,
    /// The faults, sorted by line and column; at most 100.
    pub faults: Vec<Fault>,
    /// How many more there were.
    pub omitted: usize,
}

/// One fault: where, what, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// How many characters are at fault, at least 1, within the line.
    pub width: usize,
    /// What sort of fault it is.
    pub kind: FaultKind,
    /// The key at fault, such as `service.order.replicas`; empty for the file as a whole.
    pub path: String,
    /// What is wrong: one lower-case sentence.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line of the file, or a window of it, without control characters.
    pub source: String,
    /// Where the fault begins in `source`, from 0, in characters.
    #[serde(skip)]
    offset: usize,
}

/// The sorts of faults, for programs that read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// Not TOML, or a key given twice.
    Syntax,
    /// The file or a list in it is too large.
    TooLarge,
    /// The manifest is written for another version of Formic.
    Format,
    /// A key that means nothing here.
    UnknownKey,
    /// A key that must be there is not.
    Missing,
    /// A value of the wrong type.
    WrongType,
    /// A value of the right type that is not allowed.
    InvalidValue,
    /// A name that is not a DNS label, or is reserved.
    InvalidName,
    /// A service that is named but not defined.
    UnknownService,
    /// Services that depend on each other in a circle.
    Cycle,
    /// Two keys that exclude each other.
    Conflict,
    /// Two listeners on one address.
    DuplicateListen,
    /// Something that this binary cannot run.
    Unsupported,
}

/// A fault as the parser notes it: by byte offsets, resolved to lines at the end.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) span: Range<usize>,
    pub(crate) kind: FaultKind,
    pub(crate) path: String,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

// === impl Faults ===

impl Faults {
    /// Resolves what the parser noted to lines and columns.
    pub(crate) fn resolve(file: &str, source: &str, mut raw: Vec<Raw>) -> Self {
        raw.sort_by_key(|fault| fault.span.start);
        let lines = Lines::new(source);
        let omitted = raw.len().saturating_sub(SHOWN);
        let faults = raw.into_iter().take(SHOWN).map(|fault| lines.resolve(fault)).collect();
        Self { file: clean(file), faults, omitted }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            let Fault { line, column, message, source, .. } = fault;
            writeln!(f, "{}:{line}:{column}: error: {message}", self.file)?;
            let number = line.to_string();
            let gutter = " ".repeat(number.len());
            if !source.trim().is_empty() {
                // Tabs are kept in the margin, so that the caret stands below its text on any terminal.
                let margin: String =
                    source.chars().take(fault.offset).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                writeln!(f, "{gutter} |")?;
                writeln!(f, "{number} | {source}")?;
                writeln!(f, "{gutter} | {margin}{}", "^".repeat(fault.width))?;
            }
            if let Some(help) = &fault.help {
                writeln!(f, "{gutter} = help: {help}")?;
            }
            writeln!(f)?;
        }
        let count = self.faults.len() + self.omitted;
        let noun = if count == 1 { "error" } else { "errors" };
        write!(f, "{}: {count} {noun}", self.file)?;
        if self.omitted > 0 {
            write!(f, ", the first {} shown", self.faults.len())?;
        }
        Ok(())
    }
}

// === impl Lines ===

/// Byte offsets to lines and columns.
struct Lines<'s> {
    source: &'s str,
    starts: Vec<usize>,
}

impl<'s> Lines<'s> {
    fn new(source: &'s str) -> Self {
        let starts =
            std::iter::once(0).chain(source.match_indices('\n').map(|(newline, _)| newline + 1)).collect();
        Self { source, starts }
    }

    fn resolve(&self, raw: Raw) -> Fault {
        let start = self.boundary(raw.span.start);
        let line = self.starts.partition_point(|&begin| begin <= start).max(1);
        let begin = self.starts[line - 1];
        let text = self.source[begin..].split('\n').next().unwrap_or_default();
        let text = text.strip_suffix('\r').unwrap_or(text);
        // A byte order mark is no column.
        let (text, begin) = match text.strip_prefix('\u{feff}') {
            Some(rest) if begin == 0 => (rest, begin + '\u{feff}'.len_utf8()),
            _ => (text, begin),
        };
        let before = start.saturating_sub(begin).min(text.len());
        let end = self.boundary(raw.span.end).saturating_sub(begin).clamp(before, text.len());
        let column = text[..before].chars().count();
        let width = text[before..end].chars().count().max(1);
        let (source, offset, width) = window(text, column, width);
        Fault {
            line,
            column: column + 1,
            width,
            kind: raw.kind,
            path: shorten(&raw.path),
            message: shorten(&raw.message),
            help: raw.help.as_deref().map(shorten),
            source,
            offset,
        }
    }

    /// The nearest character boundary at or before `offset`.
    fn boundary(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.source.len());
        while !self.source.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

/// The line, or, when it is long, as much of it around the fault as fits a terminal.
fn window(text: &str, column: usize, width: usize) -> (String, usize, usize) {
    let length = text.chars().count();
    let from = if length <= WINDOW { 0 } else { column.saturating_sub(WINDOW / 3) };
    let shown: String = text.chars().skip(from).take(WINDOW).collect();
    let offset = column - from;
    (clean(&shown), offset, width.min(WINDOW.saturating_sub(offset)).max(1))
}

/// Text from outside, made harmless to a terminal, character by character.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Names from the file stand in most texts: none may be long, or more than one harmless line.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 400;
    let shown: String = text.chars().take(LONGEST).collect();
    clean(&shown)
}

/// Text from outside as it is quoted in a message: harmless, on one line and not long.
pub(crate) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    let shown: String = text.chars().take(LONGEST).collect();
    let dots = if text.chars().nth(LONGEST).is_some() { "…" } else { "" };
    format!("`{}{dots}`", clean(&shown).replace('\t', " "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fault(source: &str, span: Range<usize>) -> Faults {
        let raw = Raw {
            span,
            kind: FaultKind::Syntax,
            path: String::new(),
            message: "odd".into(),
            help: Some("mend it".into()),
        };
        Faults::resolve("formic.toml", source, vec![raw])
    }

    #[test]
    fn shows_the_line_and_a_caret() {
        let faults = fault("a = 1\n\tbé = 2\r\nc = 3\n", 7..10);
        assert_eq!(
            faults.to_string(),
            "formic.toml:2:2: error: odd\n  |\n2 | \tbé = 2\n  | \t^^\n  = help: mend it\n\nformic.toml: 1 error"
        );
    }

    #[test]
    fn a_fault_at_the_end_of_an_empty_file_has_no_caret() {
        let faults = fault("", 0..0);
        assert_eq!(
            faults.to_string(),
            "formic.toml:1:1: error: odd\n  = help: mend it\n\nformic.toml: 1 error"
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_column() {
        assert_eq!(fault("\u{feff}abc = 1", 3..6).faults[0].column, 1);
    }

    #[test]
    fn a_long_line_is_shown_around_the_fault() {
        let source = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let fault = &fault(&source, 5000..5001).faults[0];
        assert_eq!((fault.column, fault.source.chars().nth(fault.offset)), (5001, Some('X')));
        assert!(fault.source.len() <= WINDOW);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert!(!fault("x\u{1b}[31m = 1", 0..2).to_string().contains('\u{1b}'));
        assert_eq!(quote("a\u{1b}\nb"), "`a\u{fffd}\u{fffd}b`");
    }

    #[test]
    fn offsets_outside_the_text_or_inside_a_character_are_harmless() {
        fault("é", 1..900);
        fault("a\n", 2..2);
    }
}
