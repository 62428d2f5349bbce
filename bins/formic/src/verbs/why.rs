//! `formic why`: the cause of a service's present state, in a paragraph.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::cli::Why;
use crate::exit::Outcome;
use crate::{app, output};

pub(crate) async fn run(args: Why) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::WhyRequest { service: args.service.clone(), ..Default::default() };
    let why = app.deploy().why(request).await?.into_message();
    if args.listing.json {
        output::json(&json!({ "service": args.service, "why": why.text }));
    } else {
        output::paragraph(&why.text);
    }
    Ok(())
}
