//! An endpoint that takes its time: found at the deadline, and helped out by another attempt beside it, as far as the budget goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use formic_balance::traffic::{Budget, Hedge};
use formic_client::{ATTEMPT, Algorithm, Client, Config, State, Traffic};
use formic_core::{Error, Shed};
use formic_registry::Memory;
use formic_rpc::{Answer, BoxFuture, Call, Handle};

use crate::server::*;
use crate::traffic::echo;

const MS: Duration = Duration::from_millis(1);

/// Takes its time with some calls, whichever server they reach.
struct Slow(Service, Arc<AtomicBool>);

impl Handle for Slow {
    fn method(&self, path: &str) -> Option<formic_core::Method> {
        self.0.method(path)
    }

    fn services(&self) -> Vec<formic_core::RpcService> {
        self.0.services()
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let slow = self.1.load(Ordering::SeqCst);
        let inner = self.0.call(call);
        Box::pin(async move {
            if slow {
                tokio::time::sleep(2_000 * MS).await;
            }
            inner.await
        })
    }
}

/// One server that can be told to be slow, and another.
async fn slow_and_fast(traffic: Traffic) -> (Arc<AtomicBool>, [Server; 2], Client) {
    let registry = Memory::new();
    let (slow, echo) = (Arc::new(AtomicBool::new(false)), Echo::new());
    let one = Server::start_with(&echo, Slow(Service(Arc::clone(&echo)), Arc::clone(&slow))).await;
    let other = Server::start(&Echo::new()).await;
    register(&registry, "one", &one.endpoint).await;
    register(&registry, "other", &other.endpoint).await;
    let client = Client::new(Arc::new(registry), Config { traffic, ..Config::default() });
    (slow, [one, other], client)
}

#[tokio::test]
async fn what_hangs_until_the_deadline_is_ejected() {
    let traffic = Traffic { policy: Algorithm::RoundRobin, ..Traffic::default() };
    let (slow, _servers, client) = slow_and_fast(traffic).await;
    let channel = client.of("echo");
    // What a call takes has to be known first, also where some of these stumble.
    for _ in 0..30 {
        channel.call(call_of(SAY, "x")).await.unwrap();
    }
    slow.store(true, Ordering::SeqCst);
    let mut late = 0;
    within("it to be ejected", async {
        while client.traffic(&echo()).endpoints.iter().all(|one| one.state != State::Ejected) {
            let mut call = call_of(SAY, "x");
            call.deadline = Some(tokio::time::Instant::now() + 300 * MS);
            late += usize::from(channel.call(call).await.is_err());
        }
    })
    .await;
    assert!(late <= 10, "it took {late} calls");
    assert_eq!(client.traffic(&echo()).endpoints[0].state, State::Ejected);
}

#[tokio::test]
async fn a_slow_idempotent_call_is_hedged_marked_and_paid_for() {
    let traffic = Traffic {
        policy: Algorithm::RoundRobin,
        hedge: Some(Hedge { min_delay: 50 * MS, ..Hedge::default() }),
        ..Traffic::default()
    };
    let (slow, [_one, other], client) = slow_and_fast(traffic).await;
    let (echo_fast, channel) = (&other.echo, client.of("echo"));
    // What a call takes has to be known first.
    for _ in 0..150 {
        channel.call(call_of(GET, "x")).await.unwrap();
    }
    // On a busy machine one of these may have been hedged too.
    let marked = || echo_fast.attempts().iter().filter(|attempt| attempt.is_some()).count();
    let before = marked();
    slow.store(true, Ordering::SeqCst);
    let left = client.traffic(&echo()).retries_left;
    for _ in 0..10 {
        let began = std::time::Instant::now();
        assert_eq!(text(within("an answer", channel.call(call_of(GET, "x"))).await.unwrap()), "x");
        assert!(began.elapsed() < 1_500 * MS, "the slow one was waited for: {:?}", began.elapsed());
    }
    let hedged = marked() - before;
    assert!(hedged >= 3, "half of ten meet the slow one: {hedged}");
    let spent = left - client.traffic(&echo()).retries_left;
    assert!(spent >= hedged as f64 - 10.0 * 0.2 - 0.1, "each is paid for: {spent} for {hedged}");
    // A method that may not be repeated waits.
    let mut call = call_of(SAY, "x");
    call.deadline = Some(tokio::time::Instant::now() + 200 * MS);
    let _ = channel.call(call).await;
    assert_eq!(marked() - before, hedged);
}

