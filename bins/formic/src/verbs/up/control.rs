//! The control service of a running application, over the engine's handle.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use formic_api::control::v1 as pb;
use formic_core::Error;
use formic_reconcile::{Command, Handle, Line, Logs, Stopped, View};
use formic_rpc::{Context, Reply, Request, Streaming, reply};
use tokio::sync::{oneshot, watch};

/// What does not change while the application runs.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) app: String,
    pub(crate) manifest: PathBuf,
    pub(crate) gateway: String,
    pub(crate) notes: Vec<String>,
}

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) about: About,
    pub(crate) engine: Handle,
    pub(crate) logs: PathBuf,
    pub(crate) routes: watch::Receiver<pb::WatchRoutesResponse>,
}

/// How often logs that are followed are looked at.
const LOOK: Duration = Duration::from_millis(100);

impl Control {
    /// The view for the wire.
    pub(crate) fn status_of(&self, view: &View) -> pb::StatusResponse {
        let instance = |i: &formic_reconcile::InstanceView| pb::InstanceStatus {
            id: i.id.clone(),
            slot: i.slot,
            version: i.version.clone(),
            state: i.state.into(),
            address: i.address.clone(),
            pid: i.pid,
            restarts: i.restarts,
            started_unix_ms: i.started_unix_ms,
            last_exit: i.last_exit.clone(),
            ..Default::default()
        };
        let service = |s: &formic_reconcile::ServiceView| pb::ServiceStatus {
            name: s.name.clone(),
            version: s.version.clone(),
            state: s.state.to_string(),
            ready: s.ready,
            wanted: s.wanted,
            instances: s.instances.iter().map(instance).collect(),
            system: s.system,
            reason: s.reason.clone(),
            ..Default::default()
        };
        pb::StatusResponse {
            app: self.about.app.clone(),
            manifest: self.about.manifest.display().to_string(),
            pid: std::process::id(),
            gateway: self.about.gateway.clone(),
            services: view.services.iter().map(service).collect(),
            notes: self.about.notes.clone(),
            ..Default::default()
        }
    }
}

/// The values of a watch from now on, each as a message; ends with the engine.
fn follow<V, M>(receiver: watch::Receiver<V>, map: impl Fn(&V) -> M + Send + Sync + 'static) -> Streaming<M>
where
    V: Send + Sync + 'static,
    M: Send + 'static,
{
    let state = (receiver, true, map);
    Streaming::new(futures::stream::unfold(state, |(mut receiver, first, map)| async move {
        if !first && receiver.changed().await.is_err() {
            return None;
        }
        let message = map(&receiver.borrow_and_update());
        Some((Ok(message), (receiver, false, map)))
    }))
}

fn to_pb(line: Line) -> pb::LogLine {
    pb::LogLine {
        service: line.service,
        instance: line.instance,
        stream: line.stream.into(),
        line: line.text,
        ..Default::default()
    }
}

impl pb::ControlService for Control {
    async fn status(&self, _: Context, _: Request<'_, pb::StatusRequest>) -> Reply<pb::StatusResponse> {
        let view = self.engine.view().borrow().clone();
        reply(self.status_of(&view))
    }

    async fn watch_status(
        &self,
        _: Context,
        _: Request<'_, pb::StatusRequest>,
    ) -> Reply<Streaming<pb::StatusResponse>> {
        let control = self.clone();
        reply(follow(self.engine.view(), move |view| control.status_of(view)))
    }

    async fn logs(&self, _: Context, request: Request<'_, pb::LogsRequest>) -> Reply<Streaming<pb::LogLine>> {
        let services = request.services.iter().map(|name| (*name).to_owned()).collect();
        let (follow, tail) = (request.follow, request.tail as usize);
        let mut logs = Logs::new(self.logs.clone(), services);
        let unreadable =
            |error: std::io::Error| Error::internal("the logs cannot be read").with_source(error);
        let first = logs.last(tail).await.map_err(unreadable)?;
        let state = (logs, VecDeque::from(first));
        reply(Streaming::new(futures::stream::unfold(state, move |(mut logs, mut lines)| async move {
            loop {
                if let Some(line) = lines.pop_front() {
                    return Some((Ok(to_pb(line)), (logs, lines)));
                }
                if !follow {
                    return None;
                }
                tokio::time::sleep(LOOK).await;
                lines.extend(logs.more().await.unwrap_or_default());
            }
        })))
    }

    async fn stop(&self, _: Context, request: Request<'_, pb::StopRequest>) -> Reply<pb::StopResponse> {
        let (done, stopped) = oneshot::channel();
        let command = Command::Stop { now: request.now, done: Some(done) };
        self.engine.send(command).map_err(|error| Error::unavailable(error.to_string()))?;
        // An engine that has ended has nothing left to stop.
        let Stopped { killed } = stopped.await.unwrap_or_default();
        reply(pb::StopResponse { killed, ..Default::default() })
    }

    async fn watch_routes(
        &self,
        _: Context,
        _: Request<'_, pb::WatchRoutesRequest>,
    ) -> Reply<Streaming<pb::WatchRoutesResponse>> {
        reply(follow(self.routes.clone(), Clone::clone))
    }
}
