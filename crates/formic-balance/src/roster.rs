//! Who is there, by identity: what was learnt of an endpoint stays while others come and go, and while the
//! policy changes.
//!
//! One that comes or goes among ten thousand costs itself: who is there is compared with who was by what the two
//! do not share ([`Members`]), each part of a policy is told of those that are different, and a set shares with
//! the one before what stayed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use formic_core::{Instance, InstanceId, Members};

use crate::board::Board;
use crate::ejection::{Present, Shared, median};
use crate::policy::Cursor;
use crate::set::{self, BackendView, Seat, Set, State, view};
use crate::table::Table;
use crate::traffic::Traffic;
use crate::{Backend, Factory};

mod part;
mod wings;

use part::Part;
use wings::Wings;

/// How long an endpoint that left is remembered: a registry that blinks is no reason to forget.
pub const KEEP: Duration = Duration::from_secs(60);

/// The endpoints of one service and what is known of them.
#[derive(Default)]
pub struct Roster {
    known: HashMap<InstanceId, Known>,
    /// Those of `known` who left, in the order in which they did.
    leavers: VecDeque<(Duration, InstanceId)>,
    /// Forgotten, but somebody holds them, so their seats are not free.
    ghosts: Vec<Arc<Backend>>,
    /// Who was there last.
    members: Members,
    backends: Table<Arc<Backend>>,
    instances: Table<Arc<Instance>>,
    /// All who are there, as one part.
    whole: Part,
    present: Arc<Present>,
    board: Board,
    free: BTreeSet<u32>,
    seats: u32,
    shared: Arc<Shared>,
    policy: Option<(Traffic, Seat)>,
    wings: Wings,
    /// Whose turn it is, by group: it goes on when endpoints change.
    cursors: HashMap<String, Cursor>,
    /// Labels that say nothing, for people.
    odd: BTreeMap<InstanceId, String>,
    factory: Option<Factory>,
}

struct Known {
    backend: Arc<Backend>,
    left: Option<Left>,
}

