//! Plain HTTP through routes: what arrives, what comes back, and what happens when something does not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use formic_api::control::v1 as control;
use formic_core::{Instance, InstanceId, ServiceName};
use formic_registry::Registry;
use futures::StreamExt;
use http::StatusCode;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::{Front, PATIENCE, front, get, post, text, within};

const MS: Duration = Duration::from_millis(1);

/// Servers of the tests, which end with it.
type Servers = JoinSet<()>;

fn route(path: &str) -> control::HttpRoute {
    control::HttpRoute {
        name: path.into(),
        service: "web".into(),
        path: path.into(),
        timeout_ms: 5_000,
        ..Default::default()
    }
}

/// A gateway with these routes.
async fn gateway(http: Vec<control::HttpRoute>) -> Front {
    let front = front(|config| config.max_body = 1000).await;
    front.daemon.tell(control::WatchRoutesResponse { http, ..crate::routes(2, &["shop"]) }).await;
    front
}

impl Front {
    async fn instance(&self, id: &str, addr: SocketAddr) {
        let instance = Instance {
            id: InstanceId::new(id),
            service: ServiceName::new("web").unwrap(),
            version: String::new(),
            endpoint: addr.into(),
            metadata: BTreeMap::new(),
            rpc: Vec::new(),
        };
        self.registry.register(instance, Duration::from_secs(3600)).await.unwrap();
    }

    /// Waits until the gateway passes this on.
    async fn settled(&self, path: &str) {
        let look = async || {
            let answer = self.send(get(path, "*/*")).await;
            (answer.status() == StatusCode::OK).then_some(())
        };
        formic_testing::wait_for("the route", PATIENCE, look).await;
    }
}

/// Serves with axum; counts its connections.
async fn serve(servers: &mut Servers, router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    servers.spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

/// Answers with what it saw.
async fn mirror(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let headers: BTreeMap<_, Vec<_>> = parts
        .headers
        .keys()
        .map(|name| {
            let values = parts.headers.get_all(name).iter();
            (name.to_string(), values.map(|value| value.to_str().unwrap().to_owned()).collect())
        })
        .collect();
    let seen = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "version": format!("{:?}", parts.version),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    ([("x-mine", "1"), ("keep-alive", "5"), ("connection", "x-mine"), ("x-other", "2")], axum::Json(seen))
        .into_response()
}

fn seen(answer: &http::Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body()).unwrap_or_else(|error| panic!("{error}: {}", text(answer)))
}

