//! `formic traffic`: a service as its callers see it, now or as it goes.

mod show;

use std::io::IsTerminal;
use std::time::Duration;

use formic_api::control::v1 as pb;
use formic_core::Code;
use serde_json::json;

use crate::app::App;
use crate::app::again::{self, Silence, Stopped, is_between_brains};
use crate::cli::Traffic;
use crate::exit::{Failure, Outcome};
use crate::{app, output, signals};

/// How often a picture that is watched is taken anew.
const EVERY: Duration = Duration::from_secs(1);

/// Home, and all below it away: what was there before scrolls off like any other output.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

pub(crate) async fn run(args: Traffic) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    if let Some(instance) = &args.reset {
        return reset(&app, &args, instance).await;
    }
    let ask = || {
        let request = pb::TrafficRequest {
            service: args.service.clone(),
            from: args.from.clone().unwrap_or_default(),
            ..Default::default()
        };
        let traffic = app.traffic();
        async move { traffic.traffic(request).await.map(formic_rpc::Response::into_message) }
    };
    if !args.watch {
        show_once(&args, &ask().await?);
        return Ok(());
    }
    let mut interrupted = signals::interrupt()?;
    let redraws = !args.listing.json && std::io::stdout().is_terminal();
    let stopped = tokio::select! {
        stopped = Stopped::listen(&app) => stopped.heard(),
        _ = interrupted.recv() => return Ok(()),
    };
    tokio::pin!(stopped);
    let mut seen = ask().await?;
    let mut silence = Silence::new();
    loop {
        if args.listing.json {
            // One line each, on a terminal too.
            output::line(&show::to_json(&args.service, &seen).to_string());
        } else {
            let text = show::render(&args.service, &seen, output::limit());
            output::line(&if redraws { format!("{CLEAR}{text}") } else { format!("{text}\n") });
        }
        seen = loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = interrupted.recv() => return Ok(()),
                () = &mut stopped => {
                    again::tell_stopped(&app);
                    return Ok(());
                }
            }
            match ask().await {
                Ok(seen) => {
                    silence.broken();
                    break seen;
                }
                Err(error) if is_between_brains(&app, &error) => silence.bear(&app)?,
                // It has stopped, and there is nothing left to look at.
                Err(error) if error.code() == Code::Unavailable => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        };
    }
}

fn show_once(args: &Traffic, seen: &pb::TrafficResponse) {
    if args.listing.json {
        output::json(&show::to_json(&args.service, seen));
    } else {
        output::line(&show::render(&args.service, seen, output::limit()));
    }
}

async fn reset(app: &App, args: &Traffic, instance: &str) -> Outcome {
    let request = pb::ReadmitRequest {
        service: args.service.clone(),
        instance: instance.to_owned(),
        ..Default::default()
    };
    let done = app.traffic().readmit(request).await?.into_message();
    let names = |callers: &[pb::Caller]| -> Vec<String> {
        callers.iter().map(|caller| caller.instance.clone()).collect()
    };
    let (callers, silent) = (names(&done.callers), names(&done.silent));
    let told = json!({ "service": args.service, "instance": instance, "callers": callers, "silent": silent });
    if !args.listing.json && !callers.is_empty() {
        output::line(&format!("{instance} counts again with {}", callers.join(", ")));
    }
    if !silent.is_empty() {
        let text = format!("{} did not answer, and may keep it out", silent.join(", "));
        return Err(Failure::unreachable(text).beside(told));
    }
    if args.listing.json {
        output::json(&told);
    }
    Ok(())
}
