//! `traffic`: how the calls to a service are spread, protected and repeated.
//!
//! The keys are those of [`formic_balance::Traffic`], which serde reads: the only part of a manifest that it
//! does, because the same text is read by services that run by themselves. serde stops at the first fault, so
//! what is wrong is noted, taken out, and the rest read again.

use std::collections::BTreeMap;
use std::ops::Range;

use formic_balance::Traffic;
use formic_settings::{nearest, people};
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::section::{Notes, Section};
use super::value;
use crate::fault::{FaultKind, quote};

/// More faults of one policy are not worth a further look.
const MOST: usize = 40;

/// One section's word on how a service is called, as it is written. Read for its shape only: whether it makes sense
/// is a question to all that is said of a service, see [`merge`].
pub(super) struct Part {
    path: String,
    value: Value,
    span: Range<usize>,
    /// Where each key stands, by its path.
    places: BTreeMap<String, Range<usize>>,
    /// Keys that were taken out, beside a fault.
    removed: Vec<Vec<String>>,
}

/// Reads the section; `None` if there is none, or none that can be read.
pub(super) fn read(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<Part> {
    let (_, table) = section.get("traffic")?;
    let path = section.path_of("traffic");
    if !matches!(table.get_ref(), DeValue::Table(_)) {
        notes.wrong_type(section, "traffic", table, "a table", None);
        return None;
    }
    let mut reader = Reader { path: &path, left: table.clone(), removed: Vec::new() };
    let readable = reader.take_out(notes);
    let Reader { left, removed, .. } = reader;
    let DeValue::Table(inner) = left.get_ref() else { return None };
    let value = Value::Object(value::object(inner, &path, notes));
    let mut places = BTreeMap::new();
    note_places(&left, "", &mut places);
    readable.then_some(Part { path, value, span: left.span(), places, removed })
}

/// What all sections together say, the later over the earlier; `None` beside a fault.
pub(super) fn merge(parts: &[&Part], notes: &mut Notes<'_>) -> Option<Value> {
    let mut merged = Value::Object(Map::new());
    for part in parts {
        value::merge(&mut merged, part.value.clone());
    }
    let mut useless = false;
    let hashes = merged.get("policy").is_some_and(|policy| policy == "hash");
    if let Some(at) = parts.iter().rposition(|part| part.says("hash"))
        && !hashes
    {
        // Of no use with the policy that a later section chose, or with the one beside it, which is a mistake.
        if !parts[at + 1..].iter().any(|part| part.says("policy")) {
            let part = parts[at];
            let message = format!("`hash` in [{}]: is for the policy `hash`, which is not chosen", part.path);
            let help = "add policy = \"hash\", or take `hash` out".to_owned();
            let key = format!("{}.hash", part.path);
            notes.push_once(&part.place("hash").1, FaultKind::Conflict, &key, message, Some(help));
            useless = true;
        }
        merged.as_object_mut().map(|merged| merged.remove("hash"));
    }
    let is_touched = |key: &str| parts.iter().any(|part| part.is_touched(key));
    let faults: Vec<_> = match serde_json::from_value::<Traffic>(merged.clone()) {
        Ok(traffic) => traffic.validate().into_iter().map(|fault| (fault.key, fault.text)).collect(),
        Err(error) => vec![(String::new(), in_words(&error.to_string()))],
    };
    // What was taken out would only be missed.
    let faults: Vec<_> = faults.into_iter().filter(|(key, _)| !is_touched(key)).collect();
    for (key, text) in &faults {
        // Of those who say the most about it, the one whose word counts.
        let Some(part) = parts.iter().max_by_key(|part| part.place(key).0) else { continue };
        let message = format!("{} in [{}]: {text}", quote(key), part.path);
        let full = format!("{}.{key}", part.path);
        notes.push_once(&part.place(key).1, FaultKind::InvalidValue, &full, message, None);
    }
    (!useless && faults.is_empty() && parts.iter().all(|part| part.removed.is_empty())).then_some(merged)
}

impl Part {
    /// Where a key such as `rules.1.split` stands, or what would hold it, and how much of the path is here.
    fn place(&self, key: &str) -> (usize, Range<usize>) {
        let mut prefix = key;
        loop {
            if let Some(span) = self.places.get(prefix) {
                return (prefix.len(), span.clone());
            }
            match prefix.rsplit_once('.') {
                Some((above, _)) => prefix = above,
                None => return (0, self.span.clone()),
            }
        }
    }

    fn says(&self, key: &str) -> bool {
        self.places.contains_key(key) && !self.is_touched(key)
    }

    /// Whether a key is, holds or lies in something that was taken out.
    fn is_touched(&self, key: &str) -> bool {
        let parts: Vec<&str> = key.split('.').collect();
        self.removed.iter().any(|removed| removed.iter().zip(&parts).all(|(one, other)| one == other))
    }
}

fn note_places(value: &Spanned<DeValue<'_>>, path: &str, places: &mut BTreeMap<String, Range<usize>>) {
    for (name, _, inner) in entries(value.get_ref()) {
        let path = if path.is_empty() { name } else { format!("{path}.{name}") };
        places.insert(path.clone(), inner.span());
        note_places(inner, &path, places);
    }
}

struct Reader<'p, 'i> {
    path: &'p str,
    /// What is right as far as is known.
    left: Spanned<DeValue<'i>>,
    /// Keys that were not.
    removed: Vec<Vec<String>>,
}

impl Reader<'_, '_> {
    /// Takes out what cannot be read; whether the rest can be.
    fn take_out(&mut self, notes: &mut Notes<'_>) -> bool {
        while self.removed.len() < MOST {
            let Err(error) = Traffic::deserialize(ValueDeserializer::from(self.left.clone())) else {
                return true;
            };
            let span = error.span().unwrap_or_else(|| self.left.span());
            let place = find(self.left.get_ref(), &span).unwrap_or_default();
            let missing = error.message().starts_with("missing field");
            let caused = missing && self.removed.iter().any(|removed| removed.starts_with(&place));
            if !caused {
                self.note(&place, &span, error.message(), notes);
            }
            if place.is_empty() {
                return false;
            }
            remove(&mut self.left, &place);
            self.removed.push(place);
        }
        false
    }

    fn note(&self, place: &[String], span: &Range<usize>, text: &str, notes: &mut Notes<'_>) {
        // What stands in a list has a number, which says nothing to people: the list is told.
        let named = place.iter().rposition(|part| part.parse::<usize>().is_err()).map(|at| &place[..=at]);
        let (key, above) = match named.unwrap_or(place).split_last() {
            Some((key, above)) => (key.as_str(), above),
            None => ("traffic", place),
        };
        let text = &text.replace("expected struct Zone", "expected a table such as { spill = 1.5 }");
        let within = above.iter().fold(self.path.to_owned(), |path, part| format!("{path}.{part}"));
        let full: String = format!("{within}.{key}").chars().take(200).collect();
        if text.starts_with("unknown field") {
            let known: Vec<&str> = text.split('`').skip(1).step_by(2).skip(1).collect();
            let help = match notes.suggest(|| nearest(key, known.iter().copied())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", known.join(", ")),
            };
            let message = format!("unknown key {} in [{within}]", quote(key));
            return notes.push(span, FaultKind::UnknownKey, &full, message, Some(help));
        }
        let words = text.split_once("unknown variant ").map_or("", |(_, words)| words);
        let words: Vec<&str> = words.split('`').skip(1).step_by(2).collect();
        if let [word, known @ ..] = &words[..] {
            let near = notes.suggest(|| nearest(word, known.iter().copied()));
            let near = near.map(|near| format!("did you mean \"{near}\"? It is ")).unwrap_or_default();
            let help = format!("{near}one of \"{}\"", known.join("\", \""));
            let message = format!("{} in [{within}] cannot be {}", quote(key), quote(word));
            return notes.push(span, FaultKind::InvalidValue, &full, message, Some(help));
        }
        let (kind, help) = if text.starts_with("missing field") {
            (FaultKind::Missing, None)
        } else if text.starts_with("invalid type") {
            (FaultKind::WrongType, one_bracket(text, &full))
        } else {
            (FaultKind::InvalidValue, None)
        };
        notes.push(span, kind, &full, format!("{} in [{within}]: {}", quote(key), in_words(text)), help);
    }
}

/// What serde says of a value, as people say it.
fn in_words(text: &str) -> String {
    let rest = ["invalid type: ", "invalid value: "].into_iter().find_map(|prefix| text.strip_prefix(prefix));
    if let Some((got, expected)) = rest.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("expected {}, got {}", people::expected(expected), people::got(got));
    }
    match text {
        "wanted string or table" => "expected text".into(),
        other => other.replace("missing field", "there is no"),
    }
}

