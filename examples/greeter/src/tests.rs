//! The service in memory: no port, and a clock that is paused.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use formic_testing::Network;

use crate::Hello;
use crate::greeter::v1::{GreeterClient, HelloRequest};

#[formic::test]
async fn says_hello() {
    let network = Network::new();
    network.serve("greeter", Hello);
    let greeter = GreeterClient::new(network.client("greeter"));
    let answer = greeter.hello(HelloRequest { name: "Ada".into(), ..Default::default() }).await.unwrap();
    assert_eq!(answer.text, "hello, Ada");
}

/// What the project promises: a service in at most 25 lines.
#[test]
fn a_service_has_at_most_25_lines() {
    let lines = include_str!("main.rs").lines().map(str::trim);
    let code = lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    assert!(code <= 25, "main.rs has {code} lines");
}
