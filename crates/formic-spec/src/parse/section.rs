//! One table of the manifest, read key by key, and the notes taken on the way.
//!
//! A [`Section`] remembers which keys were asked for; what is left at the end is unknown, and the keys
//! asked for are what could have been meant. So the list of valid keys cannot drift from the code.

use std::collections::BTreeSet;
use std::ops::Range;
use std::str::FromStr;

use formic_settings::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Named, in_order, value};
use crate::fault::{FaultKind, Raw, quote};
use crate::units::InvalidUnit;

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;
type Value<'i> = Spanned<DeValue<'i>>;

/// Keys with their values, in the order of the file.
pub(super) type Entries<'t, 'i> = Vec<(&'t Key<'i>, &'t Value<'i>)>;

/// A file with more faults than this gets no more suggestions: they cost time, and nobody reads them.
const SUGGESTED: usize = 200;

/// The faults found so far, and what of the text could not be read at all.
pub(super) struct Notes<'s> {
    source: &'s str,
    starts: Vec<usize>,
    /// Lines with a syntax error, of which nothing more is said.
    dirty: BTreeSet<usize>,
    partial: bool,
    raw: Vec<Raw>,
}

/// A table of the manifest.
pub(super) struct Section<'t, 'i> {
    table: &'t DeTable<'i>,
    span: Range<usize>,
    path: String,
    asked: Vec<&'static str>,
    /// Tables of any other name are known too.
    open: bool,
}

// === impl Notes ===

impl<'s> Notes<'s> {
    pub(super) fn new(source: &'s str, errors: &[toml::de::Error]) -> Self {
        let starts = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut notes = Self { source, starts, dirty: BTreeSet::new(), partial: false, raw: Vec::new() };
        for error in errors {
            notes.syntax(error);
        }
        notes
    }

    /// Only the first fault of a line: the reader of TOML goes on from a guess.
    fn syntax(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let duplicate = error.message().starts_with("duplicate key");
        self.partial |= !duplicate;
        let line = self.line(span.start);
        if !self.dirty.insert(line) {
            return;
        }
        if !duplicate && self.is_header(line) {
            // The keys below it were read into some other table.
            let below = (line + 1..=self.starts.len()).take_while(|&line| !self.is_header(line));
            let below: Vec<usize> = below.collect();
            self.dirty.extend(below);
        }
        let text = self.source.get(span.clone()).unwrap_or_default();
        let (message, help) = if duplicate {
            let help = "a key or a table can be given once: merge the two";
            (format!("{} is given twice", quote(text)), Some(help.into()))
        } else {
            (format!("this is not TOML: {}", error.message()), None)
        };
        self.raw.push(Raw { span, kind: FaultKind::Syntax, path: String::new(), message, help });
    }

    /// Whether a part of the file was lost, so that what is not there may only not have been read.
    pub(super) fn is_partial(&self) -> bool {
        self.partial
    }

    pub(super) fn into_faults(self) -> Vec<Raw> {
        self.raw
    }

    pub(super) fn push(
        &mut self,
        span: &Range<usize>,
        kind: FaultKind,
        path: &str,
        message: String,
        help: Option<String>,
    ) {
        if !self.dirty.contains(&self.line(span.start)) {
            self.raw.push(Raw { span: span.clone(), kind, path: path.into(), message, help });
        }
    }

    /// The same, unless it was said of this place already.
    pub(super) fn push_once(
        &mut self,
        span: &Range<usize>,
        kind: FaultKind,
        path: &str,
        message: String,
        help: Option<String>,
    ) {
        if !self.raw.iter().any(|raw| raw.span == *span && raw.message == message) {
            self.push(span, kind, path, message, help);
        }
    }

    /// Something that had to be there is not.
    pub(super) fn missing(
        &mut self,
        section: &Section<'_, '_>,
        span: Range<usize>,
        message: &str,
        help: &str,
    ) {
        if !self.partial {
            self.push(&span, FaultKind::Missing, &section.path, message.into(), Some(help.into()));
        }
    }

    pub(super) fn invalid(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        span: &Range<usize>,
        message: String,
        help: &str,
    ) {
        self.push(span, FaultKind::InvalidValue, &section.path_of(key), message, Some(help.into()));
    }

    pub(super) fn wrong_type(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        value: &Value<'_>,
        wanted: &str,
        help: Option<String>,
    ) {
        let found = match value.get_ref() {
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Integer(_) => "an integer".to_owned(),
            other => format!("a {}", other.type_str()),
        };
        let message = format!("{}{} must be {wanted}, not {found}", quote(key), section.within());
        self.push(&value.span(), FaultKind::WrongType, &section.path_of(key), message, help);
    }

