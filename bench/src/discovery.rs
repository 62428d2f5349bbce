//! The registry in which the measured service is found: the daemon's contract over a unix socket, as under
//! `formic up`, served by the bench itself so that no other process takes part.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use formic::core::InstanceId;
use formic::registry::{Memory, Registry as _};
use formic::server::{Bound, Config, Running, Server, Serving};
use formic::telemetry::Metrics;
use formic::{Endpoint, Instance};
use formic_api::RegistryServer;
use formic_api::registry::v1::RegistryServiceServer;

pub(crate) struct Discovery {
    registry: Arc<Memory>,
    daemon: String,
    /// Serves for as long as this lives.
    _running: Running,
}

impl Discovery {
    pub(crate) async fn serve(folder: &Path) -> Result<Self> {
        let registry = Arc::new(Memory::new());
        let endpoint = Endpoint::Unix(folder.join("api.sock"));
        let bound = Bound::bind(&endpoint).await.context("serve the registry")?;
        let handle = RegistryServiceServer::new(RegistryServer::new(Arc::clone(&registry) as _));
        let server = Server::new(Config::default(), Metrics::new()).serve(Arc::new(handle))?;
        let mut running = server.build()?;
        let daemon = running.listen(bound).to_string();
        running.health().set(Serving::Ready);
        Ok(Self { registry, daemon, _running: running })
    }

    /// What `FORMIC_DAEMON` is to be.
    pub(crate) fn daemon(&self) -> &str {
        &self.daemon
    }

    /// Waits until callers could find the instance.
    pub(crate) async fn announced(&self, instance: &str, limit: Duration) -> Result<Instance> {
        let mut watch = self.registry.watch(None);
        let found = async {
            loop {
                let snapshot = watch.next().await?;
                let mut known = snapshot.instances.iter();
                if let Some(found) = known.find(|known| known.id.as_str() == instance) {
                    return Ok(found.clone());
                }
            }
        };
        tokio::time::timeout(limit, found)
            .await
            .with_context(|| format!("{instance} is not in the registry"))?
    }

    /// Forgets an instance that was killed, so that nobody calls it.
    pub(crate) async fn forget(&self, instance: &str) -> Result<()> {
        Ok(self.registry.deregister(&InstanceId::new(instance)).await?)
    }
}
