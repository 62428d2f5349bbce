//! `formic logs`: what services wrote, merged, each line with a coloured prefix.

use std::io::IsTerminal;

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::cli::Logs;
use crate::exit::{Failure, Outcome};
use crate::{app, output, suggest};

pub(crate) async fn run(args: Logs) -> Outcome {
    let app = app::find(args.listing.target.app.as_deref()).await?;
    let known: Vec<&str> = app.status.services.iter().map(|service| service.name.as_str()).collect();
    if let Some(unknown) = args.services.iter().find(|name| !known.contains(&name.as_str())) {
        let failure = Failure::user(format!("{} has no service {unknown:?}", app.status.app));
        return Err(match suggest::nearest(unknown, known.iter().copied()) {
            Some(near) => failure.help(format!("did you mean {near:?}?")),
            None => failure.help(format!("it has {}", known.join(", "))),
        });
    }
    let request = pb::LogsRequest {
        services: args.services.clone(),
        follow: args.follow,
        tail: args.tail,
        ..Default::default()
    };
    let mut prefixes = Prefixes::new(&known, output::colour(std::io::stdout().is_terminal()));
    let mut lines = app.control().logs(request).await?.into_message();
    loop {
        let line = tokio::select! {
            line = lines.message() => line?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
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
    pub(crate) fn new(names: &[&str], colour: bool) -> Self {
        let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
        Self { width, names: names.iter().map(|name| (*name).to_owned()).collect(), colour }
    }

    pub(crate) fn line(&mut self, service: &str, line: &str) -> String {
        let width = self.width.max(service.len());
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
