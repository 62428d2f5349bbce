//! `formic events`: what was decided and what happened, each with its cause.

use formic_api::control::v1 as pb;
use formic_core::Error;
use formic_reconcile::plain;
use formic_rpc::Streaming;
use serde_json::json;

use crate::app::again;
use crate::cli::Events;
use crate::exit::Outcome;
use crate::{app, output};

/// What stands before the text of an event: when it was, and its kind.
const BEFORE: usize = 34;
/// A terminal with room for that beside what is told.
const WIDE: usize = 100;

pub(crate) async fn run(args: Events) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    for name in &args.services {
        app.knows(name)?;
    }
    let mut request = pb::EventsRequest {
        services: args.services,
        follow: args.follow,
        tail: args.tail,
        ..Default::default()
    };
    let (mut last, json) = (None, args.listing.json);
    again::listen(&app, args.follow, async |silence| {
        let events = app.deploy().events(request.clone()).await?.into_message();
        // Of the next brain all that are kept: those that were shown are left out.
        request.tail = 0;
        let outcome = show(events, &mut last, json).await;
        silence.broken();
        outcome
    })
    .await
}

/// Shows the events after the last one, and those that come, until their end. Cancel safe: what was shown is known.
async fn show(mut events: Streaming<pb::Event>, last: &mut Option<u64>, json: bool) -> Result<(), Error> {
    while let Some(event) = events.message().await? {
        if last.is_some_and(|last| event.sequence <= last) {
            continue;
        }
        *last = Some(event.sequence);
        if json {
            let value = json!({
                "sequence": event.sequence, "unix_ms": event.unix_ms, "kind": event.kind,
                "service": event.service, "instance": event.instance, "text": event.text,
            });
            output::line(&value.to_string());
            continue;
        }
        let who = if event.instance.is_empty() { &event.service } else { &event.instance };
        let space = if who.is_empty() { "" } else { " " };
        let text =
            format!("{} {:9} {who}{space}{}", output::time(event.unix_ms), event.kind, plain(&event.text));
        // Below the text where there is room for it.
        let limit = output::limit();
        let indent = if limit.is_some_and(|limit| limit < WIDE) { 4 } else { BEFORE };
        output::line(&output::wrap(&text, limit, indent).join("\n"));
    }
    Ok(())
}