    /// Checks a DNS label, and notes what is wrong with it.
    pub(super) fn name(&mut self, name: &str, span: &Range<usize>, path: &str, what: &str) -> bool {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.is_empty()
            && name.len() <= 63
            && name.chars().all(allowed)
            && !name.starts_with('-')
            && !name.ends_with('-')
        {
            return true;
        }
        let better: String =
            name.to_ascii_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).take(63).collect();
        let better = better.trim_matches('-');
        let rule = "a name has 1 to 63 of a-z, 0-9 and -, and neither begins nor ends with -";
        let help = if better.is_empty() { rule.into() } else { format!("{rule}: perhaps `{better}`") };
        let message = format!("{} cannot be {what}", quote(name));
        self.push(span, FaultKind::InvalidName, path, message, Some(help));
        false
    }

    pub(super) fn suggest<'c>(&self, nearest: impl FnOnce() -> Option<&'c str>) -> Option<&'c str> {
        if self.raw.len() < SUGGESTED { nearest() } else { None }
    }

    /// Whether a line, counted from 1, begins a table.
    fn is_header(&self, line: usize) -> bool {
        self.source[self.starts[line - 1]..].trim_start_matches([' ', '\t']).starts_with('[')
    }

    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }
}

// === impl Section ===

impl<'t, 'i> Section<'t, 'i> {
    pub(super) fn root(table: &'t DeTable<'i>) -> Self {
        Self { table, span: 0..0, path: String::new(), asked: Vec::new(), open: false }
    }

    pub(super) fn new(table: &'t DeTable<'i>, span: Range<usize>, path: String) -> Self {
        Self { table, span, path, asked: Vec::new(), open: false }
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn table(&self) -> &'t DeTable<'i> {
        self.table
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// ` in [section]`, or nothing at the top of the file.
    fn within(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) }
    }

    /// What stands at a key. Asking makes the key known.
    pub(super) fn get(&mut self, key: &'static str) -> Option<(&'t Key<'i>, &'t Value<'i>)> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        self.table.get_key_value(key)
    }

    /// All keys with their values, in the order of the file; every key is known.
    pub(super) fn entries(self) -> Entries<'t, 'i> {
        in_order(self.table)
    }

    /// The tables of which no key was asked for so far; whatever their names, they are known.
    pub(super) fn tables(&mut self) -> Entries<'t, 'i> {
        self.open = true;
        let mut entries = in_order(self.table);
        entries.retain(|(key, value)| {
            value.get_ref().is_table() && !self.asked.contains(&key.get_ref().as_ref())
        });
        entries
    }

