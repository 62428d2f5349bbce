//! What a Formic service reads of its own section: checked here, handed over by environment.
//!
//! A service that runs by itself reads these keys from the file (`formic-settings`); under an engine it
//! never sees the file. So that one manifest means the same both ways, each key becomes the variable that
//! sets the same thing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

use formic_settings::addresses;
use serde_json::{Value, json};
use toml::de::DeValue;

use super::calls::{self, Said};
use super::section::{Notes, Section};
use super::value;
use crate::fault::{FaultKind, quote};
use crate::units::HumanDuration;

/// Durations are handed over in a unit that every reader has.
fn millis(duration: HumanDuration) -> String {
    format!("{}ms", duration.get().as_millis())
}

pub(super) fn read(
    section: &mut Section<'_, '_>,
    has_port: bool,
    replicas: Option<u32>,
    notes: &mut Notes<'_>,
) -> (BTreeMap<String, String>, Said) {
    let (mut settings, mut calls) = (BTreeMap::new(), Said::new());
    let mut set = |variable: &str, value: Option<String>| {
        if let Some(value) = value {
            settings.insert(variable.to_owned(), value);
        }
    };
    set("FORMIC_LISTEN", read_listen(section, has_port, replicas, notes));
    set("FORMIC_ADVERTISE", read_address(section, "advertise", notes));
    // Checked and not handed over: under an engine its registry is the one where callers look.
    check_registry(section, notes);
    check_addresses(section, notes);
    set("FORMIC_LOG", section.string("log", notes).map(|(text, _)| text));
    let format = section.word("log_format", &["auto", "pretty", "json"].map(|word| (word, word)), notes);
    set("FORMIC_LOG_FORMAT", format.map(ToOwned::to_owned));
    let timeout = section.duration("timeout", "a duration such as \"5s\"", notes);
    set("FORMIC_TIMEOUT", timeout.map(millis));
    if let Some(mut drain) = section.section("drain", notes) {
        let grace = drain.unit::<HumanDuration>("grace", "a duration such as \"20s\"", notes);
        set("FORMIC_DRAIN_GRACE", grace.map(millis));
        let wanted = "a duration such as \"100ms\"";
        let propagation = drain.unit::<HumanDuration>("propagation", wanted, notes);
        set("FORMIC_DRAIN_PROPAGATION", propagation.map(millis));
        let streams = drain.unit::<HumanDuration>("streams", "a duration such as \"5s\"", notes);
        set("FORMIC_DRAIN_STREAMS", streams.map(millis));
        drain.finish(notes);
    }
    set("FORMIC_TRANSPORT", read_transport(section, notes));
    if let Some(mut client) = section.section("client", notes) {
        let words = ["auto", "http", "multiplexed"].map(|word| (word, word));
        let transport = client.word("transport", &words, notes);
        set("FORMIC_CLIENT_TRANSPORT", transport.map(ToOwned::to_owned));
        set("FORMIC_CLIENT_CAPTURE", client.string("capture", notes).map(|(text, _)| text));
        calls = calls::read(client.tables(), client.path(), notes);
        client.finish(notes);
    }
    let labels = texts(section, "labels", notes);
    set("FORMIC_LABELS", (!labels.is_empty()).then(|| json!(labels).to_string()));
    set("FORMIC_LIMITS", read_limits(section, notes));
    (settings, calls)
}

/// What calls travel over: of a service those that it answers too, of the gateway those that it makes.
pub(super) fn read_transport(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
    section.word("transport", &["auto", "http"].map(|word| (word, word)), notes).map(ToOwned::to_owned)
}

fn check_registry(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) {
    let inline = section.get("registry").and_then(|(_, value)| value.get_ref().as_str());
    let Some(text) = inline.and_then(|text| text.strip_prefix(addresses::PREFIX)) else {
        section.word("registry", &["local", "mdns", "memory", "static"].map(|word| (word, ())), notes);
        return;
    };
    if let (Err(reason), Some((_, value))) = (addresses::parse(text), section.get("registry")) {
        let help = "write it like \"static:order=127.0.0.1:7001,user=127.0.0.1:7002\"";
        notes.invalid(section, "registry", &value.span(), reason, help);
    }
}

