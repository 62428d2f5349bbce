//! A server in a folder that is a copy: what its state says to run names files and folders of the original.
//!
//! A copied record is known as such (`formic_supervise::Home`) and its process left alone. A copied state is another matter: gone
//! on with, it would start a second copy of everything in the original's own folder, on the original's files.

use std::path::Path;

use formic_supervise::HomeId;

use super::Place;
use crate::app::STATE;
use crate::engine::state::{DATABASE, State};
use crate::exit::{Failure, Outcome};

/// That what is wanted here was wanted for this folder, or for one that is no more.
pub(super) fn check(folder: &Path, state: &State) -> Outcome {
    let Some(before) = Place::of(folder) else { return Ok(()) };
    let Some(made_for) = before.manifest.parent() else { return Ok(()) };
    let has_state = |of: &Path| of.join(formic_state::DATABASE).exists();
    // Of a folder that was moved, nothing is where it was but what a server that still ran made there anew.
    let theirs = made_for.join(STATE).join(DATABASE);
    if made_for == folder || !has_state(&state.database()) || !has_state(&theirs) {
        return Ok(());
    }
    // Another path to this very folder is no other folder.
    match (HomeId::of(made_for), HomeId::of(folder)) {
        (Ok(other), Ok(own)) if other != own => Err(Failure::user(format!(
            "this folder is not the one that its state was made in, which is {}: a server here would start a second copy of \
             everything there",
            made_for.display()
        ))
        .help(
            "`formic server --set-aside-state` keeps that state under another name and begins an empty one, without secrets and \
             history; then `formic apply` starts what the manifest here says",
        )),
        _ => Ok(()),
    }
}
