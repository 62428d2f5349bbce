//! `[service.<name>]`: one service of the manifest.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Map;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::section::{Notes, Section};
use super::{
    Named, calls, health, job, privileges, proxy, secrets, settings, sockets, traffic, update, value,
};
use crate::fault::{FaultKind, quote};
use crate::manifest::{GATEWAY, MAX_REPLICAS, Resources, Restart, RestartPolicy, Service, Source};
use crate::port::Port;
use crate::stop::{Stop, StopSignal};
use crate::update::Dependents;

/// What the engine tells each instance; a manifest cannot say otherwise. (`FORMIC_LOG` and
/// `FORMIC_LISTEN` it can: those only have a default.)
const RESERVED_ENV: &[&str] = &[
    "FORMIC_APP",
    "FORMIC_SERVICE",
    "FORMIC_INSTANCE",
    "FORMIC_VERSION",
    "FORMIC_DAEMON",
    "FORMIC_CONFIG",
    "FORMIC_CLIENT",
    "FORMIC_DATA_DIR",
    "FORMIC_SECRETS_DIR",
];

/// Names of parts of the engine itself, which have folders and rows in tables like any service.
const RESERVED_NAMES: &[&str] = &[GATEWAY];

/// More cores than any machine has.
const MOST_CORES: f64 = 4096.0;

/// A service and where its names stand, for what can only be checked across services.
pub(super) struct Located {
    pub(super) service: Service,
    pub(super) depends_on: Vec<Named>,
    pub(super) name: Range<usize>,
    pub(super) port: Option<Range<usize>>,
    /// Where the address of its proxy stands.
    pub(super) proxy: Option<Range<usize>>,
    /// Where its sockets stand, in the order of their names.
    pub(super) sockets: Vec<Range<usize>>,
    /// How it is called, for its callers.
    pub(super) traffic: Option<traffic::Part>,
    /// How it calls others, where it has a word of its own.
    pub(super) calls: calls::Said,
}

/// Reads one service. What is wrong with it is noted; the name counts as defined nevertheless, so that
/// one fault does not make others.
pub(super) fn read(
    key: &Spanned<std::borrow::Cow<'_, str>>,
    table: &Spanned<DeValue<'_>>,
    notes: &mut Notes<'_>,
) -> Located {
    let name = key.get_ref().to_string();
    let path = format!("service.{name}");
    if notes.name(&name, &key.span(), &path, "the name of a service")
        && RESERVED_NAMES.contains(&name.as_str())
    {
        let message =
            format!("{} cannot be the name of a service: the engine has one of that name", quote(&name));
        let help = "give it another name; the gateway itself is set up in [gateway]".into();
        notes.push(&key.span(), FaultKind::InvalidName, &path, message, Some(help));
    }
    let empty = DeTable::new();
    let inner = match table.get_ref() {
        DeValue::Table(inner) => inner,
        other => {
            let message = format!("{} must be a table, not of type {}", quote(&path), other.type_str());
            let help = "write [service.name] with its keys below".to_owned();
            notes.push(&table.span(), FaultKind::WrongType, &path, message, Some(help));
            &empty
        }
    };
    let is_table = table.get_ref().is_table();
    let mut section = Section::new(inner, key.span(), path);

    let source = if is_table { read_source(&name, &mut section, notes) } else { None };
    let args = section.strings("args", notes).unwrap_or_default();
    let replicas = section.integer("replicas", 0..MAX_REPLICAS + 1, notes);
    let (depends_on, conditions) = update::read_depends_on(&mut section, notes);
    let port = health::read_port(&mut section, notes);
    let (sockets, socket_spans) = sockets::read(&mut section, notes);
    let env = read_env(&mut section, port.is_some(), notes);
    let secrets = secrets::read(&mut section, &env, RESERVED_ENV, notes);
    let config = section.section("config", notes);
    let config = config.map_or_else(Map::new, |config| value::object(config.table(), config.path(), notes));
    let (settings, calls) =
        settings::read(&mut section, port.is_some(), replicas.as_ref().map(|r| r.0), notes);
    let (job, cron) = job::read(&mut section, replicas.as_ref().map(|(_, span)| span.clone()), notes);
    let traffic = traffic::read(&mut section, notes);
    let proxy = proxy::read(&mut section, port.is_some(), job.is_some(), notes);
    let (proxy, proxy_span) = proxy.unzip();
    let health = health::read(&mut section, port.is_some(), job.is_some(), notes);
    let resources = read_resources(&mut section, notes);
    let privileges = privileges::read(&mut section, notes);
    let mut stop = Stop::default();
    if let Some(mut inner) = section.section("stop", notes) {
        // Zero is allowed here: it means SIGKILL at once.
        stop.grace = inner.unit("grace", "a duration such as \"30s\"", notes).unwrap_or(stop.grace);
        stop.signal = inner.word("signal", &StopSignal::WORDS, notes).unwrap_or_default();
        inner.finish(notes);
    }
    let restart = read_restart(&mut section, job.as_ref().map(|job| job.retries), notes);
    let update = update::read(&mut section, notes);
    let cwd = section.string("cwd", notes);
    if let Some((text, span)) = &cwd
        && text.is_empty()
    {
        notes.invalid(
            &section,
            "cwd",
            span,
            "`cwd` is empty".into(),
            "leave it out for the folder of the manifest",
        );
    }
    if let (Some((Port::Fixed(port), span)), Some((replicas @ 2.., _))) = (&port, &replicas) {
        let message = format!("{replicas} instances cannot share port {port}");
        let help =
            "write `port = \"auto\"`, leave it out (a Formic service finds its own), or have one instance";
        notes.push(span, FaultKind::Conflict, &section.path_of("port"), message, Some(help.into()));
    }
    section.finish(notes);

    let service = Service {
        name,
        source: source.unwrap_or(Source::Command(Vec::new())),
        args: args.into_iter().map(|(arg, _)| arg).collect(),
        replicas: replicas.map_or(1, |(number, _)| number),
        depends_on: depends_on.iter().map(|(name, _)| name.clone()).collect(),
        conditions,
        env,
        secrets,
        config,
        settings,
        port: port.as_ref().map(|(port, _)| *port),
        sockets,
        proxy,
        health,
        resources,
        privileges,
        stop,
        restart,
        update,
        job,
        cron,
        cwd: cwd.map(|(text, _)| text),
    };
    Located {
        service,
        depends_on,
        name: key.span(),
        port: port.map(|(_, span)| span),
        proxy: proxy_span,
        sockets: socket_spans,
        traffic,
        calls,
    }
}