/// Of an endpoint that is not there any more.
struct Left {
    at: Duration,
    /// What it was, to be shown while calls are on their way to it.
    instance: Arc<Instance>,
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Roster {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a policy of the author's own in the place of [`Traffic::policy`]; everything around it, from
    /// rules to ejection, stays.
    #[must_use]
    pub fn with_policy(mut self, factory: Option<Factory>) -> Self {
        self.factory = factory;
        self
    }

    /// Arranges who is there now under a policy. To be called when either changes. A policy must have been validated.
    pub fn arrange(&mut self, members: &Members, traffic: &Traffic, seat: &Seat, now: Duration) -> Set {
        let same = self.policy.as_ref().is_some_and(|(was, stood)| was == traffic && stood == seat);
        if !same {
            // Filled anew below, and not told of changes meanwhile.
            self.wings = Wings::default();
            self.shared.loads.clear();
            self.known.values().for_each(|known| known.backend.leave_all());
        }
        let changed = self.update(members, now);
        if !changed.is_empty() {
            self.present = Arc::new(Present {
                backends: self.backends.clone(),
                members: self.whole.members().clone(),
                len: self.whole.seats().len(),
                board: self.board.clone(),
            });
            self.shared.seat(&self.present);
        }
        if !same {
            let custom = self.factory.is_some();
            self.wings = Wings::new(traffic, seat, custom, &mut self.cursors);
            for &seat in self.whole.seats() {
                let at = seat as usize;
                if let (Some(backend), Some(instance)) = (self.backends.get(at), self.instances.get(at)) {
                    self.wings.add(traffic, backend, instance, &self.backends);
                }
            }
            self.shared.configure(traffic);
            self.policy = Some((traffic.clone(), seat.clone()));
        }
        let mut notes: Vec<String> = self.odd_weights();
        let groups =
            self.wings.groups(traffic, seat, self.factory.as_ref(), &self.backends, &self.board, &mut notes);
        notes.dedup();
        Set {
            len: self.whole.seats().len(),
            instances: self.instances.clone(),
            backends: self.backends.clone(),
            rules: self.wings.rules(),
            groups,
            shared: Arc::clone(&self.shared),
            notes,
            changed,
        }
    }

    /// Looks for outliers among the endpoints and ejects them; to be called every second or so. Costs next to
    /// nothing while nothing fails. Gives back who was ejected.
    pub fn sweep(&self, now: Duration) -> Vec<Arc<Backend>> {
        self.wings.count(&self.backends, &self.shared.loads);
        self.shared.sweep(now)
    }

    /// The endpoints that left and have calls on their way, for people, by id.
    #[must_use]
    pub fn draining(&self, now: Duration) -> Vec<BackendView> {
        let busy = |known: &&Known| known.backend.in_flight() > 0;
        let shown = |known: &Known| {
            let left = known.left.as_ref()?;
            Some(BackendView { state: State::Draining, ..view::of(&left.instance, &known.backend, now) })
        };
        let mut all: Vec<_> = self.known.values().filter(busy).filter_map(shown).collect();
        all.sort_by(|one, other| one.instance.cmp(&other.instance));
        all
    }

    /// Takes over who is there, and gives back the seats of those for whom that is a change. A newcomer starts at the
    /// median of those who stay: neither shunned nor run over before anything is known of it. Those who leave
    /// have no say, for they often leave because they are slow.
    fn update(&mut self, members: &Members, now: Duration) -> Box<[u32]> {
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let before = std::mem::replace(&mut self.members, members.clone());
        members.compare(&before, |(was, is)| {
            gone.extend(was.map(|was| (Arc::clone(was), is.is_none())));
            come.extend(is.map(Arc::clone));
        });
        let mut changed = Vec::with_capacity(gone.len() + come.len());
        for (instance, for_good) in gone {
            changed.extend(self.leave(instance, for_good, now));
        }
        self.forget(now);
        // Whoever is known first: they are those of whom a newcomer inherits.
        let (back, new): (Vec<_>, Vec<_>) =
            come.into_iter().partition(|instance| self.known.contains_key(&instance.id));
        for instance in back {
            let known = self.known.get_mut(&instance.id).map(|known| {
                known.left = None;
                Arc::clone(&known.backend)
            });
            changed.extend(known.map(|backend| self.join(instance, backend)));
        }
        if !new.is_empty() {
            let alone = self.whole.is_empty();
            let prior = median(&self.backends, self.whole.members(), None, now);
            for instance in new {
                let seat = self.free.pop_first().unwrap_or_else(|| {
                    self.seats += 1;
                    self.seats - 1
                });
                let (id, shared) = (instance.id.clone(), Arc::clone(&self.shared));
                let backend = Arc::new(Backend::new(id.clone(), prior, now, shared, self.board.place(seat)));
                // Where all are new there is nobody to spare them.
                if !alone {
                    backend.start_slowly(now);
                }
                self.known.insert(id, Known { backend: Arc::clone(&backend), left: None });
                changed.push(self.join(instance, backend));
            }
        }
        changed.sort_unstable();
        changed.dedup();
        changed.into()
    }

    fn join(&mut self, instance: Arc<Instance>, backend: Arc<Backend>) -> u32 {
        let seat = backend.seat();
        let weight = set::weight(&instance);
        if let (None, Some(text)) = (weight, instance.metadata.get(set::WEIGHT)) {
            self.odd.insert(instance.id.clone(), text.clone());
        }
        backend.set_weight(weight.unwrap_or(1.0));
        self.backends.set(seat as usize, Some(Arc::clone(&backend)));
        self.instances.set(seat as usize, Some(Arc::clone(&instance)));
        self.whole.add(&backend, &self.backends);
        if let Some((traffic, _)) = &self.policy {
            self.wings.add(traffic, &backend, &instance, &self.backends);
        }
        seat
    }

    /// For good, or only to come back as something else.
    fn leave(&mut self, instance: Arc<Instance>, for_good: bool, now: Duration) -> Option<u32> {
        let known = self.known.get_mut(&instance.id)?;
        let backend = Arc::clone(&known.backend);
        self.odd.remove(&instance.id);
        self.whole.remove(&backend, &self.backends);
        if let Some((traffic, _)) = &self.policy {
            self.wings.remove(traffic, &backend, &instance, &self.backends);
        }
        self.backends.set(backend.seat() as usize, None);
        self.instances.set(backend.seat() as usize, None);
        if for_good {
            self.leavers.push_back((now, instance.id.clone()));
            known.left = Some(Left { at: now, instance });
        }
        Some(backend.seat())
    }

    /// Forgets those who left long ago. A seat is free when nobody holds the one who had it, for what is said of
    /// that one is said at its seat.
    fn forget(&mut self, now: Duration) {
        while let Some((at, id)) = self.leavers.front()
            && now.saturating_sub(*at) >= KEEP
        {
            // Others are back, or left again.
            if self.known.get(id).and_then(|known| known.left.as_ref()).is_some_and(|left| left.at == *at)
                && let Some(known) = self.known.remove(id)
            {
                self.ghosts.push(known.backend);
            }
            self.leavers.pop_front();
        }
        let free = &mut self.free;
        self.ghosts.retain(|ghost| {
            let held = Arc::strong_count(ghost) > 1;
            if !held {
                free.insert(ghost.seat());
            }
            held
        });
    }

    fn odd_weights(&self) -> Vec<String> {
        let odd = self.odd.iter().take(NAMED).map(|(id, text)| {
            format!("weight: {text:?} of instance {id} is no number above 0 and up to 1,000,000, so it counts as 1")
        });
        let more = self.odd.len().saturating_sub(NAMED);
        let rest = (more > 0).then(|| {
            format!("weight: {more} more instances have none that is a number above 0 and up to 1,000,000")
        });
        odd.chain(rest).collect()
    }
}

/// So many instances with an odd label are named.
const NAMED: usize = 8;

#[cfg(test)]
mod history;

#[cfg(test)]
mod tests {
    use formic_core::ServiceName;

