//! What changes, for people: one line a field. Of a list of things that have names only what differs in each is told, and
//! how a service is called only where the manifest says it, not again with every caller that is told.

use std::collections::{BTreeMap, BTreeSet};

use formic_api::control::v1 as pb;
use formic_reconcile::plain;
use formic_spec::GATEWAY;
use serde_json::Value;

use crate::output;

/// Each service that changes, and below it each field; then what changes beside them.
pub(crate) fn changes(changes: &[pb::ServiceChange], beside: &[pb::FieldChange]) -> String {
    let mut lines = Vec::new();
    for change in changes {
        let sign = match change.change.as_str() {
            "added" => '+',
            "removed" => '-',
            _ => '~',
        };
        let how = match change.how.as_str() {
            "in-place" => ", taken up by what runs",
            "rollout" if change.change == "changed" => ", by new instances",
            _ => "",
        };
        lines.push(format!("{sign} {} {}{how}", change.service, change.change));
        // Each policy once, however many of its keys change.
        let mut told = BTreeSet::new();
        for field in &change.fields {
            match told_below(&change.service, field, beside) {
                Some((place, below)) if told.insert(place) => {
                    lines.push(format!("    {}: as {} below", plain(place), plain(&below)));
                }
                Some(_) => {}
                None => lines.extend(Line::all(field).iter().map(|line| format!("    {}", line.within()))),
            }
        }
    }
    lines.extend(beside.iter().flat_map(Line::all).map(|line| line.alone()));
    let limit = output::limit();
    lines.iter().flat_map(|line| output::wrap(line, limit, 4)).collect::<Vec<_>>().join("\n")
}

/// Where a caller's word on how it calls a service comes from, if that is among what changes: the caller's place, and the
/// manifest's.
fn told_below<'f>(
    caller: &str,
    field: &'f pb::FieldChange,
    beside: &[pb::FieldChange],
) -> Option<(&'f str, String)> {
    let place = field.field.as_str();
    let gateway = if caller == GATEWAY { place.strip_prefix("config.services.") } else { None };
    let (service, key) = match gateway {
        Some(rest) => rest.split_once('.')?,
        None => place.strip_prefix("client.")?.split_once(".traffic.")?,
    };
    let own = if caller == GATEWAY { caller.to_owned() } else { format!("service.{caller}") };
    let places = [format!("{own}.client.{service}.traffic"), format!("service.{service}.traffic")];
    let first = |key: &str| key.split('.').next().map(ToOwned::to_owned);
    // A gateway is told all keys, so those that nobody has written come and go with the others.
    let whole = gateway.is_some() && (field.from.is_empty() || field.to.is_empty());
    let says = |above: &&String| {
        let keys = beside.iter().filter_map(|it| it.field.strip_prefix(above.as_str())?.strip_prefix('.'));
        keys.into_iter().any(|said| whole || first(said) == first(key))
    };
    let below = places.iter().find(says)?.clone();
    Some((place.strip_suffix(key)?.trim_end_matches('.'), below))
}

/// A place, and what it was and becomes; nothing where it is not there.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    place: String,
    from: String,
    to: String,
}

impl Line {
    /// All that there is to say of a field.
    fn all(field: &pb::FieldChange) -> Vec<Self> {
        if let Some(lines) = listed(field) {
            return lines;
        }
        vec![Self { place: field.field.clone(), from: field.from.clone(), to: field.to.clone() }]
    }

    /// Below the service that it is of.
    fn within(&self) -> String {
        // Of what nobody is to read there is one thing to say.
        if self.to == formic_reconcile::HIDDEN_CHANGED {
            return format!("{}: {}", plain(&self.place), self.to);
        }
        let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { plain(text) };
        format!("{}: {} -> {}", plain(&self.place), shown(&self.from), shown(&self.to))
    }

    /// On its own.
    fn alone(&self) -> String {
        match (self.from.is_empty(), self.to.is_empty()) {
            (true, false) => format!("+ {}: added, {}", plain(&self.place), plain(&self.to)),
            (false, true) => format!("- {}: removed, was {}", plain(&self.place), plain(&self.from)),
            _ => format!("~ {}", self.within()),
        }
    }
}

