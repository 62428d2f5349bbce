//! `port` and `health`: where a program answers, and how it is found out that it does.

use std::ops::Range;

use toml::de::DeValue;

use super::section::{Notes, Section};
use crate::fault::{FaultKind, quote};
use crate::manifest::{Health, Probe};
use crate::port::Port;

const PROBES: [(&str, Probe); 6] = [
    ("grpc", Probe::Grpc),
    ("http", Probe::Http),
    ("tcp", Probe::Tcp),
    ("exec", Probe::Exec),
    ("log", Probe::Log),
    ("none", Probe::None),
];

/// A number, or the word for any free one.
pub(super) fn read_port(
    section: &mut Section<'_, '_>,
    notes: &mut Notes<'_>,
) -> Option<(Port, Range<usize>)> {
    let (_, value) = section.get("port")?;
    if value.get_ref().as_str().is_some_and(|text| text.parse::<u16>().is_err()) {
        let port = section.word("port", &[("auto", Port::Auto)], notes)?;
        return Some((port, value.span()));
    }
    let (port, span) = section.integer("port", 1..65_536, notes)?;
    Some((Port::Fixed(u16::try_from(port).ok()?), span))
}

pub(super) fn read(
    section: &mut Section<'_, '_>,
    has_port: bool,
    is_job: bool,
    notes: &mut Notes<'_>,
) -> Health {
    let mut health = Health::default();
    if is_job {
        // It answers nobody.
        health.ready = Probe::None;
    }
    if has_port {
        // A program that is given its port this way is not one of ours, and need not speak gRPC.
        health.ready = Probe::Tcp;
    }
    let Some(mut inner) = section.section("health", notes) else {
        return health;
    };
    health.ready = inner.word("ready", &PROBES, notes).unwrap_or(health.ready);
    if let Some((path, span)) = inner.string("path", notes) {
        if !belongs("path", Probe::Http, health.ready, &span, &inner, notes) {
            // Said already.
        } else if !path.starts_with('/') || path.contains(|c: char| c.is_control() || c == ' ') {
            let message = format!("{} is not the path of a URL", quote(&path));
            notes.invalid(&inner, "path", &span, message, "write it like \"/readyz\"");
        }
        health.path = path;
    }
    read_command(&mut inner, &mut health, notes);
    read_line(&mut inner, &mut health, notes);
    health.interval =
        inner.duration("interval", "a duration such as \"1s\"", notes).unwrap_or(health.interval);
    health.timeout = inner.duration("timeout", "a duration such as \"1s\"", notes).unwrap_or(health.timeout);
    health.deadline =
        inner.duration("deadline", "a duration such as \"60s\"", notes).unwrap_or(health.deadline);
    inner.finish(notes);
    health
}

/// Notes a key that is for another probe than the one that there is.
fn belongs(
    key: &str,
    to: Probe,
    ready: Probe,
    span: &Range<usize>,
    inner: &Section<'_, '_>,
    notes: &mut Notes<'_>,
) -> bool {
    if ready == to {
        return true;
    }
    let word = PROBES.iter().find(|(_, probe)| *probe == to).map_or("", |(word, _)| word);
    let name = if to == Probe::Http { "an HTTP probe".into() } else { format!("the probe \"{word}\"") };
    let message = format!("`{key}` is for {name} only");
    let help = format!("add `ready = \"{word}\"`, or take `{key}` out");
    notes.push(span, FaultKind::Conflict, &inner.path_of(key), message, Some(help));
    false
}

fn read_command(inner: &mut Section<'_, '_>, health: &mut Health, notes: &mut Notes<'_>) {
    const LIKE: &str = "write it like [\"./check.sh\", \"--quick\"]";
    let words = inner.strings("command", notes);
    let value = inner.get("command").map(|(_, value)| value);
    match (words, value) {
        (Some(words), Some(value)) => {
            let is_empty = match value.get_ref() {
                DeValue::Array(items) => {
                    items.first().is_none_or(|program| program.get_ref().as_str() == Some(""))
                }
                _ => false,
            };
            if belongs("command", Probe::Exec, health.ready, &value.span(), inner, notes) && is_empty {
                let message = "`command` names no program".to_owned();
                notes.invalid(inner, "command", &value.span(), message, LIKE);
            }
            health.command = words.into_iter().map(|(word, _)| word).collect();
        }
        // One of the wrong type was noted.
        (None, Some(_)) => {}
        (_, None) if health.ready == Probe::Exec => {
            let help = format!("add `command`: {LIKE}; it is ready when that ends with 0");
            notes.missing(inner, inner.span(), "the probe \"exec\" has no `command`", &help);
        }
        (_, None) => {}
    }
}

fn read_line(inner: &mut Section<'_, '_>, health: &mut Health, notes: &mut Notes<'_>) {
    match inner.string("line", notes) {
        Some((line, span)) => {
            if belongs("line", Probe::Log, health.ready, &span, inner, notes)
                && (line.trim().is_empty() || line.contains(char::is_control))
            {
                let message = "`line` is a part of one line that the program writes".to_owned();
                notes.invalid(inner, "line", &span, message, "write it like \"listening on\"");
            }
            health.line = line;
        }
        None if health.ready == Probe::Log && !inner.has("line") => {
            let help = "add `line`, a part of what the program writes when it is ready: \"listening on\"";
            notes.missing(inner, inner.span(), "the probe \"log\" has no `line`", help);
        }
        None => {}
    }
}
