//! A world of endpoints that take calls, and callers that make them at random moments.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use formic_balance::traffic::Hash;
use formic_balance::{Algorithm, Backend, Change, Choice, Outcome, Roster, Seat, Set, Traffic};
use formic_core::{Instance, InstanceId, ServiceName};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// SplitMix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Around a mean, as waits of independent callers are.
    fn wait(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.unit()).ln())
    }
}

pub(crate) fn instance(n: usize) -> Instance {
    Instance {
        id: InstanceId::new(format!("i{n:03}")),
        service: ServiceName::new("echo").unwrap(),
        version: String::new(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1 + n as u16)).into(),
        metadata: Default::default(),
        rpc: Vec::new(),
    }
}

/// How an endpoint is.
pub(crate) struct Machine {
    /// What a call takes without waiting, on average.
    pub(crate) mean: Duration,
    /// The share of calls that it fails, quickly.
    pub(crate) failing: f64,
    pub(crate) alive: bool,
    busy: usize,
    queue: VecDeque<usize>,
    pub(crate) served: usize,
}

/// So many calls an endpoint works on at once.
const WORKERS: usize = 8;

struct Call {
    began: Duration,
    idempotent: bool,
    tried: Vec<usize>,
    /// The present attempt: where, since when, and whether it is a probe.
    at: (usize, Duration, bool),
    over: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    /// A call, the endpoint and the number of its life when the call was taken.
    Done(usize, usize, u32),
    Sweep,
}

/// What callers saw.
#[derive(Default, Debug)]
pub(crate) struct Report {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) failed_idempotent: usize,
    pub(crate) failed_other: usize,
    pub(crate) attempts: usize,
    pub(crate) ejected: Vec<(Duration, usize)>,
    pub(crate) returned: Vec<(Duration, usize)>,
}

pub(crate) struct World {
    pub(crate) machines: Vec<Machine>,
    pub(crate) set: Set,
    roster: Roster,
    pub(crate) now: Duration,
    dice: Dice,
    calls: Vec<Call>,
    lives: Vec<u32>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    order: u64,
    every: Duration,
    idempotent: f64,
    pub(crate) report: Report,
}

impl World {
    /// `rate` calls a second, of which so large a share is idempotent.
    pub(crate) fn new(traffic: &Traffic, means: &[Duration], rate: u32, idempotent: f64, seed: u64) -> Self {
        assert_eq!(traffic.validate(), []);
        let mut roster = Roster::new();
        let instances = (0..means.len()).map(instance).collect();
        let set = roster.arrange(&instances, traffic, &Seat::default(), Duration::ZERO);
        let machine = |&mean: &Duration| Machine {
            mean,
            failing: 0.0,
            alive: true,
            busy: 0,
            queue: VecDeque::new(),
            served: 0,
        };
        let mut world = Self {
            machines: means.iter().map(machine).collect(),
            set,
            roster,
            now: Duration::ZERO,
            dice: Dice(seed),
            calls: Vec::new(),
            lives: vec![0; means.len()],
            events: BinaryHeap::new(),
            order: 0,
            every: SECOND / rate,
            idempotent,
            report: Report::default(),
        };
        world.at(Duration::ZERO, Event::Arrive);
        world.at(SECOND, Event::Sweep);
        world
    }

    pub(crate) fn backend(&self, index: usize) -> &Arc<Backend> {
        self.set.backend(index)
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.order += 1;
        self.events.push(Reverse((when, self.order, event)));
    }

    /// Lets time pass until a moment.
    pub(crate) fn run(&mut self, until: Duration) {
        while self.events.peek().is_some_and(|Reverse((when, ..))| *when <= until) {
            let Reverse((when, _, event)) = self.events.pop().unwrap();
            self.now = when;
            match event {
                Event::Arrive => {
                    let next = self.now + self.dice.wait(self.every);
                    self.at(next, Event::Arrive);
                    let idempotent = self.dice.unit() < self.idempotent;
                    let at = (0, self.now, false);
                    self.calls.push(Call { began: self.now, idempotent, tried: Vec::new(), at, over: false });
                    self.attempt(self.calls.len() - 1);
                }
                Event::Done(call, machine, life) if self.lives[machine] == life => self.done(call, machine),
                // Its connection was lost before.
                Event::Done(..) => {}
                Event::Sweep => {
                    for backend in self.roster.sweep(self.now) {
                        self.note(&backend, Some(Change::Ejected));
                    }
                    self.at(self.now + SECOND, Event::Sweep);
                }
            }
        }
        self.now = until;
    }

