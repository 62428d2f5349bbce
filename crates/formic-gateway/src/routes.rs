//! The table of routes: which method leads to which service, from two watches.
//!
//! The registry says who serves what; the daemon says what is exposed. The table is rebuilt whole
//! from the latest of both and swapped in; a call reads it without a lock. When a watch breaks, the
//! table stays as it is until the watch is back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use formic_api::control::v1 as control;
use formic_core::{Instance, Method, ServiceName};
use formic_registry::{Backoff, Cache, DynRegistry, Instances, Snapshot};
use formic_rpc::Channel;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::web::WebTable;

/// Where one method leads.
#[derive(Clone, Debug)]
pub struct Route {
    /// The method, with its kind.
    pub method: Method,
    /// The service whose instances answer it.
    pub service: ServiceName,
}

/// All routes at one moment.
#[derive(Debug, Default)]
pub struct Table {
    by_path: HashMap<String, Route>,
    /// Exposed services that have an instance, for the page.
    pub services: BTreeSet<String>,
    /// Plain HTTP beside the calls.
    pub(crate) web: WebTable,
}

/// What the daemon says.
#[derive(Debug, Default)]
struct Asked {
    exposed: BTreeSet<String>,
    http: Vec<control::HttpRoute>,
}

impl Table {
    /// The routes that the instances offer and the exposure lets in.
    #[must_use]
    pub fn build(instances: &[Instance], exposed: &BTreeSet<String>) -> Self {
        let mut table = Self::default();
        for instance in instances.iter().filter(|i| exposed.contains(i.service.as_str())) {
            table.services.insert(instance.service.to_string());
            for service in &instance.rpc {
                for method in &service.methods {
                    let path = format!("/{}/{}", service.name, method.name);
                    let mut known = Method::dynamic(path.as_str(), method.kind).idempotent(method.idempotent);
                    known.safe = method.safe;
                    table
                        .by_path
                        .entry(path)
                        .or_insert(Route { method: known, service: instance.service.clone() });
                }
            }
        }
        table
    }

    /// Adds what an earlier table knew of exposed services that have no instance now: a service that
    /// restarts is unavailable, which is no reason to say that there is no such method.
    #[must_use]
    fn keeping(mut self, earlier: &Self, exposed: &BTreeSet<String>) -> Self {
        for (path, route) in &earlier.by_path {
            let name = route.service.as_str();
            if exposed.contains(name) && !self.services.contains(name) {
                self.by_path.entry(path.clone()).or_insert_with(|| route.clone());
            }
        }
        self
    }

    /// The route of a path.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Route> {
        self.by_path.get(path)
    }

    /// Every path, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<&str> {
        let mut paths: Vec<_> = self.by_path.keys().map(String::as_str).collect();
        paths.sort_unstable();
        paths
    }
}

/// The live table. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Routes {
    table: Arc<ArcSwap<Table>>,
    known: watch::Receiver<bool>,
}

impl Routes {
    /// A table that never changes.
    #[must_use]
    pub fn fixed(table: Table) -> Self {
        Self { table: Arc::new(ArcSwap::from_pointee(table)), known: watch::Sender::new(true).subscribe() }
    }

