//! Whom a call goes to where that is not the policy's alone to say: a rule that waits, and a policy of the author's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use formic_client::{Client, Config, State, policy};
use formic_core::Error;
use formic_registry::{Memory, Registry};

use crate::server::*;
use crate::traffic::{echo, only};

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_strict_rule_waits_for_whom_it_wants_as_long_as_a_restart_takes() {
    let registry = Memory::new();
    let servers = [Server::start(&Echo::new()).await, Server::start(&Echo::new()).await];
    let announce = |n: usize| {
        let mut instance = instance(&format!("i{n}"), servers[n].endpoint.clone());
        instance.version = (n + 1).to_string();
        registry.register(instance, Duration::from_secs(600))
    };
    announce(0).await.unwrap();
    let mut traffic = only("2");
    (traffic.rules[0].strict, traffic.rules[0].when) = (true, BTreeMap::new());
    let patience = Duration::from_secs(20);
    let config = Config { traffic, patience, timeout: 2 * patience, ..Config::default() };
    let client = Client::new(Arc::new(registry.clone()), config);
    let (channel, comes) = (client.of("echo"), async {
        until("the first to be known", || client.traffic(&echo()).endpoints.len() == 1).await;
        announce(1).await.unwrap();
    });
    let (answer, ()) = tokio::join!(channel.call(call_of(SAY, "x")), comes);
    answer.unwrap();
    assert_eq!((servers[0].echo.calls(), servers[1].echo.calls()), (0, 1));
}

/// Picks whoever is last, by code of the author's own.
#[derive(Debug)]
struct Last;

impl policy::Policy for Last {
    fn pick(&self, among: &policy::Among<'_>, choice: &policy::Choice<'_>) -> Option<usize> {
        (0..among.len()).rev().find(|&position| among.usable(position, choice))
    }
}

#[tokio::test]
async fn a_policy_of_the_authors_own_picks_among_whom_the_rest_leaves() {
    let registry = Memory::new();
    let mut servers = Vec::new();
    for n in 0..3 {
        let server = Server::start(&Echo::new()).await;
        registry.register(instance(&format!("i{n}"), server.endpoint.clone()), 600_000 * MS).await.unwrap();
        servers.push(server);
    }
    let policy: policy::Factory = Arc::new(|_| Box::new(Last));
    let client = Client::new(Arc::new(registry), Config { policy: Some(policy), ..Config::default() });
    let channel = client.of("echo");
    channel.call(call_of(SAY, "x")).await.unwrap();
    until("every instance to be known", || client.traffic(&echo()).endpoints.len() == 3).await;
    let calls = || servers.iter().map(|server| server.echo.calls()).collect::<Vec<_>>();
    let before = calls();
    for _ in 0..9 {
        channel.call(call_of(SAY, "x")).await.unwrap();
    }
    assert_eq!(calls()[2] - before[2], 9, "{before:?} {:?}", calls());
    // Who is ejected is none of its business.
    servers[2].echo.fail_next((0..5).map(|_| Error::internal("ill")));
    for _ in 0..5 {
        channel.call(call_of(SAY, "x")).await.unwrap_err();
    }
    until("the last to be ejected", || {
        client.traffic(&echo()).endpoints.iter().any(|endpoint| endpoint.state == State::Ejected)
    })
    .await;
    let before = calls();
    channel.call(call_of(SAY, "x")).await.unwrap();
    assert_eq!(calls()[1] - before[1], 1);
    // People are told, for the name beside it is another's.
    let notes = client.traffic(&echo()).notes;
    assert!(notes.iter().any(|note| note.contains("a policy of its own")), "{notes:?}");
}