    use super::*;
    use crate::load::Slot;
    use crate::traffic::{Algorithm, Hash, Zone};

    const MS: Duration = Duration::from_millis(1);

    fn instances(names: &[&str]) -> Members {
        let instance = |&name: &&str| Instance {
            id: InstanceId::new(name),
            service: ServiceName::new("echo").expect("valid"),
            version: String::new(),
            endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            metadata: Default::default(),
            rpc: Vec::new(),
        };
        names.iter().map(instance).collect()
    }

    fn arrange(roster: &mut Roster, names: &[&str], now: Duration) -> Vec<Arc<Backend>> {
        let set = roster.arrange(&instances(names), &Traffic::default(), &Seat::default(), now);
        let backend = |name: &&str| {
            let is_it = |&index: &usize| set.instance(index).id.as_str() == *name;
            Arc::clone(set.backend(set.indices().find(is_it).expect("there")))
        };
        names.iter().map(backend).collect()
    }

    fn succeed(backend: &Backend, now: Duration, took: Duration) {
        backend.learn(now, Some(took), crate::Outcome::Success, false);
    }

    #[test]
    fn state_survives_every_change_of_the_set() {
        let mut roster = Roster::new();
        let first = arrange(&mut roster, &["a", "b"], MS);
        succeed(&first[0], MS, 40 * MS);
        first[1].begin();
        let second = arrange(&mut roster, &["c", "b", "a"], 2 * MS);
        assert!(Arc::ptr_eq(&first[0], &second[2]) && Arc::ptr_eq(&first[1], &second[1]));
        // Gone and back within the time that it is remembered, then for longer.
        arrange(&mut roster, &["b"], 3 * MS);
        let third = arrange(&mut roster, &["a", "b"], KEEP);
        assert!(Arc::ptr_eq(&first[0], &third[0]));
        arrange(&mut roster, &["b"], KEEP);
        arrange(&mut roster, &["b"], 3 * KEEP);
        let fourth = arrange(&mut roster, &["a", "b"], 3 * KEEP);
        assert!(!Arc::ptr_eq(&first[0], &fourth[0]), "forgotten by now");
        assert!(Arc::ptr_eq(&first[1], &fourth[1]));
    }