    /// Follows the registry and the daemon until `stop`. The returned future owns both watches and is
    /// to be spawned by the caller.
    ///
    /// `cache` is the one that the calls go by. It is made to follow every exposed service before it is called,
    /// so that a first call finds its instances even when the daemon is gone by then.
    pub fn follow(
        registry: DynRegistry,
        cache: Cache,
        daemon: Channel,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let (known, receiver) = watch::channel(false);
        let (instances, mut instances_seen) = watch::channel(None::<Snapshot>);
        let (exposed, mut exposed_seen) = watch::channel(None::<Asked>);
        let routes = Self { table: Arc::clone(&table), known: receiver };
        let following = async move {
            let rebuild = async {
                let mut followed: BTreeMap<String, Instances> = BTreeMap::new();
                loop {
                    if let (Some(snapshot), Some(asked)) =
                        (&*instances_seen.borrow_and_update(), &*exposed_seen.borrow_and_update())
                    {
                        let (earlier, exposed) = (table.load(), &asked.exposed);
                        let instances = snapshot.instances.to_vec();
                        let mut fresh = Table::build(&instances, exposed);
                        fresh.web = WebTable::build(&asked.http, &instances, &earlier.web);
                        table.store(Arc::new(fresh.keeping(&earlier, exposed)));
                        known.send_replace(true);
                        followed.retain(|name, _| exposed.contains(name));
                        for name in exposed {
                            if let (false, Ok(service)) =
                                (followed.contains_key(name), ServiceName::new(name))
                            {
                                followed.insert(name.clone(), cache.instances(&service));
                            }
                        }
                    }
                    tokio::select! {
                        changed = instances_seen.changed() => if changed.is_err() { return },
                        changed = exposed_seen.changed() => if changed.is_err() { return },
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow_instances(registry, instances) => {}
                () = follow_exposed(daemon, exposed) => {}
                () = rebuild => {}
            }
        };
        (routes, following)
    }

    /// The table as it is now.
    #[must_use]
    pub fn now(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Changes with each new table.
    pub(crate) fn news(&self) -> watch::Receiver<bool> {
        self.known.clone()
    }

    /// Resolves once there has been a table: before that the gateway is not ready.
    pub async fn known(&mut self) {
        // The sender outlives everything that could want to know.
        let _ = self.known.wait_for(|known| *known).await;
    }
}

/// The waits between attempts to reach the daemon, which is on this machine.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Keeps a watch of the registry up for ever; an error leaves the last set in place.
async fn follow_instances(registry: DynRegistry, out: watch::Sender<Option<Snapshot>>) {
    let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
    loop {
        let mut watch = registry.watch(None);
        loop {
            match watch.next().await {
                Ok(snapshot) => {
                    backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
                    out.send_replace(Some(snapshot));
                }
                Err(error) => {
                    tracing::warn!(%error, "the registry is away; the last known routes stay");
                    break;
                }
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// Keeps a watch of what is exposed up for ever; an older generation is refused.
async fn follow_exposed(daemon: Channel, out: watch::Sender<Option<Asked>>) {
    let client = control::ControlServiceClient::new(daemon);
    let mut backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
    loop {
        match client.watch_routes(control::WatchRoutesRequest::default()).await {
            Ok(response) => {
                let mut stream = response.into_message();
                // Generations compare within one life of the daemon only, which one stream is.
                let mut latest = 0;
                loop {
                    match stream.message().await {
                        Ok(Some(routes)) if routes.generation >= latest => {
                            latest = routes.generation;
                            backoff = Backoff::new(MIN_BACKOFF, MAX_BACKOFF);
                            let exposed = routes.exposed.into_iter().collect();
                            out.send_replace(Some(Asked { exposed, http: routes.http }));
                        }
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the daemon is away; the last known routes stay"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formic_core::{InstanceId, Kind, RpcMethod, RpcService};

    fn instance(service: &str, rpc: &str) -> Instance {
        Instance {
            id: InstanceId::new(format!("{service}-1")),
            service: ServiceName::new(service).expect("valid"),
            version: String::new(),
            endpoint: "127.0.0.1:1".parse().expect("valid"),
            metadata: Default::default(),
            rpc: vec![RpcService {
                name: rpc.into(),
                methods: vec![RpcMethod {
                    name: "Watch".into(),
                    kind: Kind::ServerStream,
                    idempotent: true,
                    safe: false,
                }],
            }],
        }
    }

    #[test]
    fn only_exposed_services_have_routes() {
        let instances =
            [instance("order", "shop.order.v1.OrderService"), instance("payment", "shop.payment.v1.P")];
        let table = Table::build(&instances, &BTreeSet::from(["order".to_owned(), "user".to_owned()]));
        let route = table.find("/shop.order.v1.OrderService/Watch").expect("exposed");
        assert_eq!((route.method.kind, route.method.idempotent), (Kind::ServerStream, true));
        assert!(table.find("/shop.payment.v1.P/Watch").is_none());
        assert_eq!(table.services, BTreeSet::from(["order".to_owned()]));
    }
}
