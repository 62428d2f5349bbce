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

use formic::core::{Kind, Method};
use formic::tokio::task::JoinSet;
use formic::tokio::time::{Instant, timeout};
use formic::{Channel, Client, Code, Error};
use formic_client::{Config, Transport};
use formic_rpc::{Body, Call, Codec};

/// How much later than its deadline a call may end on a machine that has other things to do.
const SLACK: Duration = Duration::from_secs(2);

/// A call that has not ended so long after its deadline never will.
const NEVER: Duration = Duration::from_secs(30);

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
    /// Answered with what belongs to another call, or to none.
    pub wrong: AtomicU64,
    /// Not over by their deadline.
    pub hung: AtomicU64,
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

/// Makes the calls, through a relay in front of the server.
///
/// # Errors
/// If the relay cannot listen, or what must hold did not; in words.
pub async fn run(upstream: SocketAddr, plan: Plan, cuts: bool) -> Result<String, String> {
    let (relay, at) =
        relay::Relay::start(upstream, plan.seed, cuts).await.map_err(|error| error.to_string())?;
    let tally = Arc::new(Tally::default());
    let began = Instant::now();
    let client = Client::without_registry(Config { transport: Transport::Multiplexed, ..Config::default() });
    let channel = client.at(at.into());
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
    let watched = relay.stop().await;
    let counts = tally.all().map(|(name, count)| format!("\"{name}\":{count}")).join(",");
    let line = format!("{{{counts},{watched},\"seconds\":{:.1}}}", began.elapsed().as_secs_f64());
    let broken = [&tally.wrong, &tally.hung].iter().any(|count| count.load(Ordering::Relaxed) > 0);
    if broken || watched.is_broken() || tally.ended() != plan.calls {
        return Err(line);
    }
    Ok(line)
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
        let expected = server::answer(&request);

        let deadline = Instant::now() + allowed;
        let mut call =
            Call::new(Method::new(server::PATH, Kind::Unary), Codec::Proto, Body::Message(request));
        call.deadline = Some(deadline);
        let calling = self.channel.call(call);
        let count = if gives_up {
            match timeout(patience, calling).await {
                Ok(answer) => self.judge(answer.map(|answer| answer.body), &expected),
                Err(_) => &self.tally.canceled,
            }
        } else {
            match timeout(allowed + NEVER, calling).await {
                Ok(answer) if Instant::now() < deadline + SLACK => {
                    self.judge(answer.map(|answer| answer.body), &expected)
                }
                _ => &self.tally.hung,
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn judge(&self, answer: Result<Body, Error>, expected: &[u8]) -> &AtomicU64 {
        match answer {
            Ok(Body::Message(message)) if message == expected => &self.tally.answered,
            Ok(_) => &self.tally.wrong,
            Err(error) => match error.code() {
                Code::DeadlineExceeded => &self.tally.late,
                Code::Unavailable => &self.tally.lost,
                _ => &self.tally.other,
            },
        }
    }
}
