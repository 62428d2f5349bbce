//! `formic events`: what was decided and what happened, each with its cause.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::cli::Events;
use crate::exit::Outcome;
use crate::{app, output, signals};

pub(crate) async fn run(args: Events) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    for name in &args.services {
        app.knows(name)?;
    }
    let request = pb::EventsRequest {
        services: args.services,
        follow: args.follow,
        tail: args.tail,
        ..Default::default()
    };
    let mut events = app.deploy().events(request).await?.into_message();
    let mut interrupted = signals::interrupt()?;
    loop {
        let event = tokio::select! {
            event = events.message() => event?,
            _ = interrupted.recv() => return Ok(()),
        };
        let Some(event) = event else { return Ok(()) };
        if args.listing.json {
            let value = json!({
                "sequence": event.sequence, "unix_ms": event.unix_ms, "kind": event.kind,
                "service": event.service, "instance": event.instance, "text": event.text,
            });
            output::line(&value.to_string());
        } else {
            let who = if event.instance.is_empty() { &event.service } else { &event.instance };
            let space = if who.is_empty() { "" } else { " " };
            output::line(&format!(
                "{} {:9} {who}{space}{}",
                output::time(event.unix_ms),
                event.kind,
                event.text
            ));
        }
    }
}
