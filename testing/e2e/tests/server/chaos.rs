//! Brain, keeper and both are killed, at random and at every named moment, while the shop is under load and is being
//! rolled and scaled. Nobody who calls may notice, and what must hold is looked at after each kill.
//!
//! `FORMIC_CHAOS_SECONDS` says for how long (`cargo xtask chaos --seconds N`), `FORMIC_CHAOS_SEED` repeats an order of
//! events, `FORMIC_CHAOS_JSON` names a file for the figures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use formic_e2e::{Gateway, Managed, Manifest, alive, instances, of_application, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// Against hanging alone: all moments take so long at most beyond what was asked for.
const LIMIT: Duration = Duration::from_secs(900);
/// Long enough to come to every named moment once on a slow machine.
const DEFAULT_SECONDS: u64 = 120;
/// What is rolled: what callers ask, what that asks, and what they talk to.
const ROLLED: [&str; 3] = ["product", "shipping", "gateway"];
/// What of it the manifest says something about.
const QUICK: [&str; 3] = ["product", "shipping", IDLE];
/// What nobody calls meanwhile, so that one of it may be killed by itself.
const IDLE: &str = "payment";

/// Where a process of the server dies, and what brings it there. `formic_supervise::failpoint::ALL` is the list.
pub(crate) const MOMENTS: [(&str, Trigger); 28] = [
    ("save.before", Trigger::Restart),
    ("save.after", Trigger::Restart),
    ("promote.before", Trigger::Restart),
    ("promote.after", Trigger::Restart),
    ("start.intent.before", Trigger::Restart),
    ("start.intent.after", Trigger::Restart),
    ("start.forked", Trigger::Restart),
    ("start.recorded.before", Trigger::Restart),
    ("start.recorded.after", Trigger::Restart),
    ("start.admitted", Trigger::Restart),
    ("start.gate.open", Trigger::Restart),
    ("start.running", Trigger::Restart),
    ("log.punch.before", Trigger::Log),
    ("log.punch.after", Trigger::Log),
    ("stop.recorded.before", Trigger::Restart),
    ("stop.recorded.after", Trigger::Restart),
    ("stop.gone", Trigger::Restart),
    ("stop.noted", Trigger::Restart),
    ("stop.reaped", Trigger::Restart),
    ("stop.unrecorded.before", Trigger::Restart),
    ("stop.unrecorded.after", Trigger::Restart),
    ("adopt.before", Trigger::Brain),
    ("adopt.after", Trigger::Brain),
    ("keeper.fenced", Trigger::Brain),
    ("keeper.brain.started", Trigger::Brain),
    ("keeper.journal.before", Trigger::Instance),
    ("keeper.journal.after", Trigger::Instance),
    ("keeper.reaped", Trigger::Instance),
];

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Trigger {
    /// A rolling restart of a service.
    Restart,
    /// The death of the brain.
    Brain,
    /// The death of an instance that an earlier brain has started, so that the keeper reaps it.
    Instance,
    /// A log that is longer than what is kept of one.
    Log,
}

/// Callers that never stop, and what they saw.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    callers: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn begin(gateway: &Gateway) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let callers = (0..4).map(|number| {
            let (gateway, stop, sent) = (gateway.clone(), Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let search = json!({ "text": "lamp", "limit": 3 });
                    let answer = match number {
                        0 => gateway.try_call("shop.user.v1.UserService/GetKeys", &json!({}), None),
                        _ => gateway.try_call("shop.product.v1.ProductService/Search", &search, None),
                    };
                    sent.fetch_add(1, Ordering::Relaxed);
                    match answer {
                        Ok(answer) if answer.status == 200 => {}
                        Ok(answer) => failed.push(format!("{}: {}", answer.status, answer.text())),
                        Err(error) => failed.push(error.to_string()),
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                failed
            })
        });
        let callers = callers.collect();
        Self { stop, sent, callers }
    }

    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        (self.sent.load(Ordering::Relaxed), failed)
    }
}

