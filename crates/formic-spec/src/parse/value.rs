//! Values of TOML as numbers and as JSON.

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::in_order;
use super::section::Notes;
use crate::fault::{FaultKind, quote};

/// The number, if it is one that any machine could want.
pub(super) fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A plain value as it would be written, to be shown in quotes or brackets.
pub(super) fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(number) => Some(number.to_string().chars().take(40).collect()),
        DeValue::Float(number) => Some(number.as_str().chars().take(40).collect()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Datetime(at) => Some(at.to_string()),
        _ => None,
    }
}

/// A free table as JSON, in the order of the file.
pub(super) fn object(table: &DeTable<'_>, path: &str, notes: &mut Notes<'_>) -> Map<String, Value> {
    in_order(table)
        .into_iter()
        .filter_map(|(key, value)| {
            let key = key.get_ref().to_string();
            json(value, &format!("{path}.{key}"), notes).map(|value| (key, value))
        })
        .collect()
}

/// Lays a tree over another: tables are merged, everything else is replaced.
pub(super) fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                merge(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

/// As deep as the reader of TOML allows, which is 80 levels.
fn json(value: &Spanned<DeValue<'_>>, path: &str, notes: &mut Notes<'_>) -> Option<Value> {
    let number = match value.get_ref() {
        DeValue::String(text) => return Some(Value::from(text.as_ref())),
        DeValue::Boolean(yes) => return Some(Value::from(*yes)),
        DeValue::Datetime(at) => return Some(Value::from(at.to_string())),
        DeValue::Array(items) => {
            return Some(items.iter().filter_map(|item| json(item, path, notes)).collect());
        }
        DeValue::Table(table) => return Some(Value::Object(object(table, path, notes))),
        DeValue::Integer(number) => integer(number)
            .and_then(|n| {
                i64::try_from(n).map(Value::from).or_else(|_| u64::try_from(n).map(Value::from)).ok()
            })
            .ok_or_else(|| number.to_string()),
        DeValue::Float(number) => {
            let float = number.as_str().parse::<f64>().ok().and_then(serde_json::Number::from_f64);
            float.map(Value::Number).ok_or_else(|| number.to_string())
        }
    };
    match number {
        Ok(number) => Some(number),
        Err(text) => {
            let message = format!("{} cannot be handed to the service", quote(&text));
            let help = "config travels as JSON, whose numbers are finite and of 64 bits: write it in quotes"
                .to_owned();
            let path: String = path.chars().take(200).collect();
            notes.push(&value.span(), FaultKind::InvalidValue, &path, message, Some(help));
            None
        }
    }
}
