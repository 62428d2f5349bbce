//! Where the gateway stands, and who is near.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Instance, InstanceId, ServiceName};
use formic_probe::{ProbeServer, Prober};
use formic_registry::Registry;

use crate::{front, serve, within};

const SAY: &str = "/probe.v1.Probe/Say";

#[tokio::test]
async fn near_instances_are_called_first() {
    let near = Prober::new();
    let server = serve(Arc::new(ProbeServer::new(near.clone()))).await;
    let front = front(|config| {
        config.labels.insert("zone".into(), "a".into());
        // Whoever is new gets a whole share at once.
        let traffic = r#"{"policy":"round_robin","zone":{},"slow_start":"0s"}"#;
        config.services.insert("shop".into(), serde_json::from_str(traffic).unwrap());
    })
    .await;
    assert_eq!(front.json(SAY, "{}").await.status(), 200, "the one elsewhere, where nobody is near");
    let instance = Instance {
        id: InstanceId::new("shop-2"),
        service: ServiceName::new("shop").unwrap(),
        version: String::new(),
        endpoint: server.addr().into(),
        metadata: BTreeMap::from([("zone".into(), "a".into())]),
        rpc: server.running().services().to_vec(),
    };
    front.registry.register(instance, Duration::from_secs(3600)).await.unwrap();
    let known = async {
        while near.counts().began() == 0 {
            assert_eq!(front.json(SAY, "{}").await.status(), 200);
        }
    };
    within("the near one to be known", known).await;
    let before = (front.prober.counts().began(), near.counts().began());
    for _ in 0..20 {
        assert_eq!(front.json(SAY, "{}").await.status(), 200);
    }
    assert_eq!((front.prober.counts().began(), near.counts().began()), (before.0, before.1 + 20));
}
