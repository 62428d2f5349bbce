//! Calls with checked payloads in bad weather: callers who give up at random, and all at once; deadlines that pass;
//! connections that are cut at any byte, or fall silent. Between caller and server stands a relay (see [`relay`]) that reads along.
//!
//! What must hold: an answer is that of its call, a call ends by its deadline, and no number is answered twice.

pub mod relay;
pub mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use formic::bytes::Bytes;
use formic::core::{Kind, Method};
use formic::futures::{self, StreamExt as _};
use formic::tokio::task::JoinSet;
use formic::tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use formic::{Channel, Client, Code, Error};
use formic_client::{Config, Transport};
use formic_rpc::{Body, Call, Codec};

/// A call that has not ended so long after its deadline, though this process had time to look, hangs.
const SLACK: Duration = Duration::from_secs(2);

/// How often it is looked whether this process has time.
const LOOK: Duration = Duration::from_millis(10);

/// How long a server is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a caller waits after it found nobody.
const PAUSE: Duration = Duration::from_millis(2);

/// Every other span of this length most calls are canceled.
const STORM: Duration = Duration::from_millis(400);

/// How much bad weather.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Calls in all.
    pub calls: u64,
    /// Callers at a time.
    pub callers: u64,
    /// Of the generator, so that a run can be repeated as far as the machine's own timing lets it.
    pub seed: u64,
}

/// What became of the calls.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answered, with what belongs to them.
    pub answered: AtomicU64,
    /// Given up by their callers.
    pub canceled: AtomicU64,
    /// Their deadline passed.
    pub late: AtomicU64,
    /// The connection was lost, or there was none.
    pub lost: AtomicU64,
    /// Any other error.
    pub other: AtomicU64,
    /// Of those answered, the ones that streamed: requests, answers, both.
    pub collected: AtomicU64,
    /// See `collected`.
    pub spread: AtomicU64,
    /// See `collected`.
    pub chatted: AtomicU64,
    /// Answered with what belongs to another call, or to none.
    pub wrong: AtomicU64,
    /// Not over by their deadline.
    pub hung: AtomicU64,
    /// How long after its deadline the latest call ended, and the longest that this process was not let run; both in milliseconds.
    /// A machine with other things to do makes both alike.
    pub latest: AtomicU64,
    /// See `latest`.
    pub stalled: AtomicU64,
}

