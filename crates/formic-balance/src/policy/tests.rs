//! Each policy on its own.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;

use formic_core::InstanceId;

use super::*;
use crate::board::Board;
use crate::ejection::Shared;

pub(super) const MS: Duration = Duration::from_millis(1);

/// Endpoints and where they sit.
pub(super) struct List {
    all: Vec<Arc<Backend>>,
    table: Table<Arc<Backend>>,
    seats: Vec<u32>,
}

impl std::ops::Deref for List {
    type Target = [Arc<Backend>];

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl List {
    fn of(all: Vec<Arc<Backend>>) -> Self {
        let mut table = Table::default();
        all.iter().for_each(|backend| drop(table.set(backend.seat() as usize, Some(Arc::clone(backend)))));
        let seats = all.iter().map(|backend| backend.seat()).collect();
        Self { all, table, seats }
    }
}

pub(super) fn list(latencies: &[Duration]) -> List {
    let mut board = Board::default();
    let backend = |(n, &latency): (usize, &Duration)| {
        let id = InstanceId::new(format!("i{n}"));
        let place = board.place(n as u32);
        Arc::new(Backend::new(id, latency, Duration::ZERO, Arc::<Shared>::default(), place))
    };
    List::of(latencies.iter().enumerate().map(backend).collect())
}

fn policy(algorithm: Algorithm, list: &List) -> Picker {
    let hash = crate::traffic::Hash { key: "x-key".into(), bound: 1.25 };
    let traffic = Traffic { policy: algorithm, hash: Some(hash), ..Traffic::default() };
    let made = Made {
        cursor: Cursor::default(),
        weighted: Some(weighted(list, &Cursor::default())),
        places: Some(Circle::of(list.iter().map(|backend| &**backend)).places()),
    };
    algorithm.build(&traffic, made)
}

pub(super) fn weighted(list: &List, cursor: &Cursor) -> WeightedRoundRobin {
    let mut schedule = Schedule::default();
    list.iter().for_each(|backend| schedule.add(backend.seat(), backend.weight(), cursor));
    schedule.policy(Arc::clone(cursor))
}

pub(super) fn among(list: &List) -> Among<'_> {
    Among { seats: &list.seats, table: &list.table, care: Care::In, tried: false, burden: None }
}

/// The position of the endpoint that is picked.
fn pick(policy: &Picker, list: &List, choice: &Choice<'_>) -> Option<usize> {
    let index = policy.pick(&among(list), choice)?;
    list.seats.iter().position(|&seat| seat as usize == index)
}

/// How often each endpoint is picked in so many independent picks.
fn counts(policy: &Picker, list: &List, usable: &dyn Fn(usize) -> bool) -> Vec<usize> {
    let mut counts = vec![0; list.len()];
    for random in 0..10_000u64 {
        let key = random.to_string();
        let metadata = |_: &str| Some(key.as_str());
        let choice = Choice { now: MS, random, metadata: &metadata, usable, expendable: true };
        if let Some(position) = pick(policy, list, &choice) {
            counts[position] += 1;
        }
    }
    counts
}

#[test]
fn a_slow_endpoint_gets_what_nobody_else_takes() {
    let list = list(&[MS, 50 * MS, MS, MS]);
    let counts = counts(&Picker::Policy(Box::new(P2c)), &list, &|_| true);
    assert_eq!(counts[1], 0, "idle neighbours are always better: {counts:?}");
    // With work in flight the slow one is worth it: 60 calls at 1 ms cost more than one at 50 ms.
    for position in [0, 2, 3] {
        (0..60).for_each(|_| list[position].begin());
    }
    assert!(self::counts(&Picker::Policy(Box::new(P2c)), &list, &|_| true)[1] > 4_000);
}

#[test]
fn equal_endpoints_share_alike() {
    let list = list(&[MS; 5]);
    for algorithm in Algorithm::ALL {
        let counts = counts(&policy(algorithm, &list), &list, &|_| true);
        let spread = if algorithm == Algorithm::Hash { 1_500..2_500 } else { 1_800..2_200 };
        assert!(counts.iter().all(|n| spread.contains(n)), "{algorithm:?} {counts:?}");
    }
}

#[test]
fn what_is_not_usable_is_never_picked() {
    let list = list(&[MS; 7]);
    for algorithm in Algorithm::ALL {
        let policy = policy(algorithm, &list);
        let odd = counts(&policy, &list, &|index| index % 2 == 1);
        assert!(odd.iter().step_by(2).all(|&n| n == 0), "{algorithm:?} {odd:?}");
        assert_eq!(odd.iter().sum::<usize>(), 10_000);
        assert_eq!(counts(&policy, &list, &|index| index == 6)[6], 10_000, "{algorithm:?}");
        assert_eq!(counts(&policy, &list, &|_| false), [0; 7]);
        let none = self::policy(algorithm, &self::list(&[]));
        assert_eq!(counts(&none, &self::list(&[]), &|_| true), [0; 0]);
    }
}

