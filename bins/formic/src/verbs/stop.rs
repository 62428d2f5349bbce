//! `formic stop`: drains and stops the running application.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::cli::Stop;
use crate::exit::Outcome;
use crate::{app, output};

/// Longer than any grace that a manifest may give; the daemon bounds each step itself.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(900);

pub(crate) async fn run(args: Stop) -> Outcome {
    let app = app::find(args.listing.target.app.as_deref()).await?;
    let name = app.status.app.clone();
    if !args.listing.json {
        output::talk(&format!("stopping {name} in {}", app.folder.display()));
    }
    let request = pb::StopRequest { now: args.now, ..Default::default() };
    let response = app.control().stop(request).timeout(PATIENCE).await?;
    if args.listing.json {
        output::json(
            &json!({ "app": name, "stopped": true, "killed": response.killed, "server_goes_on": response.goes_on }),
        );
    } else if response.killed > 0 {
        output::talk(&format!(
            "stopped {name}; {} instances outlived their grace and were killed",
            response.killed
        ));
    } else {
        output::talk(&format!("stopped {name}"));
    }
    if response.goes_on && !args.listing.json {
        output::talk(
            "its server goes on, with nothing to run: `formic apply` or `formic rollback` starts it again, `formic server stop` ends the server",
        );
    }
    Ok(())
}
