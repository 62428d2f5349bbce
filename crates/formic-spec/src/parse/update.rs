//! `update`, and what a service waits for in those that it depends on.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::section::{Notes, Section};
use super::{Named, in_order, value};
use crate::fault::{FaultKind, quote};
use crate::update::{Condition, Share, Strategy, Update};

const CONDITIONS: [(&str, Condition); 3] =
    [("started", Condition::Started), ("healthy", Condition::Healthy), ("completed", Condition::Completed)];

pub(super) fn read(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Update {
    let mut update = Update::default();
    let Some(mut inner) = section.section("update", notes) else {
        return update;
    };
    let words = [("rolling", Strategy::Rolling), ("blue_green", Strategy::BlueGreen)];
    update.strategy = inner.word("strategy", &words, notes).unwrap_or(update.strategy);
    update.surge = share(&mut inner, "surge", notes).unwrap_or(update.surge);
    update.unavailable = share(&mut inner, "unavailable", notes).unwrap_or(update.unavailable);
    // Zero is allowed for these two: an instance that is ready counts at once, nothing is kept.
    update.min_ready =
        inner.unit("min_ready", "a duration such as \"10s\"", notes).unwrap_or(update.min_ready);
    update.keep_old = inner.unit("keep_old", "a duration such as \"60s\"", notes).unwrap_or(update.keep_old);
    update.progress_deadline = inner
        .duration("progress_deadline", "a duration such as \"5m\"", notes)
        .unwrap_or(update.progress_deadline);
    if update.progress_deadline <= update.min_ready
        && let Some((_, value)) = inner.get("progress_deadline").or(inner.get("min_ready"))
    {
        let message = format!(
            "`progress_deadline` {} is not longer than `min_ready` {}",
            update.progress_deadline, update.min_ready
        );
        let help = "each step takes `min_ready` at least, so no update could ever succeed";
        notes.invalid(&inner, "progress_deadline", &value.span(), message, help);
    }
    if update.strategy == Strategy::BlueGreen {
        for key in ["surge", "unavailable"] {
            if let Some((key_at, _)) = inner.get(key) {
                let message = format!("`{key}` is for a rolling update only");
                let help = "blue-green starts all new instances beside all old ones: take it out".to_owned();
                notes.push(&key_at.span(), FaultKind::Conflict, &inner.path_of(key), message, Some(help));
            }
        }
    } else if let (Share::Count(0) | Share::Percent(0), Share::Count(0) | Share::Percent(0)) =
        (update.surge, update.unavailable)
        && let Some((_, value)) = inner.get("surge")
    {
        let message = "with neither `surge` nor `unavailable` nothing could ever be replaced".to_owned();
        notes.invalid(&inner, "surge", &value.span(), message, "allow at least one of either");
    }
    inner.finish(notes);
    update
}

/// A number of instances or a part of them.
fn share(section: &mut Section<'_, '_>, key: &'static str, notes: &mut Notes<'_>) -> Option<Share> {
    const HELP: &str = "write a number such as 1, or a part such as \"25%\"";
    let (_, value) = section.get(key)?;
    let read = match value.get_ref() {
        DeValue::Integer(number) => {
            value::integer(number).and_then(|number| u32::try_from(number).ok()).map(Share::Count)
        }
        DeValue::String(text) => text.parse().ok(),
        _ => {
            notes.wrong_type(section, key, value, "a number or a part", Some(HELP.into()));
            return None;
        }
    };
    if read.is_none() {
        let text = value.get_ref().as_str().map(str::to_owned).or_else(|| value::plain(value.get_ref()));
        let message = format!("`{key}` cannot be {}", quote(&text.unwrap_or_default()));
        notes.invalid(section, key, &value.span(), message, HELP);
    }
    read
}

/// `depends_on`: names, or names with what is waited for. Conditions other than the usual one are in the
/// map.
pub(super) fn read_depends_on(
    section: &mut Section<'_, '_>,
    notes: &mut Notes<'_>,
) -> (Vec<Named>, BTreeMap<String, Condition>) {
    let is_table = section.get("depends_on").is_some_and(|(_, value)| value.get_ref().is_table());
    if !is_table {
        return (section.distinct("depends_on", notes), BTreeMap::new());
    }
    let Some(inner) = section.section("depends_on", notes) else {
        return (Vec::new(), BTreeMap::new());
    };
    let label = section.path_of("depends_on");
    let (mut names, mut conditions) = (Vec::new(), BTreeMap::new());
    for (key, value) in in_order(inner.table()) {
        let name = key.get_ref().to_string();
        let path: String = format!("{label}.{name}").chars().take(200).collect();
        names.push((name.clone(), key.span()));
        let found = value.get_ref().as_str().map(|text| CONDITIONS.iter().find(|(word, _)| *word == text));
        match found {
            Some(Some((_, Condition::Healthy))) => {}
            Some(Some((_, condition))) => {
                conditions.insert(name, *condition);
            }
            Some(None) | None => {
                let shown = value
                    .get_ref()
                    .as_str()
                    .map_or_else(|| format!("a value of type {}", value.get_ref().type_str()), quote);
                let kind = if found.is_some() { FaultKind::InvalidValue } else { FaultKind::WrongType };
                let message = format!("what is waited for in {} cannot be {shown}", quote(&name));
                let help = "one of \"started\", \"healthy\", \"completed\"".to_owned();
                notes.push(&value.span(), kind, &path, message, Some(help));
            }
        }
    }
    (names, conditions)
}
