//! Logs by `tracing`: coloured lines on a terminal, one JSON object a line elsewhere.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use formic_core::error::in_full;
use formic_rpc::context::Scope;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// For programs.
    Json,
}

/// A word that is no log format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat(pub String);

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no log format: expected auto, pretty or json", self.0)
    }
}

impl std::error::Error for UnknownFormat {}

impl FromStr for LogFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(text.into())),
        }
    }
}

/// Starts logging to standard error, once a process; later calls change nothing.
///
/// `filter` is a level or a list such as `info,shop_order=debug`.
///
/// # Errors
/// If the filter does not parse; the message says what is expected.
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    let targets: Targets = filter.parse().map_err(|error| {
        format!("{filter:?} is no log filter ({error}): expected a level or a list such as info,order=debug")
    })?;
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Pretty => false,
        LogFormat::Json => true,
    };
    let ansi = terminal && std::env::var_os("NO_COLOR").is_none();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .event_format(Line { json, ansi });
    // A second initialisation in one process (tests, several services) keeps the first.
    let _ = tracing_subscriber::registry().with(targets).with(layer).try_init();
    Ok(())
}

struct Line {
    json: bool,
    ansi: bool,
}

/// Collects the fields of an event as JSON values.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.rest.insert(field.name().trim_start_matches("r#").into(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.put(field, Value::String(format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.into();
        } else {
            self.put(field, value.into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, in_full(value).into());
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let trace = Scope::current().trace;
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let meta = event.metadata();
        if self.json {
            let mut line = Map::new();
            line.insert("time".into(), time.into());
            line.insert("level".into(), meta.level().as_str().to_ascii_lowercase().into());
            line.insert("target".into(), meta.target().into());
            line.insert("message".into(), fields.message.into());
            if let Some(trace) = trace {
                line.insert("trace_id".into(), format!("{:032x}", trace.trace_id).into());
                line.insert("span_id".into(), format!("{:016x}", trace.span_id).into());
            }
            for (name, value) in fields.rest {
                line.entry(name).or_insert(value);
            }
            return writeln!(out, "{}", Value::Object(line));
        }
        let (dim, reset) = if self.ansi { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let colour = match (self.ansi, *meta.level()) {
            (false, _) => "",
            (_, Level::ERROR) => "\x1b[31m",
            (_, Level::WARN) => "\x1b[33m",
            (_, Level::INFO) => "\x1b[32m",
            (_, _) => "\x1b[2m",
        };
        // The time of day is enough for eyes; the date is in the JSON form.
        let clock = time.get(11..23).unwrap_or(&time);
        write!(out, "{dim}{clock}{reset} {colour}{:>5}{reset} {}", meta.level(), fields.message)?;
        for (name, value) in fields.rest {
            match value {
                Value::String(text) => write!(out, " {dim}{name}={reset}{text}")?,
                value => write!(out, " {dim}{name}={reset}{value}")?,
            }
        }
        if let Some(trace) = trace {
            write!(out, " {dim}trace={:08x}{reset}", (trace.trace_id >> 96) as u32)?;
        }
        writeln!(out)
    }
}
