//! `formic stop SERVICE`, `start` and `rm`, which change what is wanted of single services; `pause` and
//! `resume`, which hold up their updates.

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::app::{self, App};
use crate::cli::{Pause, Rm, Start, Stop};
use crate::exit::Outcome;
use crate::output;
use crate::verbs::apply;

fn request(services: &[String], index: Option<u64>) -> pb::ServicesRequest {
    pb::ServicesRequest { services: services.to_vec(), index, ..Default::default() }
}

pub(crate) async fn stop(app: &App, args: Stop) -> Outcome {
    let request = request(&args.services, args.index);
    let response = app.meant()?.deploy().stop_services(request).timeout(app::CHANGE).await?.into_message();
    if !args.listing.json {
        let names = args.services.join(" ");
        let what = if response.changed { "told to stop, and stays so" } else { "stopped already" };
        output::talk(&format!("{names}: {what} until `formic start {names}` or the next apply"));
    }
    apply::finish(app, &response, args.wait, args.listing.json).await
}

pub(crate) async fn start(args: Start) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = request(&args.services, args.index);
    let response = app.meant()?.deploy().start_services(request).timeout(app::CHANGE).await?.into_message();
    apply::finish(&app, &response, args.wait, args.listing.json).await
}

pub(crate) async fn rm(args: Rm) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = request(&args.services, args.index);
    let response = app.meant()?.deploy().remove_services(request).timeout(app::CHANGE).await?.into_message();
    if !args.listing.json {
        let names = args.services.join(" ");
        output::talk(&format!(
            "{names}: taken out of what is wanted; logs and data stay, an apply brings it back"
        ));
    }
    apply::finish(&app, &response, args.wait, args.listing.json).await
}

pub(crate) async fn pause(args: Pause, resume: bool) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::PauseRequest { service: args.service.clone(), ..Default::default() };
    let response = if resume {
        app.meant()?.deploy().resume(request).timeout(app::CHANGE).await?.into_message()
    } else {
        app.meant()?.deploy().pause(request).timeout(app::CHANGE).await?.into_message()
    };
    let (service, changed) = (&args.service, response.changed);
    if args.listing.json {
        output::json(
            &json!({ "app": app.status.app, "service": service, "changed": changed, "paused": !resume && changed }),
        );
        return Ok(());
    }
    output::talk(&match (resume, changed) {
        (false, true) => {
            format!("the update of {service} stands still; `formic resume {service}` lets it go on")
        }
        (false, false) => format!("{service} has no update under way"),
        (true, true) => format!("the update of {service} goes on"),
        (true, false) => format!("the update of {service} does not stand still"),
    });
    Ok(())
}
