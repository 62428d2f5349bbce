//! The way to the engine for instances that run as other users: a socket for each user, with what an instance needs (the
//! registry, and how services are called) and nothing that changes what runs.
//!
//! The file system says who may connect: the socket is its user's, with mode 0600, as the engine's own is its own user's.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown};
use std::sync::Arc;

use formic_api::RegistryServer;
use formic_api::control::v1 as pb;
use formic_core::Endpoint;
use formic_reconcile::account;
use formic_server::{Bound, Running, Server, Serving};
use formic_telemetry::Metrics;
use rustix::process::{Resource, getrlimit};
use tokio::sync::mpsc;

use super::control::Control;
use super::state::State;
use crate::exit::{Failure, Outcome};

/// Opens a socket for each user that is named, once. Cancelled with the engine.
pub(crate) async fn run(state: State, control: Control, mut asked: mpsc::UnboundedReceiver<u32>) {
    let mut open: BTreeMap<u32, Running> = BTreeMap::new();
    while let Some(uid) = asked.recv().await {
        if open.contains_key(&uid) || uid == rustix::process::geteuid().as_raw() {
            continue;
        }
        match serve(&state, &control, uid).await {
            Ok(running) => drop(open.insert(uid, running)),
            // It is asked for again at the next start of an instance.
            Err(failure) => tracing::error!(uid, %failure, "instances of this user cannot reach the engine"),
        }
    }
}

/// Connections of one user's instances, where the engine may open many files, and where it may not.
const MOST: usize = 4096;
const LEAST: usize = 16;

/// What is enough for thousands of instances, and not for one that wants to use up the engine: each has a connection, on which
/// it renews a lease, follows what it calls, and answers questions.
///
/// A connection is a descriptor of the engine's, of which each user gets an eighth at most: the rest is for who manages it, and
/// for what it has open itself.
fn narrow(files: Option<u64>) -> formic_server::Config {
    let share = files.map_or(MOST, |files| usize::try_from(files / 8).unwrap_or(MOST));
    formic_server::Config {
        max_connections: share.clamp(LEAST, MOST),
        max_held: 64 << 20,
        max_concurrent_streams: 128,
        max_in_flight: 8192,
        // A report about a thousand instances is a few hundred kilobytes.
        max_message: 512 << 10,
        ..formic_server::Config::default()
    }
}

async fn serve(state: &State, control: &Control, uid: u32) -> Outcome<Running> {
    let failed = |error: formic_core::Error| Failure::bug(error.to_string());
    let mut api = Server::new(narrow(getrlimit(Resource::Nofile).current), Metrics::new())
        .serve(Arc::new(pb::TrafficServiceServer::new(control.clone())))
        .map_err(failed)?
        .serve(Arc::new(formic_api::registry::v1::RegistryServiceServer::new(RegistryServer::new(
            control.engine.registry(),
        ))))
        .map_err(failed)?
        .build()
        .map_err(failed)?;
    let path = account::socket(state.folder(), uid);
    // Left by an engine before this one: nobody else makes names in this folder. A listener would take it for another user's.
    if std::fs::symlink_metadata(&path).is_ok_and(|left| left.file_type().is_socket()) {
        let _ = std::fs::remove_file(&path);
    }
    let bound = Bound::bind(&Endpoint::Unix(path.clone()))
        .await
        .map_err(|error| Failure::user(format!("cannot open {}", path.display())).because(error))?;
    let give = || {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        lchown(&path, Some(uid), None)
    };
    give().map_err(|error| Failure::user(format!("cannot give {} away", path.display())).because(error))?;
    api.listen(bound);
    api.health().set(Serving::Ready);
    Ok(api)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_gets_most_of_the_descriptors() {
        let connections = |files| narrow(files).max_connections;
        assert_eq!([None, Some(1 << 20), Some(1024), Some(64)].map(connections), [MOST, MOST, 128, LEAST]);
    }
}
