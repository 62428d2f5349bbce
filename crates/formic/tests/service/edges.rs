//! What a service offers beside its calls: several services, routes, layers, limits, its own name.

use bytes::Bytes;
use formic::{Code, axum, tokio};
use formic_probe::{NameRequest, Named, Order, PlainClient, ProbeClient, Prober};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

use crate::{Run, name, order, registry, service, start, within};

async fn fetch(run: &Run, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let io = TokioIo::new(tokio::net::TcpStream::connect(run.addr).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    let (head, body) = within("an answer", sender.send_request(request)).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "localhost").body(Full::default()).unwrap()
}

#[tokio::test]
async fn two_services_and_a_router_share_a_port() {
    let registry = registry();
    let router = axum::Router::new().route("/hello", axum::routing::get(async || "hello, page"));
    let other = axum::Router::new().route("/other", axum::routing::get(async || "other"));
    let service = service(&registry).serve(Prober::new()).serve(Named("plain")).router(router).router(other);
    let run = start(service, &registry).await;

    assert_eq!(run.probe().say(order("hi")).await.unwrap().text, "hi");
    let plain = PlainClient::new(run.channel());
    assert_eq!(plain.name(NameRequest::default()).await.unwrap().name, "plain");
    assert_eq!(fetch(&run, get("/hello")).await.body(), "hello, page");
    assert_eq!(fetch(&run, get("/other")).await.body(), "other");
    assert_eq!(fetch(&run, get("/nope")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(fetch(&run, get("/readyz")).await.status(), StatusCode::OK);
    let metrics = fetch(&run, get("/metrics")).await;
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    assert!(metrics.contains("Say") && metrics.contains("server"), "{metrics}");

    let found = registry.get(&name("probe")).await.unwrap();
    let rpc: Vec<_> = found[0].rpc.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(rpc, ["probe.v1.Probe", "probe.v1.Plain"]);
    run.stop().await.unwrap();
    assert!(registry.get(&name("probe")).await.unwrap().is_empty(), "it is still registered");
}

#[tokio::test]
async fn tower_layers_see_everything_that_comes_by_http() {
    async fn mark(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
        if request.headers().contains_key("x-stop") {
            return axum::response::IntoResponse::into_response(StatusCode::IM_A_TEAPOT);
        }
        let mut response = next.run(request).await;
        response.headers_mut().insert("x-layer", HeaderValue::from_static("seen"));
        response
    }
    let registry = registry();
    let router = axum::Router::new().route("/hello", axum::routing::get(async || "hello, page"));
    let layered = service(&registry)
        .serve(Prober::new())
        .router(router)
        .layer(|router| router.layer(axum::middleware::from_fn(mark)));
    let run = start(layered, &registry).await;

    let said = run.probe().say(order("hi")).await.unwrap();
    assert_eq!(said.metadata().get("x-layer"), Some("seen"));
    let counted = run.probe().count(Order { number: 2, ..order("c") }).await.unwrap();
    assert_eq!(counted.metadata().get("x-layer"), Some("seen"));
    let mut stream = counted.into_message();
    let mut count = 0;
    while stream.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 2);
    for path in ["/hello", "/healthz", "/nope"] {
        assert!(fetch(&run, get(path)).await.headers().contains_key("x-layer"), "{path}");
    }
    let stopped = run.probe().say(order("hi")).metadata("x-stop", "1").await;
    assert!(stopped.is_err());
    run.stop().await.unwrap();
}

#[tokio::test]
async fn a_service_calls_itself_without_a_network() {
    let registry = registry();
    let service = service(&registry).serve(Prober::new());
    let own = ProbeClient::new(service.client("probe"));
    let run = start(service, &registry).await;
    let said = own.say(order("hi")).await.unwrap();
    assert_eq!(said.seen.peer, "in-process");
    run.stop().await.unwrap();
}

#[tokio::test]
async fn limits_are_set_from_code() {
    let registry = registry();
    let service = service(&registry).server_config(|config| config.max_message = 1000).serve(Prober::new());
    let run = start(service, &registry).await;
    let error = run.probe().say(order(&"x".repeat(2000))).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    run.stop().await.unwrap();
}

#[tokio::test]
async fn a_service_that_listens_everywhere_announces_an_address_that_can_be_called() {
    let registry = registry();
    let everywhere = formic::Service::embedded_with(name("probe"), registry.clone(), |settings| {
        settings.listen = "0.0.0.0:0".into();
        settings.drain.propagation = std::time::Duration::from_millis(10);
    });
    let run = start(everywhere.serve(Prober::new()), &registry).await;
    assert!(run.addr.ip().is_loopback() && run.addr.port() != 0, "{}", run.addr);
    run.probe().say(order("hello")).await.unwrap();
    run.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_served_is_said_at_the_start() {
    let registry = registry();
    let twice = service(&registry).serve(Prober::new()).serve(Prober::new());
    let failure = within("the failure", twice.run_until(std::future::pending())).await.unwrap_err();
    assert!(failure.to_string().contains("probe.v1.Probe is served twice"), "{failure}");

    let late = service(&registry).serve(Prober::new());
    let _channel = late.client("other");
    let late = late.intercept_client(async |call, next: formic::Next| next.run(call).await);
    let failure = within("the failure", late.run_until(std::future::pending())).await.unwrap_err();
    assert!(failure.to_string().contains("come before `client`"), "{failure}");

    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let busy = formic::Service::embedded_with(name("probe"), registry.clone(), |settings| {
        settings.listen = addr.clone();
    });
    let failure = within("the failure", busy.run_until(std::future::pending())).await.unwrap_err();
    let text = failure.to_string();
    assert!(text.contains(&addr) && text.contains("in use") && text.contains("port 0"), "{text}");
    assert_eq!(failure.exit_code(), 1, "no fault of the settings: that process may end");

    let everywhere = formic::Service::embedded_with(name("probe"), registry.clone(), |settings| {
        settings.advertise = Some("0.0.0.0:80".into());
    });
    let failure = within("the failure", everywhere.run_until(std::future::pending())).await.unwrap_err();
    assert!(failure.to_string().contains("name one that others can call"), "{failure}");
    assert_eq!(failure.exit_code(), 78);

    for (listen, advertise) in [("nowhere", None), ("127.0.0.1:0", Some("nowhere"))] {
        let wrong = formic::Service::embedded_with(name("probe"), registry.clone(), |settings| {
            settings.listen = listen.into();
            settings.advertise = advertise.map(Into::into);
        });
        let failure = within("the failure", wrong.run_until(std::future::pending())).await.unwrap_err();
        assert!(failure.to_string().contains("nowhere"), "{failure}");
    }
    assert!(registry.list().await.unwrap().is_empty());
}
