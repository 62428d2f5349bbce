//! Probing: asks an instance until it is ready, then goes on asking.

mod fault;
mod log;
mod way;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Endpoint, Instance, InstanceId, ServiceName};
use formic_registry::DynRegistry;
use formic_spec::Health;
use formic_state::State;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::fault::Fault;
pub(crate) use self::way::Way;
use crate::announce::{Announcer, known, shown};
use crate::clock;
use crate::logs;
use crate::measures::Measures;

/// The pause between probes of an instance that is starting: its readiness is what people wait for.
const EAGER: Duration = Duration::from_millis(15);
/// The same where each probe is a process.
const EAGER_COMMAND: Duration = Duration::from_millis(100);
/// Probes in a row that must fail before a ready instance counts as unready; one may be lost to load.
const PATIENCE: u32 = 3;
/// Why one that starts is not ready is told after so long, or sooner where it has little time: nothing answers at once.
/// As often another reason is told, so that one that changes with each probe is no flood.
const TELL: Duration = Duration::from_secs(1);
/// So many reasons are told of one until it is ready: each is kept, and who has more of them makes them up.
const REASONS: usize = 8;

/// What is probed.
pub(crate) struct Target {
    pub(crate) instance: InstanceId,
    pub(crate) service: ServiceName,
    pub(crate) version: String,
    pub(crate) health: Health,
    pub(crate) way: Way,
    pub(crate) port: Option<u16>,
    pub(crate) registry: DynRegistry,
    pub(crate) measures: Measures,
    /// Whether it was ready when it was last heard of, by an engine before this one.
    pub(crate) ready: bool,
    /// Whose secrets are not told.
    pub(crate) secrets: Option<Arc<State>>,
}

/// What a probe has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is ready, and answers there, if it said so.
    Ready(Option<String>),
    /// It is not ready any more, and why.
    Unready(String),
    /// It is not ready yet or still, and why: told once for each reason.
    Failing(String),
}

impl Target {
    /// Probes until nothing more is to be known of it; tells of every change, and with readiness where the
    /// instance said that it answers. One that has a port is in the registry while it is ready and until
    /// then; who ends this in another way leaves it there.
    pub(crate) async fn watch(mut self, over: CancellationToken, changed: impl FnMut(Heard)) {
        let announcer =
            |port| Announcer::new(&self.registry, &self.instance, &self.service, &self.version, port);
        let mut announcer = self.port.map(announcer);
        over.run_until_cancelled(self.probe(&mut announcer, changed)).await;
        if let Some(announcer) = &mut announcer {
            announcer.unready().await;
        }
    }

    async fn probe(&mut self, announcer: &mut Option<Announcer>, mut changed: impl FnMut(Heard)) {
        if matches!(self.way, Way::None) {
            if let Some(announcer) = announcer {
                announcer.ready().await;
            }
            changed(Heard::Ready(None));
            return std::future::pending().await;
        }
        let eager = if matches!(self.way, Way::Exec { .. }) { EAGER_COMMAND } else { EAGER };
        let mut ready = self.ready;
        let mut failures = 0;
        let mut telling = Telling::new(self.health.deadline.get());
        if let Some(announcer) = announcer.as_mut().filter(|_| ready) {
            announcer.ready().await;
        }
        loop {
            let began = Instant::now();
            let limit = self.health.timeout.get();
            let answer = tokio::time::timeout(limit, self.once()).await;
            let answer = answer.unwrap_or_else(|_| Err(way::timed_out(limit)));
            let said_at = Instant::now();
            failures = if answer.is_ok() { 0 } else { failures + 1 };
            match answer {
                Ok(()) => {
                    let latency = self.way.is_answered().then(|| said_at - began);
                    self.measures.answered(&self.instance, latency);
                    telling.ready();
                    if !ready {
                        ready = true;
                        if let Some(announcer) = announcer {
                            announcer.ready().await;
                        }
                        let registered = tokio::time::timeout(limit, self.registered()).await;
                        changed(Heard::Ready(registered.ok().flatten().as_deref().map(shown)));
                    }
                }
                Err(fault) => {
                    self.measures.failed(&self.instance, clock::now().unix_ms);
                    if ready && failures >= PATIENCE {
                        ready = false;
                        if let Some(announcer) = announcer {
                            announcer.unready().await;
                        }
                        changed(Heard::Unready(self.in_words(&fault)));
                        telling.told(&fault, said_at);
                    } else if !ready && telling.is_due(&fault, began, said_at) {
                        changed(Heard::Failing(self.in_words(&fault)));
                        telling.told(&fault, said_at);
                    }
                }
            }
            tokio::time::sleep(if ready { self.health.interval.get() } else { eager }).await;
        }
    }

    /// What is told of a fault: an answer may have a secret in it.
    fn in_words(&self, fault: &Fault) -> String {
        fault.in_words(|texts| {
            if let Some(state) = &self.secrets {
                logs::mask(state, texts.iter_mut());
            }
        })
    }

