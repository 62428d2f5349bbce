//! From text to a checked manifest: the sections of the file, and what only shows across them.
//!
//! Two passes: the first reads each section and notes what is wrong in it, the second follows names from
//! one to another. A file that is not TOML is still walked as far as it could be read, but then nothing
//! is said to be *missing* or unknown: it may stand in the part that was lost.

mod calls;
mod health;
mod job;
mod privileges;
mod proxy;
mod route;
mod secrets;
mod section;
mod service;
mod settings;
mod sockets;
mod traffic;
mod trust;
mod update;
mod value;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::ops::Range;

use formic_settings::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::calls::Calls;
pub(crate) use self::calls::told;
use self::section::{Notes, Section};
use self::service::Located;
use crate::fault::{FaultKind, Faults, Raw, quote};
use crate::graph;
use crate::manifest::PROXY;
use crate::manifest::{
    App, Cors, DEFAULT_LISTEN, FORMAT, Gateway, MAX_BYTES, MAX_SERVICES, Manifest, RestartPolicy, Service,
};
use crate::port::Port;
use crate::update::Condition;

/// More circles than this are not worth reading.
const CYCLES: usize = 20;

impl Manifest {
    /// Reads and checks a manifest. `file` is what its faults call it.
    ///
    /// # Errors
    ///
    /// Every fault of the text, at once.
    pub fn parse(source: &str, file: &str) -> Result<Self, Faults> {
        let whole = |kind, message: String, help: &str| {
            let raw = Raw { span: 0..0, kind, path: String::new(), message, help: Some(help.into()) };
            Err(Faults::resolve(file, source, vec![raw]))
        };
        if source.len() > MAX_BYTES {
            let message = format!("the file has {} bytes, more than {MAX_BYTES}", source.len());
            return whole(FaultKind::TooLarge, message, "split the application in several");
        }
        let (root, errors) = DeTable::parse_recoverable(source);
        let root = root.into_inner();
        if let Some(fault) = other_format(&root) {
            return Err(Faults::resolve(file, source, vec![fault]));
        }
        let mut notes = Notes::new(source, &errors);
        let manifest = read(&root, &mut notes);
        match (manifest, notes.into_faults()) {
            (Some(manifest), faults) if faults.is_empty() => Ok(manifest),
            (None, faults) if faults.is_empty() => whole(
                FaultKind::Syntax,
                "the file cannot be read".into(),
                "see the documentation of the format",
            ),
            (_, faults) => Err(Faults::resolve(file, source, faults)),
        }
    }
}

/// A manifest of another version is told apart first: of its other keys we know nothing.
fn other_format(root: &DeTable<'_>) -> Option<Raw> {
    let (key, value) = root.get_key_value("format")?;
    let DeValue::Integer(number) = value.get_ref() else {
        return None;
    };
    if value::integer(number) == Some(i128::from(FORMAT)) {
        return None;
    }
    Some(Raw {
        span: value.span(),
        kind: FaultKind::Format,
        path: key.get_ref().to_string(),
        message: format!(
            "the manifest has format {}; this binary reads format {FORMAT}",
            quote(&number.to_string())
        ),
        help: Some(format!(
            "use the release of Formic that it was written for, or rewrite it as `format = {FORMAT}`"
        )),
    })
}

/// `None` only beside at least one fault.
fn read(root: &DeTable<'_>, notes: &mut Notes<'_>) -> Option<Manifest> {
    let mut top = Section::root(root);
    if let Some((_, value)) = top.get("format")
        && !matches!(value.get_ref(), DeValue::Integer(_))
    {
        notes.wrong_type(&top, "format", value, "an integer", None);
    }
    let app = read_app(&mut top, notes);
    let gateway = read_gateway(&mut top, notes);
    let mut services = read_services(&mut top, notes);
    let client = top.section("client", notes).map(Section::entries).unwrap_or_default();
    let client = calls::read(client, "client", notes);
    let routes = route::read(&mut top, notes);
    route::check_gateway(&routes, &top, notes);
    top.finish(notes);

    let (gateway, listen, expose, said) = match gateway {
        Some(Door { gateway, listen, expose, calls }) => (Some(gateway), listen, expose, calls),
        None => (None, None, Vec::new(), Vec::new()),
    };
    let calls = calls::settle(client, said, &mut services, notes);
    let names: BTreeSet<&str> = services.iter().map(|located| located.service.name.as_str()).collect();
    for (name, span) in &expose {
        check_name(&names, name, span, "gateway.expose", "exposed in [gateway]", notes);
    }
    for located in &services {
        let path = format!("service.{}.depends_on", located.service.name);
        let label = format!("that `{}` depends on", located.service.name);
        for (name, span) in &located.depends_on {
            check_name(&names, name, span, &path, &label, notes);
        }
    }
    for located in &routes {
        if let Some((name, span)) = &located.service {
            let path: String = format!("route.{}.service", located.route.name).chars().take(200).collect();
            let label = format!("that the route {} leads to", quote(&located.route.name));
            check_name(&names, name, span, &path, &label, notes);
        }
    }
    route::check_alike(&routes, notes);
    check_cycles(&services, notes);
    check_conditions(&services, notes);
    check_proxy(&services, notes);
    check_ports(gateway.as_ref().map(|g| g.listen), listen, &services, notes);
    let services = services.into_iter().map(|located| located.service).collect();
    let routes = routes.into_iter().map(|located| located.route).collect();
    let Calls { all: traffic, single: calls } = calls;
    Some(Manifest { format: FORMAT, app: app?, gateway, services, traffic, calls, routes })
}