/// Exactly one of `cargo`, `command` and `image`.
fn read_source(name: &str, section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<Source> {
    const KEYS: [&str; 3] = ["cargo", "command", "image"];
    let mut given: Vec<_> = KEYS.iter().filter_map(|key| Some((*key, section.get(key)?.0.span()))).collect();
    given.sort_by_key(|(_, span)| span.start);
    if let [(first, _), (second, span), ..] = given.as_slice() {
        let message = format!("`{name}` has both `{first}` and `{second}`");
        let help = "a service is exactly one of `cargo`, `command` and `image`";
        notes.push(span, FaultKind::Conflict, &section.path_of(second), message, Some(help.into()));
    }
    if given.is_empty() {
        let message = format!("`{name}` does not say what to run");
        let span = section.span();
        let help =
            format!("add `cargo = \"{name}\"` for a Cargo package, or `command = [\"…\"]` for any program");
        notes.missing(section, span, &message, &help);
        return None;
    }

    let cargo = section.string("cargo", notes).map(|(package, span)| {
        if package.is_empty() || !package.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_')) {
            let message = format!("{} is not the name of a Cargo package", quote(&package));
            let help = "the `name` in the [package] of its Cargo.toml, without path or version";
            notes.invalid(section, "cargo", &span, message, help);
        }
        Source::Cargo(package)
    });
    let command = section.strings("command", notes).map(|words| {
        let value = section.get("command").map(|(_, value)| value);
        if let Some(value) = value
            && let DeValue::Array(items) = value.get_ref()
            && items.first().is_none_or(|program| program.get_ref().as_str() == Some(""))
        {
            let message = "`command` names no program".to_owned();
            notes.invalid(
                section,
                "command",
                &value.span(),
                message,
                "write it like [\"python3\", \"app.py\"]",
            );
        }
        Source::Command(words.into_iter().map(|(word, _)| word).collect())
    });
    let image = section.string("image", notes).map(|(image, span)| {
        let message =
            format!("`{name}` is a container image, which needs the docker or the kubernetes driver");
        let help = "this binary has the process driver only: use `cargo` or `command`".to_owned();
        notes.push(&span, FaultKind::Unsupported, &section.path_of("image"), message, Some(help));
        Source::Image(image)
    });
    cargo.or(command).or(image)
}

