//! The daemon's registry as services see it: over the contract it is a registry like any other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use formic_api::registry::v1 as pb;
use formic_api::{LocalRegistry, RegistryServer};
use formic_client::Client;
use formic_core::{Code, Endpoint, Instance, InstanceId, Kind, RpcMethod, RpcService, ServiceName};
use formic_registry::conformance::{self, Subject};
use formic_registry::{DynRegistry, Error, Memory, Registry};
use formic_rpc::{Channel, Handle};
use formic_server::{Bound, Config, Running, Server, Serving};
use formic_telemetry::Metrics;

fn server() -> Arc<dyn Handle> {
    Arc::new(pb::RegistryServiceServer::new(RegistryServer::new(Arc::new(Memory::new()))))
}

#[tokio::test(start_paused = true)]
async fn conforms_in_memory() {
    conformance::run(async || Subject::new(Arc::new(LocalRegistry::new(Channel::new(server()))))).await;
}

fn socket() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("fa-{}-{number}.sock", std::process::id()))
}

/// A daemon's registry on a socket.
async fn daemon(path: &std::path::Path) -> Running {
    let server = Server::new(Config::default(), Metrics::new()).serve(server()).unwrap();
    let mut running = server.build().unwrap();
    running.listen(Bound::bind(&Endpoint::Unix(path.into())).await.unwrap());
    running.health().set(Serving::Ready);
    running
}

fn local(path: &std::path::Path) -> LocalRegistry {
    let client = Client::without_registry(formic_client::Config::default());
    LocalRegistry::new(client.at(Endpoint::Unix(path.into())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_over_a_socket() {
    // Kept until the end: a subject does not own its daemon.
    let daemons = std::sync::Mutex::new(Vec::new());
    conformance::run(async || {
        let path = socket();
        let running = daemon(&path).await;
        daemons.lock().unwrap().push(running);
        let writer: DynRegistry = Arc::new(local(&path));
        // Another process, with connections of its own.
        let reader: DynRegistry = Arc::new(local(&path));
        let converge = Duration::from_secs(5);
        Subject::new(writer)
            .with_reader(reader, converge)
            .with_short_lease(Duration::from_millis(400))
            .with_churn(20)
    })
    .await;
}

fn instance() -> Instance {
    let method = |name: &str, kind, idempotent, safe| RpcMethod { name: name.into(), kind, idempotent, safe };
    Instance {
        id: InstanceId::new("order-1"),
        service: ServiceName::new("order").unwrap(),
        version: "abc".into(),
        endpoint: "unix:/tmp/order.sock".parse().unwrap(),
        metadata: [("zone".to_owned(), "a".to_owned())].into(),
        rpc: vec![RpcService {
            name: "shop.order.v1.OrderService".into(),
            methods: vec![
                method("Get", Kind::Unary, true, true),
                method("Watch", Kind::ServerStream, true, false),
                method("Upload", Kind::ClientStream, false, false),
                method("Chat", Kind::BidiStream, false, false),
            ],
        }],
    }
}

#[tokio::test]
async fn a_daemon_that_goes_and_comes_back() {
    let path = socket();
    let registry = local(&path);
    let order = ServiceName::new("order").unwrap();
    let hour = Duration::from_secs(3600);
    assert!(matches!(registry.get(&order).await, Err(Error::Unavailable { .. })));
    let mut early = registry.watch(None);
    let first = tokio::time::timeout(Duration::from_secs(5), early.next()).await.unwrap();
    assert!(matches!(first, Err(Error::Unavailable { .. })), "{first:?}");

    let running = daemon(&path).await;
    let lease = within("the registration", async {
        loop {
            if let Ok(lease) = registry.register(instance(), hour).await {
                return lease;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(registry.get(&order).await.unwrap(), [instance()], "every field comes back");
    let mut watch = registry.watch(Some(order.clone()));
    assert_eq!(within("the snapshot", watch.next()).await.unwrap().instances.len(), 1);

    // A watch tells that the daemon is gone, and a new one begins with what the next daemon knows.
    drop(running);
    assert!(matches!(within("the end of the watch", watch.next()).await, Err(Error::Unavailable { .. })));
    let _running = daemon(&path).await;
    let expired = within("an answer", async {
        loop {
            match registry.renew(&lease).await {
                Err(Error::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => return other,
            }
        }
    });
    assert!(matches!(expired.await, Err(Error::LeaseExpired { .. })), "the new daemon knows no lease");
}

#[tokio::test]
async fn a_watch_tells_what_changed_to_those_who_ask_for_it() {
    let path = socket();
    let _running = daemon(&path).await;
    let client = pb::RegistryServiceClient::new(
        Client::without_registry(formic_client::Config::default()).at(Endpoint::Unix(path.clone())),
    );
    let (registry, hour) = (local(&path), Duration::from_secs(3600));
    for number in 0..20 {
        let id = InstanceId::new(format!("order-{number}"));
        registry.register(Instance { id, ..instance() }, hour).await.unwrap();
    }
    let watch = async |changes| {
        let request = pb::WatchRequest { service: "order".into(), changes, ..Default::default() };
        within("the watch", client.watch(request).into_future()).await.unwrap().into_message()
    };
    let (mut asks, mut does_not) = (watch(true).await, watch(false).await);
    let first = within("the set", asks.message()).await.unwrap().unwrap();
    assert_eq!((first.since, first.instances.len()), (None, 20));
    let first = within("the set", does_not.message()).await.unwrap().unwrap();
    assert_eq!((first.since, first.instances.len()), (None, 20));
    registry.deregister(&InstanceId::new("order-7")).await.unwrap();
    let told = within("the change", asks.message()).await.unwrap().unwrap();
    assert!(told.since.is_some() && told.instances.is_empty(), "{told:?}");
    assert_eq!(told.gone, ["order-7"]);
    let told = within("the set", does_not.message()).await.unwrap().unwrap();
    assert_eq!((told.since, told.instances.len(), told.gone.len()), (None, 19, 0));
}

#[tokio::test]
async fn what_is_wrong_names_its_field() {
    let client = pb::RegistryServiceClient::new(Channel::new(server()));
    let error = client.register(pb::RegisterRequest::default()).await.unwrap_err();
    assert_eq!((error.code(), error.fields()[0].field.as_str()), (Code::InvalidArgument, "instance"));
    let wrong = |service: &str, endpoint: &str| pb::RegisterRequest {
        instance: Some(pb::Instance {
            id: "1".into(),
            service: service.into(),
            endpoint: endpoint.into(),
            ..Default::default()
        })
        .into(),
        ttl_ms: 1000,
        ..Default::default()
    };
    for (service, endpoint, field) in
        [("No Name", "127.0.0.1:1", "instance.service"), ("order", "nowhere", "instance.endpoint")]
    {
        let error = client.register(wrong(service, endpoint)).await.unwrap_err();
        assert_eq!(error.fields()[0].field, field, "{error:?}");
    }
    let error = client.get(pb::GetRequest { service: "?".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(error.fields()[0].field, "service");
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(10), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited too long for {what}"),
    }
}