/// The server, what was done to it, and what must not fall.
struct Chaos {
    managed: Managed,
    armed: PathBuf,
    random: Random,
    kills: BTreeMap<String, u32>,
    restarts: BTreeMap<String, u64>,
    recoveries: Vec<Duration>,
}

/// Numbers from a seed; good enough to mix events.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

/// Whether every service has what is wanted, and nothing is being rolled.
pub(crate) fn is_at_rest(status: &Value) -> bool {
    status["services"].as_array().unwrap().iter().all(|service| {
        let live = service["instances"].as_array().unwrap().len() as u64;
        let done = matches!(service["rollout"].as_str(), Some("succeeded" | "reverted"));
        service["state"] == "ready" && service["wanted"] == live && done
    })
}

/// The main process of an instance of a service that this keeper reaps: the brain that has started it is dead. One that
/// outlived a keeper is not the next one's child.
pub(crate) fn orphan(managed: &Managed, service: &str) -> u32 {
    managed.formic(&["restart", service]).says(0, &[]);
    wait_until("the new instance to be at rest", SOON, || is_at_rest(&managed.status()));
    managed.kill(managed.brain());
    wait_until("the next brain to be at rest", SOON, || is_at_rest(&managed.status()));
    let all = instances(&managed.status()).into_iter();
    all.filter(|(id, _)| id.starts_with(service)).map(|(_, pid)| pid).next().expect("an instance of it")
}

/// More in the log of an instance than is kept, as its program would have written it: line after line, each with its number.
pub(crate) struct Flood {
    log: PathBuf,
    lines: u64,
}

impl Flood {
    /// Each line is so long, with its end.
    const LINE: u64 = 64;
    /// What is kept of a log, and what may be there beyond that.
    const KEPT: u64 = 64 << 20;
    const MOST: u64 = Self::KEPT / 4 * 5;

    pub(crate) fn over(managed: &Managed, service: &str) -> Self {
        let all = instances(&managed.status()).into_iter();
        let (id, _) = all.into_iter().find(|(id, _)| id.starts_with(service)).expect("an instance of it");
        let log = managed.folder().join(format!(".formic/logs/{service}/{id}.out.log"));
        // A hole is of whole blocks, and one that is there already is no room.
        let lines = (Self::MOST + (1 << 20)) / Self::LINE;
        let mut text = String::new();
        for number in 1..=lines {
            let _ = writeln!(text, "{number:063}");
        }
        let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        Self { log, lines }
    }

    /// Once the front is given back to the disk: all that is kept of it is there, line after line up to the last.
    pub(crate) fn is_cut_and_whole(&self) {
        let about = || std::fs::metadata(&self.log).unwrap();
        wait_until("the front of the log to be gone", SOON, || {
            std::os::unix::fs::MetadataExt::blocks(&about()) * 512 <= Self::MOST
        });
        let bytes = std::fs::read(&self.log).unwrap();
        let begins = bytes.iter().position(|byte| *byte != 0).unwrap();
        assert!((bytes.len() - begins) as u64 >= Self::KEPT, "{begins} of {} are gone", bytes.len());
        let text = String::from_utf8(bytes[begins..].to_vec()).unwrap();
        // The first may be cut in two.
        let numbers: Vec<u64> = text.lines().skip(1).map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers.last(), Some(&self.lines));
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a line is lost");
    }
}

/// Whether another process than this one runs as the service: what a brain is told of its end it may not know at once.
pub(crate) fn is_replaced(managed: &Managed, service: &str, orphan: u32) -> bool {
    let pids = managed.pids();
    let mut of = pids.iter().filter(|(id, _)| id.starts_with(service)).peekable();
    of.peek().is_some() && of.all(|(_, pid)| *pid != orphan)
}

impl Chaos {
    /// The status once nothing is under way.
    fn rest(&self) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.managed.status();
            if is_at_rest(&status) {
                return status;
            }
            assert!(begun.elapsed() < SOON, "it does not come to rest: {status:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn count(&mut self, what: &str) {
        *self.kills.entry(what.to_owned()).or_default() += 1;
    }

