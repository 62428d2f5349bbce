//! `local`: the daemon's registry as a [`Registry`], over a channel to it.

use std::time::Duration;

use formic_core::{Code, Error, Instance, InstanceId, ServiceName};
use formic_registry::{BoxFuture, Error as RegistryError, Lease, LeaseId, Registry, ServiceEntry, Watch};
use formic_rpc::Channel;
use futures::{FutureExt, Stream, StreamExt};

use crate::changes::{self, Listener};
use crate::convert::instance_to_pb;
use crate::registry::v1 as pb;

/// The reason in the error details that asks for a new registration.
pub(crate) const LEASE_EXPIRED: &str = "LEASE_EXPIRED";
/// The domain of this contract's reasons.
pub(crate) const DOMAIN: &str = "formic.registry";

/// How long one call to the daemon may take: it is on this machine, or it is gone.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The daemon's registry.
#[derive(Clone, Debug)]
pub struct LocalRegistry(pb::RegistryServiceClient);

impl LocalRegistry {
    /// Over a channel to the daemon.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self(pb::RegistryServiceClient::new(channel))
    }
}

fn failed(error: Error) -> RegistryError {
    match error.code() {
        Code::InvalidArgument => RegistryError::Invalid(error.message().into()),
        _ => RegistryError::unavailable_because("the daemon's registry did not answer", error),
    }
}

/// Skips to the newest of the sets that have arrived: a connection takes more than the one that a slow
/// watcher may leave behind.
fn newest<T, E>(stream: impl Stream<Item = Result<T, E>> + Unpin) -> impl Stream<Item = Result<T, E>> {
    futures::stream::unfold((stream.fuse(), None), |(mut stream, failure)| async move {
        if let Some(failure) = failure {
            return Some((Err(failure), (stream, None)));
        }
        let mut latest = stream.next().await?;
        let mut failure = None;
        while latest.is_ok() && failure.is_none() {
            match stream.next().now_or_never() {
                Some(Some(Ok(newer))) => latest = Ok(newer),
                Some(Some(Err(error))) => failure = Some(error),
                Some(None) | None => break,
            }
        }
        Some((latest, (stream, failure)))
    })
}

impl Registry for LocalRegistry {
    fn register(&self, instance: Instance, ttl: Duration) -> BoxFuture<'_, Result<Lease, RegistryError>> {
        Box::pin(async move {
            let request = pb::RegisterRequest {
                instance: Some(instance_to_pb(&instance)).into(),
                ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
                ..Default::default()
            };
            let response = self.0.register(request).timeout(TIMEOUT).await.map_err(failed)?;
            let ttl = Duration::from_millis(response.ttl_ms);
            Ok(Lease { id: LeaseId(response.lease_id), instance: instance.id, ttl })
        })
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(async move {
            let request = pb::RenewRequest {
                lease_id: lease.id.0,
                instance_id: lease.instance.as_str().into(),
                ..Default::default()
            };
            match self.0.renew(request).timeout(TIMEOUT).await {
                Ok(_) => Ok(()),
                Err(error) if error.info().is_some_and(|info| info.reason == LEASE_EXPIRED) => {
                    Err(RegistryError::LeaseExpired { instance: lease.instance.clone() })
                }
                Err(error) => Err(failed(error)),
            }
        })
    }

    fn deregister<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<(), RegistryError>> {
        Box::pin(async move {
            let request = pb::DeregisterRequest { instance_id: id.as_str().into(), ..Default::default() };
            self.0.deregister(request).timeout(TIMEOUT).await.map_err(failed)?;
            Ok(())
        })
    }

    fn get<'a>(&'a self, service: &'a ServiceName) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(async move {
            let request = pb::GetRequest { service: service.as_str().into(), ..Default::default() };
            let response = self.0.get(request).timeout(TIMEOUT).await.map_err(failed)?;
            response.into_message().instances.into_iter().map(changes::read).collect()
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ServiceEntry>, RegistryError>> {
        Box::pin(async move {
            let response = self.0.list(pb::ListRequest::default()).timeout(TIMEOUT).await.map_err(failed)?;
            let entry = |entry: pb::ServiceEntry| {
                let service =
                    ServiceName::new(&entry.service).map_err(|e| RegistryError::Invalid(e.to_string()))?;
                Ok(ServiceEntry { service, instances: entry.instances as usize })
            };
            response.into_message().services.into_iter().map(entry).collect()
        })
    }

    fn watch(&self, service: Option<ServiceName>) -> Watch {
        let request = pb::WatchRequest {
            service: service.as_ref().map(|name| name.as_str().into()).unwrap_or_default(),
            changes: true,
            ..Default::default()
        };
        let client = self.0.clone();
        // Connecting is the stream's first step, so that `watch` itself returns at once.
        let opened = futures::stream::once(async move { client.watch(request).await.map_err(failed) });
        Watch::new(opened.flat_map(|opened| {
            match opened {
                Err(error) => futures::stream::iter([Err(error)]).left_stream(),
                Ok(response) => {
                    let mut listener = Listener::default();
                    // Each is heard, for the next may be changes to it.
                    let sets = response.into_message().map(move |told| listener.hear(told.map_err(failed)?));
                    newest(sets).right_stream()
                }
            }
        }))
    }
}
