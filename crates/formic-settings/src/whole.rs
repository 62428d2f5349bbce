//! A table of settings as a type, with every fault of it: serde stops at the first, so what is wrong is noted,
//! taken out, and the rest read again.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::layers::{Layers, join};
use crate::typed::Typed;

/// More faults of one table are not worth a further look.
const MOST: usize = 40;

/// The value, if it is right; what is not is added to the faults. `check` says what is wrong with a value that
/// reads well: a key within it and a text.
pub(crate) fn read<T: DeserializeOwned>(
    layers: &Layers,
    value: &Value,
    path: &str,
    check: &impl Fn(&T) -> Vec<(String, String)>,
    faults: &mut Vec<Error>,
) -> Option<T> {
    let (mut left, mut removed) = (value.clone(), Vec::<String>::new());
    while removed.len() < MOST {
        let fault = match T::deserialize(Typed::new(layers, &left, path)) {
            Ok(read) => {
                let under = |key: &str, removed: &String| {
                    let (key, removed) = (format!("{key}."), format!("{removed}."));
                    key.starts_with(&removed) || removed.starts_with(&key)
                };
                // What was taken out would only be missed.
                let wrong = check(&read).into_iter().map(|(key, text)| (join(path, &key), text));
                let wrong: Vec<_> =
                    wrong.filter(|(key, _)| !removed.iter().any(|removed| under(key, removed))).collect();
                let right = wrong.is_empty() && removed.is_empty();
                faults.extend(wrong.into_iter().map(|(key, expected)| Error::Value {
                    origin: layers.source(&key).to_string(),
                    key,
                    expected,
                }));
                return right.then_some(read);
            }
            Err(fault) => fault,
        };
        let mut key = fault.path.unwrap_or_else(|| path.to_owned());
        let caused =
            fault.missing.is_some() && removed.iter().any(|gone| gone.starts_with(&format!("{key}.")));
        let place = key.strip_prefix(path).map(|rest| rest.trim_start_matches('.').to_owned());
        if let Some(field) = fault.missing {
            key = join(&key, field);
        }
        if !caused {
            // No secret is ever in such a table.
            let origin = layers.source(&key).to_string();
            faults.push(Error::Value { key: key.clone(), expected: fault.shown, origin });
        }
        let place = place.unwrap_or_default();
        if !remove(&mut left, &place) {
            return None;
        }
        removed.push(join(path, &place));
    }
    None
}

/// Takes out what stands at a path; `false` if that is nothing, or the whole.
fn remove(value: &mut Value, path: &str) -> bool {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    match value {
        Value::Object(table) if rest.is_empty() => table.remove(first).is_some(),
        Value::Object(table) => table.get_mut(first).is_some_and(|inner| remove(inner, rest)),
        Value::Array(items) => match first.parse::<usize>() {
            Ok(at) if at < items.len() && rest.is_empty() => {
                items.remove(at);
                true
            }
            Ok(at) => items.get_mut(at).is_some_and(|inner| remove(inner, rest)),
            Err(_) => false,
        },
        _ => false,
    }
}
