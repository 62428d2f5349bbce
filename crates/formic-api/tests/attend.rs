//! An engine that is gone takes nothing from callers: they keep its policies and the instances that it named.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use formic_api::control::v1 as control;
use formic_api::registry::v1 as pb;
use formic_api::{Attendant, LocalRegistry, RegistryServer};
use formic_client::{Algorithm, Client, Config as ClientConfig};
use formic_core::{Endpoint, Error, Instance, InstanceId, ServiceName};
use formic_registry::{Memory, Registry};
use formic_rpc::{Context, Handle, Reply, Request, Streaming, reply};
use formic_server::{Bound, Config, Running, Server, Serving};
use formic_telemetry::Metrics;
use futures::StreamExt;

/// Says one set of policies, and has no questions.
struct Policies(&'static str);

impl control::TrafficService for Policies {
    async fn traffic(
        &self,
        _: Context,
        _: Request<'_, control::TrafficRequest>,
    ) -> Reply<control::TrafficResponse> {
        Err(Error::unimplemented("nobody asks"))
    }

    async fn readmit(
        &self,
        _: Context,
        _: Request<'_, control::ReadmitRequest>,
    ) -> Reply<control::ReadmitResponse> {
        Err(Error::unimplemented("nobody asks"))
    }

    async fn attend(
        &self,
        _: Context,
        _: Request<'_, control::AttendRequest>,
    ) -> Reply<Streaming<control::AttendResponse>> {
        let policies = control::Policies { generation: 1, services: self.0.into(), ..Default::default() };
        let told = control::AttendResponse { policies: Some(policies).into(), ..Default::default() };
        reply(Streaming::new(futures::stream::iter([Ok(told)]).chain(futures::stream::pending())))
    }

    async fn report(
        &self,
        _: Context,
        _: Request<'_, control::ReportRequest>,
    ) -> Reply<control::ReportResponse> {
        reply(control::ReportResponse::default())
    }
}

fn socket(what: &str) -> PathBuf {
    std::env::temp_dir().join(format!("fa-{what}-{}.sock", std::process::id()))
}

async fn serve(path: &Path, handles: Vec<Arc<dyn Handle>>) -> Running {
    let server = Server::new(Config::default(), Metrics::new());
    let server = handles.into_iter().try_fold(server, Server::serve).unwrap();
    let mut running = server.build().unwrap();
    running.listen(Bound::bind(&Endpoint::Unix(path.into())).await.unwrap());
    running.health().set(Serving::Ready);
    running
}

async fn engine(path: &Path, memory: &Arc<Memory>, policies: &'static str) -> Running {
    let registry: Arc<dyn Handle> =
        Arc::new(pb::RegistryServiceServer::new(RegistryServer::new(memory.clone())));
    let traffic: Arc<dyn Handle> = Arc::new(control::TrafficServiceServer::new(Policies(policies)));
    serve(path, vec![registry, traffic]).await
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), wait).await.is_ok(), "waited for {what}");
}

#[tokio::test]
async fn callers_keep_policies_and_instances_while_the_engine_is_dead() {
    let (home, own) = (socket("engine"), socket("order"));
    // The service itself, which lives on: any that answers will do.
    let order = Arc::new(pb::RegistryServiceServer::new(RegistryServer::new(Arc::new(Memory::new()))));
    let _order = serve(&own, vec![order]).await;
    let (memory, name) = (Arc::new(Memory::new()), ServiceName::new("order").unwrap());
    let instance = Instance {
        id: InstanceId::new("order-1"),
        service: name.clone(),
        version: String::new(),
        endpoint: Endpoint::Unix(own),
        metadata: Default::default(),
        rpc: Vec::new(),
    };
    memory.register(instance.clone(), Duration::from_secs(3_600)).await.unwrap();
    let first = engine(&home, &memory, r#"{"order":{"policy":"round_robin"}}"#).await;

    let way = Client::without_registry(ClientConfig::default());
    let registry = LocalRegistry::new(way.at(Endpoint::Unix(home.clone())));
    let client = Client::new(Arc::new(registry), ClientConfig::default());
    let attendant = Attendant {
        engine: way.at(Endpoint::Unix(home.clone())),
        client: client.clone(),
        instance: "web-1".into(),
        service: "web".into(),
        told: HashMap::new(),
    };
    let attending = tokio::task::spawn(attendant.run());
    let policy = || client.traffic(&name).policy.policy;
    until("the policy", || policy() == Algorithm::RoundRobin).await;
    let order = pb::RegistryServiceClient::new(client.of("order"));
    order.list(pb::ListRequest::default()).await.unwrap();

    // It dies as a killed process does: no goodbye, and its socket answers nobody.
    drop(first);
    let view = client.cache().instances(&name);
    until("the caller to know that the engine is away", || view.view().stale.is_some()).await;
    for _ in 0..20 {
        order.list(pb::ListRequest::default()).await.unwrap();
        assert_eq!((policy(), client.traffic(&name).endpoints.len()), (Algorithm::RoundRobin, 1));
    }

    // The next one knows no instance yet, and another policy: that counts, and the instance stays until it had time to
    // come back.
    let _second = engine(&home, &Arc::new(Memory::new()), r#"{"order":{"policy":"least_request"}}"#).await;
    until("the next engine's policy", || policy() == Algorithm::LeastRequest).await;
    until("the next engine's registry", || view.view().stale.is_none()).await;
    order.list(pb::ListRequest::default()).await.unwrap();
    attending.abort();
    assert!(attending.await.unwrap_err().is_cancelled());
}
