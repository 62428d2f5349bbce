//! `[route.<name>]`: one route of the manifest, and what only shows across routes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::Named;
use super::section::{Notes, Section};
use crate::fault::{FaultKind, quote};
use crate::route::{DEFAULT_ROUTE_TIMEOUT, MAX_ROUTES, Route, RoutePath};

/// Longer paths are no routes of anybody.
const LONGEST: usize = 1024;

/// A route and where its names stand.
pub(super) struct Located {
    pub(super) route: Route,
    /// None when the service is missing, which is a fault of its own.
    pub(super) service: Option<Named>,
    span: Range<usize>,
}

/// Reads every route.
pub(super) fn read(top: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Vec<Located> {
    let Some(section) = top.section("route", notes) else {
        return Vec::new();
    };
    let entries = section.entries();
    if entries.len() > MAX_ROUTES {
        let message = format!("the manifest has {} routes, more than {MAX_ROUTES}", entries.len());
        let help = "split the application in several".to_owned();
        notes.push(&entries[MAX_ROUTES].0.span(), FaultKind::TooLarge, "route", message, Some(help));
        return Vec::new();
    }
    entries.into_iter().filter_map(|(key, value)| one(key, value, notes)).collect()
}

/// `None` only beside at least one fault.
fn one(key: &Spanned<Cow<'_, str>>, table: &Spanned<DeValue<'_>>, notes: &mut Notes<'_>) -> Option<Located> {
    let name = key.get_ref().to_string();
    let path = format!("route.{}", name.chars().take(100).collect::<String>());
    let prefix = name.starts_with('/');
    let named = prefix || notes.name(&name, &key.span(), &path, "the name of a route");
    let inner = match table.get_ref() {
        DeValue::Table(inner) => inner,
        other => {
            let message = format!("{} must be a table, not of type {}", quote(&path), other.type_str());
            let help = "write [route.\"/path\"] with `service = \"…\"` below it".to_owned();
            notes.push(&table.span(), FaultKind::WrongType, &path, message, Some(help));
            return None;
        }
    };
    let mut section = Section::new(inner, key.span(), path);
    let service = section.string("service", notes);
    if service.is_none() && !section.has("service") {
        let message = format!("the route {} leads to no service", quote(&name));
        notes.missing(&section, key.span(), &message, "write `service = \"…\"` below it");
    }
    let host = read_host(&mut section, notes);
    let route_path = read_path(&name, &key.span(), host.is_some(), &mut section, notes);
    let methods = read_methods(&mut section, notes);
    let headers = read_headers(&mut section, notes);
    let strip = section.boolean("strip", notes).unwrap_or(false);
    if strip && matches!(route_path, Some(RoutePath::Exact(_))) {
        let span = section.get("strip").map_or(key.span(), |(_, value)| value.span());
        let message = "`strip` takes away a prefix, and this route has a `path`".to_owned();
        let help = "take out `strip`, or write `prefix` in place of `path`".to_owned();
        notes.push(&span, FaultKind::Conflict, &section.path_of("strip"), message, Some(help));
    }
    let timeout = section.duration("timeout", "a duration such as \"15s\"", notes);
    let max_body = section.unit("max_body", "a size such as \"4MiB\"", notes);
    section.finish(notes);
    if !named {
        return None;
    }
    let route = Route {
        name,
        service: service.as_ref().map(|(name, _)| name.clone()).unwrap_or_default(),
        host,
        path: route_path?,
        methods,
        headers,
        strip,
        timeout: timeout.unwrap_or(DEFAULT_ROUTE_TIMEOUT),
        max_body,
    };
    Some(Located { route, service, span: key.span() })
}

/// The name itself, `prefix` or `path`: one of the three.
fn read_path(
    name: &str,
    span: &Range<usize>,
    has_host: bool,
    section: &mut Section<'_, '_>,
    notes: &mut Notes<'_>,
) -> Option<RoutePath> {
    let prefix = section.string("prefix", notes);
    let exact = section.string("path", notes);
    let mut given: Vec<(&'static str, Named)> = Vec::new();
    if name.starts_with('/') {
        given.push(("", (name.to_owned(), span.clone())));
    }
    given.extend(prefix.map(|named| ("prefix", named)));
    given.extend(exact.map(|named| ("path", named)));
    if let [_, (key, (_, span)), ..] = &given[..] {
        let message = format!("the route {} has two paths", quote(name));
        let help = "the name is the prefix if it begins with `/`; else give `prefix` or `path`".to_owned();
        notes.push(span, FaultKind::Conflict, &section.path_of(key), message, Some(help));
        return None;
    }
    let Some((key, (text, span))) = given.pop() else {
        if has_host || section.has("prefix") || section.has("path") {
            return has_host.then(|| RoutePath::Prefix("/".into()));
        }
        let message = format!("the route {} has no path", quote(name));
        let help = "name it by its prefix, [route.\"/reports\"], or give it `prefix`, `path` or `host`";
        notes.missing(section, span.clone(), &message, help);
        return None;
    };
    if let Some(reason) = bad_path(&text) {
        let message = format!("{} is not the path of a route: {reason}", quote(&text));
        let help = "write it like \"/reports\" or \"/reports/2026\"";
        if key.is_empty() {
            let path = section.path().to_owned();
            notes.push(&span, FaultKind::InvalidName, &path, message, Some(help.into()));
        } else {
            notes.invalid(section, key, &span, message, help);
        }
        return None;
    }
    if key == "path" {
        return Some(RoutePath::Exact(text));
    }
    // `/reports/` and `/reports` have the same below them.
    let trimmed = text.trim_end_matches('/');
    Some(RoutePath::Prefix(if trimmed.is_empty() { "/".into() } else { trimmed.to_owned() }))
}

fn bad_path(text: &str) -> Option<&'static str> {
    let segments = || text.trim_end_matches('/').split('/').skip(1);
    if !text.starts_with('/') {
        Some("it does not begin with `/`")
    } else if text.len() > LONGEST {
        Some("it is longer than 1024 bytes")
    } else if text.contains(['?', '#']) {
        Some("a query or a fragment is no part of it")
    } else if !text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\')) {
        Some("it has characters that no path on the wire has; encode them as `%20`")
    } else if segments().any(|segment| matches!(segment, "" | "." | "..")) {
        Some("it has an empty part, `.` or `..`, which clients take out")
    } else {
        None
    }
}

