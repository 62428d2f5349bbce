//! `formic logs`: what services wrote, merged, each line with a coloured prefix.

mod left;

use std::io::IsTerminal;
use std::time::{SystemTime, UNIX_EPOCH};

use formic_api::control::v1 as pb;
use formic_core::ServiceName;
use formic_reconcile::{on_terminal, plain};
use formic_spec::HumanDuration;
use serde_json::{Value, json};

use self::left::Source;
use crate::app::again;
use crate::cli::Logs;
use crate::exit::Outcome;
use crate::output;

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
    let follow = request.follow;
    let mut request = pb::LogsRequest { places: follow, ..request };
    again::listen(&app, follow, async |silence| {
        let mut lines = app.control().logs(request.clone()).await?.into_message();
        let outcome = loop {
            match lines.message().await {
                Ok(Some(line)) => {
                    silence.broken();
                    reached(&mut request, &line);
                    if line.places.is_unset() {
                        show(&line, &mut prefixes, json);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        silence.broken();
        outcome
    })
    .await
}

/// Takes note of where whoever is asked next is to go on.
fn reached(request: &mut pb::LogsRequest, line: &pb::LogLine) {
    if line.places.is_set() {
        request.from = line.places.clone();
    }
    let Some(from) = request.from.as_option_mut() else { return };
    if line.next == 0 {
        return;
    }
    let own = |place: &&mut pb::LogPlace| {
        (&place.service, &place.instance, &place.stream) == (&line.service, &line.instance, &line.stream)
    };
    match from.files.iter_mut().find(own) {
        Some(place) => place.offset = line.next,
        None => from.files.push(pb::LogPlace {
            service: line.service.clone(),
            instance: line.instance.clone(),
            stream: line.stream.clone(),
            offset: line.next,
            ..Default::default()
        }),
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

    /// A line as people read it: a structured one unfolded, any other as it is, and neither of them moves the cursor of a
    /// terminal or says what it is called. For programs it is as it was written.
    pub(crate) fn line(&mut self, service: &str, line: &str) -> String {
        let colour = self.style == Style::Coloured;
        let shown = match self.style {
            Style::Plain => None,
            _ => Some(unfold(line, colour).unwrap_or_else(|| on_terminal(line, colour))),
        };
        let line = shown.as_deref().unwrap_or(line);
        // A name that nobody foretold widens what follows.
        self.width = self.width.max(service.len());
        let width = self.width;
        // What goes on below itself is nobody else's line.
        let below = shown.as_deref().filter(|shown| shown.contains('\n'));
        let below = below.map(|shown| shown.replace('\n', &format!("\n{:width$} | ", "")));
        let line = below.as_deref().unwrap_or(line);
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
    // Several lines stay several lines.
    let shown = |text: &str| text.lines().map(plain).collect::<Vec<_>>().join("\n");
    let mut take = |name: &str| fields.remove(name).and_then(|value| value.as_str().map(shown));
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
        let text = value.as_str().map_or_else(|| plain(&value.to_string()), plain);
        out.push_str(&format!(" {}{text}", paint("2", &format!("{}=", plain(&name)))));
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
    fn a_terminal_carries_nothing_out_and_a_program_gets_what_was_written() {
        let line = "\u{1b}[31mred \u{1b}[2J\u{1b}]0;title\u{7}";
        let shown = |style| Prefixes::new(&["a"], style).line("a", line);
        assert_eq!(shown(Style::Plain), format!("a | {line}"));
        assert_eq!(shown(Style::Unfolded), "a | red \\u{1b}[2J\\u{1b}]0;title\\u{7}");
        let coloured = shown(Style::Coloured);
        assert!(coloured.ends_with("\u{1b}[31mred \\u{1b}[2J\\u{1b}]0;title\\u{7}\u{1b}[0m"), "{coloured:?}");
        let several = r#"{"time":"2026-11-21T05:38:35.375001Z","level":"info","message":"a\nb | c"}"#;
        let text = Prefixes::new(&["b"], Style::Unfolded).line("b", several);
        assert_eq!(text, "b | 05:38:35.375  info a\n  | b | c");
        let structured =
            r#"{"time":"2026-11-21T05:38:35.375001Z","level":"info","message":"a\u001b[2J","b\u0007":"\r"}"#;
        let text = Prefixes::new(&["a"], Style::Unfolded).line("a", structured);
        assert_eq!(text, "a | 05:38:35.375  info a\\u{1b}[2J b\\u{7}=\\r");
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
