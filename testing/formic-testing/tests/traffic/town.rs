//! Services with several instances, callers who come at random moments, and what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use formic_balance::traffic::Hash;
use formic_balance::{Algorithm, Traffic};
use formic_client::{Client, Config as ClientConfig};
use formic_core::{Error, Instance, InstanceId, Kind, Method, RpcService, ServiceName};
use formic_registry::{Memory, Registry};
use formic_rpc::{Answer, Body, BoxFuture, Call, Channel, Codec, Handle};
use formic_server::{Config, Running, Server, Serving};
use formic_telemetry::Metrics;
use formic_testing::Fabric;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::journal::{Event, Journal};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

const USER: &str = "x-user";

pub(crate) const READ: Method = Method::new("/scene.Work/Read", Kind::Unary).idempotent(true);
pub(crate) const WRITE: Method = Method::new("/scene.Work/Write", Kind::Unary);

/// What an instance does: it takes its time, and fails as often as it is told.
#[derive(Default)]
pub(crate) struct Worker {
    /// What a call takes on average; half to one and a half of it.
    pub(crate) micros: AtomicU64,
    /// So many of a thousand fail, at once.
    pub(crate) failing: AtomicU32,
    pub(crate) attempts: AtomicUsize,
    /// So many calls are worked on at a time.
    pub(crate) free: Option<Semaphore>,
    /// Who is called in turn.
    pub(crate) next: Option<Channel>,
}

impl Worker {
    pub(crate) fn taking(mean: Duration) -> Self {
        let worker = Self::default();
        worker.take(mean);
        worker
    }

    pub(crate) fn take(&self, mean: Duration) {
        self.micros.store(u64::try_from(mean.as_micros()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn fail(&self, failing: u32) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    pub(crate) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }
}

/// A worker behind a server.
struct Served {
    worker: Arc<Worker>,
    id: InstanceId,
    journal: Option<Arc<Journal>>,
}

impl Handle for Served {
    fn method(&self, path: &str) -> Option<Method> {
        [READ, WRITE].into_iter().find(|method| method.path() == path)
    }

    fn services(&self) -> Vec<RpcService> {
        vec![formic_rpc::handle::describe("scene.Work", &[READ, WRITE])]
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let worker = Arc::clone(&self.worker);
        if let Some(journal) = &self.journal {
            let (instance, user) = (self.id.clone(), call.metadata.get(USER).unwrap_or_default().to_owned());
            journal.note(Event::Attempt { instance, path: call.method.path().to_owned(), user });
        }
        Box::pin(async move {
            worker.attempts.fetch_add(1, Ordering::Relaxed);
            if fastrand::u32(..1000) < worker.failing.load(Ordering::Relaxed) {
                return Err(Error::unavailable("told to fail"));
            }
            let turn = match &worker.free {
                Some(free) => free.acquire().await.ok(),
                None => None,
            };
            let mean = worker.micros.load(Ordering::Relaxed);
            sleep(Duration::from_micros(fastrand::u64(mean / 2..=mean + mean / 2))).await;
            drop(turn);
            match &worker.next {
                Some(next) => {
                    let user = call.metadata.get(USER).unwrap_or_default();
                    next.call(call_of(READ, false, user)).await
                }
                None => Ok(Answer::new(Body::Message(Bytes::new()))),
            }
        })
    }
}

/// Every policy, as settings have it; `hash` goes by the user.
pub(crate) fn policy(policy: Algorithm) -> Traffic {
    let hash = (policy == Algorithm::Hash).then(|| Hash { key: USER.into(), bound: 1.25 });
    Traffic { policy, hash, ..Traffic::default() }
}

/// Seeds, each with a policy: many of the default, some of the others.
pub(crate) fn seeds() -> impl Iterator<Item = (u64, Algorithm)> {
    let each =
        |policy: Algorithm| (0..if policy == Algorithm::default() { 8 } else { 2 }).map(move |_| policy);
    (0..).zip(Algorithm::ALL.into_iter().flat_map(each))
}

pub(crate) fn call_of(method: Method, important: bool, user: &str) -> Call {
    let mut call = Call::new(method, Codec::Proto, Body::Message(Bytes::new()));
    call.metadata.insert("formic-priority", if important { "high" } else { "normal" }).unwrap();
    call.metadata.insert(USER, user).unwrap();
    call
}

pub(crate) struct Town {
    pub(crate) seed: u64,
    fabric: Fabric,
    pub(crate) registry: Arc<Memory>,
    next: usize,
    journal: Option<Arc<Journal>>,
}

pub(crate) struct Replica {
    pub(crate) id: InstanceId,
    pub(crate) worker: Arc<Worker>,
    pub(crate) running: Running,
}

impl Town {
    pub(crate) fn new(seed: u64) -> Self {
        fastrand::seed(seed);
        Self { seed, fabric: Fabric::new(), registry: Arc::new(Memory::new()), next: 0, journal: None }
    }

    /// Notes what happens from now on.
    pub(crate) fn keep(&mut self, journal: &Arc<Journal>) {
        self.journal = Some(Arc::clone(journal));
    }

    pub(crate) async fn start(&mut self, service: &str, worker: Worker, config: Config) -> Replica {
        self.next += 1;
        let id = InstanceId::new(format!("{service}-{}", self.next));
        let worker = Arc::new(worker);
        let served = Served { worker: Arc::clone(&worker), id: id.clone(), journal: self.journal.clone() };
        let server = Server::new(config, Metrics::new()).serve(Arc::new(served));
        let mut running = server.unwrap().build().unwrap();
        let endpoint = self.fabric.listen(service, &mut running);
        running.health().set(Serving::Ready);
        let instance = Instance {
            id: id.clone(),
            service: ServiceName::new(service).unwrap(),
            version: String::new(),
            endpoint,
            metadata: Default::default(),
            rpc: running.services().to_vec(),
        };
        self.registry.register(instance, HOUR).await.unwrap();
        Replica { id, worker, running }
    }

    pub(crate) async fn several(&mut self, service: &str, count: usize, mean: Duration) -> Vec<Replica> {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(self.start(service, Worker::taking(mean), Config::default()).await);
        }
        replicas
    }

    pub(crate) fn client(&self, name: &str, traffic: Traffic) -> Client {
        let connector = Some(self.fabric.connector(name));
        // Wire deadlines are of the real clock; see `Fabric`.
        let transport = formic_testing::transport();
        let observer = self.journal.as_ref().map(|journal| journal.observer(name));
        let timeout = HOUR / 2;
        let config =
            ClientConfig { connector, transport, timeout, traffic, observer, ..ClientConfig::default() };
        let client = Client::new(self.registry.clone(), config);
        if let Some(journal) = &self.journal {
            journal.follow(name, client.clone());
        }
        client
    }
}

/// A call as its caller saw it.
pub(crate) struct Seen {
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) important: bool,
    pub(crate) idempotent: bool,
    pub(crate) outcome: Result<(), Error>,
}

