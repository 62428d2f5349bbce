//! What the parts of the engine that are processes of their own have in common: they find their settings in the
//! environment and the engine by its socket, announce where they answer, and end when they are told to.

use std::sync::Arc;

use formic_api::LocalRegistry;
use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_gateway::{Addresses, GatewayError};
use formic_registry::{DynRegistry, Registrar};
use formic_rpc::Channel;
use formic_telemetry::LogFormat;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::exit::{Failure, Outcome};
use crate::signals::Ends;

/// A part of the engine, as the engine started it.
pub(super) struct Part {
    pub(super) id: InstanceId,
    service: ServiceName,
    version: String,
    /// The engine.
    pub(super) daemon: Channel,
    pub(super) registry: DynRegistry,
    ends: Ends,
}

fn variable(name: &str) -> Outcome<String> {
    std::env::var(name).map_err(|_| {
        Failure::user(format!("{name} is not set"))
            .help("the engine starts this and sets it; `formic up` runs both")
    })
}

/// What this part is told in its environment.
pub(super) fn config<T: DeserializeOwned>(of: &str) -> Outcome<T> {
    serde_json::from_str(&variable("FORMIC_CONFIG")?)
        .map_err(|error| Failure::user(format!("FORMIC_CONFIG is not a {of}'s")).because(error))
}

// === impl Part ===

impl Part {
    /// To be called before anything that takes time: the engine may ask for the end while this starts.
    pub(super) fn begin() -> Outcome<Self> {
        let ends = Ends::listen()?;
        let filter = std::env::var("FORMIC_LOG").unwrap_or_else(|_| "info".into());
        formic_telemetry::logs::init(LogFormat::Auto, &filter).map_err(Failure::user)?;
        let daemon: Endpoint = variable("FORMIC_DAEMON")?
            .parse()
            .map_err(|error| Failure::user("FORMIC_DAEMON").because(error))?;
        let Endpoint::Unix(socket) = daemon else {
            return Err(Failure::user("FORMIC_DAEMON is not a unix socket"));
        };
        let daemon = app::channel(socket);
        Ok(Self {
            id: InstanceId::new(variable("FORMIC_INSTANCE")?),
            service: ServiceName::new(variable("FORMIC_SERVICE")?)
                .map_err(|error| Failure::user("FORMIC_SERVICE").because(error))?,
            version: std::env::var("FORMIC_VERSION").unwrap_or_default(),
            registry: Arc::new(LocalRegistry::new(daemon.clone())),
            daemon,
            ends,
        })
    }

    /// Serves until the end is asked for, and announces where once `listens` says so. Asked twice, it ends at once.
    pub(super) async fn serve(
        mut self,
        serving: impl Future<Output = Result<(), GatewayError>>,
        listens: oneshot::Receiver<Addresses>,
        stop: CancellationToken,
    ) -> Outcome {
        let announcing = async {
            let addresses = tokio::select! {
                () = self.ends.next() => None,
                addresses = listens => addresses.ok(),
            };
            if let Some(Addresses { public, own }) = addresses {
                tracing::info!(address = %public, "ready");
                let instance = Instance {
                    id: self.id,
                    service: self.service,
                    version: self.version,
                    endpoint: own,
                    metadata: [(Instance::PUBLIC.to_owned(), public.to_string())].into(),
                    rpc: Vec::new(),
                };
                let config = formic_registry::registrar::Config::default();
                let registrar = Registrar::start(self.registry, instance, config);
                self.ends.next().await;
                registrar.shutdown().await;
            }
            stop.cancel();
            // Asked twice: whoever asks does not want to wait for the drain.
            self.ends.next().await;
        };
        tokio::select! {
            served = serving => served.map_err(|error| Failure::user(error.to_string())),
            () = announcing => Err(Failure::interrupted()),
        }
    }
}