    #[test]
    fn who_is_out_stays_out_whatever_else_changes_of_it() {
        let (mut roster, traffic) = (Roster::new(), Traffic::default());
        let mut members = instances(&["a", "b", "c"]);
        let arrange = |roster: &mut Roster, members: &Members, now| {
            let set = roster.arrange(members, &traffic, &Seat::default(), now);
            let at = set.indices().find(|&index| set.instance(index).id.as_str() == "b").expect("there");
            (Arc::clone(set.backend(at)), set)
        };
        let (ill, _) = arrange(&mut roster, &members, MS);
        while !ill.is_ejected() {
            ill.learn(MS, Some(MS), crate::Outcome::Failure, false);
        }
        let why = ill.ejected();
        let mut ill_one = instances(&["b"]).iter().next().cloned().expect("one");
        for change in 0..3 {
            match change {
                0 => drop(ill_one.metadata.insert("weight".into(), "3".into())),
                1 => drop(ill_one.metadata.insert("zone".into(), "far".into())),
                _ => ill_one.endpoint = std::net::SocketAddr::from(([127, 0, 0, 1], 9)).into(),
            }
            members.insert(ill_one.clone());
            let (now_ill, set) = arrange(&mut roster, &members, 2 * MS);
            assert!(Arc::ptr_eq(&ill, &now_ill) && now_ill.ejected() == why, "{change}");
            let choice = crate::Choice {
                now: 2 * MS,
                random: change,
                metadata: &|_| None,
                usable: &|_| true,
                expendable: true,
            };
            let picked = set.pick(&choice).expect("two are in");
            assert!(!Arc::ptr_eq(set.backend(picked.index), &ill), "{change}");
        }
    }

    #[test]
    fn a_newcomer_starts_slowly_at_the_median() {
        let mut roster = Roster::new();
        let stats = arrange(&mut roster, &["a", "b", "c"], MS);
        for (backend, took) in stats.iter().zip([MS, 3 * MS, 900 * MS]) {
            (0..9).for_each(|_| succeed(backend, MS, took));
            assert_eq!(backend.warmth(MS), 1.0, "the first ones have nobody to spare them");
        }
        let stats = arrange(&mut roster, &["a", "b", "c", "d"], MS);
        assert_eq!(stats[3].latency(MS).as_micros(), 1_000 * 3);
        assert!(stats[3].warmth(MS) < 0.2 && stats[3].warmth(6_000 * MS) > 0.5);
        assert_eq!(stats[3].warmth(11_000 * MS), 1.0);
        // Of those who leave nothing is inherited.
        let stats = arrange(&mut roster, &["a", "e"], MS);
        assert_eq!(stats[1].latency(MS).as_micros(), 1_000);
    }

    #[test]
    fn who_was_never_called_has_no_say_in_what_a_newcomer_is_taken_for() {
        let mut roster = Roster::new();
        let stats = arrange(&mut roster, &["a", "b", "c", "d", "e"], MS);
        (0..9).for_each(|_| succeed(&stats[0], MS, 3 * MS));
        let names = ["a", "b", "c", "d", "e", "f"];
        let stats = arrange(&mut roster, &names, MS);
        assert_eq!(stats[5].latency(MS).as_micros(), 1_000 * 3, "one was measured, and five are unknown");
        // What one is only taken for is no measurement of it.
        succeed(&stats[1], MS, MS);
        (0..4).for_each(|_| succeed(&stats[0], 20_000 * MS, 9 * MS));
        let later = 40_000 * MS;
        let stats = arrange(&mut roster, &["a", "b", "c", "d", "e", "f", "g"], later);
        assert_eq!(stats[6].latency(later), stats[1].latency(later), "the lower one of two");
        // Nor is what was measured so long ago that nothing is left of it.
        let late = 90_000 * MS;
        succeed(&stats[0], late, 9 * MS);
        let stats = arrange(&mut roster, &["a", "b", "c", "d", "e", "f", "g", "h"], late);
        assert_eq!(stats[7].latency(late), stats[0].latency(late));
        // Where nobody was measured, a newcomer is as unknown as the first.
        let mut roster = Roster::new();
        arrange(&mut roster, &["a", "b"], MS);
        assert_eq!(arrange(&mut roster, &["a", "b", "c"], MS)[2].latency(MS), Duration::ZERO);
    }