impl Tally {
    fn all(&self) -> [(&'static str, u64); 7] {
        [
            ("answered", &self.answered),
            ("canceled", &self.canceled),
            ("late", &self.late),
            ("lost", &self.lost),
            ("other", &self.other),
            ("wrong", &self.wrong),
            ("hung", &self.hung),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// How many calls ended, in whatever way.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.all().iter().map(|(_, count)| count).sum()
    }
}

/// A client, and the relay between it and the server.
pub struct Begun {
    plan: Plan,
    relay: relay::Relay,
    channel: Channel,
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// Makes the calls, through a relay in front of the server.
///
/// # Errors
/// If the relay cannot listen, there is no server, or what must hold did not; in words.
pub async fn run(upstream: SocketAddr, plan: Plan, cuts: bool) -> Result<String, String> {
    Begun::begin(upstream, plan, cuts).await?.run().await
}

impl Begun {
    /// Connects: from here on the client knows what the server speaks.
    ///
    /// # Errors
    /// If the relay cannot listen, or there is no server.
    pub async fn begin(upstream: SocketAddr, plan: Plan, cuts: bool) -> Result<Self, String> {
        let (relay, at) =
            relay::Relay::start(upstream, plan.seed, cuts).await.map_err(|error| error.to_string())?;
        let mut config = Config { transport: Transport::Multiplexed, ..Config::default() };
        if !cuts {
            // Nobody falls silent here but by a slow machine, which must not be taken for a server of HTTP alone.
            config.connect_timeout = Duration::from_secs(10);
        }
        let channel = Client::without_registry(config).at(at.into());
        greet(&channel).await?;
        Ok(Self { plan, relay, channel })
    }

    /// Makes the calls.
    ///
    /// # Errors
    /// If what must hold did not; in words.
    pub async fn run(self) -> Result<String, String> {
        let Self { plan, relay, channel } = self;
        let tally = Arc::new(Tally::default());
        let began = Instant::now();
        let mut stalls = JoinSet::new();
        stalls.spawn(watch_stalls(Arc::clone(&tally)));
        let next = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for index in 0..plan.callers {
            let caller = Caller {
                channel: channel.clone(),
                random: fastrand::Rng::with_seed(plan.seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                tally: Arc::clone(&tally),
                began,
            };
            callers.spawn(caller.all(Arc::clone(&next), plan.calls));
        }
        while let Some(ended) = callers.join_next().await {
            ended.map_err(|error| format!("a caller broke: {error}"))?;
        }
        stalls.shutdown().await;
        let watched = relay.stop().await;
        let counts = tally.all().map(|(name, count)| format!("\"{name}\":{count}")).join(",");
        let streamed = [&tally.collected, &tally.spread, &tally.chatted];
        let [collected, spread, chatted] = streamed.map(|count| count.load(Ordering::Relaxed));
        let counts = format!("{counts},\"collected\":{collected},\"spread\":{spread},\"chatted\":{chatted}");
        let [latest, stalled] = [&tally.latest, &tally.stalled].map(|count| count.load(Ordering::Relaxed));
        let line = format!(
            "{{{counts},{watched},\"latest_ms\":{latest},\"stalled_ms\":{stalled},\"seconds\":{:.1}}}",
            began.elapsed().as_secs_f64()
        );
        let broken = [&tally.wrong, &tally.hung].iter().any(|count| count.load(Ordering::Relaxed) > 0);
        if broken || watched.is_broken() || tally.ended() != plan.calls {
            return Err(line);
        }
        Ok(line)
    }
}

/// Makes a first call, so that the client knows what is spoken before the weather turns bad.
async fn greet(channel: &Channel) -> Result<(), String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let request = server::request(0, 0, false, &mut fastrand::Rng::new(), 0);
        let call = Call::new(server::ECHO, Codec::Proto, Body::Message(request));
        match channel.call(call).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > give_up => return Err(format!("there is no server: {error}")),
            Err(_) => sleep(LOOK).await,
        }
    }
}

/// Notes by how much a timer of this process comes too late.
async fn watch_stalls(tally: Arc<Tally>) {
    loop {
        let due = Instant::now() + LOOK;
        sleep_until(due).await;
        tally.stalled.fetch_max(due.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

struct Caller {
    channel: Channel,
    random: fastrand::Rng,
    tally: Arc<Tally>,
    began: Instant,
}

impl Caller {
    async fn all(mut self, next: Arc<AtomicU64>, calls: u64) {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= calls {
                return;
            }
            self.one(number).await;
        }
    }

    async fn one(&mut self, number: u64) {
        let chance = &mut self.random;
        let stormy = self.began.elapsed().as_millis() / STORM.as_millis() % 4 == 3;
        let gives_up = chance.u8(..100) < if stormy { 90 } else { 10 };
        let wait = if chance.u8(..100) < 70 { 0 } else { chance.u32(..8_000) };
        let hangs = chance.u16(..1000) == 0;
        // Mostly small; some do not fit into one frame.
        let length = match chance.u16(..1000) {
            0 => chance.usize(..300_000),
            1..100 => chance.usize(..8_000),
            _ => chance.usize(..64),
        };
        let patience = Duration::from_micros(chance.u64(..3_000));
        let allowed = Duration::from_millis(if hangs { 50 } else { chance.u64(20..3_000) });
        let request = server::request(number, wait, hangs, chance, length);
        let (method, requests, expected) = plan_of(request, chance);
        let streamed = match method.kind {
            Kind::Unary => None,
            Kind::ClientStream => Some(&self.tally.collected),
            Kind::ServerStream => Some(&self.tally.spread),
            Kind::BidiStream => Some(&self.tally.chatted),
        };

        let deadline = Instant::now() + allowed;
        let mut call = Call::new(method, Codec::Proto, requests);
        call.deadline = Some(deadline);
        let calling = ask(&self.channel, call, expected);
        let count = if gives_up {
            match timeout(patience, calling).await {
                Ok(answer) => self.judge(&answer),
                Err(_) => &self.tally.canceled,
            }
        } else {
            // The call is looked at before the clock: a process that was not let run has not seen the deadline itself.
            let outcome = timeout_at(deadline + SLACK, calling).await;
            self.tally.latest.fetch_max(deadline.elapsed().as_millis() as u64, Ordering::Relaxed);
            match outcome {
                Ok(answer) => self.judge(&answer),
                Err(_) => &self.tally.hung,
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(streamed) = streamed
            && std::ptr::eq(count, &raw const self.tally.answered)
        {
            streamed.fetch_add(1, Ordering::Relaxed);
        }
        if std::ptr::eq(count, &raw const self.tally.lost) {
            // Nobody is there: it is not asked for the answer of the next call at once.
            sleep(PAUSE).await;
        }
    }

    fn judge(&self, answered: &Result<bool, Error>) -> &AtomicU64 {
        match answered {
            Ok(true) => &self.tally.answered,
            Ok(false) => &self.tally.wrong,
            Err(error) => match error.code() {
                Code::DeadlineExceeded => &self.tally.late,
                Code::Unavailable => &self.tally.lost,
                _ => &self.tally.other,
            },
        }
    }
}

/// What is called with a first message, all of the request, and the answers that belong to it.
fn plan_of(request: Bytes, chance: &mut fastrand::Rng) -> (Method, Body, Vec<Bytes>) {
    let method = match chance.u8(..10) {
        0 => server::COLLECT,
        1 => server::SPREAD,
        2 => server::CHAT,
        _ => server::ECHO,
    };
    if !method.kind.client_streams() {
        let expected = match method.kind {
            Kind::ServerStream => server::answers(&request).collect(),
            _ => vec![server::answer(&request)],
        };
        return (method, Body::Message(request), expected);
    }
    let mut requests = vec![request];
    for n in 0..chance.u64(..8) {
        let length = if chance.u8(..50) == 0 { chance.usize(..70_000) } else { chance.usize(..64) };
        requests.push(server::request(n, 0, false, chance, length));
    }
    let expected = match method.kind {
        Kind::ClientStream => vec![server::answer_to_all(&requests)],
        _ => requests.iter().map(|request| server::answer(request)).collect(),
    };
    // Some of them come at a time, some do not.
    let pauses: Vec<bool> = requests.iter().map(|_| chance.bool()).collect();
    let said = futures::stream::iter(requests.into_iter().zip(pauses)).then(|(request, pause)| async move {
        if pause {
            formic::tokio::task::yield_now().await;
        }
        Ok(request)
    });
    (method, Body::stream(said), expected)
}

/// Makes a call, and says whether the answers are what belongs to it, in their order and all of them.
async fn ask(channel: &Channel, call: Call, expected: Vec<Bytes>) -> Result<bool, Error> {
    let mut answers = channel.call(call).await?.body.into_stream();
    let mut expected = expected.into_iter();
    while let Some(answer) = answers.next().await {
        if expected.next() != Some(answer?) {
            return Ok(false);
        }
    }
    Ok(expected.next().is_none())
}