    async fn once(&mut self) -> Result<(), Fault> {
        let limit = self.health.timeout.get();
        let endpoint = if self.way.needs_endpoint() { self.endpoint().await } else { None };
        self.way.ask(endpoint, &self.health.path, limit).await
    }

    /// At the port that it was given, else where it said that it answers.
    async fn endpoint(&self) -> Option<Endpoint> {
        match self.port {
            Some(port) => Some(Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
            None => self.registered().await.map(|found| found.endpoint.clone()),
        }
    }

    /// What the instance said of itself.
    async fn registered(&self) -> Option<Arc<Instance>> {
        known(&self.registry, &self.service, &self.instance).await
    }
}

/// When it is time to tell why a probe fails.
struct Telling {
    /// For so long nothing is told of one that starts.
    quiet: Duration,
    /// Since when it fails.
    since: Option<Instant>,
    /// When a reason was told last.
    last: Option<Instant>,
    /// The kinds of those that were told: one that comes back, in turn with another, is no news.
    kinds: Vec<String>,
}

impl Telling {
    /// For one that has so long to get ready.
    fn new(deadline: Duration) -> Self {
        Self { quiet: TELL.min(deadline / 4), since: None, last: None, kinds: Vec::new() }
    }

    /// Whether this is to be told, of a probe that began and ended then.
    fn is_due(&mut self, fault: &Fault, began: Instant, now: Instant) -> bool {
        let since = *self.since.get_or_insert(began);
        match self.last {
            None => now - since >= self.quiet,
            Some(at) => {
                let is_new = self.kinds.len() < REASONS && self.kinds.iter().all(|kind| kind != fault.kind());
                is_new && now - at >= TELL
            }
        }
    }

    fn told(&mut self, fault: &Fault, at: Instant) {
        self.since.get_or_insert(at);
        self.last = Some(at);
        self.kinds.push(fault.kind().to_owned());
    }

    fn ready(&mut self) {
        (self.since, self.last) = (None, None);
        self.kinds.clear();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_registry::Memory;
    use formic_spec::HumanDuration;

    use super::*;

    #[tokio::test]
    async fn the_end_of_probing_takes_out_what_it_put_in_and_the_end_of_who_probes_does_not() {
        let registry: DynRegistry = Arc::new(Memory::new());
        let service = ServiceName::new("reports").unwrap();
        let listed = async || registry.get(&service).await.unwrap().len();
        let over = CancellationToken::new();
        let mut probes = tokio::task::JoinSet::new();
        for id in ["reports-1", "reports-2"] {
            let target = Target {
                instance: InstanceId::new(id),
                service: service.clone(),
                version: String::new(),
                health: Health {
                    ready: formic_spec::Probe::None,
                    path: String::new(),
                    command: Vec::new(),
                    line: String::new(),
                    interval: HumanDuration::from_secs(1),
                    timeout: HumanDuration::from_secs(1),
                    deadline: HumanDuration::from_secs(60),
                },
                way: Way::None,
                port: Some(8001),
                registry: Arc::clone(&registry),
                measures: Measures::default(),
                ready: false,
                secrets: None,
            };
            // Of the second one more is to be known as long as anybody is there who asks.
            let over = if id == "reports-1" { over.clone() } else { CancellationToken::new() };
            probes.spawn(target.watch(over, |_| ()));
        }
        let both = async {
            while listed().await < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
        over.cancel();
        probes.join_next().await.unwrap().unwrap();
        assert_eq!(listed().await, 1);
        probes.shutdown().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(listed().await, 1);
    }

    #[test]
    fn a_reason_is_told_once_and_no_two_at_once() {
        let (mut telling, start) = (Telling::new(Duration::from_secs(60)), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let (a, b) = (Fault::new("a"), Fault::new("b"));
        assert!(!telling.is_due(&a, start, at(10)), "nothing answers at once");
        assert!(telling.is_due(&b, at(900), at(1_000)));
        telling.told(&b, at(1_000));
        assert!(!telling.is_due(&b, at(5_000), at(5_000)), "it was told");
        assert!(!telling.is_due(&a, at(1_100), at(1_100)), "another one so soon");
        assert!(telling.is_due(&a, at(2_000), at(2_000)));
        telling.told(&a, at(2_000));
        assert!(!telling.is_due(&b, at(4_000), at(4_000)), "it was told before the last one");
        telling.ready();
        assert!(!telling.is_due(&a, at(9_000), at(9_010)), "it begins anew");
        assert!(telling.is_due(&a, at(9_000), at(11_000)), "a probe that took long");
        assert!(Telling::new(Duration::from_secs(1)).is_due(&a, start, at(250)));
    }

    #[test]
    fn of_ever_new_reasons_the_first_are_told() {
        let (mut telling, start) = (Telling::new(Duration::from_secs(60)), Instant::now());
        let mut told = 0;
        for second in 1..100 {
            let (fault, at) = (Fault::new(format!("reason {second}")), start + Duration::from_secs(second));
            if telling.is_due(&fault, at, at + TELL) {
                telling.told(&fault, at + TELL);
                told += 1;
            }
        }
        assert_eq!(told, REASONS);
    }
}
