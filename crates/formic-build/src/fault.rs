//! What is wrong with a proto file, and where: written for the author who reads it in Cargo's output.

use std::fmt;
use std::path::PathBuf;

/// Why no code was generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The protos are faulty; every fault that could be found.
    #[error("{}", Faults(.0))]
    Protos(Vec<Fault>),
    /// The protos are valid, but Rust cannot express them.
    #[error("cannot generate Rust from these protos: {0}")]
    Unsupported(String),
    /// Neither [`out_dir`](crate::Config::out_dir) nor Cargo says where the code goes.
    #[error("OUT_DIR is not set: call this from a build script, or set `out_dir`")]
    NoOutDir,
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Option<Place>,
    /// What may help, one line each.
    pub hints: Vec<String>,
}

/// A place in a proto file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as found on disk.
    pub path: PathBuf,
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line's text.
    pub text: String,
    /// How many characters are meant.
    pub width: usize,
}

struct Faults<'a>(&'a [Fault]);

// === impl Fault ===

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, hints: Vec::new() }
    }

    pub(crate) fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gutter = match &self.place {
            Some(place) if place.line > 0 => {
                write!(f, "{}: {}", place, self.message)?;
                place.excerpt(f)?
            }
            Some(place) => {
                write!(f, "{}: {}", place.path.display(), self.message)?;
                0
            }
            None => {
                f.write_str(&self.message)?;
                0
            }
        };
        for hint in &self.hints {
            write!(f, "\n{:gutter$} = {hint}", "")?;
        }
        Ok(())
    }
}

// === impl Place ===

impl Place {
    /// The place of `length` bytes at `offset` of a file's text.
    pub(crate) fn locate(path: PathBuf, source: &str, offset: usize, length: usize) -> Self {
        let mut offset = offset.min(source.len());
        while !source.is_char_boundary(offset) {
            offset -= 1;
        }
        let (before, after) = source.split_at(offset);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let end = offset + after.find('\n').unwrap_or(after.len());
        let text = source[start..end].trim_end();
        let shown = length.min((start + text.len()).saturating_sub(offset));
        Self {
            path,
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            text: text.into(),
            width: after.char_indices().take_while(|(at, _)| *at < shown).count().max(1),
        }
    }

    /// A whole file.
    pub(crate) fn file(path: PathBuf) -> Self {
        Self { path, line: 0, column: 0, text: String::new(), width: 0 }
    }

    /// Shows the line with carets under it; returns the gutter's width.
    fn excerpt(&self, f: &mut fmt::Formatter<'_>) -> Result<usize, fmt::Error> {
        let number = self.line.to_string();
        let gutter = number.len();
        // A tab stays a tab so that the caret stands under its text whatever the width.
        let lead: String =
            self.text.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "\n{:gutter$} |\n{number} | {}\n{:gutter$} | {lead}", "", self.text, "")?;
        write!(f, "{}", "^".repeat(self.width))?;
        Ok(gutter)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}
