//! `formic run` and `formic runs`: a cron job by hand, and what came of its runs.

use std::time::Duration;

use formic_api::control::v1 as pb;
use serde_json::{Value, json};

use crate::app::{App, CHANGE};
use crate::cli::{Run, Runs};
use crate::exit::{Failure, Outcome};
use crate::{app, output};

/// How often it is looked whether a run is over.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) async fn run(args: Run) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::RunRequest { service: args.service.clone(), ..Default::default() };
    let response = app.meant()?.cron().run(request).timeout(CHANGE).await?.into_message();
    let mut run = response.run.into_option().unwrap_or_default();
    if run.state == "overlapped" {
        return Err(Failure::user(format!("run {} of {} {}", run.number, run.service, run.end))
            .help("`formic runs` shows it; `concurrency` in [cron] says what may run beside it"));
    }
    if args.wait.wait {
        let over = tokio::time::timeout(args.wait.timeout, over(&app, run.clone())).await;
        run = over.map_err(|_| {
            let seconds = args.wait.timeout.as_secs();
            Failure::user(format!("run {} of {} is not over after {seconds} s", run.number, run.service))
                .help("it goes on; `formic runs` shows what came of it")
        })??;
    }
    if args.wait.wait && run.state != "succeeded" {
        let failure = Failure::user(tell(&run)).help(format!("`formic logs {}` says more", run.service));
        return Err(failure.beside(to_json(&run)));
    }
    if args.listing.json {
        output::json(&to_json(&run));
    } else {
        output::line(&tell(&run));
    }
    Ok(())
}

/// A run once nothing is to come of it any more.
async fn over(app: &App, run: pb::CronRun) -> Outcome<pb::CronRun> {
    let request = pb::RunsRequest { services: vec![run.service.clone()], ..Default::default() };
    loop {
        let runs = app.cron().runs(request.clone()).await?.into_message().runs;
        let found = runs.into_iter().find(|found| found.number == run.number);
        // Those that are remembered are few; one that is not any more is over, and nobody can say how.
        let found = found.ok_or_else(|| {
            Failure::user(format!("run {} of {} is not remembered any more", run.number, run.service))
        })?;
        if !matches!(found.state.as_str(), "waiting" | "running") {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) async fn list(args: Runs) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let request = pb::RunsRequest { services: args.services, ..Default::default() };
    let runs = app.cron().runs(request).await?.into_message().runs;
    if args.listing.json {
        output::json(&json!({ "runs": runs.iter().map(to_json).collect::<Vec<_>>() }));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let took = run.began_unix_ms.zip(run.ended_unix_ms).map(|(from, to)| to.saturating_sub(from));
            vec![
                run.service.clone(),
                run.number.to_string(),
                output::second(run.due_unix_ms),
                if run.by_hand { "by hand".into() } else { "schedule".into() },
                run.state.clone(),
                took.map(|millis| format!("{}.{:03} s", millis / 1000, millis % 1000)).unwrap_or_default(),
                if run.end.is_empty() { run.instance.clone() } else { run.end.clone() },
            ]
        })
        .collect();
    if rows.is_empty() {
        output::talk("no cron job has run yet");
    }
    let header = ["JOB", "RUN", "DUE (UTC)", "CAUSE", "STATE", "TOOK", "END"];
    output::line(&output::table(&header, &rows, output::limit()));
    Ok(())
}

/// A run in a sentence.
pub(crate) fn tell(run: &pb::CronRun) -> String {
    let end = match run.state.as_str() {
        "waiting" => "is due".to_owned(),
        "running" => "runs".to_owned(),
        "succeeded" => "succeeded".to_owned(),
        "failed" => format!("failed: it {}", run.end),
        _ => run.end.clone(),
    };
    format!("run {} of {} {end}", run.number, run.service)
}

/// The same for programs.
pub(crate) fn to_json(run: &pb::CronRun) -> Value {
    json!({
        "service": run.service, "number": run.number, "due_unix_ms": run.due_unix_ms, "state": run.state,
        "by_hand": run.by_hand, "began_unix_ms": run.began_unix_ms, "ended_unix_ms": run.ended_unix_ms,
        "exit_code": run.exit_code, "end": run.end, "instance": run.instance,
    })
}
