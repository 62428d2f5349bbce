//! `formic server upgrade`: another program takes over while everything goes on; first the brain, which can be
//! taken back, then the keeper.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use formic_api::control::v1 as pb;
use serde_json::json;

use super::LOOK;
use crate::app::{self, App};
use crate::cli::{Detached, Upgrade};
use crate::exit::{Failure, Outcome};
use crate::output::{self, talk};

/// How long an answer is waited for: one brain may take a third of a minute to be no brain, and the one before comes back then.
const NEXT_LIMIT: Duration = Duration::from_secs(60);

/// After this a person is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &Upgrade) -> Outcome {
    let program = program(args)?;
    let text = program.display().to_string();
    let app = super::find(&Detached { listing: args.listing.clone() }).await?;
    let before = app.status.clone();
    let json = args.listing.json;
    if !json {
        talk(&format!("upgrading the server of {} to {text}", before.app));
    }
    let begun = Instant::now();
    let request =
        |part: &str| pb::ReplaceRequest { program: text.clone(), part: part.into(), ..Default::default() };
    app.server().replace(request("brain")).await?;
    let after = next(&app, before.pid, json).await?;
    let took = begun.elapsed();
    if after.status.server.program != text {
        return Err(Failure::user(format!(
            "{text} did not come up as the brain, and the one before is back: {}",
            after.status.server.program
        ))
        .help("the log of the server says why; nothing that runs was touched"));
    }
    if !json {
        talk(&format!(
            "brain: process {} -> {} in {:.2} s, version {}, {} taken over",
            before.pid,
            after.status.pid,
            took.as_secs_f64(),
            after.status.server.version,
            super::instances(after.status.server.adopted)
        ));
    }
    after.server().replace(request("keeper")).await?;
    if json {
        output::json(&json!({
            "app": before.app, "program": text, "brain": after.status.pid, "keeper": before.server.keeper_pid,
            "version": after.status.server.version, "adopted": after.status.server.adopted,
            "brain_away_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }));
    } else {
        talk(&format!("keeper: process {} executes it now, under the same number", before.server.keeper_pid));
        talk("what runs was not touched; `formic apply` rolls the gateway to the new program");
    }
    Ok(())
}

/// The program that was asked for, else this one.
fn program(args: &Upgrade) -> Outcome<PathBuf> {
    match &args.program {
        Some(path) => path
            .canonicalize()
            .map_err(|error| Failure::user(format!("there is no {}", path.display())).because(error)),
        None => {
            std::env::current_exe().map_err(|error| Failure::user("cannot find this binary").because(error))
        }
    }
}

/// The server as its next brain answers.
async fn next(app: &App, before: u32, json: bool) -> Outcome<App> {
    let begun = Instant::now();
    let mut told = json;
    while begun.elapsed() < NEXT_LIMIT {
        if let Some(next) = app::in_folder(&app.folder).await
            && next.status.pid != before
        {
            return Ok(next);
        }
        if begun.elapsed() >= PATIENCE && !std::mem::replace(&mut told, true) {
            talk(
                "it is not ready yet; if it goes on so, its keeper ends it and starts the program before it again",
            );
        }
        tokio::time::sleep(LOOK.min(Duration::from_millis(20))).await;
    }
    Err(Failure::unreachable("no new brain answers")
        .help("`formic status` shows whether the old one is back"))
}
