//! `formic release`: gives up an instance of which nobody can say whether it runs.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::cli::Release;
use crate::exit::Outcome;
use crate::{app, output};

pub(crate) async fn run(args: Release) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::ReleaseRequest { instance: args.instance.clone(), ..Default::default() };
    app.meant()?.server().release(request).timeout(crate::app::CHANGE).await?;
    if args.listing.json {
        output::json(&json!({ "app": app.status.app, "instance": args.instance, "released": true }));
    } else {
        output::talk(&format!(
            "{} is given up: its place is filled again, and what may run of it is left alone",
            args.instance
        ));
    }
    Ok(())
}
