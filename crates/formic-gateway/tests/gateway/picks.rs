//! Rules and hashes see the request as it came, also what is not passed on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use connectrpc::Protocol;
use formic_core::{Code, Error, Instance, InstanceId, Method, RpcService, ServiceName};
use formic_probe::foreign::{Http, channel};
use formic_probe::{Order, ProbeClient, ProbeServer, Prober};
use formic_registry::Registry;
use formic_rpc::{Answer, BoxFuture, Call, Codec, Handle};
use formic_testing::Transient;
use futures::StreamExt;
use http_body_util::Full;

use crate::calls::ways;
use crate::{Front, front, get, serve, text, within};

const SAY: &str = "/probe.v1.Probe/Say";

/// A gateway whose calls go to the second of two instances where a rule says so, and else to the first.
async fn two(when: (&str, &str)) -> (Front, Prober, Transient) {
    let traffic = serde_json::json!({
        "slow_start": "0s",
        "rules": [
            { "name": "new", "when": { when.0: when.1 }, "to": { "labels": { "track": "new" } } },
            { "name": "old", "except": { "labels": { "track": "new" } } },
        ],
    });
    let new = Prober::new();
    let server = serve(std::sync::Arc::new(ProbeServer::new(new.clone()))).await;
    let front = front(|config| {
        config.services.insert("shop".into(), serde_json::from_value(traffic).unwrap());
    })
    .await;
    let instance = Instance {
        id: InstanceId::new("shop-2"),
        service: ServiceName::new("shop").unwrap(),
        version: String::new(),
        endpoint: server.addr().into(),
        metadata: BTreeMap::from([("track".into(), "new".into())]),
        rpc: server.running().services().to_vec(),
    };
    front.registry.register(instance, Duration::from_secs(3600)).await.unwrap();
    (front, new, server)
}

fn say(headers: &[(&str, &str)]) -> http::Request<Full<Bytes>> {
    let mut request = http::Request::post(SAY).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from("{}")).unwrap()
}

#[tokio::test]
async fn rules_see_what_is_said_to_the_gateway_alone() {
    for (name, value, other) in [
        ("user-agent", "probe/1", "curl/8"),
        ("host", "beta.example", "www.example"),
        ("origin", "https://beta.example", "https://www.example"),
        ("accept", "application/json;v=2", "*/*"),
        ("x-user", "ada", "eve"),
    ] {
        let (front, new, _server) = two((name, value)).await;
        let with = |value: &'static str| {
            let mut headers = vec![(name, value)];
            if name != "host" {
                headers.push(("host", "localhost"));
            }
            headers
        };
        let known = async {
            while new.counts().began() == 0 {
                assert_eq!(front.send(say(&with(value))).await.status(), 200);
            }
        };
        within("the second to be known", known).await;
        let before = (front.prober.counts().began(), new.counts().began());
        for _ in 0..5 {
            assert_eq!(front.send(say(&with(other))).await.status(), 200);
            let answer = front.send(say(&with(value))).await;
            assert_eq!(answer.status(), 200);
            let travelled = text(&answer).contains(&format!("\"{name}\":\"{value}\""));
            assert_eq!(travelled, name == "x-user", "{name}: {}", text(&answer));
        }
        let after = (front.prober.counts().began(), new.counts().began());
        assert_eq!(after, (before.0 + 5, before.1 + 5), "{name}");
    }
}

#[tokio::test]
async fn the_host_of_http_2_is_a_host() {
    let (front, new, _server) = two(("host", "127.0.0.1*")).await;
    let probe = ProbeClient::new(channel(front.addr, Http::Two, Protocol::Grpc, Codec::Proto));
    let known = async {
        while new.counts().began() == 0 {
            probe.say(Order::default()).await.unwrap();
        }
    };
    within("the rule to be followed", known).await;
    let before = front.prober.counts().began();
    for _ in 0..5 {
        probe.say(Order::default()).await.unwrap();
    }
    assert_eq!(front.prober.counts().began(), before);
}

/// An instance that takes every call and answers none.
struct Hanging(ProbeServer<Prober>, Arc<AtomicUsize>);

impl Handle for Hanging {
    fn method(&self, path: &str) -> Option<Method> {
        self.0.method(path)
    }

    fn services(&self) -> Vec<RpcService> {
        self.0.services()
    }

    fn call(&self, _: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn who_does_not_begin_a_stream_is_ejected_by_callers_who_say_nothing_of_time() {
    let asked = Arc::new(AtomicUsize::new(0));
    let server = serve(Arc::new(Hanging(ProbeServer::new(Prober::new()), Arc::clone(&asked)))).await;
    let traffic = serde_json::json!({
        "policy": "round_robin",
        "ejection": { "min_wait": "1m", "max_wait": "1m" },
    });
    let front = front(|config| {
        config.timeout = Duration::from_secs(1);
        config.services.insert("shop".into(), serde_json::from_value(traffic).unwrap());
    })
    .await;
    let instance = Instance {
        id: InstanceId::new("shop-2"),
        service: ServiceName::new("shop").unwrap(),
        version: String::new(),
        endpoint: server.addr().into(),
        metadata: BTreeMap::new(),
        rpc: server.running().services().to_vec(),
    };
    front.registry.register(instance, Duration::from_secs(3600)).await.unwrap();
    let ejected = async || {
        let metrics = text(&front.send(get("/metrics", "text/plain")).await);
        metrics.contains("formic_client_ejections_total{service=\"shop\"} 1")
    };
    let ways = ways(&front);
    let asking = async {
        for (_, _, probe) in ways.iter().cycle() {
            if ejected().await {
                break;
            }
            match probe.count(Order { number: 1, ..Order::default() }).await {
                Ok(stream) => drop(stream.into_message().count().await),
                Err(error) => assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}"),
            }
        }
    };
    formic_testing::in_time("it to be ejected", Duration::from_secs(20), asking).await;
    let asked = asked.load(Ordering::Relaxed);
    assert!((5..=7).contains(&asked), "over whatever they come: {asked}");
}
