//! `formic logs`: what services wrote, merged, each line with a coloured prefix.

use std::io::IsTerminal;

use formic_api::control::v1 as pb;
use serde_json::{Value, json};

use crate::cli::Logs;
use crate::exit::Outcome;
use crate::{app, output, signals};

pub(crate) async fn run(args: Logs) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let known: Vec<&str> = app.status.services.iter().map(|service| service.name.as_str()).collect();
    for name in &args.services {
        app.knows(name)?;
    }
    let request = pb::LogsRequest {
        services: args.services.clone(),
        follow: args.follow,
        tail: args.tail,
        ..Default::default()
    };
    let mut prefixes = Prefixes::new(&known, output::colour(std::io::stdout().is_terminal()));
    let mut lines = app.control().logs(request).await?.into_message();
    // Listened to from here on: a signal that comes while a line is printed counts as well.
    let mut interrupted = signals::interrupt()?;
    loop {
        let line = tokio::select! {
            line = lines.message() => line?,
            _ = interrupted.recv() => return Ok(()),
        };
        let Some(line) = line else { return Ok(()) };
        if args.listing.json {
            let value = json!({
                "service": line.service, "instance": line.instance, "stream": line.stream, "line": line.line,
            });
            output::line(&value.to_string());
        } else {
            output::line(&prefixes.line(&line.service, &line.line));
        }
    }
}

/// Puts the service's name before its lines, in a colour of its own.
pub(crate) struct Prefixes {
    width: usize,
    names: Vec<String>,
    colour: bool,
}

/// Readable on dark and on light; red is for errors.
const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "96"];

impl Prefixes {
    pub(crate) fn new<S: AsRef<str>>(names: &[S], colour: bool) -> Self {
        let width = names.iter().map(|name| name.as_ref().len()).max().unwrap_or(0);
        Self { width, names: names.iter().map(|name| name.as_ref().to_owned()).collect(), colour }
    }

    /// A line as people read it: a structured one unfolded, any other as it is.
    pub(crate) fn line(&mut self, service: &str, line: &str) -> String {
        let unfolded = self.colour.then(|| unfold(line)).flatten();
        let line = unfolded.as_deref().unwrap_or(line);
        // A name that nobody foretold widens what follows.
        self.width = self.width.max(service.len());
        let width = self.width;
        if !self.colour {
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
fn unfold(line: &str) -> Option<String> {
    let Value::Object(mut fields) = serde_json::from_str(line).ok()? else { return None };
    let mut take = |name: &str| fields.remove(name).and_then(|value| value.as_str().map(str::to_owned));
    let (time, level, message) = (take("time")?, take("level")?, take("message")?);
    let trace = take("trace_id");
    take("span_id");
    take("target");
    let colour = match level.as_str() {
        "error" => "31",
        "warn" => "33",
        "info" => "32",
        _ => "2",
    };
    let clock = time.get(11..23).unwrap_or(&time);
    let mut out = format!("\x1b[2m{clock}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m {message}");
    for (name, value) in fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.push_str(&format!(" \x1b[2m{name}=\x1b[0m{text}"));
    }
    if let Some(trace) = trace.as_deref().and_then(|trace| trace.get(..8)) {
        out.push_str(&format!(" \x1b[2mtrace={trace}\x1b[0m"));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structured_lines_are_unfolded_and_others_left() {
        let line = r#"{"time":"2026-11-21T05:38:35.375001Z","level":"info","target":"x","message":"ready","port":80}"#;
        let text = unfold(line).expect("structured");
        assert!(
            text.contains("05:38:35.375") && text.contains("ready") && text.contains("port=\x1b[0m80"),
            "{text}"
        );
        assert_eq!(unfold("plain"), None);
        assert_eq!(unfold("{\"a\":1}"), None);
    }

    #[test]
    fn prefixes_line_up_with_and_without_colour() {
        let mut plain = Prefixes::new(&["user", "shipping"], false);
        assert_eq!(plain.line("user", "a"), "user     | a");
        assert_eq!(plain.line("shipping", "b"), "shipping | b");
        let mut colour = Prefixes::new(&["user", "shipping"], true);
        assert_eq!(colour.line("user", "a"), "\x1b[36muser     |\x1b[0m a");
        // A name that was not foretold counts from its first line on.
        let mut learning = Prefixes::new::<&str>(&[], false);
        assert_eq!(learning.line("gateway", "a"), "gateway | a");
        assert_eq!(learning.line("user", "b"), "user    | b");
    }
}
