//! `formic rollback`: an earlier desired state becomes the present one.

use formic_api::control::v1 as pb;

use crate::app;
use crate::cli::Rollback;
use crate::exit::Outcome;
use crate::verbs::apply;

pub(crate) async fn run(args: Rollback) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::RollbackRequest { to: args.to, index: args.index, ..Default::default() };
    let response = app.meant()?.deploy().rollback(request).timeout(app::CHANGE).await?.into_message();
    apply::finish(&app, &response, args.wait, args.listing.json).await
}
