//! The logs of an application that does not run: its files are there still, and nobody is asked for them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formic_api::control::v1 as pb;
use formic_reconcile::{Line, Logs, Which};

use crate::app::{self, App, STATE};
use crate::cli::Target;
use crate::engine::vault;
use crate::exit::{Failure, Outcome};

/// Where logs are read.
pub(super) enum Source {
    /// By the engine, which says what runs.
    Engine(Box<App>),
    /// In the folder of one that does not run.
    Folder(PathBuf),
}

/// The nearest folder with logs, from the current one upward, or the one that is named; else what runs.
pub(super) async fn source(target: &Target) -> Outcome<Source> {
    if target.remote.url().is_some() {
        return Ok(Source::Engine(Box::new(app::find(target).await?)));
    }
    if let Some(wanted) = &target.app {
        return match app::find(target).await {
            Ok(app) => Ok(Source::Engine(Box::new(app))),
            Err(failure) => {
                let folder = Path::new(wanted).canonicalize().ok().filter(|folder| has_logs(folder));
                folder.map(Source::Folder).ok_or(failure)
            }
        };
    }
    let here = std::env::current_dir().ok();
    let folder = here.iter().flat_map(|here| here.ancestors()).find(|folder| has_logs(folder));
    if let Some(folder) = folder {
        return Ok(match app::in_folder(folder).await {
            Some(app) => Source::Engine(Box::new(app)),
            None => Source::Folder(folder.into()),
        });
    }
    Ok(Source::Engine(Box::new(app::find(target).await?)))
}

/// Of this user alone: what anybody has put above is no application of ours.
fn has_logs(folder: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    let owner = std::fs::symlink_metadata(folder.join(STATE)).map(|meta| meta.uid());
    owner.is_ok_and(|uid| uid == me) && logs(folder).is_dir()
}

/// Where instances write.
pub(super) fn logs(folder: &Path) -> PathBuf {
    folder.join(STATE).join("logs")
}

/// What is asked for, without its secrets.
pub(super) async fn read(folder: &Path, request: pb::LogsRequest) -> Outcome<Vec<pb::LogLine>> {
    let which = Which {
        since_unix_ms: request.since_unix_ms,
        instance: request.instance,
        previous: request.previous.then(BTreeSet::new),
    };
    let mut logs = Logs::new(logs(folder), request.services).with_which(which);
    let state = folder.join(STATE).join("state");
    // Without a database there never was a secret.
    if state.join("state.redb").exists() {
        logs = logs.without_secrets(Arc::new(vault::open(&state)?));
    }
    if logs.is_empty() {
        return Err(Failure::user("there is no such log").help("`formic logs` shows all that is there"));
    }
    let lines = logs.last(request.tail as usize).await;
    let lines = lines.map_err(|error| Failure::user("the logs cannot be read").because(error))?;
    Ok(lines.into_iter().map(told).collect())
}

fn told(line: Line) -> pb::LogLine {
    pb::LogLine {
        service: line.service,
        instance: line.instance,
        stream: line.stream.into(),
        line: line.text,
        unix_ms: line.unix_ms,
        told_by: line.told_by.as_str().into(),
        ..Default::default()
    }
}