/// What a list of tables that is written as one table needs.
fn one_bracket(text: &str, full: &str) -> Option<String> {
    let path: Vec<&str> = full.split('.').filter(|part| part.parse::<usize>().is_err()).collect();
    let is_list = matches!(path.last(), Some(&("rules" | "split")));
    let help = || format!("write [[{}]], with two brackets, once for each of them", path.join("."));
    (is_list && text.starts_with("invalid type: map, ")).then(help)
}

/// Its name, where the key stands if it has one, and what stands there.
type Entry<'a, 'i> = (String, Option<Range<usize>>, &'a Spanned<DeValue<'i>>);

/// The entries of a table or an array.
fn entries<'a, 'i>(value: &'a DeValue<'i>) -> Vec<Entry<'a, 'i>> {
    match value {
        DeValue::Table(table) => {
            let entry = |(key, value): (&'a Spanned<_>, _)| {
                let key: &'a Spanned<std::borrow::Cow<'i, str>> = key;
                (key.get_ref().to_string(), Some(key.span()), value)
            };
            table.iter().map(entry).collect()
        }
        DeValue::Array(items) => {
            items.iter().enumerate().map(|(at, item)| (at.to_string(), None, item)).collect()
        }
        _ => Vec::new(),
    }
}

/// The path of the key or the value that stands at a place; the innermost of several.
fn find(value: &DeValue<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    entries(value).into_iter().find_map(|(name, key, inner)| {
        if let Some(mut below) = find(inner.get_ref(), span) {
            below.insert(0, name);
            return Some(below);
        }
        (key.as_ref() == Some(span) || inner.span() == *span).then(|| vec![name])
    })
}

fn remove(value: &mut Spanned<DeValue<'_>>, place: &[String]) {
    let Some((first, rest)) = place.split_first() else { return };
    match (value.get_mut(), rest.is_empty()) {
        (DeValue::Table(table), true) => {
            table.remove(first.as_str());
        }
        (DeValue::Table(table), false) => {
            let inner = table.iter_mut().find(|(key, _)| key.get_ref() == first);
            inner.into_iter().for_each(|(_, inner)| remove(inner, rest));
        }
        (DeValue::Array(items), last) => {
            let Ok(at) = first.parse::<usize>() else { return };
            if last {
                let kept = items.iter().enumerate().filter(|(index, _)| *index != at);
                *items = kept.map(|(_, item)| item.clone()).collect();
            } else if let Some(item) = items.get_mut(at) {
                remove(item, rest);
            }
        }
        _ => {}
    }
}
