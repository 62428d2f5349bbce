//! What is refused at the door, and how: bad requests, pages, CORS, request ids.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::{front, get, post, text, within};

const SAY: &str = "/probe.v1.Probe/Say";

#[tokio::test]
async fn what_is_not_exposed_is_not_there() {
    let front = front(|_| {}).await;
    for path in ["/probe.v1.Plain/Name", "/probe.v1.Probe/Nope", "/no.Such/Method", "/grpc.nope/X"] {
        let answer = front.json(path, "{}").await;
        assert_eq!(answer.status(), 404, "{path}: {}", text(&answer));
        assert!(text(&answer).contains(path.trim_start_matches('/')), "{path}: {}", text(&answer));
    }
    let mut plain = post("/what", "x");
    plain.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(front.send(plain).await.status(), 404);
}

#[tokio::test]
async fn what_is_no_request_is_said_clearly() {
    let front = front(|config| config.max_body = 10_000).await;
    let answer = front.json(SAY, "{nope").await;
    assert_eq!(answer.status(), 400);
    assert!(text(&answer).contains("the request is not JSON"), "{}", text(&answer));
    let answer = front.json(SAY, r#"{"text":7}"#).await;
    assert_eq!(answer.status(), 400, "the service knows the types: {}", text(&answer));

    // Large enough that it is not all in the sockets' buffers.
    for size in [10_001, 3_000_000] {
        let answer = front.json(SAY, &format!(r#"{{"text":"{}"}}"#, "x".repeat(size))).await;
        assert_eq!(answer.status(), 413, "{}", text(&answer));
        assert!(text(&answer).contains("this gateway takes 10000"), "{}", text(&answer));
        assert!(text(&answer).contains("resource_exhausted"));
        assert!(answer.headers().contains_key("x-request-id"));
    }
    // Without a length, it is found out on the way.
    let large = format!("{:x}\r\n{}\r\n0\r\n\r\n", 20_000, "x".repeat(20_000));
    let head = format!("POST {SAY} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n");
    let mut stream = tokio::net::TcpStream::connect(front.addr).await.unwrap();
    let request = format!("{head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n{large}");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("resource_exhausted"), "{answer}");
    assert!(answer.contains("10000 that this gateway takes"), "{answer}");
    assert_eq!(front.json(SAY, "{}").await.status(), 200);
    assert_eq!(front.prober.counts().began(), 1);
}

#[tokio::test]
async fn browsers_see_pages_and_programs_see_json() {
    let front = front(|_| {}).await;
    let html = "text/html,application/xhtml+xml";
    let home = front.send(get("/", html)).await;
    assert_eq!(home.status(), 200);
    assert!(home.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(text(&home).contains(SAY) && text(&home).contains("<h1>shop</h1>"), "{}", text(&home));
    assert!(!text(&home).contains("Plain"), "what is not exposed is not shown");
    let listed = front.send(get("/", "*/*")).await;
    let listed: serde_json::Value = serde_json::from_slice(listed.body()).unwrap();
    assert_eq!(listed["app"], "shop");
    assert_eq!(listed["methods"].as_array().unwrap().len(), 5);

    for (path, accept, status) in [("/nothing", html, 404), ("/nothing", "*/*", 404), (SAY, html, 405)] {
        let answer = front.send(get(path, accept)).await;
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(text(&answer).contains("<!doctype html>"), accept == html, "{path}: {}", text(&answer));
        assert!(text(&answer).contains(path));
    }
    // A call by GET is a call, whoever makes it.
    let called = "/probe.v1.Probe/Get?connect=v1&encoding=json&message=%7B%22text%22%3A%22hi%22%7D";
    let answer = front.send(get(called, html)).await;
    assert_eq!(answer.status(), 200, "{}", text(&answer));
    assert!(text(&answer).contains("hi"));
    assert_eq!(front.send(get("/readyz", html)).await.status(), 200);
    assert_eq!(front.send(get("/metrics", html)).await.status(), 200);
}

fn preflight(origin: &str) -> Request<Full<Bytes>> {
    Request::options(SAY)
        .header("host", "localhost")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,connect-protocol-version,x-user")
        .body(Full::default())
        .unwrap()
}

#[tokio::test]
async fn pages_of_listed_origins_may_call() {
    let front = front(|config| config.cors = vec!["https://shop.example".into()]).await;
    let answer = front.send(preflight("https://shop.example")).await;
    assert_eq!(answer.status(), 200);
    let header = |answer: &http::Response<Bytes>, name: &str| {
        answer.headers().get(name).map(|value| value.to_str().unwrap().to_ascii_lowercase())
    };
    assert_eq!(header(&answer, "access-control-allow-origin").as_deref(), Some("https://shop.example"));
    let allowed = header(&answer, "access-control-allow-headers").unwrap();
    assert!(allowed.contains("x-user") && allowed.contains("connect-protocol-version"), "{allowed}");
    assert!(header(&answer, "access-control-allow-methods").unwrap().contains("post"));

    for (origin, allowed) in [("https://shop.example", true), ("https://evil.example", false)] {
        let mut call = post(SAY, "{}");
        call.headers_mut().insert("origin", origin.parse().unwrap());
        let answer = front.send(call).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(header(&answer, "access-control-allow-origin").is_some(), allowed, "{origin}");
        if allowed {
            let exposed = header(&answer, "access-control-expose-headers").unwrap();
            assert!(exposed.contains("grpc-status") && exposed.contains("x-request-id"), "{exposed}");
        }
    }
    // An error is for the page to read, too.
    let mut call = post(SAY, "{nope");
    call.headers_mut().insert("origin", "https://shop.example".parse().unwrap());
    let answer = front.send(call).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "access-control-allow-origin").is_some()),
        (400, true)
    );
}

#[tokio::test]
async fn without_cors_nothing_is_allowed() {
    let front = front(|_| {}).await;
    let answer = front.send(preflight("https://shop.example")).await;
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    let everyone = crate::front(|config| config.cors = vec!["*".into()]).await;
    let answer = everyone.send(preflight("https://any.example")).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let front = front(|_| {}).await;
    let mut call = post(SAY, "{}");
    call.headers_mut().insert("x-request-id", "mine-1".parse().unwrap());
    let answer = front.send(call).await;
    assert_eq!(answer.headers()["x-request-id"], "mine-1");
    assert!(text(&answer).contains("mine-1"), "the service sees it: {}", text(&answer));

    let mut made = std::collections::HashSet::new();
    for (path, given) in [(SAY, String::new()), (SAY, "x".repeat(500)), ("/nothing.X/Y", String::new())] {
        let mut call = post(path, "{}");
        call.headers_mut().insert("x-request-id", given.parse().unwrap());
        let answer = front.send(call).await;
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(id.len(), 32, "{id}");
        assert!(made.insert(id));
    }
}
