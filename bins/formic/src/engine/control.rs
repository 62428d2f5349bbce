//! The control service of a running application, over the engine's handle.

mod cron;
mod deploy;
pub(crate) mod farewell;
mod intent;
mod measure;
mod outlook;
pub(crate) mod secrets;
mod traffic;
mod wire;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use formic_api::control::v1 as pb;
use formic_core::{Error, ServiceName};
use formic_reconcile::{Command, Handle, Logs, Stopped, View, Which};
use formic_rpc::{Context, Reply, Request, Streaming, reply};
use formic_supervise::Features;
use tokio::sync::{oneshot, watch};

use super::callers::Callers;
use super::facts::Facts;
use super::routes;
use super::vault::Vault;
use crate::verbs::server::brain::Managed;

/// What does not change while the application runs.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) app: String,
    pub(crate) manifest: PathBuf,
    /// The profile that Cargo packages are built in.
    pub(crate) profile: &'static str,
}

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) about: About,
    pub(crate) engine: Handle,
    /// Folder of the manifest.
    pub(crate) folder: PathBuf,
    pub(crate) logs: PathBuf,
    /// Where executables are kept.
    pub(crate) artifacts: PathBuf,
    /// The secrets, and how instances get them.
    pub(crate) vault: Vault,
    /// What this machine enforces of limits.
    pub(crate) features: Features,
    /// The server that this is the brain of, if it is one.
    pub(crate) managed: Option<Managed>,
    /// Whoever asks may be on another machine: what needs this one is refused.
    pub(crate) from_afar: bool,
    /// Who calls whom, and can be asked about it.
    pub(crate) callers: Callers,
}

/// How often logs that are followed are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What is done, and by whom, for the history: the user of the socket, or whose token or certificate it was.
pub(crate) fn by(what: impl std::fmt::Display, context: &Context) -> String {
    match context.peer().map(|peer| peer.strip_prefix("unix ").unwrap_or(peer)) {
        Some(who) => format!("{what} ({who})"),
        None => what.to_string(),
    }
}

impl Control {
    /// Refuses what makes sense only on the machine that the server is on.
    pub(crate) fn here_only(&self, what: &str) -> Result<(), Error> {
        if !self.from_afar {
            return Ok(());
        }
        Err(Error::new(
            formic_core::Code::PermissionDenied,
            format!("{what} is not done over TCP; do it on the machine of the server"),
        ))
    }

    /// The view for the wire.
    pub(crate) fn status_of(&self, view: &View) -> pb::StatusResponse {
        let facts = Facts::from_tag(&view.tag);
        let services: Vec<&str> = view.services.iter().map(|service| service.name.as_str()).collect();
        pb::StatusResponse {
            app: self.about.app.clone(),
            manifest: self.about.manifest.display().to_string(),
            pid: std::process::id(),
            gateway: facts.gateway.clone(),
            services: view.services.iter().map(wire::service).collect(),
            notes: facts
                .notes_beside(&services)
                .into_iter()
                .chain((!view.held.is_empty()).then(|| view.held.clone()))
                .collect(),
            index: view.index,
            profile: self.about.profile.into(),
            server: self.managed.as_ref().map(Managed::status).into(),
            ..Default::default()
        }
    }

    /// What the gateway lets in.
    pub(crate) fn exposed(&self) -> Vec<String> {
        Facts::from_tag(&self.engine.view().borrow().tag).exposed
    }
}

