//! The engine behind its API, as this binary puts it together: what `formic up` and `formic server` share. From a manifest to
//! what is wanted, the services of the control plane, and where the state lies.

pub(crate) mod artifacts;
pub(crate) mod build;
pub(crate) mod callers;
pub(crate) mod control;
pub(crate) mod desired;
pub(crate) mod doors;
pub(crate) mod facts;
pub(crate) mod files;
pub(crate) mod manifest;
pub(crate) mod metrics;
mod registry;
mod routes;
pub(crate) mod state;
pub(crate) mod vault;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use formic_api::RegistryServer;
use formic_api::control::v1 as pb;
use formic_core::Endpoint;
use formic_registry::DynRegistry;
use formic_server::{Bound, ListenError, Server, Serving};
use formic_spec::{Manifest, Source};

use crate::exit::{Failure, Outcome};
use crate::output::talk;
use control::Control;
use state::State;

/// `1 service`, `2 services`.
pub(crate) fn count(services: usize) -> String {
    if services == 1 { "1 service".into() } else { format!("{services} services") }
}

/// Builds the Cargo packages of a manifest, or finds what an earlier build has made.
pub(crate) async fn build(
    folder: &Path,
    manifest: &Manifest,
    release: bool,
    no_build: bool,
) -> Outcome<build::Artifacts> {
    let packages: BTreeMap<String, String> = manifest
        .services
        .iter()
        .filter_map(|service| match &service.source {
            Source::Cargo(package) => Some((package.clone(), service.name.clone())),
            _ => None,
        })
        .collect();
    if !no_build && !packages.is_empty() {
        talk(&format!("building {}", count(packages.len())));
    }
    if no_build {
        return build::find(folder, &packages, release).await;
    }
    build::build(folder, &packages, release).await
}

/// The API, not served yet. What is asked from afar gets the registry to read, and no more.
pub(crate) fn api(control: &Control, limits: formic_server::Config) -> Outcome<Server> {
    let failed = |error: formic_core::Error| Failure::bug(error.to_string());
    let known = control.engine.registry();
    let known = if control.from_afar { Arc::new(registry::Shown(known)) as DynRegistry } else { known };
    Server::new(limits, metrics::of(control))
        .serve(Arc::new(pb::ControlServiceServer::new(control.clone())))
        .map_err(failed)?
        .serve(Arc::new(pb::CronServiceServer::new(control.clone())))
        .map_err(failed)?
        .serve(Arc::new(pb::SecretServiceServer::new(control.clone())))
        .map_err(failed)?
        .serve(Arc::new(pb::DeployServiceServer::new(control.clone())))
        .map_err(failed)?
        .serve(Arc::new(pb::ServerServiceServer::new(control.clone())))
        .map_err(failed)?
        .serve(Arc::new(pb::TrafficServiceServer::new(control.clone())))
        .map_err(failed)?
        .serve(Arc::new(formic_api::registry::v1::RegistryServiceServer::new(RegistryServer::new(known))))
        .map_err(failed)
}

/// Why the API's socket cannot be opened. Its place is not for people to choose.
pub(crate) fn closed(error: ListenError) -> Failure {
    match error {
        ListenError::InUse(Endpoint::Unix(path)) => {
            let text = "cannot open the API's socket: it is in use by another process, which is no server of this application";
            Failure::user(text)
                .help(format!("end that process, which `ss -xlp` or `fuser {}` names", path.display()))
        }
        error => Failure::user("cannot open the API's socket").because(error),
    }
}

/// The API on its socket.
pub(crate) async fn serve(state: &State, control: &Control) -> Outcome<formic_server::Running> {
    let failed = |error: formic_core::Error| Failure::bug(error.to_string());
    let mut api = api(control, formic_server::Config::default())?.build().map_err(failed)?;
    let bound = Bound::bind(&Endpoint::Unix(state.socket())).await.map_err(closed)?;
    api.listen(bound);
    api.health().set(Serving::Ready);
    Ok(api)
}
