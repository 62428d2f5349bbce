//! `traffic`: how the calls to a service are spread, protected and repeated.
//!
//! The keys are those of [`formic_balance::Traffic`], which serde reads: the only part of a manifest that it
//! does, because the same text is read by services that run by themselves. serde stops at the first fault, so
//! what is wrong is noted, taken out, and the rest read again.

use std::ops::Range;

use formic_balance::Traffic;
use formic_settings::nearest;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::section::{Notes, Section};
use super::value;
use crate::fault::{FaultKind, quote};

/// More faults of one policy are not worth a further look.
const MOST: usize = 40;

/// Reads the policy as it is written; `None` if there is none, or beside a fault.
pub(super) fn read(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<Value> {
    let (_, table) = section.get("traffic")?;
    let path = section.path_of("traffic");
    let DeValue::Table(inner) = table.get_ref() else {
        notes.wrong_type(section, "traffic", table, "a table", None);
        return None;
    };
    let mut reader = Reader { path: &path, left: table.clone(), removed: Vec::new() };
    let traffic = reader.traffic(notes);
    // What was taken out would only be missed.
    let faults = traffic.iter().flat_map(Traffic::validate).filter(|fault| !reader.is_touched(&fault.key));
    let faults: Vec<_> = faults.collect();
    for fault in &faults {
        let span = span_of(&reader.left, &fault.key);
        let message = format!("{} in [{path}]: {}", quote(&fault.key), fault.text);
        let key = format!("{path}.{}", fault.key);
        notes.push(&span, FaultKind::InvalidValue, &key, message, None);
    }
    if faults.is_empty() && reader.removed.is_empty() && traffic.is_some() {
        return Some(Value::Object(value::object(inner, &path, notes)));
    }
    None
}

struct Reader<'p, 'i> {
    path: &'p str,
    /// What is right as far as is known.
    left: Spanned<DeValue<'i>>,
    /// Keys that were not.
    removed: Vec<Vec<String>>,
}

impl Reader<'_, '_> {
    fn traffic(&mut self, notes: &mut Notes<'_>) -> Option<Traffic> {
        while self.removed.len() < MOST {
            let error = match Traffic::deserialize(ValueDeserializer::from(self.left.clone())) {
                Ok(traffic) => return Some(traffic),
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| self.left.span());
            let place = find(self.left.get_ref(), &span).unwrap_or_default();
            let missing = error.message().starts_with("missing field");
            let caused = missing && self.removed.iter().any(|removed| removed.starts_with(&place));
            if !caused {
                self.note(&place, &span, error.message(), notes);
            }
            if place.is_empty() {
                return None;
            }
            remove(&mut self.left, &place);
            self.removed.push(place);
        }
        None
    }

    fn note(&self, place: &[String], span: &Range<usize>, text: &str, notes: &mut Notes<'_>) {
        let (key, above) = match place.split_last() {
            Some((key, above)) => (key.as_str(), above),
            None => ("traffic", place),
        };
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
        let (kind, help) = if let Some((_, words)) = text.split_once("unknown variant ") {
            let words: Vec<&str> = words.split('`').skip(1).step_by(2).collect();
            let near = words.split_first().and_then(|(word, known)| nearest(word, known.iter().copied()));
            (FaultKind::InvalidValue, near.map(|near| format!("did you mean \"{near}\"?")))
        } else if text.starts_with("missing field") {
            (FaultKind::Missing, None)
        } else if text.starts_with("invalid type") {
            (FaultKind::WrongType, None)
        } else {
            (FaultKind::InvalidValue, None)
        };
        notes.push(span, kind, &full, format!("{} in [{within}]: {text}", quote(key)), help);
    }

    /// Whether a key is, holds or lies in something that was taken out.
    fn is_touched(&self, key: &str) -> bool {
        let parts: Vec<&str> = key.split('.').collect();
        self.removed.iter().any(|removed| removed.iter().zip(&parts).all(|(one, other)| one == other))
    }
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

/// Where a key such as `rules.1.split` stands, or what would hold it.
fn span_of(table: &Spanned<DeValue<'_>>, key: &str) -> Range<usize> {
    let mut at = table;
    for part in key.split('.') {
        let next = entries(at.get_ref()).into_iter().find(|(name, _, _)| name == part);
        let Some((_, _, inner)) = next else { break };
        at = inner;
    }
    at.span()
}
