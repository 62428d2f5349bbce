//! `formic history`: the desired states that were, newest first.

use formic_api::control::v1 as pb;
use formic_reconcile::plain;
use serde_json::json;

use crate::cli::Listing;
use crate::exit::Outcome;
use crate::{app, output};

pub(crate) async fn run(args: Listing) -> Outcome {
    let app = app::find(&args.target).await?;
    let history = app.deploy().history(pb::HistoryRequest::default()).await?.into_message();
    if args.json {
        let service = |s: &pb::GenerationService| json!({ "name": s.name, "version": s.version, "replicas": s.replicas });
        let state = |state: &pb::Generation| {
            json!({
                "index": state.index, "unix_ms": state.unix_ms, "cause": state.cause, "outcome": state.outcome,
                "why": Some(&state.why).filter(|why| !why.is_empty()),
                "services": state.services.iter().map(service).collect::<Vec<_>>(),
            })
        };
        output::json(&json!({ "history": history.generations.iter().map(state).collect::<Vec<_>>() }));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = history
        .generations
        .iter()
        .map(|state| {
            let services: Vec<String> =
                state.services.iter().map(|s| format!("{}={}@{}", s.name, s.replicas, s.version)).collect();
            vec![
                state.index.to_string(),
                output::second(state.unix_ms),
                state.outcome.clone(),
                state.cause.clone(),
                services.join(" "),
            ]
        })
        .collect();
    if rows.is_empty() {
        output::talk("nothing has been wanted yet; `formic apply` starts what the manifest says");
    }
    output::line(&output::table(
        &["INDEX", "SINCE (UTC)", "OUTCOME", "CAUSE", "SERVICES"],
        &rows,
        output::limit(),
    ));
    for state in history.generations.iter().filter(|state| !state.why.is_empty()) {
        let why = plain(&state.why);
        let text = format!("{} {}: {why}", state.index, state.outcome);
        output::line(&output::wrap(&text, output::limit(), 2).join("\n"));
    }
    Ok(())
}