/// A thing of a list: its name, and each of its fields by its place.
type Named = (String, BTreeMap<String, String>);

/// Of a list of things with names: those that came and went, each field that differs, and their order.
fn listed(field: &pb::FieldChange) -> Option<Vec<Line>> {
    let (from, to) = (named(&field.from)?, named(&field.to)?);
    let place = |name: &str| format!("{} {name:?}", field.field);
    let other = |list: &[Named], name: &str| list.iter().find(|(other, _)| other == name).cloned();
    let mut lines = Vec::new();
    for (name, fields) in &to {
        let Some((_, before)) = other(&from, name) else {
            lines.push(Line { place: place(name), from: String::new(), to: whole(fields) });
            continue;
        };
        let keys: BTreeSet<&String> = before.keys().chain(fields.keys()).collect();
        for key in keys.into_iter().filter(|key| before.get(*key) != fields.get(*key)) {
            let shown =
                |fields: &BTreeMap<String, String>| fields.get(key).map_or("none", String::as_str).to_owned();
            let place = format!("{} {key}", place(name));
            lines.push(Line { place, from: shown(&before), to: shown(fields) });
        }
    }
    for (name, fields) in from.iter().filter(|(name, _)| other(&to, name).is_none()) {
        lines.push(Line { place: place(name), from: whole(fields), to: String::new() });
    }
    let order = |list: &[Named], others: &[Named]| -> Vec<String> {
        let stays = list.iter().filter(|(name, _)| other(others, name).is_some());
        stays.map(|(name, _)| name.clone()).collect()
    };
    let (before, after) = (order(&from, &to), order(&to, &from));
    if before != after {
        // Of rules the first that applies decides.
        let place = format!("{} order", field.field);
        lines.push(Line { place, from: before.join(", "), to: after.join(", ") });
    }
    (!lines.is_empty()).then_some(lines)
}

/// A list of things that have names, each another; nothing is a list of none.
fn named(text: &str) -> Option<Vec<Named>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let Ok(Value::Array(items)) = serde_json::from_str(text) else { return None };
    let one = |item: Value| {
        let Value::Object(mut fields) = item else { return None };
        let Some(Value::String(name)) = fields.remove("name") else { return None };
        let mut out = BTreeMap::new();
        fields.iter().for_each(|(place, value)| leaves(place, value, &mut out));
        Some((name, out))
    };
    let all: Vec<Named> = items.into_iter().map(one).collect::<Option<_>>()?;
    let names: BTreeSet<&String> = all.iter().map(|(name, _)| name).collect();
    (names.len() == all.len()).then_some(all)
}

/// Each value by its place, as the manifest spells both: `split.0.weight`.
fn leaves(place: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    let mut below = |name: &str, value: &Value| leaves(&format!("{place}.{name}"), value, out);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| below(name, value));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(at, value)| below(&at.to_string(), value));
        }
        other => drop(out.insert(place.to_owned(), other.to_string())),
    }
}