fn read_app(top: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<App> {
    let Some(mut section) = top.section("app", notes) else {
        if !top.has("app") {
            notes.missing(
                top,
                0..0,
                "the manifest has no [app]",
                "begin the file with [app] and, below it, `name = \"…\"`",
            );
        }
        return None;
    };
    let name = match section.string("name", notes) {
        Some((name, span)) => {
            notes.name(&name, &span, "app.name", "the name of the application").then_some(name)
        }
        None => {
            if !section.has("name") {
                let span = section.span();
                notes.missing(&section, span, "[app] has no `name`", "write `name = \"…\"` below it");
            }
            None
        }
    };
    section.finish(notes);
    Some(App { name: name? })
}

/// A name from the file and where it stands.
type Named = (String, Range<usize>);

/// The gateway, and what of it can only be checked beside the services.
struct Door {
    gateway: Gateway,
    /// Where its `listen` stands.
    listen: Option<Range<usize>>,
    /// The names that it exposes.
    expose: Vec<Named>,
    /// How it calls them.
    calls: calls::Said,
}

fn read_gateway(top: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<Door> {
    let mut section = top.section("gateway", notes)?;
    let mut gateway = Gateway::default();
    let mut at = Some(section.span());
    if let Some((text, span)) = section.string("listen", notes) {
        match text.parse::<SocketAddr>() {
            Ok(address) => gateway.listen = address,
            Err(_) => {
                let message = format!("{} is not an address with a port", quote(&text));
                let help = format!("write it like \"{DEFAULT_LISTEN}\" or \"[::1]:8080\"");
                notes.invalid(&section, "listen", &span, message, &help);
            }
        }
        at = Some(span);
    }
    let expose = section.distinct("expose", notes);
    gateway.expose = expose.iter().map(|(name, _)| name.clone()).collect();
    if let Some(size) = section.unit("max_body", "a size such as \"4MiB\"", notes) {
        gateway.max_body = size;
    }
    gateway.priority = section.boolean("priority", notes).unwrap_or(false);
    trust::read(&mut section, &mut gateway, notes);
    if let Some(mut cors) = section.section("cors", notes) {
        let origins = cors.distinct("origins", notes);
        for (origin, span) in &origins {
            if !is_origin(origin) {
                let message = format!("{} is not an origin", quote(origin));
                let help = "an origin is a scheme, a host and perhaps a port, such as \"https://shop.example\", or \"*\"";
                notes.invalid(&cors, "origins", span, message, help);
            }
        }
        gateway.cors = Cors { origins: origins.into_iter().map(|(origin, _)| origin).collect() };
        cors.finish(notes);
    }
    gateway.transport = settings::read_transport(&mut section, notes).unwrap_or_default();
    gateway.labels = settings::texts(&mut section, "labels", notes);
    let client = section.section("client", notes).map(Section::entries).unwrap_or_default();
    let calls = calls::read(client, "gateway.client", notes);
    section.finish(notes);
    Some(Door { gateway, listen: at, expose, calls })
}

/// What a browser sends as `Origin`: no path, no final slash.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    text == "*"
        || host.is_some_and(|host| {
            !host.is_empty()
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
        })
}

fn read_services(top: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Vec<Located> {
    let Some(section) = top.section("service", notes) else {
        return Vec::new();
    };
    let entries = section.entries();
    if entries.len() > MAX_SERVICES {
        let message = format!("the manifest has {} services, more than {MAX_SERVICES}", entries.len());
        let span = entries[MAX_SERVICES].0.span();
        notes.push(
            &span,
            FaultKind::TooLarge,
            "service",
            message,
            Some("split the application in several".into()),
        );
        return Vec::new();
    }
    entries.into_iter().map(|(key, value)| service::read(key, value, notes)).collect()
}

fn check_name(
    names: &BTreeSet<&str>,
    name: &str,
    span: &Range<usize>,
    path: &str,
    label: &str,
    notes: &mut Notes<'_>,
) {
    if names.contains(name) || notes.is_partial() {
        return;
    }
    let help = match notes.suggest(|| nearest(name, names.iter().copied())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("define it as [service.{}]", name.chars().take(63).collect::<String>()),
    };
    let message = format!("there is no service {} {label}", quote(name));
    notes.push(span, FaultKind::UnknownService, path, message, Some(help));
}

fn check_cycles(services: &[Located], notes: &mut Notes<'_>) {
    let plain: Vec<_> = services.iter().map(|located| located.service.clone()).collect();
    for cycle in graph::cycles(&graph::edges(&plain), CYCLES) {
        let mut names: Vec<&str> = cycle.iter().map(|&index| plain[index].name.as_str()).collect();
        names.push(names[0]);
        let first = &services[cycle[0]];
        let Some((_, span)) = first.depends_on.iter().find(|(name, _)| name == names[1]) else {
            continue;
        };
        let message = format!("services depend on each other in a circle: {}", names.join(" -> "));
        let path = format!("service.{}.depends_on", names[0]);
        let help = "take one of them out of a `depends_on`: it orders the start, and is not needed to call a service";
        notes.push(span, FaultKind::Cycle, &path, message, Some(help.into()));
    }
}

/// Waiting for the end of what is always restarted would be for ever.
fn check_conditions(services: &[Located], notes: &mut Notes<'_>) {
    let policies: HashMap<&str, RestartPolicy> = services
        .iter()
        .map(|located| (located.service.name.as_str(), located.service.restart.policy))
        .collect();
    for Located { service, depends_on, .. } in services {
        for (name, span) in depends_on {
            let waits = service.conditions.get(name) == Some(&Condition::Completed);
            if waits && policies.get(name.as_str()) == Some(&RestartPolicy::Always) {
                let path = format!("service.{}.depends_on.{name}", service.name);
                let message = format!(
                    "`{}` waits for {} to complete, which is restarted always",
                    service.name,
                    quote(name)
                );
                let help = format!("give {} `restart = {{ policy = \"on_failure\" }}`", quote(name));
                notes.push(span, FaultKind::Conflict, &path, message, Some(help));
            }
        }
    }
}

/// Where there is a proxy, it is a service of the engine's own.
fn check_proxy(services: &[Located], notes: &mut Notes<'_>) {
    let namesake = services.iter().find(|located| located.service.name == PROXY);
    if let (true, Some(namesake)) = (services.iter().any(|located| located.proxy.is_some()), namesake) {
        let message = format!("{} cannot be the name of a service beside a `proxy`", quote(PROXY));
        let help = "the engine has one of that name then; give yours another".to_owned();
        notes.push(&namesake.name, FaultKind::InvalidName, "service.proxy", message, Some(help));
    }
}

/// Every port given in the manifest belongs to one listener.
fn check_ports(
    listen: Option<SocketAddr>,
    at: Option<Range<usize>>,
    services: &[Located],
    notes: &mut Notes<'_>,
) {
    let mut taken: HashMap<u16, String> = HashMap::new();
    if let (Some(address), Some(_)) = (listen, at)
        && address.port() != 0
    {
        taken.insert(address.port(), "the gateway".into());
    }
    for located in services {
        let Service { name, port, sockets, proxy, .. } = &located.service;
        let fixed =
            port.and_then(Port::fixed).zip(located.port.as_ref()).map(|(port, span)| (port, "port", span));
        let sockets = sockets.values().zip(&located.sockets).map(|(at, span)| (at.port(), "sockets", span));
        let proxy = proxy.as_ref().zip(located.proxy.as_ref());
        let proxy =
            proxy.map(|(proxy, span)| (proxy.listen.port(), "proxy", span)).filter(|(port, ..)| *port != 0);
        for (port, key, span) in fixed.into_iter().chain(sockets).chain(proxy) {
            if let Some(other) = taken.get(&port) {
                let message = format!("port {port} of `{name}` is already that of {other}");
                let path = format!("service.{name}.{key}");
                let help = Some("give each its own port".into());
                notes.push(span, FaultKind::DuplicateListen, &path, message, help);
            } else {
                taken.insert(port, format!("`{name}`"));
            }
        }
    }
}

/// In the order of the file: the tree itself is sorted by key.
fn in_order<'t, 'i>(
    table: &'t DeTable<'i>,
) -> Vec<(&'t Spanned<std::borrow::Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}
