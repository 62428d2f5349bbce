//! Beside the plain slow algorithm, which changes everybody's state with each pick.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::policy::tests::{List, MS, among, list, weighted};

/// The usual smooth weighted round robin: everybody gains its weight, whoever has most is picked and pays for all.
#[derive(Default)]
struct Plain(BTreeMap<usize, (f64, f64)>);

impl Plain {
    fn pick(&mut self) -> usize {
        let sum: f64 = self.0.values().map(|(weight, _)| weight).sum();
        self.0.values_mut().for_each(|(weight, has)| *has += *weight);
        let most = self.0.iter_mut().max_by(|one, other| one.1.1.total_cmp(&other.1.1)).unwrap();
        most.1.1 -= sum;
        *most.0
    }
}

/// What stands in for a roster's part: positions, and who is at each.
#[derive(Default)]
struct Host {
    schedule: Schedule,
    cursor: Cursor,
    /// By position.
    who: Vec<usize>,
}

impl Host {
    fn add(&mut self, who: usize, weight: f32) {
        self.schedule.add(who as u32, weight, &self.cursor);
        self.who.push(who);
    }

    fn remove(&mut self, who: usize) {
        let position = self.who.iter().position(|&one| one == who).unwrap();
        self.schedule.remove(position);
        self.who.swap_remove(position);
    }
}

fn pick(policy: &WeightedRoundRobin, list: &List, usable: &dyn Fn(usize) -> bool) -> usize {
    let choice = Choice { now: MS, random: 7, metadata: &|_| None, usable, expendable: true };
    policy.pick(&among(list), &choice).unwrap()
}

#[test]
fn weights_are_kept_and_spread_smoothly() {
    let list = list(&[MS; 3]);
    for (backend, weight) in list.iter().zip([5.0, 1.0, 1.0]) {
        backend.set_weight(weight);
    }
    let policy = weighted(&list, &Cursor::default());
    let turns: Vec<_> = (0..7_000).map(|_| pick(&policy, &list, &|_| true)).collect();
    let count = |of| turns.iter().filter(|&&turn| turn == of).count();
    assert!((4_990..=5_010).contains(&count(0)) && (990..=1_010).contains(&count(1)), "{}", count(0));
    // Between two turns of a small one there are never two whole rounds of the large one.
    let longest = turns.split(|&turn| turn != 0).map(<[_]>::len).max().unwrap();
    assert!(longest <= 5, "{longest} in a row");
}

#[test]
fn weights_far_apart_cost_no_turns() {
    const PICKS: usize = 20_000;
    let list = list(&[MS; 1_000]);
    list[7].set_weight(1_000.0);
    let cursor = Cursor::default();
    let policy = weighted(&list, &cursor);
    let turns = |policy: &WeightedRoundRobin, out: Option<usize>| {
        let mut counts = vec![0; list.len()];
        (0..PICKS).for_each(|_| counts[pick(policy, &list, &|index| Some(index) != out)] += 1);
        counts
    };
    let counts = turns(&policy, None);
    assert!((9_990..10_020).contains(&counts[7]), "1000 of 1999: {}", counts[7]);
    assert!(counts.iter().enumerate().all(|(at, n)| at == 7 || (9..=11).contains(n)), "{counts:?}");
    // One turn a pick, and in a class no more than one in vain for each.
    assert_eq!(cursor.load(Ordering::Relaxed), PICKS);
    assert!(policy.turns() <= 2 * PICKS, "{}", policy.turns());
    // While it is out, the others share alike.
    let counts = turns(&policy, Some(7));
    assert!(counts.iter().enumerate().all(|(at, n)| at == 7 || (17..=23).contains(n)), "{counts:?}");
}