    /// Kills at random, with nothing under way: every process of an instance stays what it is.
    fn strike(&mut self) {
        let _ = self.rest();
        let before = self.managed.pids();
        let (brain, keeper) = (self.managed.brain(), self.managed.keeper());
        let what = ["brain", "keeper", "both"][self.random.next(3)];
        let begun = Instant::now();
        match what {
            "brain" => self.managed.kill(brain),
            "keeper" => {
                self.managed.kill(keeper);
                wait_until("the brain to end with its keeper", SOON, || !alive(brain));
            }
            _ => {
                self.managed.kill(keeper);
                self.managed.kill(brain);
            }
        }
        if what != "brain" {
            self.managed.serve();
        }
        let after = self.managed.pids();
        self.recoveries.push(begun.elapsed());
        assert_eq!(after, before, "after the death of {what}");
        self.count(what);
    }

    /// Has it die at a moment, and brings it there.
    fn die_at(&mut self, moment: &str, trigger: Trigger) {
        let _ = self.rest();
        let orphan = (trigger == Trigger::Instance).then(|| orphan(&self.managed, IDLE));
        std::fs::write(&self.armed, moment).unwrap();
        let service = ROLLED[self.random.next(ROLLED.len())];
        match trigger {
            // Its answer may be lost with the brain.
            Trigger::Restart => drop(self.managed.formic(&["restart", service])),
            Trigger::Brain => self.managed.kill(self.managed.brain()),
            Trigger::Instance => self.managed.kill(orphan.expect("there is one for this trigger")),
            Trigger::Log => drop(Flood::over(&self.managed, IDLE)),
        }
        let armed = self.armed.clone();
        wait_until(&format!("{moment} to be reached"), SOON, || !armed.exists());
        if moment.starts_with("keeper.") {
            // It is a zombie or gone; either way a service manager starts the next.
            wait_until("the keeper to be gone", SOON, || self.managed.try_serve(&[]).code == Some(0));
        }
        if let Some(orphan) = orphan {
            wait_until("another in its place", SOON, || is_replaced(&self.managed, IDLE, orphan));
        }
        self.count(moment);
    }