#[test]
fn round_robin_rotates_across_calls_and_skips_without_favour() {
    let list = list(&[MS; 4]);
    let policy = policy(Algorithm::RoundRobin, &list);
    let once = |usable: &dyn Fn(usize) -> bool| {
        let choice = Choice { now: MS, random: 7, metadata: &|_| None, usable, expendable: true };
        pick(&policy, &list, &choice).unwrap()
    };
    let turns: Vec<_> = (0..8).map(|_| once(&|_| true)).collect();
    assert_eq!(turns, [0, 1, 2, 3, 0, 1, 2, 3]);
    let turns: Vec<_> = (0..6).map(|_| once(&|index| index != 1)).collect();
    assert_eq!(turns, [0, 2, 3, 0, 2, 3], "the one after the missing one has no double share");
}

#[test]
fn the_least_work_in_flight_wins_whatever_it_takes() {
    let few = list(&[MS, 90 * MS, MS]);
    few[0].begin();
    few[2].begin();
    assert_eq!(counts(&Picker::Policy(Box::new(LeastRequest)), &few, &|_| true)[1], 10_000);
    let many = list(&[MS; 50]);
    many.iter().skip(1).for_each(|backend| backend.begin());
    let counts = counts(&Picker::Policy(Box::new(LeastRequest)), &many, &|_| true);
    assert!(counts[0] > 600 && counts[0] < 1_000, "one of four draws finds it: {}", counts[0]);
}

fn owners(ring: &Picker, list: &List) -> HashMap<String, InstanceId> {
    let owner = |key: String| {
        let metadata = |_: &str| Some(key.as_str());
        let choice = Choice { now: MS, random: 1, metadata: &metadata, usable: &|_| true, expendable: true };
        let position = pick(ring, list, &choice).unwrap();
        (key, list[position].id().clone())
    };
    (0..2_000).map(|n| owner(format!("user-{n}"))).collect()
}

#[test]
fn a_key_keeps_its_endpoint_while_others_come_and_go() {
    let all = list(&[MS; 10]);
    let before = owners(&policy(Algorithm::Hash, &all), &all);
    let gone = all[3].id().clone();
    let fewer = List::of(all.iter().filter(|backend| *backend.id() != gone).cloned().collect());
    let after = owners(&policy(Algorithm::Hash, &fewer), &fewer);
    for (key, owner) in &before {
        if *owner != gone {
            assert_eq!(after[key], *owner, "{key} moved for no reason");
        }
    }
    // A random value per call is spread like any other.
    assert!(before.values().filter(|owner| **owner == gone).count() > 100);
}

#[test]
fn a_hot_key_goes_on_to_the_next_before_it_runs_one_over() {
    let list = list(&[MS; 4]);
    let ring = policy(Algorithm::Hash, &list);
    let metadata = |_: &str| Some("hot");
    let choice = Choice { now: MS, random: 1, metadata: &metadata, usable: &|_| true, expendable: true };
    for _ in 0..100 {
        list[pick(&ring, &list, &choice).unwrap()].begin();
    }
    let most = list.iter().map(|backend| backend.in_flight()).max().unwrap();
    assert!(most <= 32, "a quarter more than 25, rounded up: {most}");
    assert!(list.iter().all(|backend| backend.in_flight() > 0));
}

#[test]
fn a_starting_endpoint_gets_a_growing_share() {
    for algorithm in [Algorithm::P2c, Algorithm::RoundRobin, Algorithm::WeightedRoundRobin, Algorithm::Random]
    {
        let shared = Arc::<Shared>::default();
        let list = list(&[MS; 3]);
        let second = Duration::from_secs(1);
        shared.configure(&Traffic { slow_start: 10 * second, ..Traffic::default() });
        let mut all = list.all;
        let place = Board::default().place(3);
        all.push(Arc::new(Backend::new(InstanceId::new("new"), MS, Duration::ZERO, shared, place)));
        let list = List::of(all);
        list[3].start_slowly(Duration::ZERO);
        let policy = policy(algorithm, &list);
        let share = |at: u32| {
            let mut random = Draws(9);
            let picks = (0..8_000).filter(|_| {
                let choice = Choice {
                    now: second * at,
                    random: random.next(),
                    metadata: &|_| None,
                    usable: &|_| true,
                    expendable: true,
                };
                // Some work everywhere, so that costs differ by more than who is asked first.
                pick(&policy, &list, &choice) == Some(3)
            });
            picks.count()
        };
        let (cold, half, warm) = (share(1), share(5), share(10));
        assert!(cold < 400 && warm > 1_700, "{algorithm:?}: {cold} {half} {warm}");
        assert!(cold <= half && half < warm, "{algorithm:?}: {cold} {half} {warm}");
    }
}
