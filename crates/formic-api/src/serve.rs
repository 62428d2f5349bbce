//! Any registry, served: what `local` talks to.

use std::time::Duration;

use formic_core::{Error, InstanceId, ServiceName};
use formic_registry::{DynRegistry, Error as RegistryError, Lease, LeaseId};
use formic_rpc::{Context, Reply, Request, Streaming, reply};
use futures::StreamExt;

use crate::changes::Teller;
use crate::convert::{fault, instance_from_pb, instance_to_pb};
use crate::local::{DOMAIN, LEASE_EXPIRED};
use crate::registry::v1 as pb;

/// Serves a registry. Its watches hold two sets a watcher: the one told last, and one that was not taken yet; a slow
/// watcher skips to the newest.
#[derive(Clone, Debug)]
pub struct RegistryServer(DynRegistry);

impl RegistryServer {
    /// Over any registry.
    #[must_use]
    pub fn new(registry: DynRegistry) -> Self {
        Self(registry)
    }
}

fn refused(error: RegistryError) -> Error {
    let none: [(String, String); 0] = [];
    match &error {
        RegistryError::LeaseExpired { .. } => {
            Error::failed_precondition(error.to_string()).with_info(DOMAIN, LEASE_EXPIRED, none)
        }
        RegistryError::Invalid(reason) => Error::invalid_argument(reason.clone()),
        RegistryError::ReadOnly { .. } => Error::failed_precondition(error.to_string()),
        _ => Error::unavailable(error.to_string()),
    }
}

fn name(service: &str) -> Result<ServiceName, Error> {
    ServiceName::new(service).map_err(|error| fault("service", &error))
}

impl pb::RegistryService for RegistryServer {
    async fn register(
        &self,
        _: Context,
        request: Request<'_, pb::RegisterRequest>,
    ) -> Reply<pb::RegisterResponse> {
        let request = request.to_owned_message();
        let instance = request.instance.into_option().ok_or_else(|| {
            Error::invalid_argument("an instance is needed").with_field("instance", "must be set")
        })?;
        let instance = instance_from_pb(instance)?;
        let ttl = Duration::from_millis(request.ttl_ms);
        let lease = self.0.register(instance, ttl).await.map_err(refused)?;
        reply(pb::RegisterResponse {
            lease_id: lease.id.0,
            ttl_ms: u64::try_from(lease.ttl.as_millis()).unwrap_or(u64::MAX),
            ..Default::default()
        })
    }

    async fn renew(&self, _: Context, request: Request<'_, pb::RenewRequest>) -> Reply<pb::RenewResponse> {
        // The registry knows how long it granted; the ttl of this copy is not read.
        let lease = Lease {
            id: LeaseId(request.lease_id),
            instance: InstanceId::new(request.instance_id),
            ttl: Duration::ZERO,
        };
        self.0.renew(&lease).await.map_err(refused)?;
        reply(pb::RenewResponse::default())
    }

    async fn deregister(
        &self,
        _: Context,
        request: Request<'_, pb::DeregisterRequest>,
    ) -> Reply<pb::DeregisterResponse> {
        self.0.deregister(&InstanceId::new(request.instance_id)).await.map_err(refused)?;
        reply(pb::DeregisterResponse::default())
    }

    async fn get(&self, _: Context, request: Request<'_, pb::GetRequest>) -> Reply<pb::GetResponse> {
        let found = self.0.get(&name(request.service)?).await.map_err(refused)?;
        reply(pb::GetResponse { instances: found.iter().map(instance_to_pb).collect(), ..Default::default() })
    }

    async fn list(&self, _: Context, _: Request<'_, pb::ListRequest>) -> Reply<pb::ListResponse> {
        let entries = self.0.list().await.map_err(refused)?;
        let entry = |entry: &formic_registry::ServiceEntry| pb::ServiceEntry {
            service: entry.service.as_str().into(),
            instances: u32::try_from(entry.instances).unwrap_or(u32::MAX),
            ..Default::default()
        };
        reply(pb::ListResponse { services: entries.iter().map(entry).collect(), ..Default::default() })
    }

    async fn watch(
        &self,
        _: Context,
        request: Request<'_, pb::WatchRequest>,
    ) -> Reply<Streaming<pb::WatchResponse>> {
        let service = match request.service {
            "" => None,
            service => Some(name(service)?),
        };
        let mut teller = Teller::new(request.changes);
        let watch = self.0.watch(service);
        reply(Streaming::new(watch.map(move |item| item.map(|set| teller.tell(set)).map_err(refused))))
    }
}
