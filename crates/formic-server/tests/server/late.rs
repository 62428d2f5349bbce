//! Calls that come when nobody waits for them any more. The clients are bytes: one of good manners would not send such a call.

use std::time::Duration;

use bytes::Bytes;
use formic_core::{Kind, Method};
use formic_mux::codec::frame::request::END;
use formic_server::Config;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use crate::heads::{connect, text};
use crate::raw::{get, one, post};
use crate::suite::order;
use crate::ways::{everywhere, within};
use crate::wire::{DEADLINE_EXCEEDED, error_of, greet, request};

const SAY: &str = "/probe.v1.Probe/Say";
const METHODS: [(&str, Kind); 4] = [
    (SAY, Kind::Unary),
    ("/probe.v1.Probe/Count", Kind::ServerStream),
    ("/probe.v1.Probe/Join", Kind::ClientStream),
    ("/probe.v1.Probe/Chat", Kind::BidiStream),
];

/// An empty message as gRPC and the streams of Connect frame it.
const FRAMED: &[u8] = &[0; 5];

/// Whether an answer says so, as any of the protocols has it.
fn is_late(answer: &str) -> bool {
    answer.contains("\"grpc-status\": \"4\"")
        || answer.contains("grpc-status: 4")
        || answer.contains("\"code\":\"deadline_exceeded\"")
}

#[tokio::test]
async fn a_call_whose_time_is_over_is_not_begun() {
    let server = everywhere(Config::default()).await;
    let mut requests = Vec::new();
    for timeout in ["0n", "1n", "0u", "0m", "0S", "0M", "0H"] {
        for (path, _) in METHODS {
            for kind in ["application/grpc", "application/grpc+proto", "application/grpc-web+proto"] {
                requests.push((path, kind, "grpc-timeout", timeout, Bytes::from_static(FRAMED)));
            }
        }
    }
    for timeout in ["0", "0000000000"] {
        for kind in ["application/proto", "application/json"] {
            let message = if kind == "application/json" { "{}" } else { "" };
            requests.push((SAY, kind, "connect-timeout-ms", timeout, message.into()));
        }
        for (path, _) in &METHODS[1..] {
            let message = Bytes::from_static(FRAMED);
            requests.push((path, "application/connect+proto", "connect-timeout-ms", timeout, message));
        }
    }
    let (mut sender, _tasks) = connect(server.addr).await;
    for (path, kind, name, timeout, message) in requests {
        for encoding in ["", "gzip"] {
            let what = format!("{path}, {kind}, {name}: {timeout}, {encoding:?}");
            let request = || {
                let mut request = post(server.addr, path, kind, message.clone());
                request.headers_mut().insert(name, timeout.parse().unwrap());
                if !encoding.is_empty() {
                    request.headers_mut().insert("accept-encoding", encoding.parse().unwrap());
                }
                request
            };
            let over_2 = request().map(|body| body.map_err(|never| match never {}).boxed_unsync());
            let answer = text(within(&what, sender.send_request(over_2)).await.unwrap()).await;
            assert!(is_late(&answer), "{what}, HTTP/2: {answer}");
            if kind.starts_with("application/grpc") && !kind.contains("web") {
                continue;
            }
            let answer = within(&what, one(server.addr, request())).await;
            let answer = format!("{:?} {}", answer.headers(), String::from_utf8_lossy(answer.body()));
            assert!(is_late(&answer), "{what}, HTTP/1.1: {answer}");
        }
    }
    let mut asked = get(server.addr, "/probe.v1.Probe/Get?connect=v1&encoding=json&message=%7B%7D");
    asked.headers_mut().insert("connect-timeout-ms", "0".parse().unwrap());
    let answer = within("GET", one(server.addr, asked)).await;
    assert!(is_late(&String::from_utf8_lossy(answer.body())), "{answer:?}");
    let mut io = greet(server.addr).await;
    for (id, (path, kind)) in (1..).zip(METHODS) {
        let call = request(id, &Method::new(path, kind), Duration::ZERO, END, b"");
        io.write_all(&call).await.unwrap();
        assert_eq!(error_of(&mut io, id).await, DEADLINE_EXCEEDED, "{path}, multiplexed");
    }
    assert_eq!((server.prober.counts().began(), server.running.in_flight()), (0, 0));
    // The same with time left is begun, so these are the right methods.
    assert_eq!(formic_probe::ProbeClient::new(server.tcp()).say(order("now")).await.unwrap().text, "now");
    assert_eq!(server.prober.counts().began(), 1);
}

#[tokio::test]
async fn the_time_of_a_request_that_is_slow_to_come_is_over_before_it_begins() {
    let server = everywhere(Config::default()).await;
    let mut io = greet(server.addr).await;
    let say = Method::new(SAY, Kind::Unary);
    // Its message is there, and the end of the request is not until its time is over.
    io.write_all(&request(1, &say, Duration::from_millis(50), 0, b"")).await.unwrap();
    assert_eq!(error_of(&mut io, 1).await, DEADLINE_EXCEEDED);
    assert_eq!((server.prober.counts().began(), server.running.in_flight()), (0, 0));
}