#[tokio::test]
async fn an_empty_budget_ends_hedging_too() {
    let traffic = Traffic {
        policy: Algorithm::RoundRobin,
        hedge: Some(Hedge { min_delay: 50 * MS, ..Hedge::default() }),
        budget: Budget { ratio: 0.0, per_second: 0, ..Budget::default() },
        ..Traffic::default()
    };
    let (slow, [one, other], client) = slow_and_fast(traffic).await;
    let channel = client.of("echo");
    // What a call takes has to be known first.
    for _ in 0..150 {
        channel.call(call_of(GET, "x")).await.unwrap();
    }
    slow.store(true, Ordering::SeqCst);
    let calls = (0..6).map(|_| channel.call(call_of(GET, "x")));
    for outcome in within("the answers", futures::future::join_all(calls)).await {
        assert_eq!(text(outcome.unwrap()), "x");
    }
    assert!(one.echo.calls() > 75, "the slow one was not asked");
    let marked = [&one, &other].map(|server| server.echo.attempts().iter().flatten().count());
    assert_eq!((marked, one.echo.calls() + other.echo.calls()), ([0, 0], 156));
}

/// Has no room for repetitions.
struct Full(Service, Error, Arc<AtomicUsize>);

impl Handle for Full {
    fn method(&self, path: &str) -> Option<formic_core::Method> {
        self.0.method(path)
    }

    fn services(&self) -> Vec<formic_core::RpcService> {
        self.0.services()
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        if call.metadata.get(ATTEMPT).is_none() {
            return self.0.call(call);
        }
        self.2.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Err(self.1.clone())))
    }
}

#[tokio::test]
async fn a_second_attempt_that_is_turned_away_does_not_take_the_first_with_it() {
    for turned_away in [
        Error::shed(Shed::Rate, "your quota", 60_000 * MS),
        Error::shed(Shed::InFlight, "busy", 60_000 * MS),
        Error::resource_exhausted("no room"),
    ] {
        let traffic = Traffic {
            policy: Algorithm::RoundRobin,
            hedge: Some(Hedge { min_delay: 50 * MS, ..Hedge::default() }),
            ..Traffic::default()
        };
        let (registry, echo) = (Memory::new(), Echo::new());
        let (slow, fired) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let one = Server::start_with(&echo, Slow(Service(Arc::clone(&echo)), Arc::clone(&slow))).await;
        let full = Full(Service(Arc::clone(&echo)), turned_away.clone(), Arc::clone(&fired));
        let other = Server::start_with(&echo, full).await;
        register(&registry, "one", &one.endpoint).await;
        register(&registry, "other", &other.endpoint).await;
        let client = Client::new(Arc::new(registry), Config { traffic, ..Config::default() });
        let channel = client.of("echo");
        // What a call takes has to be known first.
        while echo.calls() < 150 {
            let _ = channel.call(call_of(GET, "x")).await;
        }
        slow.store(true, Ordering::SeqCst);
        let before = fired.load(Ordering::SeqCst);
        let calls = (0..6).map(|_| channel.call(call_of(GET, "x")));
        for outcome in within("the answers", futures::future::join_all(calls)).await {
            assert_eq!(text(outcome.unwrap()), "x");
        }
        assert!(fired.load(Ordering::SeqCst) > before, "no second attempt was turned away: {turned_away}");
    }
}
