//! `formic restart`: new instances of the same revision, as an update brings them.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::app;
use crate::cli::Restart;
use crate::exit::Outcome;
use crate::output;
use crate::verbs::apply;

pub(crate) async fn run(args: Restart) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::RestartRequest { services: args.services.clone(), ..Default::default() };
    let response = app.meant()?.deploy().restart(request).timeout(app::CHANGE).await?.into_message();
    let told = json!({
        "app": app.status.app, "services": args.services, "instances": response.instances, "index": response.index,
    });
    let told = |ready: bool| {
        let mut told = told.clone();
        if args.wait.wait {
            told["ready"] = ready.into();
        }
        told
    };
    if !args.listing.json {
        let count = response.instances;
        let noun = if count == 1 { "1 instance is".into() } else { format!("{count} instances are") };
        output::talk(&format!("{noun} replaced by new ones; `formic events -f` shows it"));
    }
    let done = if args.wait.wait {
        let change = begun(response.index, &args.services);
        let status = apply::settled(&app, &change, args.wait.timeout).await;
        Some(apply::done(&status.map_err(|failure| failure.beside(told(false)))?, &change))
    } else {
        None
    };
    if args.listing.json {
        output::json(&told(true));
    } else if let Some(done) = done {
        output::talk(&done);
    }
    Ok(())
}

/// What there is to wait for: these services are replaced, and nothing else is wanted.
fn begun(index: u64, services: &[String]) -> pb::ChangeResponse {
    let change = |service: &String| pb::ServiceChange { service: service.clone(), ..Default::default() };
    pb::ChangeResponse { index, changes: services.iter().map(change).collect(), ..Default::default() }
}