#[tokio::test]
async fn requests_arrive_as_they_came_and_say_from_whom() {
    let mut servers = Servers::new();
    let addr = serve(&mut servers, Router::new().fallback(mirror)).await;
    let cut = control::HttpRoute { strip: true, ..route("/cut") };
    let front = gateway(vec![route("/reports"), cut]).await;
    front.instance("one", addr).await;
    front.settled("/reports").await;

    let request = http::Request::post("/reports/a%20b?x=1&y")
        .header("host", "Shop.Example:8080")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("x-forwarded-for", "10.1.1.1")
        .header("x-forwarded-host", "spoof")
        .header("x-forwarded-proto", "https")
        .header("x-real-ip", "10.1.1.1")
        .header("forwarded", "for=10.1.1.1")
        .header("cookie", "a=b")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("x-request-id", "mine")
        .body(Full::from("hello"))
        .unwrap();
    let answer = front.send(request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-other"], "2");
    assert_eq!(answer.headers()["x-request-id"], "mine");
    assert!(answer.headers().get("x-mine").is_none() && answer.headers().get("keep-alive").is_none());
    let seen = seen(&answer);
    assert_eq!((&seen["method"], &seen["target"]), (&json!("POST"), &json!("/reports/a%20b?x=1&y")));
    assert_eq!((&seen["body"], &seen["version"]), (&json!("hello"), &json!("HTTP/1.1")));
    let headers = &seen["headers"];
    for (name, expected) in [
        ("host", json!(["Shop.Example:8080"])),
        ("x-forwarded-host", json!(["Shop.Example:8080"])),
        ("x-forwarded-proto", json!(["http"])),
        ("x-forwarded-for", json!(["127.0.0.1"])),
        ("cookie", json!(["a=b"])),
        ("content-length", json!(["5"])),
        ("x-request-id", json!(["mine"])),
        ("x-hop", Value::Null),
        ("x-real-ip", Value::Null),
        ("forwarded", Value::Null),
        ("te", Value::Null),
        ("connection", Value::Null),
    ] {
        assert_eq!(headers[name], expected, "{name} in {headers}");
    }
    let trace = headers["traceparent"][0].as_str().unwrap();
    assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{trace}");
    assert!(!trace.contains("b7ad6b7169203331"), "a step of its own: {trace}");

    let stripped = self::seen(&front.send(get("/cut/deep/er?q", "*/*")).await);
    assert_eq!(stripped["target"], "/deep/er?q");
    assert_eq!(stripped["headers"]["x-forwarded-prefix"], json!(["/cut"]));

    // By HTTP/2 the host is in the URI.
    let io = TokioIo::new(TcpStream::connect(front.addr).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    servers.spawn(async move { drop(connection.await) });
    let request = http::Request::get("http://two.example/reports").body(Full::<Bytes>::default()).unwrap();
    let (_, body) = within("an answer", sender.send_request(request)).await.unwrap().into_parts();
    let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(body["headers"]["host"], json!(["two.example"]));
    assert_eq!(body["version"], "HTTP/1.1");

    let metrics = text(&front.send(get("/metrics", "*/*")).await);
    let line = r#"formic_client_requests_total{service="web",method="POST",code="ok"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_proxy_that_is_trusted_says_where_requests_came_from() {
    let mut servers = Servers::new();
    let addr = serve(&mut servers, Router::new().fallback(mirror)).await;
    let front = front(|config| {
        config.trusted = vec![formic_gateway::Network { address: [127, 0, 0, 0].into(), bits: 8 }];
        config.metrics = formic_gateway::Scrapers::None;
    })
    .await;
    let http = vec![route("/")];
    front.daemon.tell(control::WatchRoutesResponse { http, ..crate::routes(2, &["shop"]) }).await;
    front.instance("one", addr).await;
    front.settled("/any").await;
    let request = http::Request::get("/x")
        .header("host", "inner")
        .header("x-forwarded-for", "10.1.1.1")
        .header("x-forwarded-host", "shop.example")
        .header("x-forwarded-proto", "https")
        .body(Full::default())
        .unwrap();
    let seen = seen(&front.send(request).await);
    assert_eq!(seen["headers"]["x-forwarded-for"], json!(["10.1.1.1", "127.0.0.1"]));
    assert_eq!(seen["headers"]["x-forwarded-host"], json!(["shop.example"]));
    assert_eq!(seen["headers"]["x-forwarded-proto"], json!(["https"]));
    assert_eq!(front.send(get("/metrics", "*/*")).await.status(), StatusCode::NOT_FOUND, "no route's either");
}

#[tokio::test]
async fn paths_are_compared_in_one_spelling_and_lead_nowhere_else() {
    let mut servers = Servers::new();
    let addr = serve(&mut servers, Router::new().fallback(mirror)).await;
    let front = gateway(vec![route("/"), route("/admin"), route("/admin/public")]).await;
    front.instance("one", addr).await;
    front.settled("/any").await;
    for (path, target) in [
        ("/%61dmin/x?q=%61", "/admin/x?q=%61"),
        ("/@scope%2fname", "/@scope%2fname"),
        ("/a//b", "/a//b"),
        ("/admin/a%2Fb", "/admin/a%2Fb"),
    ] {
        assert_eq!(seen(&front.send(get(path, "*/*")).await)["target"], target, "{path}");
    }
    for path in [
        "/admin/%2e%2e/x",
        "/admin/public/..%2fsecret",
        "/admin/public/%2E%2E%5csecret",
        "/admin%2fsecret",
        "//admin/secret",
        "/admin/public%2Fx",
        "/admin/%00",
    ] {
        assert_eq!(front.send(get(path, "*/*")).await.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    let answer =
        verbatim(front.addr, "GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// What is answered to these bytes.
async fn verbatim(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn calls_and_the_gateways_own_pages_come_first() {
    let mut servers = Servers::new();
    let addr = serve(&mut servers, Router::new().fallback(mirror)).await;
    let front = gateway(vec![route("/")]).await;
    front.instance("one", addr).await;
    front.settled("/any").await;
    let called = front.json("/probe.v1.Probe/Say", r#"{"text":"hi"}"#).await;
    assert_eq!((called.status(), &seen(&called)["text"]), (StatusCode::OK, &json!("hi")));
    assert_eq!(text(&front.send(get("/healthz", "*/*")).await), "ok\n");
    let hidden = seen(&front.json("/probe.v1.Plain/Name", "{}").await);
    assert_eq!(hidden["target"], "/probe.v1.Plain/Name", "not exposed, so a path like any other");
    assert_eq!(seen(&front.send(get("/", "text/html")).await)["target"], "/", "the root is the route's");

    // Without the route the pages are back.
    front.daemon.tell(control::WatchRoutesResponse { http: Vec::new(), ..crate::routes(3, &["shop"]) }).await;
    let gone =
        async || (front.send(get("/any", "*/*")).await.status() == StatusCode::NOT_FOUND).then_some(());
    formic_testing::wait_for("the route to be gone", PATIENCE, gone).await;
    assert!(text(&front.send(get("/", "text/html")).await).contains("<html"));
}

#[tokio::test]
async fn both_bodies_stream() {
    let mut servers = Servers::new();
    // Sends back what comes, as it comes.
    let echo =
        async |request: Request| Response::new(Body::from_stream(request.into_body().into_data_stream()));
    let addr = serve(&mut servers, Router::new().fallback(echo)).await;
    let front = gateway(vec![route("/")]).await;
    front.instance("one", addr).await;
    front.settled("/x").await;

    let (sending, chunks) = tokio::sync::mpsc::channel::<Bytes>(1);
    let chunks = futures::stream::unfold(chunks, |mut chunks| async {
        let chunk = chunks.recv().await?;
        Some((Ok::<_, std::io::Error>(http_body::Frame::data(chunk)), chunks))
    });
    let io = TokioIo::new(TcpStream::connect(front.addr).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    servers.spawn(async move { drop(connection.await) });
    let body = StreamBody::new(Box::pin(chunks));
    let request = http::Request::post("/x").header("host", "x").body(body).unwrap();
    sending.send(Bytes::from_static(b"one")).await.unwrap();
    let answer = within("an answer before the request ends", sender.send_request(request)).await.unwrap();
    let mut answer = answer.into_body().into_data_stream();
    for word in ["one", "two", "three"] {
        if word != "one" {
            sending.send(Bytes::from(word)).await.unwrap();
        }
        assert_eq!(within("a chunk", answer.next()).await.unwrap().unwrap(), word);
    }
    drop(sending);
    assert!(within("the end", answer.next()).await.is_none());
}

#[tokio::test]
async fn bodies_have_the_routes_limit() {
    let mut servers = Servers::new();
    let addr = serve(&mut servers, Router::new().fallback(mirror)).await;
    let front =
        gateway(vec![route("/small"), control::HttpRoute { max_body: 100_000, ..route("/large") }]).await;
    front.instance("one", addr).await;
    front.settled("/small").await;
    let large = "x".repeat(50_000);
    let answer = front.send(post("/small", &large)).await;
    assert_eq!(answer.status(), 413, "{}", text(&answer));
    let answer = front.send(post("/large", &large)).await;
    assert_eq!(answer.status(), 200, "more than the gateway's own limit");
    assert_eq!(seen(&answer)["body"].as_str().unwrap().len(), large.len());

    // A length that nobody told.
    let request = "POST /small HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    for _ in 0..3 {
        let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    let mut answer = [0; 12];
    within("an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// A server by hand: every connection is answered by the function.
async fn raw<F, Fut>(servers: &mut Servers, handle: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let connections = Arc::clone(&count);
    servers.spawn(async move {
        let mut tasks = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tasks.spawn(handle(stream, connections.fetch_add(1, Ordering::SeqCst)));
        }
    });
    (addr, count)
}

/// Reads the head of a request; false at the end of the connection.
async fn head(stream: &mut TcpStream) -> bool {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(b"\r\n\r\n") {
        if stream.read_exact(&mut byte).await.is_err() {
            return false;
        }
        seen.push(byte[0]);
    }
    true
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn connections_are_used_again_and_may_end_at_any_time() {
    let mut servers = Servers::new();
    // Each connection answers three requests and then ends without a word.
    let (addr, connections) = raw(&mut servers, |mut stream, _| async move {
        for _ in 0..3 {
            if !head(&mut stream).await {
                return;
            }
            stream.write_all(OK).await.unwrap();
        }
        // Reads the fourth and hangs up on it.
        head(&mut stream).await;
    })
    .await;
    let front = gateway(vec![route("/")]).await;
    front.instance("one", addr).await;
    front.settled("/x").await;
    let before = connections.load(Ordering::SeqCst);
    for number in 0..12 {
        let answer = front.send(get("/x", "*/*")).await;
        assert_eq!((answer.status(), text(&answer).as_str()), (StatusCode::OK, "ok"), "{number}");
        // The connection is free a moment after its answer was read.
        tokio::time::sleep(5 * MS).await;
    }
    let opened = connections.load(Ordering::SeqCst) - before;
    assert!((3..=5).contains(&opened), "{opened} connections for 12 requests");
}

#[tokio::test]
async fn an_instance_that_breaks_off_or_takes_too_long_is_told_apart() {
    let mut servers = Servers::new();
    let (addr, _) = raw(&mut servers, |mut stream, _| async move {
        while head(&mut stream).await {
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let (breaks, connections) = raw(&mut servers, |mut stream, _| async move {
        head(&mut stream).await;
    })
    .await;
    let (hangs, _) = raw(&mut servers, |mut stream, _| async move {
        head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    // Whoever hangs needs no more, and a busy machine takes longer with all others.
    let quick = control::HttpRoute { timeout_ms: 300, ..route("/hangs") };
    let front = gateway(vec![route("/"), quick]).await;
    front.instance("one", addr).await;
    front.settled("/x").await;
    let only = async |id: &str, addr: SocketAddr| {
        for old in front.registry.get(&ServiceName::new("web").unwrap()).await.unwrap() {
            front.registry.deregister(&old.id).await.unwrap();
        }
        front.instance(id, addr).await;
    };
    let status = async |request| front.send(request).await.status().as_u16();

    only("breaks", breaks).await;
    let broken = async || (status(post("/x", "{}")).await == 502).then_some(());
    formic_testing::wait_for("502", PATIENCE, broken).await;
    let before = connections.load(Ordering::SeqCst);
    assert_eq!(status(get("/x", "*/*")).await, 502);
    assert_eq!(connections.load(Ordering::SeqCst), before + 1, "what may have been done is not done again");

    only("hangs", hangs).await;
    let late = async || (status(get("/hangs", "*/*")).await == 504).then_some(());
    formic_testing::wait_for("504", PATIENCE, late).await;
    assert_eq!(status(get("/a/../b", "*/*")).await, 400);
}

#[tokio::test]
async fn an_upload_may_take_longer_than_the_wait_for_an_answer() {
    let mut servers = Servers::new();
    let addr = serve(&mut servers, Router::new().fallback(mirror)).await;
    let front = gateway(vec![control::HttpRoute { timeout_ms: 2_000, ..route("/") }]).await;
    front.instance("one", addr).await;
    front.settled("/x").await;
    let mut stream = TcpStream::connect(front.addr).await.unwrap();
    let request = "POST /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(300 * MS).await;
        stream.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("xxxxxxxx"), "{answer}");
}

#[tokio::test]
async fn instances_share_the_load_and_an_absent_one_is_passed_over() {
    let mut servers = Servers::new();
    let named = |name: &'static str| Router::new().fallback(async move || name);
    let one = serve(&mut servers, named("one")).await;
    let two = serve(&mut servers, named("two")).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let front = gateway(vec![route("/")]).await;

    // Nobody yet: it is waited for, and then said.
    let none = front.send(get("/x", "*/*")).await;
    assert!([404, 503].contains(&none.status().as_u16()), "{}", text(&none));
    let refused = async || {
        let answer = front.send(get("/x", "*/*")).await;
        (answer.status() == 503 && answer.headers()["retry-after"] == "1").then_some(())
    };
    formic_testing::wait_for("503", PATIENCE, refused).await;
    let (waited, ()) = tokio::join!(front.send(get("/x", "*/*")), async {
        tokio::time::sleep(100 * MS).await;
        front.instance("one", one).await;
    });
    assert_eq!((waited.status(), text(&waited).as_str()), (StatusCode::OK, "one"), "a restart is waited out");

    front.instance("two", two).await;
    front.instance("nobody", nobody).await;
    let second = async || (text(&front.send(get("/x", "*/*")).await) == "two").then_some(());
    formic_testing::wait_for("the second to be known", PATIENCE, second).await;
    let mut seen = BTreeMap::<String, usize>::new();
    for number in 0..60 {
        // One that has an effect too: nothing of it was sent to where nobody is.
        let request = if number % 2 == 0 { get("/x", "*/*") } else { post("/x", "{}") };
        let answer = front.send(request).await;
        assert_eq!(answer.status(), 200, "{}", text(&answer));
        *seen.entry(text(&answer)).or_default() += 1;
    }
    assert!(seen["one"] > 10 && seen["two"] > 10, "{seen:?}");
}

#[tokio::test]
async fn an_empty_budget_passes_nobody_over() {
    let mut servers = Servers::new();
    let one = serve(&mut servers, Router::new().fallback(async || "one")).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let front = front(|config| {
        // Two attempts beyond what was asked for, in two seconds.
        let traffic = r#"{"budget":{"ratio":0.0,"per_second":1,"window":"2s"}}"#;
        config.services.insert("web".into(), serde_json::from_str(traffic).unwrap());
    })
    .await;
    let http = vec![route("/")];
    front.daemon.tell(control::WatchRoutesResponse { http, ..crate::routes(2, &["shop"]) }).await;
    front.instance("one", one).await;
    front.settled("/x").await;
    front.instance("nobody", nobody).await;
    let mut lost = 0;
    within("a request that is not made again", async {
        while lost < 3 {
            let answer = front.send(get("/x", "*/*")).await;
            match answer.status() {
                StatusCode::OK => assert_eq!(text(&answer), "one"),
                StatusCode::BAD_GATEWAY => lost += 1,
                other => panic!("{other}: {}", text(&answer)),
            }
        }
    })
    .await;
    let told = text(&front.send(get("/metrics", "text/plain")).await);
    for name in ["retries", "budget_exhausted"] {
        let line = format!("formic_client_{name}_total{{service=\"web\"}} ");
        assert!(told.contains(&line), "{line} is not in\n{told}");
    }
}

#[tokio::test]
async fn a_connection_may_go_over_to_another_protocol() {
    let mut servers = Servers::new();
    let (addr, _) = raw(&mut servers, |mut stream, _| async move {
        head(&mut stream).await;
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: shout\r\nx-more: 1\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut chunk = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut chunk).await {
            chunk.make_ascii_uppercase();
            stream.write_all(&chunk[..length]).await.unwrap();
        }
    })
    .await;
    let front = gateway(vec![route("/socket")]).await;
    front.instance("one", addr).await;
    let request =
        "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: shout\r\n\r\n";
    let open = async || {
        let mut stream = TcpStream::connect(front.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(within("the head", stream.read_u8()).await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        answer.starts_with("HTTP/1.1 101").then_some((stream, answer))
    };
    let (mut stream, answer) = formic_testing::wait_for("101", PATIENCE, open).await;
    assert!(answer.contains("upgrade: shout") && answer.contains("x-more: 1"), "{answer}");
    let mut heard = [0; 5];
    for word in [b"hello", b"world"] {
        stream.write_all(word).await.unwrap();
        within("the echo", stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard.to_ascii_lowercase(), word);
    }

    // It outlives the beginning of a drain; the caller ends it.
    front.stop.cancel();
    let (addr, ended) = (front.addr, front.ended);
    formic_testing::wait_for("no more connections", PATIENCE, async || {
        TcpStream::connect(addr).await.is_err().then_some(())
    })
    .await;
    stream.write_all(b"still").await.unwrap();
    within("the echo", stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"STILL");
    assert!(!ended.is_finished());
    drop(stream);
    within("the end", ended).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_a_fault() {
    let mut servers = Servers::new();
    let (addr, _) = raw(&mut servers, |mut stream, _| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let front = gateway(vec![route("/")]).await;
    front.instance("one", addr).await;
    let fault = async || (front.send(get("/x", "*/*")).await.status() == 502).then_some(());
    formic_testing::wait_for("502", PATIENCE, fault).await;
}