    /// What holds whatever happened. Called at rest.
    fn look(&mut self, after: &str) {
        let status = self.rest();
        let mut known = BTreeSet::new();
        for service in status["services"].as_array().unwrap() {
            let name = service["name"].as_str().unwrap();
            let all = service["instances"].as_array().unwrap();
            let live: Vec<_> = all.iter().filter(|instance| instance["pid"].as_u64() != Some(0)).collect();
            let wanted = usize::try_from(service["wanted"].as_u64().unwrap()).unwrap();
            assert!(
                live.len() <= wanted + 1,
                "after {after}: more of {name} than wanted and one: {service:#}"
            );
            let slots: BTreeSet<_> = live.iter().map(|instance| instance["slot"].as_u64()).collect();
            assert_eq!(slots.len(), live.len(), "after {after}: two in one slot of {name}: {service:#}");
            let quarantined = all.iter().any(|instance| instance["state"] == "quarantined");
            assert!(!quarantined, "after {after}: {service:#}");
            let restarts = service["restarts"].as_u64().unwrap();
            let before = self.restarts.insert(name.to_owned(), restarts).unwrap_or_default();
            assert!(
                restarts >= before,
                "after {after}: the restarts of {name} fell from {before} to {restarts}"
            );
        }
        for (_, pid) in instances(&status) {
            known.insert(pid);
        }
        known.extend(
            [&status["pid"], &status["server"]["keeper_pid"]]
                .map(|pid| u32::try_from(pid.as_u64().unwrap()).unwrap()),
        );
        // A process of ours that nobody knows: gone within moments, as what a gate has held back is.
        let folder = self.managed.folder();
        let stray = || {
            let fresh: BTreeSet<u32> =
                instances(&self.managed.status()).into_iter().map(|(_, pid)| pid).collect();
            let ours = of_application(&folder).into_iter();
            ours.filter(|pid| !known.contains(pid) && !fresh.contains(pid)).collect::<Vec<_>>()
        };
        wait_until(&format!("strays to be gone after {after}"), SOON, || stray().is_empty());
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn nobody_notices_who_is_killed() {
    let seconds = number("FORMIC_CHAOS_SECONDS").unwrap_or(DEFAULT_SECONDS);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("FORMIC_CHAOS_SEED").unwrap_or_else(|| u64::from(clock.subsec_nanos()) | 1);
    println!("chaos: seed {seed}, {seconds} s");
    let armed = std::env::temp_dir().join(format!("formic-chaos-{}", std::process::id()));
    let _ = std::fs::remove_file(&armed);
    // Rolled quickly, so that many of them fit in.
    let quick = r#"{ min_ready = "200ms", keep_old = "0s" }"#;
    let manifest = QUICK.iter().fold(Manifest::shop(), |manifest, service| {
        manifest.set(&format!("service.{service}"), "update", quick)
    });
    let managed = Managed::running(&manifest, &[("FORMIC_FAILPOINT_FILE", armed.to_str().unwrap())]);
    let mut chaos = Chaos {
        managed,
        armed,
        random: Random(seed),
        kills: BTreeMap::new(),
        restarts: BTreeMap::new(),
        recoveries: Vec::new(),
    };
    chaos.look("the start");
    let load = Load::begin(chaos.managed.gateway());
    let begun = Instant::now();
    let mut next = 0;
    // Every moment once, however long that takes; then as long as it was asked for.
    while next < MOMENTS.len() || begun.elapsed() < Duration::from_secs(seconds) {
        let (moment, trigger) = MOMENTS[next % MOMENTS.len()];
        next += 1;
        chaos.die_at(moment, trigger);
        chaos.look(moment);
        chaos.strike();
        chaos.look("a kill");
        if begun.elapsed() > Duration::from_secs(seconds) + LIMIT {
            panic!("{next} of {} moments after {:?}", MOMENTS.len(), begun.elapsed());
        }
    }
    let (sent, failed) = load.end();
    let report = report(&chaos, seed, begun.elapsed(), sent, failed.len());
    println!("{}", report.0);
    if let Ok(file) = std::env::var("FORMIC_CHAOS_JSON") {
        std::fs::write(file, report.1.to_string()).unwrap();
    }
    let few: Vec<&String> = failed.iter().take(5).collect();
    assert!(failed.is_empty(), "{} of {sent} requests failed, such as {few:#?}", failed.len());
    for (moment, _) in MOMENTS {
        assert!(chaos.kills.get(moment).is_some_and(|kills| *kills > 0), "nobody ever died at {moment}");
    }
    assert!(sent > 1000, "only {sent} requests were sent");
}

fn report(chaos: &Chaos, seed: u64, took: Duration, sent: u64, failed: usize) -> (String, Value) {
    let total: u32 = chaos.kills.values().sum();
    let mut recoveries = chaos.recoveries.clone();
    recoveries.sort();
    let at = |share: usize| {
        recoveries.get(recoveries.len() * share / 100).map(|time| time.as_millis()).unwrap_or_default()
    };
    let mut text = format!(
        "{total} kills in {:.0} s (seed {seed}); {sent} requests, {failed} failed",
        took.as_secs_f64()
    );
    for (what, kills) in &chaos.kills {
        let _ = write!(text, "\n  {what:<24} {kills}");
    }
    let _ = write!(
        text,
        "\nfrom a kill to answers: median {} ms, slowest {} ms",
        at(50),
        recoveries.last().map_or(0, Duration::as_millis)
    );
    let figures = json!({
        "seed": seed, "seconds": took.as_secs(), "kills": chaos.kills, "total": total, "requests": sent, "failed": failed,
        "recovery_ms": { "median": u64::try_from(at(50)).ok(), "p95": u64::try_from(at(95)).ok() },
    });
    (text, figures)
}