fn read_host(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
    let (text, span) = section.string("host", notes)?;
    let host = text.to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    if name.len() > 253 || !name.split('.').all(label) {
        let message = format!("{} is not a host", quote(&text));
        let help =
            "write a name or an address without a port, such as \"shop.example\" or \"*.shop.example\"";
        notes.invalid(section, "host", &span, message, help);
        return None;
    }
    Some(host)
}

/// One method or several.
fn read_methods(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Vec<String> {
    let text = section.get("method").is_some_and(|(_, value)| value.get_ref().is_str());
    let methods = if text {
        section.string("method", notes).into_iter().collect()
    } else {
        section.distinct("method", notes)
    };
    for (method, span) in &methods {
        if method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase() || c == '-') {
            let message = format!("{} is not a method", quote(method));
            notes.invalid(section, "method", span, message, "methods are in capitals, such as \"GET\"");
        }
    }
    methods.into_iter().map(|(method, _)| method).collect()
}

/// Names and values, all strings.
fn read_headers(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> BTreeMap<String, String> {
    let Some(table) = section.section("header", notes) else {
        return BTreeMap::new();
    };
    let path = table.path().to_owned();
    let mut headers = BTreeMap::new();
    for (key, item) in table.entries() {
        let name = key.get_ref().to_ascii_lowercase();
        let at: String = format!("{path}.{name}").chars().take(200).collect();
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            let message = format!("{} is not the name of a header", quote(key.get_ref()));
            notes.push(&key.span(), FaultKind::InvalidName, &at, message, None);
            continue;
        }
        match item.get_ref().as_str() {
            Some(text) if text.chars().all(|c| c.is_ascii_graphic() || c == ' ') => {
                headers.insert(name, text.trim().to_owned());
            }
            Some(text) => {
                let message = format!("{} cannot be the value of a header", quote(text));
                notes.push(&item.span(), FaultKind::InvalidValue, &at, message, None);
            }
            None => {
                let found = item.get_ref().type_str();
                let message = format!("the header {} must be a string, not of type {found}", quote(&name));
                let help = "write the value that it must have, or \"*\" for any".to_owned();
                notes.push(&item.span(), FaultKind::WrongType, &at, message, Some(help));
            }
        }
    }
    headers
}

/// Two routes for the same requests: nothing would say which of them is meant.
pub(super) fn check_alike(routes: &[Located], notes: &mut Notes<'_>) {
    for (number, second) in routes.iter().enumerate() {
        let Some(first) = routes[..number].iter().find(|first| first.route.is_like(&second.route)) else {
            continue;
        };
        let names = (quote(&second.route.name), quote(&first.route.name));
        let message = format!("the routes {} and {} are for the same requests", names.0, names.1);
        let path: String = format!("route.{}", second.route.name).chars().take(200).collect();
        let help = "take one of them out, or tell them apart by host, method or header".to_owned();
        notes.push(&second.span, FaultKind::Conflict, &path, message, Some(help));
    }
}

/// The first route, for the fault that there is nobody to carry it out.
pub(super) fn check_gateway(routes: &[Located], top: &Section<'_, '_>, notes: &mut Notes<'_>) {
    if let (Some(first), false) = (routes.first(), top.has("gateway")) {
        let message = "there are routes and no [gateway]".to_owned();
        let help = "write [gateway], which starts one, or take the routes out";
        notes.missing(top, first.span.clone(), &message, help);
    }
}
