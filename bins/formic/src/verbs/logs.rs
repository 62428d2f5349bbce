//! `formic logs`: what services wrote, merged, each line with a coloured prefix.

mod left;

use std::io::IsTerminal;
use std::time::{SystemTime, UNIX_EPOCH};

use formic_api::control::v1 as pb;
use formic_core::ServiceName;
use formic_spec::HumanDuration;
use serde_json::{Value, json};

use self::left::Source;
use crate::cli::Logs;
use crate::exit::Outcome;
use crate::{output, signals};

/// How many lines there are where nobody says how many.
const TAIL: u32 = 100;

pub(crate) async fn run(args: Logs) -> Outcome {
    let ago = |since: HumanDuration| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.saturating_sub(since.get()).as_millis();
        // 0 would be any time.
        i64::try_from(since).unwrap_or(i64::MAX).max(1)
    };
    let request = pb::LogsRequest {
        services: args.services,
        follow: args.follow,
        tail: args.tail.unwrap_or(if args.since.is_some() { 0 } else { TAIL }),
        since_unix_ms: args.since.map(ago).unwrap_or_default(),
        instance: args.instance.unwrap_or_default(),
        previous: args.previous,
        ..Default::default()
    };
    let (style, json) = (Style::of_output(), args.listing.json);
    let app = match left::source(&args.listing.target).await? {
        Source::Engine(app) => app,
        Source::Folder(folder) => {
            let mut prefixes = Prefixes::new(&request.services, style);
            for line in left::read(&folder, request).await? {
                show(&line, &mut prefixes, json);
            }
            return Ok(());
        }
    };
    for name in &request.services {
        // What is not wanted any more has left its logs. Those of another machine are looked at there.
        let is_kept = app.remote.is_some()
            || ServiceName::new(name).is_ok() && left::logs(&app.folder).join(name).is_dir();
        if !is_kept {
            app.knows(name)?;
        }
    }
    let known: Vec<&str> = app.status.services.iter().map(|service| service.name.as_str()).collect();
    let mut prefixes = Prefixes::new(&known, style);
    let mut lines = app.control().logs(request).await?.into_message();
    // Listened to from here on: a signal that comes while a line is printed counts as well.
    let mut interrupted = signals::interrupt()?;
    loop {
        let line = tokio::select! {
            line = lines.message() => line?,
            _ = interrupted.recv() => return Ok(()),
        };
        let Some(line) = line else { return Ok(()) };
        show(&line, &mut prefixes, json);
    }
}

fn show(line: &pb::LogLine, prefixes: &mut Prefixes, json: bool) {
    if !json {
        output::line(&prefixes.line(&line.service, &line.line));
        return;
    }
    let value = json!({
        "service": line.service, "instance": line.instance, "stream": line.stream, "line": line.line,
        "time": output::time(line.unix_ms).replacen(' ', "T", 1) + "Z", "told_by": line.told_by,
    });
    output::line(&value.to_string());
}

/// How lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// As they are, for programs.
    Plain,
    /// For people: structured ones unfolded.
    Unfolded,
    /// The same in colours.
    Coloured,
}

/// Puts the service's name before its lines, in a colour of its own.
pub(crate) struct Prefixes {
    width: usize,
    names: Vec<String>,
    style: Style,
}

/// Readable on dark and on light; red is for errors.
const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "96"];

impl Style {
    /// For whatever reads standard output.
    pub(crate) fn of_output() -> Self {
        let terminal = std::io::stdout().is_terminal();
        match (terminal, output::colour(terminal)) {
            (false, _) => Self::Plain,
            (true, false) => Self::Unfolded,
            (true, true) => Self::Coloured,
        }
    }
}

impl Prefixes {
    pub(crate) fn new<S: AsRef<str>>(names: &[S], style: Style) -> Self {
        let width = names.iter().map(|name| name.as_ref().len()).max().unwrap_or(0);
        Self { width, names: names.iter().map(|name| name.as_ref().to_owned()).collect(), style }
    }

    /// A line as people read it: a structured one unfolded, any other as it is.
    pub(crate) fn line(&mut self, service: &str, line: &str) -> String {
        let colour = self.style == Style::Coloured;
        let unfolded = (self.style != Style::Plain).then(|| unfold(line, colour)).flatten();
        let line = unfolded.as_deref().unwrap_or(line);
        // A name that nobody foretold widens what follows.
        self.width = self.width.max(service.len());
        let width = self.width;
        if !colour {
            return format!("{service:width$} | {line}");
        }
        let at = match self.names.iter().position(|name| name == service) {
            Some(at) => at,
            None => {
                self.names.push(service.into());
                self.names.len() - 1
            }
        };
        let colour = COLOURS[at % COLOURS.len()];
        format!("\x1b[{colour}m{service:width$} |\x1b[0m {line}")
    }
}

/// A structured line of a Formic service (one JSON object) as its pretty form; `None` for other lines.
fn unfold(line: &str, colour: bool) -> Option<String> {
    let Value::Object(mut fields) = serde_json::from_str(line).ok()? else { return None };
    let mut take = |name: &str| fields.remove(name).and_then(|value| value.as_str().map(str::to_owned));
    let (time, level, message) = (take("time")?, take("level")?, take("message")?);
    let trace = take("trace_id");
    take("span_id");
    take("target");
    let of_level = match level.as_str() {
        "error" => "31",
        "warn" => "33",
        "info" => "32",
        _ => "2",
    };
    let paint = |code: &str, text: &str| {
        if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let clock = time.get(11..23).unwrap_or(&time);
    let level = format!("{level:>5}");
    let mut out = format!("{} {} {message}", paint("2", clock), paint(of_level, &level));
    for (name, value) in fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.push_str(&format!(" {}{text}", paint("2", &format!("{name}="))));
    }
    if let Some(trace) = trace.as_deref().and_then(|trace| trace.get(..8)) {
        out.push_str(&format!(" {}", paint("2", &format!("trace={trace}"))));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structured_lines_are_unfolded_and_others_left() {
        let line = r#"{"time":"2026-11-21T05:38:35.375001Z","level":"info","target":"x","message":"ready","port":80}"#;
        let text = unfold(line, true).expect("structured");
        assert!(
            text.contains("05:38:35.375") && text.contains("ready") && text.contains("port=\x1b[0m80"),
            "{text}"
        );
        assert_eq!(unfold(line, false).expect("structured"), "05:38:35.375  info ready port=80");
        assert_eq!(unfold("plain", true), None);
        assert_eq!(unfold("{\"a\":1}", true), None);
        // For eyes that want no colours it is unfolded all the same.
        let mut prefixes = Prefixes::new(&["user"], Style::Unfolded);
        assert_eq!(prefixes.line("user", line), "user | 05:38:35.375  info ready port=80");
    }

    #[test]
    fn prefixes_line_up_with_and_without_colour() {
        let mut plain = Prefixes::new(&["user", "shipping"], Style::Plain);
        assert_eq!(plain.line("user", "a"), "user     | a");
        assert_eq!(plain.line("shipping", "b"), "shipping | b");
        let mut colour = Prefixes::new(&["user", "shipping"], Style::Coloured);
        assert_eq!(colour.line("user", "a"), "\x1b[36muser     |\x1b[0m a");
        // A name that was not foretold counts from its first line on.
        let mut learning = Prefixes::new::<&str>(&[], Style::Plain);
        assert_eq!(learning.line("gateway", "a"), "gateway | a");
        assert_eq!(learning.line("user", "b"), "user    | b");
    }
}
