//! A service under construction: what it serves, what it calls, what lives beside it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use formic_client::Client;
use formic_core::ServiceName;
use formic_registry::DynRegistry;
use formic_rpc::rt::IntoHandle;
use formic_rpc::{Channel, Handle, Interceptor};
use formic_server::Server;
use formic_settings::ServiceSettings;
use formic_telemetry::Metrics;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::background::{Stopping, Task};
use crate::{Failure, Result, calling, discovery, lifecycle};

pub(crate) type Hook = Box<dyn FnOnce() -> BoxFuture<'static, Result> + Send>;

/// A service, from its name to its end. Faults are kept and reported by [`run`](Self::run), so that
/// the usual `main` is one expression.
#[must_use = "a service does nothing until it is run"]
pub struct Service {
    pub(crate) name: ServiceName,
    pub(crate) settings: ServiceSettings,
    pub(crate) server: Option<Server>,
    pub(crate) metrics: Metrics,
    pub(crate) registry: DynRegistry,
    pub(crate) client: Client,
    client_config: formic_client::Config,
    /// Somebody holds a channel, or the client: too late to change how it calls.
    client_taken: AtomicBool,
    pub(crate) version: String,
    pub(crate) on_start: Vec<Hook>,
    pub(crate) on_stop: Vec<Hook>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) fault: Option<Failure>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Service {
    /// A service of this name. Reads the settings: defaults, then code, `formic.toml`, environment
    /// and flags, each over the one before.
    ///
    /// Asked by `--explain` or `--help`, it prints and ends the process.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self::with_settings(name, |_| {})
    }

    /// The same with settings of the author's own, which `formic.toml`, environment and flags override.
    pub fn with_settings(name: impl AsRef<str>, code: impl FnOnce(&mut ServiceSettings)) -> Self {
        let mut fault = None;
        let mut keep = |failure| {
            fault.get_or_insert(failure);
        };
        let fallback = || ServiceName::new("service").ok();
        let name = match ServiceName::new(name.as_ref()) {
            Ok(name) => Some(name),
            Err(error) => {
                keep(Failure::config("the service has no valid name").because(error));
                fallback()
            }
        };
        // The engine knows the service by the manifest's name, and looks for its instances under that.
        let given = std::env::var("FORMIC_SERVICE").ok().and_then(|name| ServiceName::new(name).ok());
        // "service" is a valid name; the type just cannot say so.
        let Some(name) = given.or(name) else { unreachable!("the fallback name is valid") };
        let settings = lifecycle::settings(&name, code).unwrap_or_else(|failure| {
            keep(failure);
            ServiceSettings::default()
        });
        lifecycle::explain(&settings);
        if let Err(failure) = lifecycle::logs(&settings) {
            keep(failure);
        }
        let choice = discovery::Choice {
            daemon: settings.daemon.as_deref(),
            registry: settings.registry.as_deref(),
            addresses: &settings.addresses,
        };
        let registry = discovery::open(&choice).unwrap_or_else(|failure| {
            keep(failure);
            Arc::new(formic_registry::Memory::new())
        });
        Self::assemble(name, settings, registry, fault)
    }

    /// A service without settings, over a registry of one's own: for tests and for embedding.
    pub fn embedded(name: ServiceName, registry: DynRegistry) -> Self {
        Self::assemble(name, ServiceSettings::default(), registry, None)
    }

    /// The same with settings from code; `formic.toml`, environment and flags are not looked at.
    pub fn embedded_with(
        name: ServiceName,
        registry: DynRegistry,
        code: impl FnOnce(&mut ServiceSettings),
    ) -> Self {
        let mut settings = ServiceSettings::default();
        code(&mut settings);
        Self::assemble(name, settings, registry, None)
    }

    fn assemble(
        name: ServiceName,
        settings: ServiceSettings,
        registry: DynRegistry,
        fault: Option<Failure>,
    ) -> Self {
        let metrics = Metrics::new();
        let (services, fault) = match calling::services(&settings) {
            Ok(services) => (services, fault),
            Err(failure) => (Default::default(), fault.or(Some(failure))),
        };
        let client_config = formic_client::Config {
            services,
            zone: settings.labels.get("zone").cloned(),
            observer: Some(Arc::new(metrics.clone())),
            ..crate::limits::client(&settings)
        };
        let client = Client::new(Arc::clone(&registry), client_config.clone());
        let server = Server::new(crate::limits::config(&settings), metrics.clone());
        let version = settings.version.clone().unwrap_or_default();
        Self {
            name,
            settings,
            server: Some(server),
            metrics,
            registry,
            client,
            client_config,
            client_taken: AtomicBool::new(false),
            version,
            on_start: Vec::new(),
            on_stop: Vec::new(),
            tasks: Vec::new(),
            fault,
        }
    }

    /// Serves an implementation of a generated trait. May be repeated for several services.
    pub fn serve<S, Marker>(self, service: S) -> Self
    where
        Arc<S>: IntoHandle<Marker>,
    {
        self.serve_handle(Arc::new(service).into_handle())
    }

    /// Serves anything that answers calls, such as a generated `…Server`.
    pub fn serve_handle(mut self, handle: Arc<dyn Handle>) -> Self {
        match self.server.take().map(|server| server.serve(handle)) {
            Some(Ok(server)) => self.server = Some(server),
            Some(Err(error)) => self.fault = self.fault.or(Some(error.into())),
            None => {}
        }
        self
    }

    fn map_server(mut self, with: impl FnOnce(Server) -> Server) -> Self {
        self.server = self.server.take().map(with);
        self
    }

    /// Puts an interceptor around every call, on every transport; the first one is the outermost.
    pub fn intercept(self, interceptor: impl Interceptor) -> Self {
        self.map_server(|server| server.intercept(Arc::new(interceptor)))
    }

    /// Answers plain HTTP requests on the same port.
    pub fn router(self, router: axum::Router) -> Self {
        self.map_server(|server| server.router(router))
    }

    /// Puts a tower layer around everything that comes by HTTP: `|router| router.layer(…)`.
    pub fn layer(self, layer: impl FnOnce(axum::Router) -> axum::Router + Send + 'static) -> Self {
        self.map_server(|server| server.layer(layer))
    }

    /// Sets the server's limits: sizes, connections, calls in flight, the longest deadline.
    pub fn server_config(self, with: impl FnOnce(&mut formic_server::Config)) -> Self {
        self.map_server(|server| server.configure(with))
    }

    /// Sets how the service calls others. To be done before the first [`client`](Self::client) is
    /// taken, as channels keep what they were made with.
    pub fn client_config(mut self, with: impl FnOnce(&mut formic_client::Config)) -> Self {
        if self.client_taken.load(Ordering::Relaxed) {
            let late = "the client was changed after a channel had been taken from it: `client_config` and \
                        `intercept_client` come before `client`";
            self.fault = self.fault.or_else(|| Some(Failure::new(late)));
            return self;
        }
        with(&mut self.client_config);
        self.client = Client::new(Arc::clone(&self.registry), self.client_config.clone());
        self
    }

    /// Puts an interceptor around every call that the service makes; the first one is the outermost. To
    /// be done before the first [`client`](Self::client) is taken.
    pub fn intercept_client(self, interceptor: impl Interceptor) -> Self {
        self.client_config(|config| config.interceptors.push(Arc::new(interceptor)))
    }

    /// Runs before the service is ready; a failure ends it.
    pub fn on_start<F, Fut>(mut self, hook: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        self.on_start.push(Box::new(|| Box::pin(hook())));
        self
    }

    /// Runs after the last call has been answered and the background tasks are over, in the order in
    /// which the hooks were added; a failure is reported when all of them have run.
    pub fn on_stop<F, Fut>(mut self, hook: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result> + Send + 'static,
    {
        self.on_stop.push(Box::new(|| Box::pin(hook())));
        self
    }

    /// A task that lives as long as the service and is told when it stops: after the last call has been
    /// answered, so that what calls hand over to it is still taken. If it panics, the service ends.
    pub fn background<F, Fut>(mut self, name: impl Into<String>, work: F) -> Self
    where
        F: FnOnce(Stopping) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.tasks.push(Task { name: name.into(), work: Box::new(|stopping| Box::pin(work(stopping))) });
        self
    }

    /// A channel to a service by name: discovered, balanced, with deadlines and retries.
    #[must_use]
    pub fn client(&self, service: impl AsRef<str>) -> Channel {
        self.clients().of(service)
    }

    /// The client underneath, for interceptors and for calls to fixed addresses.
    #[must_use]
    pub fn clients(&self) -> &Client {
        self.client_taken.store(true, Ordering::Relaxed);
        &self.client
    }

    /// The author's own settings, the `config` table of the service.
    ///
    /// # Errors
    /// A failure that names the key, what was expected, the value and where it came from.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        self.settings.config().map_err(|error| Failure::config(error.to_string()))
    }

    /// Where the service keeps its state, made with mode 0700: under `formic up` the engine says where,
    /// else `.formic/data/<name>` here.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn data_dir(&self) -> Result<PathBuf> {
        lifecycle::data_dir(&self.settings, &self.name)
    }

    /// The settings as they were resolved.
    #[must_use]
    pub fn settings(&self) -> &ServiceSettings {
        &self.settings
    }

    /// The metrics that `/metrics` shows, for the author's own.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Runs until a signal asks for the end (SIGTERM, Ctrl-C), then drains.
    ///
    /// # Errors
    /// If the service cannot start, or one of its hooks fails.
    pub async fn run(self) -> Result {
        lifecycle::run(self, lifecycle::signal()).await
    }

    /// Runs until the future resolves, then drains.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_until(self, stop: impl Future<Output = ()> + Send) -> Result {
        // Large, and there is one of it: no reason to move it around.
        Box::pin(lifecycle::run(self, stop)).await
    }
}