    fn note(&mut self, backend: &Backend, change: Option<Change>) {
        let index = (0..self.set.len()).find(|&index| self.set.backend(index).id() == backend.id()).unwrap();
        match change {
            Some(Change::Ejected) => self.report.ejected.push((self.now, index)),
            Some(Change::Returned) => self.report.returned.push((self.now, index)),
            None => {}
        }
    }

    fn attempt(&mut self, call: usize) {
        loop {
            let random = self.dice.next();
            let (tried, idempotent) = (&self.calls[call].tried, self.calls[call].idempotent);
            let usable = |index: usize| !tried.contains(&index);
            // What `hash` goes by.
            let user = format!("user-{}", (call as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55);
            let choice = Choice {
                now: self.now,
                random,
                metadata: &|name| (name == "x-user").then_some(&*user),
                usable: &usable,
                expendable: idempotent && tried.is_empty(),
            };
            let pick = self.set.pick(&choice).expect("there are endpoints");
            let backend = Arc::clone(self.set.backend(pick.index));
            self.report.attempts += 1;
            if !self.machines[pick.index].alive {
                // Refused: nobody saw it, so it goes elsewhere whatever it is.
                backend.unused(self.now, pick.probe);
                backend.set_down(true);
                self.calls[call].tried.push(pick.index);
                if self.calls[call].tried.len() >= 3 {
                    self.finish(call, false);
                    return;
                }
                continue;
            }
            backend.begin();
            self.calls[call].at = (pick.index, self.now, pick.probe);
            let machine = &mut self.machines[pick.index];
            machine.served += 1;
            if machine.busy < WORKERS {
                machine.busy += 1;
                self.work(call, pick.index);
            } else {
                machine.queue.push_back(call);
            }
            return;
        }
    }

    fn work(&mut self, call: usize, machine: usize) {
        let mean = self.machines[machine].mean;
        // Half of it is always there, half varies.
        let takes = mean / 2 + self.dice.wait(mean / 2);
        let life = self.lives[machine];
        self.at(self.now + takes, Event::Done(call, machine, life));
    }

    fn done(&mut self, call: usize, machine: usize) {
        if let Some(next) = self.machines[machine].queue.pop_front() {
            self.work(next, machine);
        } else {
            self.machines[machine].busy -= 1;
        }
        let failed = self.dice.unit() < self.machines[machine].failing;
        self.ended(call, machine, failed);
    }

    fn ended(&mut self, call: usize, machine: usize, failed: bool) {
        let (_, since, probe) = self.calls[call].at;
        let backend = Arc::clone(self.set.backend(machine));
        let outcome = if failed { Outcome::Failure } else { Outcome::Success };
        let change = backend.learn(self.now, Some(self.now - since), outcome, probe);
        backend.end();
        self.note(&backend, change);
        // An idempotent call is repeated once, as the client does.
        if failed && self.calls[call].idempotent && self.calls[call].tried.is_empty() {
            self.calls[call].tried.push(machine);
            self.attempt(call);
        } else {
            self.finish(call, !failed);
        }
    }

    fn finish(&mut self, call: usize, well: bool) {
        let call = &mut self.calls[call];
        assert!(!call.over, "a call ends once");
        call.over = true;
        if well {
            self.report.latencies.push(self.now - call.began);
        } else if call.idempotent {
            self.report.failed_idempotent += 1;
        } else {
            self.report.failed_other += 1;
        }
    }

    /// Ends an endpoint at once; gives back how many calls were on their way to it.
    pub(crate) fn kill(&mut self, machine: usize) -> usize {
        self.machines[machine].alive = false;
        self.machines[machine].queue.clear();
        self.machines[machine].busy = 0;
        self.lives[machine] += 1;
        let hit: Vec<usize> = (0..self.calls.len())
            .filter(|&call| !self.calls[call].over && self.calls[call].at.0 == machine)
            .collect();
        for &call in &hit {
            self.ended(call, machine, true);
        }
        hit.len()
    }

    /// Starts it again; whoever holds connections notices.
    pub(crate) fn revive(&mut self, machine: usize) {
        self.machines[machine].alive = true;
        self.set.backend(machine).set_down(false);
    }

    pub(crate) fn percentile(&mut self, of: f64) -> Duration {
        self.report.latencies.sort_unstable();
        self.report.latencies[(self.report.latencies.len() as f64 * of) as usize]
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.iter().filter(|call| call.over).count()
    }
}

pub(crate) fn policy(policy: Algorithm) -> Traffic {
    let hash = (policy == Algorithm::Hash).then(|| Hash { key: "x-user".into(), bound: 1.25 });
    Traffic { policy, hash, ..Traffic::default() }
}
