//! `formic restart`: new instances of the same revision, as an update brings them.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::cli::Restart;
use crate::exit::Outcome;
use crate::{app, output};

pub(crate) async fn run(args: Restart) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::RestartRequest { services: args.services.clone(), ..Default::default() };
    let response = app.meant()?.deploy().restart(request).await?.into_message();
    if args.listing.json {
        output::json(
            &json!({ "app": app.status.app, "services": args.services, "instances": response.instances }),
        );
    } else {
        let count = response.instances;
        let noun = if count == 1 { "1 instance is".into() } else { format!("{count} instances are") };
        output::talk(&format!("{noun} replaced by new ones; `formic events -f` shows it"));
    }
    Ok(())
}