/// Callers who come whether or not the earlier ones were answered.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) rate: f64,
    pub(crate) span: Duration,
    pub(crate) writes: f64,
    pub(crate) important: f64,
}

impl Load {
    pub(crate) fn reads(rate: f64, span: Duration) -> Self {
        Self { rate, span, writes: 0.0, important: 0.0 }
    }

    pub(crate) async fn on(self, channel: &Channel) -> Vec<Seen> {
        let (mut calls, mut due) = (JoinSet::new(), Instant::now());
        let end = due + self.span;
        loop {
            due += Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() / self.rate);
            if due >= end {
                break;
            }
            sleep_until(due).await;
            let method = if fastrand::f64() < self.writes { WRITE } else { READ };
            let (idempotent, important) = (method == READ, fastrand::f64() < self.important);
            let channel = channel.clone();
            // Of a few hundred, in no order.
            let user = format!("user-{}", (calls.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55);
            calls.spawn(async move {
                let began = Instant::now();
                let outcome = channel.call(call_of(method, important, &user)).await.map(drop);
                Seen { began, took: began.elapsed(), important, idempotent, outcome }
            });
        }
        sleep_until(end).await;
        calls.join_all().await
    }
}

pub(crate) fn p99<'a>(seen: impl IntoIterator<Item = &'a Seen>) -> Duration {
    let answered = seen.into_iter().filter(|seen| seen.outcome.is_ok());
    let mut took: Vec<Duration> = answered.map(|seen| seen.took).collect();
    took.sort();
    took[took.len() * 99 / 100]
}

pub(crate) fn failed(seen: &[Seen], of: impl Fn(&Seen) -> bool) -> usize {
    seen.iter().filter(|seen| seen.outcome.is_err() && of(seen)).count()
}
