//! `formic scale`: another number of instances, until the next apply says what the manifest says.

use formic_api::control::v1 as pb;

use crate::app;
use crate::cli::Scale;
use crate::exit::Outcome;
use crate::verbs::apply;

pub(crate) async fn run(args: Scale) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::ScaleRequest {
        replicas: args.services.into_iter().collect(),
        index: args.index,
        ..Default::default()
    };
    let response = app.meant()?.deploy().scale(request).await?.into_message();
    apply::finish(&app, &response, args.wait, args.listing.json).await
}
