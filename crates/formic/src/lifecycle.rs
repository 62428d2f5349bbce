//! The life of a service: settings, listen, start, ready, announce, and the staged drain back.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use formic_api::Attendant;
use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::Registrar;
use formic_server::{Bound, ListenError, Running, Serving};
use formic_settings::ServiceSettings;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::service::Hook;
use crate::{Failure, Result, Service, Stopping, calling, discovery};

/// Reads the settings of this process.
pub(crate) fn settings(
    name: &ServiceName,
    code: impl FnOnce(&mut ServiceSettings),
) -> std::result::Result<ServiceSettings, Failure> {
    formic_settings::load_service(name, code, std::env::vars(), std::env::args().skip(1))
        .map_err(|error| Failure::config(error.to_string()))
}

/// Prints what `--explain` or `--help` asked for and ends the process: before the author's code reads its
/// configuration, as a wrong value in there is what people ask about.
#[expect(clippy::print_stdout, clippy::exit, reason = "asked for instead of running")]
pub(crate) fn explain(settings: &ServiceSettings) {
    if let Some(text) = settings.explanation() {
        print!("{text}");
        std::process::exit(0);
    }
}

/// Starts logging as the settings say.
pub(crate) fn logs(settings: &ServiceSettings) -> Result {
    let format = settings
        .log_format
        .parse()
        .map_err(|error: formic_telemetry::logs::UnknownFormat| Failure::config(error.to_string()))?;
    formic_telemetry::logs::init(format, &settings.log).map_err(Failure::config)
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

/// Resolves at the first signal that asks for the end; the second one ends the process at once. Listens
/// from the call on: a service that has just said that it is ready must not be killed by the next signal.
#[expect(clippy::exit, reason = "the operator asked twice")]
pub(crate) fn signal() -> impl Future<Output = ()> + Send {
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
    async move {
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
}

/// Runs a service to its end.
pub(crate) async fn run(mut service: Service, stop: impl Future<Output = ()> + Send) -> Result {
    if let Some(fault) = service.fault.take() {
        return Err(fault);
    }
    let Some(server) = service.server.take() else {
        return Err(Failure::new("the service has no server"));
    };
    let listen = address("listen", &service.settings.listen)?;
    let advertise =
        service.settings.advertise.as_deref().map(|text| address("advertise", text)).transpose()?;
    if let Some(Endpoint::Tcp(addr)) = &advertise
        && addr.ip().is_unspecified()
    {
        return Err(Failure::config(format!(
            "the setting `advertise` is {addr}, which means every address of this machine: name one that others can call"
        )));
    }
    let bound = Bound::bind(&listen).await.map_err(|error| match error {
        // Not the setting's fault: whoever has the address may let go of it, so trying again can help.
        ListenError::InUse(_) => Failure::new("cannot start").because(error),
        _ => Failure::config("cannot start").because(error),
    })?;
    let public = handed()?;
    let mut running = server.build()?;
    // Calls to one's own name stay in the process.
    service.client.add_local(&service.name, running.handle());
    let endpoint = running.listen(bound);

    let mut attending = JoinSet::new();
    if let Some(attendant) = attendant(&service) {
        attending.spawn(attendant.run());
    }
    let stopping = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for task in service.tasks.drain(..) {
        let (name, work) = (task.name, (task.work)(Stopping(stopping.clone())));
        tasks.spawn(async move {
            work.await;
            name
        });
    }
    tokio::pin!(stop);
    let hooks = std::mem::take(&mut service.on_start);
    let started = tokio::select! {
        biased;
        // The end may be asked for while a hook waits for something that never comes.
        () = &mut stop => Ok(false),
        result = in_order(hooks) => result.map(|()| true),
    };
    let mut ended = match started {
        Ok(true) => {
            running.health().set(Serving::Ready);
            // Not before: who comes here was not told that it is ready, and can go to another meanwhile.
            let public: Vec<Endpoint> = public.into_iter().map(|bound| running.listen(bound)).collect();
            let endpoint = advertise.unwrap_or_else(|| callable(&endpoint));
            let registrar = announce(&service, &running, endpoint.clone(), public.first());
            tracing::info!(service = %service.name, address = %endpoint, "ready");
            let ended = supervise(&mut tasks, stop).await;

            // The stages of the drain, each bounded; see the server's own part in `formic_server::server`.
            running.health().set(Serving::Draining);
            tracing::info!(in_flight = running.in_flight(), "draining");
            if let Some(registrar) = registrar {
                registrar.shutdown().await;
                tokio::time::sleep(service.settings.drain.propagation).await;
            }
            ended
        }
        // Nobody was told of the service, so nobody has to be told that it goes.
        Ok(false) => Ok(()),
        Err(failure) => Err(failure),
    };
    let until = Instant::now() + service.settings.drain.grace;
    let cut = running.stop(service.settings.drain.grace).await;
    if cut > 0 {
        tracing::warn!(calls = cut, "the grace is over; calls were cut off");
    }
    attending.shutdown().await;
    stopping.cancel();
    let finished = async { while tasks.join_next().await.is_some() {} };
    if timeout_at(last(until), finished).await.is_err() {
        tracing::warn!("the grace is over; background tasks were cut off");
        tasks.shutdown().await;
    }
    let hooks = std::mem::take(&mut service.on_stop);
    let stopped = timeout_at(last(until), all(hooks)).await;
    ended = ended.and(stopped.unwrap_or_else(|_| Err(Failure::new("an `on_stop` hook outlived the grace"))));
    tracing::info!("stopped");
    ended
}

/// What comes after the calls gets what they left of the grace, and this at least.
const LEAST: Duration = Duration::from_secs(1);

fn last(until: Instant) -> Instant {
    until.max(Instant::now() + LEAST)
}

fn address(setting: &str, text: &str) -> std::result::Result<Endpoint, Failure> {
    text.parse().map_err(|error| {
        Failure::config(format!("the setting `{setting}` is {text:?}, which is no address")).because(error)
    })
}

/// Where a service that listens on every address can be called: nobody can dial `0.0.0.0` from elsewhere.
/// The registries that need no setting (the engine's, mDNS as it is by default, memory) stay on this
/// machine, and so does this address; a registry of more machines needs `advertise`.
fn callable(endpoint: &Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Tcp(addr) if addr.ip().is_unspecified() => {
            let ip = if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            Endpoint::Tcp(SocketAddr::new(ip, addr.port()))
        }
        other => other.clone(),
    }
}

/// Under an engine: takes over the policies that it tells, and answers what this caller sees.
fn attendant(service: &Service) -> Option<Attendant> {
    Some(Attendant {
        engine: discovery::daemon(&service.settings)?,
        client: service.client.clone(),
        instance: service.settings.instance.clone()?,
        service: service.name.to_string(),
        told: calling::services(&service.settings).ok()?,
    })
}

/// Runs hooks one after the other until one fails.
async fn in_order(hooks: Vec<Hook>) -> Result {
    for hook in hooks {
        hook().await?;
    }
    Ok(())
}

/// Runs all hooks one after the other; the first failure is the result.
async fn all(hooks: Vec<Hook>) -> Result {
    let mut ended = Ok(());
    for hook in hooks {
        let result = hook().await;
        ended = ended.and(result);
    }
    ended
}

/// Waits for the end; a background task that panics is a reason to end.
async fn supervise(tasks: &mut JoinSet<String>, mut stop: Pin<&mut impl Future<Output = ()>>) -> Result {
    loop {
        tokio::select! {
            () = stop.as_mut() => return Ok(()),
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

/// Keeps the service in the registry for as long as it lives; a registry of fixed content knows it already,
/// or never will.
/// The public sockets that it was handed, which others like it may have too.
fn handed() -> Result<Vec<Bound>> {
    let fault = |error: std::io::Error| Failure::new("the sockets that were handed over").because(error);
    let sockets = formic_handed::take().map_err(fault)?;
    sockets.into_iter().map(|(_, socket)| Bound::handed(socket.into()).map_err(fault)).collect()
}

fn announce(
    service: &Service,
    running: &Running,
    endpoint: Endpoint,
    public: Option<&Endpoint>,
) -> Option<Registrar> {
    if service.registry.read_only() {
        return None;
    }
    let id = service
        .settings
        .instance
        .clone()
        .unwrap_or_else(|| format!("{}-{:08x}", service.name, fastrand::u32(..)));
    let mut metadata = service.settings.labels.clone();
    if running.is_multiplexed() {
        metadata.insert(formic_mux::ANNOUNCED.into(), formic_mux::codec::VERSION.to_string());
    }
    metadata.extend(public.map(|public| (Instance::PUBLIC.to_owned(), public.to_string())));
    let instance = Instance {
        id: InstanceId::new(id),
        service: service.name.clone(),
        version: service.version.clone(),
        endpoint,
        metadata,
        rpc: running.services().to_vec(),
    };
    let config = formic_registry::registrar::Config::default();
    Some(Registrar::start(Arc::clone(&service.registry), instance, config))
}