    pub(super) fn section(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Option<Section<'t, 'i>> {
        let (_, value) = self.get(key)?;
        if let DeValue::Table(table) = value.get_ref() {
            return Some(Section::new(table, value.span(), self.path_of(key)));
        }
        notes.wrong_type(self, key, value, "a table", None);
        None
    }

    pub(super) fn string(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Option<Named> {
        let (_, value) = self.get(key)?;
        self.text(key, value, "a string", notes)
    }

    /// An array of strings; what is not a string is noted and left out.
    pub(super) fn strings(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Option<Vec<Named>> {
        let (_, value) = self.get(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            let help = value.get_ref().as_str().map(|text| {
                let words: Vec<String> =
                    text.split_whitespace().take(8).map(|word| format!("{word:?}")).collect();
                format!("write it as an array: [{}]", words.join(", "))
            });
            notes.wrong_type(self, key, value, "an array of strings", help);
            return None;
        };
        Some(items.iter().filter_map(|item| self.text(key, item, "an array of strings", notes)).collect())
    }

    /// An array of strings, each once.
    pub(super) fn distinct(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Vec<Named> {
        let mut seen = BTreeSet::new();
        let mut names = self.strings(key, notes).unwrap_or_default();
        names.retain(|(name, span)| {
            let new = seen.insert(name.clone());
            if !new {
                let message = format!("{} is in `{key}` twice", quote(name));
                notes.invalid(self, key, span, message, "take one of them out");
            }
            new
        });
        names
    }

    /// A string that can be handed to a program: without the zero byte that would end it.
    fn text(&self, key: &str, value: &Value<'_>, wanted: &str, notes: &mut Notes<'_>) -> Option<Named> {
        let Some(text) = value.get_ref().as_str() else {
            let help = value::plain(value.get_ref()).map(|text| format!("write it in quotes: \"{text}\""));
            notes.wrong_type(self, key, value, wanted, help);
            return None;
        };
        if text.contains('\0') {
            let message = format!("a string in {} has a zero byte", quote(key));
            notes.invalid(self, key, &value.span(), message, "no program could be given it: leave it out");
            return None;
        }
        Some((text.to_owned(), value.span()))
    }

    pub(super) fn boolean(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Option<bool> {
        let (_, value) = self.get(key)?;
        if let DeValue::Boolean(yes) = value.get_ref() {
            return Some(*yes);
        }
        let text = value.get_ref().as_str().filter(|text| matches!(*text, "true" | "false"));
        let help = text.map(|text| format!("write it without quotes: {text}"));
        notes.wrong_type(self, key, value, "true or false", help);
        None
    }

    /// An integer within bounds.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        bounds: Range<u32>,
        notes: &mut Notes<'_>,
    ) -> Option<(u32, Range<usize>)> {
        let (_, value) = self.get(key)?;
        let number = self.within_bounds(key, value, "an integer", bounds, notes)?;
        Some((number, value.span()))
    }

    /// An array of integers within bounds.
    pub(super) fn integers(
        &mut self,
        key: &'static str,
        bounds: Range<u32>,
        notes: &mut Notes<'_>,
    ) -> Option<Vec<u32>> {
        const WANTED: &str = "an array of integers";
        let (_, value) = self.get(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            let help = value::plain(value.get_ref()).map(|text| format!("write it as an array: [{text}]"));
            notes.wrong_type(self, key, value, WANTED, help);
            return None;
        };
        let read = |item| self.within_bounds(key, item, WANTED, bounds.clone(), notes);
        Some(items.iter().filter_map(read).collect())
    }

    fn within_bounds(
        &self,
        key: &str,
        value: &Value<'_>,
        wanted: &str,
        bounds: Range<u32>,
        notes: &mut Notes<'_>,
    ) -> Option<u32> {
        let DeValue::Integer(number) = value.get_ref() else {
            let text = value.get_ref().as_str().filter(|text| text.parse::<i64>().is_ok());
            notes.wrong_type(
                self,
                key,
                value,
                wanted,
                text.map(|text| format!("write it without quotes: {text}")),
            );
            return None;
        };
        let inside =
            value::integer(number).and_then(|n| u32::try_from(n).ok()).filter(|n| bounds.contains(n));
        if inside.is_none() {
            let message = format!("`{key}` cannot be {}", quote(&number.to_string()));
            let help = format!("from {} to {} is possible", bounds.start, bounds.end - 1);
            notes.invalid(self, key, &value.span(), message, &help);
        }
        inside
    }

    /// A duration or a size.
    pub(super) fn unit<T>(&mut self, key: &'static str, example: &str, notes: &mut Notes<'_>) -> Option<T>
    where
        T: FromStr<Err = InvalidUnit>,
    {
        let (_, value) = self.get(key)?;
        let Some(text) = value.get_ref().as_str() else {
            notes.wrong_type(self, key, value, "a string with a unit", Some(format!("write {example}")));
            return None;
        };
        match text.parse() {
            Ok(value) => Some(value),
            Err(fault) => {
                let message =
                    format!("{} in `{key}` {}", quote(text), crate::fault::clean(&fault.to_string()));
                notes.invalid(self, key, &value.span(), message, &format!("write {example}"));
                None
            }
        }
    }

    /// A duration that is longer than nothing.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        example: &str,
        notes: &mut Notes<'_>,
    ) -> Option<crate::units::HumanDuration> {
        let duration: crate::units::HumanDuration = self.unit(key, example, notes)?;
        if duration.is_zero() {
            let (_, value) = self.table.get_key_value(key)?;
            notes.invalid(
                self,
                key,
                &value.span(),
                format!("`{key}` cannot be zero"),
                &format!("write {example}"),
            );
            return None;
        }
        Some(duration)
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
        notes: &mut Notes<'_>,
    ) -> Option<T> {
        let (text, span) = self.string(key, notes)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let message = format!("`{key}` cannot be {}", quote(&text));
            let help = match notes.suggest(|| nearest(&text, words.iter().map(|(word, _)| *word))) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => {
                    let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                    format!("one of {}", words.join(", "))
                }
            };
            notes.invalid(self, key, &span, message, &help);
        }
        found.map(|(_, value)| *value)
    }

    /// Notes every key that was never asked for.
    pub(super) fn finish(self, notes: &mut Notes<'_>) {
        for (key, value) in in_order(self.table) {
            let name: &str = key.get_ref();
            if self.asked.contains(&name) || (self.open && value.get_ref().is_table()) {
                continue;
            }
            let help = match notes.suggest(|| nearest(name, self.asked.iter().copied())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", self.asked.join(", ")),
            };
            let path: String = self.path_of(name).chars().take(200).collect();
            let message = format!("unknown key {}{}", quote(name), self.within());
            notes.push(&key.span(), FaultKind::UnknownKey, &path, message, Some(help));
        }
    }
}