/// Where services are that the registry `static` knows.
fn check_addresses(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) {
    let Some(table) = section.section("addresses", notes) else { return };
    let path = table.path().to_owned();
    for (key, item) in table.entries() {
        let text = |value: &toml::Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            other => Value::String(format!("of type {}", other.type_str())),
        };
        let value = match item.get_ref() {
            DeValue::Array(list) => list.iter().map(text).collect(),
            _ => text(item),
        };
        if let Err(reason) = addresses::entry(key.get_ref(), &value) {
            let path: String = format!("{path}.{}", key.get_ref()).chars().take(200).collect();
            let help = "write it like order = [\"127.0.0.1:7001\"]".to_owned();
            notes.push(&item.span(), FaultKind::InvalidValue, &path, reason, Some(help));
        }
    }
}

/// The keys of `limits`; what they hold is for the service to read, which says so at its start.
const LIMITS: [&str; 9] =
    ["adaptive", "min_in_flight", "max_in_flight", "queue", "memory", "idle", "priority", "exempt", "rate"];

fn read_limits(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
    let mut limits = section.section("limits", notes)?;
    let (table, path) = (limits.table(), limits.path().to_owned());
    for key in LIMITS {
        limits.get(key);
    }
    limits.finish(notes);
    let read = value::object(table, &path, notes);
    (!read.is_empty()).then(|| Value::Object(read).to_string())
}

fn read_listen(
    section: &mut Section<'_, '_>,
    has_port: bool,
    replicas: Option<u32>,
    notes: &mut Notes<'_>,
) -> Option<String> {
    let text = read_address(section, "listen", notes)?;
    let (_, value) = section.get("listen")?;
    if has_port {
        let message = "`listen` is for a Formic service, `port` for any other program".to_owned();
        let help = "take one of them out".to_owned();
        notes.push(&value.span(), FaultKind::Conflict, &section.path_of("listen"), message, Some(help));
    }
    let fixed = SocketAddr::from_str(&text).map_or(true, |address| address.port() != 0);
    if let (true, Some(replicas @ 2..)) = (fixed, replicas) {
        let message = format!("{replicas} instances cannot share the address {}", quote(&text));
        let help = "leave `listen` out or give it port 0, which takes any free one, or have one instance";
        notes.push(
            &value.span(),
            FaultKind::Conflict,
            &section.path_of("listen"),
            message,
            Some(help.into()),
        );
    }
    Some(text)
}

/// A socket address, or `unix:` and a path.
fn read_address(section: &mut Section<'_, '_>, key: &'static str, notes: &mut Notes<'_>) -> Option<String> {
    let (text, span) = section.string(key, notes)?;
    let unix = text.strip_prefix("unix:").is_some_and(|path| !path.is_empty());
    if !unix && SocketAddr::from_str(&text).is_err() {
        let message = format!("{} is not an address", quote(&text));
        notes.invalid(section, key, &span, message, "write it like \"127.0.0.1:4000\" or \"unix:/path\"");
        return None;
    }
    Some(text)
}

/// Names and texts; a number or a boolean is the text that it is written as.
pub(super) fn texts(
    section: &mut Section<'_, '_>,
    key: &'static str,
    notes: &mut Notes<'_>,
) -> BTreeMap<String, String> {
    let Some(labels) = section.section(key, notes) else { return BTreeMap::new() };
    let path = labels.path().to_owned();
    let mut read = BTreeMap::new();
    for (key, item) in labels.entries() {
        let text = item.get_ref().as_str().map(ToOwned::to_owned).or_else(|| value::plain(item.get_ref()));
        match text {
            Some(text) => {
                read.insert(key.get_ref().to_string(), text);
            }
            None => {
                let found = item.get_ref().type_str();
                let name = key.get_ref();
                let message = format!("the label {} must be a string, not of type {found}", quote(name));
                let path: String = format!("{path}.{name}").chars().take(200).collect();
                notes.push(&item.span(), FaultKind::WrongType, &path, message, None);
            }
        }
    }
    read
}
