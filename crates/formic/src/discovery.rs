//! Which registry a service uses: the daemon's when there is a daemon, mDNS when it runs on its own.

use std::sync::Arc;

use formic_client::Client;
use formic_core::Endpoint;
use formic_registry::{DynRegistry, Memory, Static};
use formic_rpc::Channel;
use formic_settings::{Addresses, ServiceSettings};

use crate::Failure;

/// What the settings say about discovery.
pub(crate) struct Choice<'a> {
    pub(crate) daemon: Option<&'a str>,
    pub(crate) registry: Option<&'a str>,
    pub(crate) addresses: &'a Addresses,
}

/// Opens the registry that the settings ask for.
pub(crate) fn open(choice: &Choice<'_>) -> Result<DynRegistry, Failure> {
    match (choice.registry, choice.daemon) {
        (None | Some("local"), Some(daemon)) => local(daemon),
        (Some("local"), None) => Err(Failure::config(
            "the registry `local` is the daemon's, but no daemon is known: run under `formic up`, or set FORMIC_DAEMON",
        )),
        (Some("memory"), _) => Ok(Arc::new(Memory::new())),
        (Some("static"), _) => Ok(Arc::new(choice.addresses.clone().into_iter().collect::<Static>())),
        (None | Some("mdns"), _) => mdns(),
        (Some(other), _) => Err(Failure::config(format!(
            "there is no registry {other:?}: expected local, mdns, memory or static"
        ))),
    }
}

fn local(daemon: &str) -> Result<DynRegistry, Failure> {
    let endpoint: Endpoint = daemon
        .parse()
        .map_err(|error| Failure::config("FORMIC_DAEMON does not say where the daemon is").because(error))?;
    Ok(Arc::new(formic_api::LocalRegistry::new(channel(endpoint))))
}

/// The way to the daemon is fixed, so the client that finds services rests on one that finds none.
fn channel(endpoint: Endpoint) -> Channel {
    Client::new(Arc::new(Memory::new()), formic_client::Config::default()).at(endpoint)
}

/// The daemon itself, where the service is one of its own.
pub(crate) fn daemon(settings: &ServiceSettings) -> Option<Channel> {
    let is_local = matches!(settings.registry.as_deref(), None | Some("local"));
    let endpoint = settings.daemon.as_deref().filter(|_| is_local)?.parse().ok()?;
    Some(channel(endpoint))
}

#[cfg(feature = "mdns")]
fn mdns() -> Result<DynRegistry, Failure> {
    let registry =
        formic_registry_mdns::Mdns::new(formic_registry_mdns::Config::default()).map_err(|error| {
            Failure::new("cannot start mDNS discovery; `--registry memory` does without").because(error)
        })?;
    Ok(Arc::new(registry))
}

#[cfg(not(feature = "mdns"))]
fn mdns() -> Result<DynRegistry, Failure> {
    Ok(Arc::new(Memory::new()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_core::ServiceName;

    use super::*;

    #[tokio::test]
    async fn the_static_registry_is_what_the_settings_say() {
        let addresses = formic_settings::addresses::parse("user=127.0.0.1:7001,127.0.0.1:7002").unwrap();
        let open = |registry| open(&Choice { daemon: None, registry: Some(registry), addresses: &addresses });
        let registry = open("static").unwrap();
        let found = registry.get(&ServiceName::new("user").unwrap()).await.unwrap();
        let found: Vec<_> = found.iter().map(|instance| instance.endpoint.to_string()).collect();
        assert_eq!(found, ["127.0.0.1:7001", "127.0.0.1:7002"]);
        assert!(open("consul").unwrap_err().to_string().contains("static"));
    }
}
