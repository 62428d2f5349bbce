//! `formic scale`: another number of instances, until the next apply says what the manifest says.

use formic_api::control::v1 as pb;

use crate::app;
use crate::cli::Scale;
use crate::exit::{Failure, Outcome};
use crate::verbs::apply;

fn twice(services: &[(String, u32)]) -> Option<&str> {
    let mut names: Vec<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

pub(crate) async fn run(args: Scale) -> Outcome {
    if let Some(name) = twice(&args.services) {
        return Err(Failure::user(format!("{name} is to have two numbers of instances at once")));
    }
    let app = app::find(&args.listing.target).await?;
    let request = pb::ScaleRequest {
        replicas: args.services.into_iter().collect(),
        index: args.index,
        ..Default::default()
    };
    let response = app.meant()?.deploy().scale(request).timeout(app::CHANGE).await?.into_message();
    apply::finish(&app, &response, args.wait, args.listing.json).await
}