fn read_env(
    section: &mut Section<'_, '_>,
    has_port: bool,
    notes: &mut Notes<'_>,
) -> BTreeMap<String, String> {
    let Some(env) = section.section("env", notes) else {
        return BTreeMap::new();
    };
    let label = section.path_of("env");
    let mut read = BTreeMap::new();
    for (key, value) in env.entries() {
        let name = key.get_ref().to_string();
        let path: String = format!("{label}.{name}").chars().take(200).collect();
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("{} cannot be the name of a variable", quote(&name));
            let help = "a variable has a name, without `=`".to_owned();
            notes.push(&key.span(), FaultKind::InvalidName, &path, message, Some(help));
        } else if RESERVED_ENV.contains(&name.as_str()) {
            let message = format!("{} is set by the engine", quote(&name));
            let help = "take it out; settings of the service itself go into `config`".to_owned();
            notes.push(&key.span(), FaultKind::InvalidName, &path, message, Some(help));
        } else if has_port && name == "PORT" {
            let message = "`PORT` is set from `port`".to_owned();
            notes.push(&key.span(), FaultKind::Conflict, &path, message, Some("take one of them out".into()));
        }
        match value.get_ref().as_str() {
            Some(text) if text.contains('\0') => {
                let message = format!("the variable {} has a zero byte", quote(&name));
                let help = "no program could be given it: leave it out".to_owned();
                notes.push(&value.span(), FaultKind::InvalidValue, &path, message, Some(help));
            }
            Some(text) => {
                read.insert(name, text.to_owned());
            }
            None => {
                let found = value.get_ref().type_str();
                let message =
                    format!("the variable {} must be a string, not a value of type {found}", quote(&name));
                let help =
                    value::plain(value.get_ref()).map(|text| format!("write it in quotes: \"{text}\""));
                notes.push(&value.span(), FaultKind::WrongType, &path, message, help);
            }
        }
    }
    read
}

fn read_resources(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Resources {
    let mut resources = Resources::default();
    let Some(mut inner) = section.section("resources", notes) else {
        return resources;
    };
    resources.memory = inner.unit("memory", "a size such as \"256MiB\"", notes);
    if let Some((_, value)) = inner.get("cpu") {
        let cores = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => number.as_str().parse::<f64>().ok().filter(|_| number.radix() == 10),
            _ => {
                let help = Some("write cores, such as 0.5".to_owned());
                notes.wrong_type(&inner, "cpu", value, "a number", help);
                Some(1.0)
            }
        };
        resources.cpu = cores.filter(|cores| *cores > 0.0 && *cores <= MOST_CORES);
        if resources.cpu.is_none() {
            let message = "`cpu` must be more than 0 and is counted in cores".to_owned();
            notes.invalid(&inner, "cpu", &value.span(), message, "write cores, such as 0.5");
        }
    }
    resources.pids = inner.integer("pids", 1..(1 << 22) + 1, notes).map(|(number, _)| number);
    inner.finish(notes);
    resources
}

/// `retries` are those of a job, which is not started again after a success.
fn read_restart(section: &mut Section<'_, '_>, retries: Option<u32>, notes: &mut Notes<'_>) -> Restart {
    let mut restart = Restart { retries, ..Restart::default() };
    if retries.is_some() {
        restart.policy = RestartPolicy::OnFailure;
    }
    let Some(mut inner) = section.section("restart", notes) else {
        return restart;
    };
    let words = [
        ("always", RestartPolicy::Always),
        ("on_failure", RestartPolicy::OnFailure),
        ("never", RestartPolicy::Never),
    ];
    restart.policy = inner.word("policy", &words, notes).unwrap_or(restart.policy);
    if retries.is_some()
        && restart.policy == RestartPolicy::Always
        && let Some((_, value)) = inner.get("policy")
    {
        let message = "a job that is always restarted has no end".to_owned();
        let help = "take it out for \"on_failure\", or write \"never\"".to_owned();
        notes.push(&value.span(), FaultKind::Conflict, &inner.path_of("policy"), message, Some(help));
    }
    restart.delay = inner.duration("delay", "a duration such as \"250ms\"", notes).unwrap_or(restart.delay);
    restart.max_delay =
        inner.duration("max_delay", "a duration such as \"60s\"", notes).unwrap_or(restart.max_delay);
    if restart.delay > restart.max_delay
        && let Some((_, value)) = inner.get("delay").or(inner.get("max_delay"))
    {
        let message = format!("`delay` {} is longer than `max_delay` {}", restart.delay, restart.max_delay);
        notes.invalid(&inner, "delay", &value.span(), message, "the delay is doubled up to `max_delay`");
    }
    let mut codes = |key, fallback: Vec<i32>| -> Vec<i32> {
        let read = inner.integers(key, 0..256, notes);
        read.map_or(fallback, |codes| codes.into_iter().filter_map(|code| i32::try_from(code).ok()).collect())
    };
    restart.no_restart_exit_codes = codes("no_restart_exit_codes", restart.no_restart_exit_codes);
    restart.success_exit_codes = codes("success_exit_codes", restart.success_exit_codes);
    restart.intensity =
        inner.integer("intensity", 1..101, notes).map_or(restart.intensity, |(number, _)| number);
    restart.within = inner.duration("within", "a duration such as \"2m\"", notes).unwrap_or(restart.within);
    let words = [("none", Dependents::None), ("rest", Dependents::Rest)];
    restart.dependents = inner.word("dependents", &words, notes).unwrap_or(restart.dependents);
    inner.finish(notes);
    restart
}