#[test]
fn a_round_goes_on_when_somebody_comes_or_goes() {
    let mut host = Host::default();
    (0..10).for_each(|who| host.add(who, 1.0));
    let turns = |host: &mut Host, count: usize| {
        let policy = host.schedule.policy(Arc::clone(&host.cursor));
        let next = (0..count).map(|_| policy.classes[0].next());
        next.map(|position| host.who[position]).collect::<Vec<_>>()
    };
    assert_eq!(turns(&mut host, 13), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]);
    host.add(10, 1.0);
    assert_eq!(turns(&mut host, 3), [3, 4, 5]);
    // The last one takes the place of who leaves.
    host.remove(7);
    assert_eq!(turns(&mut host, 5), [6, 10, 8, 9, 0]);
    // Whoever weighs otherwise is in another class and changes nothing here.
    host.add(11, 40.0);
    assert_eq!(turns(&mut host, 2), [1, 2]);
}

fn any_weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        Just(1.0f32),
        (1u32..9).prop_map(|whole| whole as f32),
        0.01f32..100.0,
        0.9f32..1.1,
        1f32..1e6
    ]
}

proptest! {
    /// After any number of picks nobody has got more or less than the plain algorithm gave it, but for a few, and
    /// nobody has waited for much longer than its weight says.
    #[test]
    fn it_gives_what_the_plain_algorithm_gives(
        weights in prop::collection::vec(any_weight(), 1..40),
        picks in 1usize..3_000,
    ) {
        let all = list(&vec![MS; weights.len()]);
        all.iter().zip(&weights).for_each(|(backend, &weight)| backend.set_weight(weight));
        let policy = weighted(&all, &Cursor::default());
        let mut plain = Plain(weights.iter().map(|&weight| (f64::from(weight), 0.0)).enumerate().collect());
        let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let (mut ours, mut theirs) = (vec![0i64; weights.len()], vec![0i64; weights.len()]);
        let mut last = vec![0; weights.len()];
        for turn in 1..=picks {
            let one = pick(&policy, &all, &|_| true);
            let waited = (turn - last[one]) as f64;
            let usual = sum / f64::from(weights[one]);
            prop_assert!(waited <= 3.0 * usual + 3.0, "{one} of {weights:?} waited for {waited}, usual {usual}");
            last[one] = turn;
            ours[one] += 1;
            theirs[plain.pick()] += 1;
            for (at, (one, other)) in ours.iter().zip(&theirs).enumerate() {
                prop_assert!((one - other).abs() <= FEW, "{at} of {weights:?} got {one}, not {other}, of {turn}");
            }
        }
    }

    /// Whatever comes, goes and weighs otherwise meanwhile, each gets its share of the calls that were made while it
    /// was there, but for a few for each change.
    #[test]
    fn shares_hold_through_every_change(
        steps in prop::collection::vec((0usize..30, prop::option::of(any_weight()), 0usize..300), 1..60),
    ) {
        let mut host = Host::default();
        let mut there = BTreeMap::new();
        let (mut got, mut due) = (vec![0i64; 30], vec![0.0f64; 30]);
        for (number, (who, weight, picks)) in (1..).zip(steps) {
            if there.remove(&who).is_some() {
                host.remove(who);
            }
            if let Some(weight) = weight {
                there.insert(who, weight);
                host.add(who, weight);
            }
            let policy = host.schedule.policy(Arc::clone(&host.cursor));
            let all = list(&vec![MS; there.len()]);
            let sum: f64 = there.values().map(|&weight| f64::from(weight)).sum();
            if there.is_empty() {
                continue;
            }
            for _ in 0..picks {
                got[host.who[pick(&policy, &all, &|_| true)]] += 1;
            }
            there.iter().for_each(|(&who, &weight)| due[who] += picks as f64 * f64::from(weight) / sum);
            for (who, (&got, &due)) in got.iter().zip(&due).enumerate() {
                let most = (FEW + number) as f64;
                prop_assert!((got as f64 - due).abs() <= most, "{who} got {got}, not {due}, after {number} changes");
            }
        }
        // And all of it is what it would be made from nothing.
        let mut anew = Host::default();
        there.iter().for_each(|(&who, &weight)| anew.add(who, weight));
        let view = |host: &Host| host.schedule.view(|position| host.who[position].to_string());
        prop_assert_eq!(view(&host), view(&anew));
    }
}

/// By so many calls shares may be off for a while.
const FEW: i64 = 4;