/// The values of a view from now on, each as a message where it makes another one than the last; ends with
/// the engine.
fn follow<M>(view: watch::Receiver<View>, map: impl Fn(&View) -> M + Send + Sync + 'static) -> Streaming<M>
where
    M: Clone + PartialEq + Send + Sync + 'static,
{
    let state = (view, None, map);
    Streaming::new(futures::stream::unfold(state, |(mut view, last, map)| async move {
        loop {
            if last.is_some() && view.changed().await.is_err() {
                return None;
            }
            let message = map(&view.borrow_and_update());
            if last.as_ref() != Some(&message) {
                return Some((Ok(message.clone()), (view, Some(message), map)));
            }
        }
    }))
}

impl pb::ControlService for Control {
    async fn status(&self, _: Context, _: Request<'_, pb::StatusRequest>) -> Reply<pb::StatusResponse> {
        let view = self.engine.view().borrow().clone();
        let mut status = self.status_of(&view);
        let (rights, probed) = (self.engine.rights(), self.engine.probed());
        for instance in status.services.iter_mut().flat_map(|service| &mut service.instances) {
            let id = formic_core::InstanceId::new(instance.id.as_str());
            instance.rights = rights.get(&id).map(wire::rights).into();
            let probe = probed.get(&id).filter(|_| instance.pid != 0 && instance.state != "stopping");
            let failure = probe.and_then(|p| wire::probe_failure(instance.probe_failure.as_option(), p));
            instance.probe_failure = failure.or_else(|| instance.probe_failure.as_option().cloned()).into();
        }
        reply(status)
    }

    async fn watch_status(
        &self,
        _: Context,
        _: Request<'_, pb::StatusRequest>,
    ) -> Reply<Streaming<pb::StatusResponse>> {
        let control = self.clone();
        reply(self.until_stopped(follow(self.engine.view(), move |view| control.status_of(view))))
    }

    async fn logs(&self, _: Context, request: Request<'_, pb::LogsRequest>) -> Reply<Streaming<pb::LogLine>> {
        let mut request = request.to_owned_message();
        let services = std::mem::take(&mut request.services);
        let (follow, tail) = (request.follow, request.tail as usize);
        for name in &services {
            let view = self.engine.view().borrow().clone();
            let is_kept = ServiceName::new(name.as_str()).is_ok() && self.logs.join(name).is_dir();
            if !is_kept && !view.services.iter().any(|service| service.name == *name) {
                let message = format!("{} has no service {name:?}, and no logs of one", self.about.app);
                return Err(Error::not_found(message));
            }
        }
        let running = || {
            let view = self.engine.view().borrow().clone();
            let all = view.services.iter().flat_map(|service| &service.instances);
            all.filter(|instance| instance.pid != 0).map(|instance| instance.id.clone()).collect()
        };
        let which = Which {
            since_unix_ms: request.since_unix_ms,
            instance: request.instance.clone(),
            previous: request.previous.then(running),
        };
        let logs = Logs::new(self.logs.clone(), services).with_which(which);
        let mut logs = logs.without_secrets(Arc::clone(self.vault.secrets.state()));
        if logs.is_empty() && !request.instance.is_empty() {
            return Err(Error::not_found(format!("there is no log of an instance {}", request.instance)));
        }
        if logs.is_empty() && request.previous {
            return Err(Error::not_found("there is no log of an instance that has ended"));
        }
        let unreadable =
            |error: std::io::Error| Error::internal("the logs cannot be read").with_source(error);
        let mut first = VecDeque::new();
        if let Some(from) = request.from.as_option() {
            logs.go_on(from.files.iter().cloned().map(wire::place));
            first.extend(logs.more().await.map_err(unreadable)?.into_iter().map(wire::line));
        } else {
            let (places, last) = logs.last_and_places(tail).await.map_err(unreadable)?;
            first.extend(request.places.then(|| wire::places(places)));
            first.extend(last.into_iter().map(wire::line));
        }
        let state = (logs, first, self.engine.view());
        reply(self.until_stopped(Streaming::new(futures::stream::unfold(
            state,
            move |(mut logs, mut lines, view)| async move {
                loop {
                    if let Some(line) = lines.pop_front() {
                        return Some((Ok(line), (logs, lines, view)));
                    }
                    // The view ends with the engine; what was written last comes after that.
                    let is_over = !follow || view.has_changed().is_err();
                    if follow {
                        tokio::time::sleep(LOOK).await;
                        lines.extend(logs.more().await.unwrap_or_default().into_iter().map(wire::line));
                    }
                    if is_over && lines.is_empty() {
                        return None;
                    }
                }
            },
        ))))
    }

    async fn measure(&self, _: Context, _: Request<'_, pb::MeasureRequest>) -> Reply<pb::MeasureResponse> {
        reply(self.measure().await)
    }

    async fn stop(&self, context: Context, request: Request<'_, pb::StopRequest>) -> Reply<pb::StopResponse> {
        let now = request.now;
        let goes_on = self.managed.is_some();
        let busy = |error: formic_reconcile::Busy| Error::unavailable(error.to_string());
        // An engine that has ended has nothing left to stop.
        let Stopped { killed } = if goes_on {
            // A server is there for what comes next, too.
            let (done, stopped) = oneshot::channel();
            self.engine.send(Command::Down { now, cause: by("down", &context), done }).map_err(busy)?;
            let stopped = stopped.await.unwrap_or_else(|_| Ok(Stopped::default()));
            stopped.map_err(|error| wire::refused(&error))?
        } else {
            let (done, stopped) = oneshot::channel();
            self.engine.send(Command::Stop { now, done: Some(done) }).map_err(busy)?;
            stopped.await.unwrap_or_default()
        };
        reply(pb::StopResponse { killed, goes_on, ..Default::default() })
    }

    async fn watch_routes(
        &self,
        _: Context,
        _: Request<'_, pb::WatchRoutesRequest>,
    ) -> Reply<Streaming<pb::WatchRoutesResponse>> {
        let routes = |view: &View| {
            let facts = Facts::from_tag(&view.tag);
            pb::WatchRoutesResponse {
                generation: view.index,
                exposed: facts.exposed,
                http: routes::http(&facts.routes),
                ..Default::default()
            }
        };
        reply(follow(self.engine.view(), routes))
    }
}
