//! The life of a service: settings, listen, start, ready, announce, and the staged drain back.

use std::path::PathBuf;
use std::sync::Arc;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::Registrar;
use formic_server::{Bound, Running, Serving};
use formic_settings::ServiceSettings;
use formic_telemetry::{Metrics, Side};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Failure, Result, Service, Stopping};

/// Reads the settings of this process.
pub(crate) fn settings(
    name: &ServiceName,
    code: impl FnOnce(&mut ServiceSettings),
) -> std::result::Result<ServiceSettings, Failure> {
    formic_settings::load_service(name, code, std::env::vars(), std::env::args().skip(1))
        .map_err(|error| Failure::config(error.to_string()))
}

/// Starts logging as the settings say.
pub(crate) fn logs(settings: &ServiceSettings) -> Result {
    let format = settings
        .log_format
        .parse()
        .map_err(|error: formic_telemetry::logs::UnknownFormat| Failure::config(error.to_string()))?;
    formic_telemetry::logs::init(format, &settings.log).map_err(Failure::config)
}

/// Counts calls made from here.
pub(crate) fn observer(metrics: &Metrics) -> Arc<dyn formic_client::Observer> {
    Arc::new(ClientMetrics(metrics.clone()))
}

#[derive(Debug)]
struct ClientMetrics(Metrics);

impl formic_client::Observer for ClientMetrics {
    fn on_call(&self, report: &formic_client::Report<'_>) {
        self.0.method(Side::Client, report.method.path()).observe(report.code, report.duration);
    }
}

/// The directory for a service's state.
pub(crate) fn data_dir(settings: &ServiceSettings, name: &ServiceName) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = match &settings.data_dir {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(".formic").join("data").join(name.as_str()),
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| {
        Failure::new(format!("cannot make the data directory {}", dir.display())).because(error)
    })?;
    Ok(dir)
}

/// Resolves at the first signal that asks for the end; the second one ends the process at once.
#[expect(clippy::exit, reason = "the operator asked twice")]
pub(crate) async fn signal() {
    use tokio::signal::unix::{Signal, SignalKind};
    let listen = |kind: SignalKind| tokio::signal::unix::signal(kind).ok();
    let (mut term, mut int) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    async fn next(signal: &mut Option<Signal>) {
        match signal {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
    tokio::select! {
        () = next(&mut term) => {}
        () = next(&mut int) => {}
    }
    // Owned by the process: it lives until the end of it, and its end is the end of the process.
    drop(tokio::task::spawn(async move {
        tokio::select! {
            () = next(&mut term) => {}
            () = next(&mut int) => {}
        }
        std::process::exit(130);
    }));
}

/// Runs a service to its end.
pub(crate) async fn run(mut service: Service, stop: impl Future<Output = ()> + Send) -> Result {
    if let Some(text) = service.settings.explanation() {
        print(&text);
        return Ok(());
    }
    if let Some(fault) = service.fault.take() {
        return Err(fault);
    }
    let Some(server) = service.server.take() else {
        return Err(Failure::new("the service has no server"));
    };
    let listen: Endpoint = service
        .settings
        .listen
        .parse()
        .map_err(|error| Failure::config("the setting `listen` is no address").because(error))?;
    let bound = Bound::bind(&listen).await.map_err(|error| Failure::config("cannot start").because(error))?;
    let mut running = server.build()?;
    // Calls to one's own name stay in the process.
    service.client.add_local(&service.name, running.handle());
    let endpoint = running.listen(bound);

    let stopping = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for task in service.tasks.drain(..) {
        let (name, work) = (task.name, (task.work)(Stopping(stopping.clone())));
        tasks.spawn(async move {
            work.await;
            name
        });
    }
    for hook in service.on_start.drain(..) {
        hook().await?;
    }
    running.health().set(Serving::Ready);
    let registrar = announce(&service, &running, endpoint.clone());
    tracing::info!(service = %service.name, address = %endpoint, "ready");

    let drain = service.settings.drain;
    let mut ended = supervise(&mut tasks, stop).await;

    // The stages of the drain, each bounded; see the server's own part in `formic_server::server`.
    tracing::info!(in_flight = running.in_flight(), "draining");
    running.health().set(Serving::Draining);
    registrar.shutdown().await;
    tokio::time::sleep(drain.propagation).await;
    let cut = running.stop(drain.grace).await;
    if cut > 0 {
        tracing::warn!(calls = cut, "the grace is over; calls were cut off");
    }
    stopping.cancel();
    let finished = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(drain.grace, finished).await.is_err() {
        tracing::warn!("the grace is over; background tasks were cut off");
        tasks.shutdown().await;
    }
    for hook in service.on_stop.drain(..) {
        let result = hook().await;
        ended = ended.and(result);
    }
    tracing::info!("stopped");
    ended
}

#[expect(clippy::print_stdout, reason = "--explain is asked for and goes to standard output")]
fn print(text: &str) {
    print!("{text}");
}

/// Waits for the end; a background task that panics is a reason to end.
async fn supervise(tasks: &mut JoinSet<String>, stop: impl Future<Output = ()>) -> Result {
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            Some(done) = tasks.join_next(), if !tasks.is_empty() => match done {
                Ok(name) => tracing::debug!(task = name, "a background task has finished"),
                Err(error) if error.is_panic() => {
                    return Err(Failure::new("a background task panicked; its message is in the log").because(error));
                }
                Err(_) => {}
            },
        }
    }
}

/// Keeps the service in the registry for as long as it lives.
fn announce(service: &Service, running: &Running, endpoint: Endpoint) -> Registrar {
    let id = service
        .settings
        .instance
        .clone()
        .unwrap_or_else(|| format!("{}-{:08x}", service.name, fastrand::u32(..)));
    let instance = Instance {
        id: InstanceId::new(id),
        service: service.name.clone(),
        version: service.version.clone(),
        endpoint: service.settings.advertise.as_deref().and_then(|a| a.parse().ok()).unwrap_or(endpoint),
        metadata: service.settings.labels.clone(),
        rpc: running.services().to_vec(),
    };
    Registrar::start(Arc::clone(&service.registry), instance, formic_registry::registrar::Config::default())
}
