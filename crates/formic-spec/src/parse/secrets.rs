//! `secrets`: which of the engine's secrets a service is given, and how.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::DeValue;

use super::in_order;
use super::section::{Notes, Section};
use crate::fault::{FaultKind, quote};
use crate::manifest::SecretUse;

/// What can be the name of a secret and of the file that it is handed over in.
fn is_name(text: &str) -> bool {
    let sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 63 && !text.starts_with('.') && text.chars().all(sign)
}

pub(super) fn read(
    section: &mut Section<'_, '_>,
    env: &BTreeMap<String, String>,
    reserved: &[&str],
    notes: &mut Notes<'_>,
) -> BTreeMap<String, SecretUse> {
    const RULE: &str = "1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, not a `.` first";
    let Some(inner) = section.section("secrets", notes) else {
        return BTreeMap::new();
    };
    let label = inner.path().to_owned();
    let mut read = BTreeMap::new();
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in in_order(inner.table()) {
        let file = key.get_ref().to_string();
        let path: String = format!("{label}.{file}").chars().take(200).collect();
        if !is_name(&file) {
            let message = format!("{} cannot be the name of a secret's file", quote(&file));
            notes.push(&key.span(), FaultKind::InvalidName, &path, message, Some(RULE.into()));
        }
        let (name, variable): (Option<(String, Range<usize>)>, _) = match value.get_ref() {
            DeValue::String(text) => (Some((text.to_string(), value.span())), None),
            DeValue::Table(table) => {
                let mut one = Section::new(table, value.span(), path.clone());
                let (name, variable) = (one.string("secret", notes), one.string("env", notes));
                one.finish(notes);
                (Some(name.unwrap_or_else(|| (file.clone(), key.span()))), variable)
            }
            other => {
                let message = format!(
                    "{} must be the name of a secret, not of type {}",
                    quote(&file),
                    other.type_str()
                );
                let help = format!("write \"{file}\", or {{ secret = \"{file}\", env = \"…\" }}");
                notes.push(&value.span(), FaultKind::WrongType, &path, message, Some(help));
                (None, None)
            }
        };
        let Some((secret, span)) = name else { continue };
        if !is_name(&secret) && is_name(&file) {
            let message = format!("{} cannot be the name of a secret", quote(&secret));
            notes.push(&span, FaultKind::InvalidName, &path, message, Some(RULE.into()));
        }
        if let Some((variable, span)) = &variable {
            let fault = if variable.is_empty() || variable.contains(['=', '\0']) {
                Some((FaultKind::InvalidName, "cannot be the name of a variable".to_owned()))
            } else if reserved.contains(&variable.as_str()) {
                Some((FaultKind::InvalidName, "is set by the engine".to_owned()))
            } else if env.contains_key(variable) {
                Some((FaultKind::Conflict, "is set in `env` too".to_owned()))
            } else {
                let other = given.insert(variable.clone(), file.clone());
                other.map(|other| (FaultKind::Conflict, format!("is that of {} already", quote(&other))))
            };
            if let Some((kind, why)) = fault {
                let message = format!("{} {why}", quote(variable));
                notes.push(span, kind, &path, message, Some("give it another name".into()));
            }
        }
        read.insert(file, SecretUse { secret, env: variable.map(|(name, _)| name) });
    }
    read
}