    #[test]
    fn what_is_shown_does_not_fade_as_what_picks_go_by_does() {
        let mut roster = Roster::new();
        let set = roster.arrange(&instances(&["a", "b"]), &Traffic::default(), &Seat::default(), MS);
        succeed(set.backend(0), MS, MS);
        let shown = |now| set.view(now).map(|(_, view)| view.latency_ms).collect::<Vec<_>>();
        let at_first = shown(MS);
        assert!(at_first[0] > 0.9 && at_first[1] == 0.0, "{at_first:?}");
        let later = 30_000 * MS;
        assert!(set.backend(0).latency(later) < MS / 10);
        assert_eq!(shown(later), at_first);
        assert_eq!(shown(90_000 * MS), [0.0, 0.0], "that was too long ago");
    }

    #[test]
    fn a_sweep_puts_right_what_was_counted_wrong() {
        let mut roster = Roster::new();
        let hash = Some(Hash { key: "x-user".into(), bound: 1.25 });
        let traffic =
            Traffic { policy: Algorithm::Hash, hash, zone: Some(Zone::default()), ..Traffic::default() };
        let seat = Seat { zone: Some("near".into()), ..Seat::default() };
        let mut members: Vec<Instance> = instances(&["a", "b", "c"]).iter().map(Instance::clone).collect();
        members[0].metadata.insert("zone".into(), "near".into());
        let set = roster.arrange(&members.into_iter().collect(), &traffic, &seat, MS);
        set.indices().for_each(|index| set.backend(index).begin());
        let [near, far] = [0, 1].map(|number| Slot::new(number).expect("so many are counted"));
        let work = |roster: &Roster| [near, far].map(|slot| roster.shared.loads.get(slot));
        assert_eq!(work(&roster), [1, 2]);
        // As by calls that begin or end while their endpoint comes or goes.
        roster.shared.loads.shift(near, 500);
        roster.shared.loads.shift(far, -1);
        assert_eq!(work(&roster), [501, 1]);
        roster.sweep(2 * MS);
        assert_eq!(work(&roster), [1, 2]);
    }

    #[test]
    fn who_left_is_shown_until_its_last_call_is_over() {
        let mut roster = Roster::new();
        let both = arrange(&mut roster, &["a", "b"], MS);
        both[1].begin();
        assert!(roster.draining(MS).is_empty(), "nobody left");
        arrange(&mut roster, &["a"], 2 * MS);
        // It stays so when others come and go.
        arrange(&mut roster, &["a", "c"], 3 * MS);
        let [draining] = &roster.draining(3 * MS)[..] else { panic!("one is draining") };
        assert_eq!((draining.instance.as_str(), draining.state), ("b", State::Draining));
        assert_eq!((draining.in_flight, draining.endpoint.as_str()), (1, "127.0.0.1:1"));
        both[1].end();
        assert!(roster.draining(3 * MS).is_empty());
    }

    #[test]
    fn an_instance_that_is_listed_twice_is_one() {
        let mut roster = Roster::new();
        let both = arrange(&mut roster, &["a", "a"], MS);
        assert!(Arc::ptr_eq(&both[0], &both[1]));
        assert_eq!(roster.whole.seats().len(), 1);
    }

    #[test]
    fn a_seat_is_free_when_nobody_holds_who_had_it() {
        let mut roster = Roster::new();
        let mut first = arrange(&mut roster, &["a", "b"], MS);
        arrange(&mut roster, &["a"], MS);
        let (seat, later) = (first[1].seat(), 2 * KEEP);
        arrange(&mut roster, &["a"], later);
        let third = arrange(&mut roster, &["a", "c"], later);
        assert_ne!(third[1].seat(), seat, "somebody has a call on its way to b");
        first.clear();
        arrange(&mut roster, &["a"], later);
        let fourth = arrange(&mut roster, &["a", "d"], later);
        assert_eq!(fourth[1].seat(), seat);
    }
}