/// A thing in a line.
fn whole(fields: &BTreeMap<String, String>) -> String {
    let fields: Vec<String> = fields.iter().map(|(place, value)| format!("{place} {value}")).collect();
    // Nothing would read as what is not there.
    if fields.is_empty() { "empty".into() } else { fields.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(field: &str, from: &str, to: &str) -> pb::FieldChange {
        pb::FieldChange { field: field.into(), from: from.into(), to: to.into(), ..Default::default() }
    }

    fn changed(service: &str, fields: Vec<pb::FieldChange>) -> pb::ServiceChange {
        let (change, how) = ("changed".into(), "in-place".into());
        pb::ServiceChange { service: service.into(), change, how, fields, ..Default::default() }
    }

    #[test]
    fn a_value_writes_over_nothing() {
        let fields = vec![
            field("env.A", "", "ü\n\u{1b}[1A\u{1b}[2K漢字\u{202e}"),
            field("env.\u{9b}B", "", "x\ty"),
            field("list", "", "[{\"name\":\"a\u{9b}\",\"b\u{202e}\":\"\\u001b[2K\u{9b}\"}]"),
        ];
        let changed = pb::ServiceChange { how: String::new(), ..changed("s", fields) };
        let text = changes(&[changed], &[field("routes.\r", "", "\u{7}")]);
        assert!(
            !text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}')
                && text.lines().count() == 5,
            "{text:?}"
        );
        assert!(text.contains("ü\\n\\u{1b}[1A\\u{1b}[2K漢字\\u{202e}"), "{text}");
    }

    #[test]
    fn of_a_list_of_named_things_the_fields_that_differ_are_told() {
        let lines = |from: &str, to: &str| -> Vec<String> {
            Line::all(&field("traffic.rules", from, to)).iter().map(Line::alone).collect()
        };
        let one = r#"[{"name":"beta","when":{"x-user":"b*"},"to":{"version":"2"}},{"name":"rest","split":[{"weight":5}]}]"#;
        assert_eq!(
            lines(one, &one.replace("\"2\"", "\"3\"")),
            [r#"~ traffic.rules "beta" to.version: "2" -> "3""#]
        );
        assert_eq!(
            lines(one, &one.replace("[{\"weight\":5}]", "[{\"weight\":6},{\"weight\":9}]")),
            [
                r#"~ traffic.rules "rest" split.0.weight: 5 -> 6"#,
                r#"~ traffic.rules "rest" split.1.weight: none -> 9"#
            ]
        );
        let other = r#"[{"name":"rest","split":[{"weight":5}]},{"name":"new","strict":true},{"name":"beta","when":{"x-user":"b*"},"to":{"version":"2"}}]"#;
        assert_eq!(
            lines(one, other),
            [
                r#"+ traffic.rules "new": added, strict true"#,
                "~ traffic.rules order: beta, rest -> rest, beta"
            ]
        );
        assert_eq!(lines("", r#"[{"name":"bare"}]"#), [r#"+ traffic.rules "bare": added, empty"#]);
        assert_eq!(
            lines(one, r#"[{"name":"rest","split":[{"weight":5}]}]"#),
            [r#"- traffic.rules "beta": removed, was to.version "2", when.x-user "b*""#]
        );
        // What has no names, or a name twice, and what is no list are whole.
        for other in
            ["[{\"a\":1}]", "[1]", "x", "[{\"name\":\"a\"},{\"name\":\"a\"}]", "[] (hidden, changed)"]
        {
            assert_eq!(lines("", other), [format!("+ traffic.rules: added, {other}")]);
        }
    }

    #[test]
    fn how_a_service_is_called_is_told_once() {
        let rules = |version: u32| format!(r#"[{{"name":"beta","to":{{"version":"{version}"}}}}]"#);
        let edited = |place: &str| field(place, &rules(2), &rules(3));
        let services = [
            changed("gateway", vec![edited("config.services.order.rules")]),
            changed(
                "web",
                vec![
                    edited("client.order.traffic.rules"),
                    field("client.order.traffic.subset", "", "2"),
                    field("client.user.traffic.policy", "p2c", "random"),
                    field("revision", "a", "b"),
                ],
            ),
        ];
        let beside = [
            edited("service.order.traffic.rules"),
            field("service.web.client.order.traffic.subset", "", "2"),
        ];
        assert_eq!(
            changes(&services, &beside),
            "~ gateway changed, taken up by what runs\n    \
                 config.services.order: as service.order.traffic below\n\
             ~ web changed, taken up by what runs\n    \
                 client.order.traffic: as service.order.traffic below\n    \
                 client.user.traffic.policy: p2c -> random\n    \
                 revision: a -> b\n\
             ~ service.order.traffic.rules \"beta\" to.version: \"2\" -> \"3\"\n\
             + service.web.client.order.traffic.subset: added, 2"
        );
        // The gateway is told what nobody wrote, too; a change of that alone is told.
        let whole = [changed("gateway", vec![field("config.services.order.budget.ratio", "", "0.2")])];
        assert!(changes(&whole, &beside).contains("config.services.order: as service.order.traffic below"));
        let other = [changed("gateway", vec![field("config.services.order.budget.ratio", "0.1", "0.2")])];
        assert!(changes(&other, &beside).contains("config.services.order.budget.ratio: 0.1 -> 0.2"));
        // Keys of another service that are called alike are its own.
        let own = [changed("web", vec![field("config.services.order.rules", "1", "2")])];
        assert!(changes(&own, &beside).contains("config.services.order.rules: 1 -> 2"));
    }
}
