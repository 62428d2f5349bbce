//! Who is put out, and who says so, on a clock that is handed in.

use super::*;
use crate::board::Board;

#[test]
fn waits_double_to_their_limit_and_are_spread_by_chance() {
    let (rules, mut board) = (Ejection::default(), Board::default());
    let mut backend = |name: &str, seat| {
        let id = formic_core::InstanceId::new(name);
        Backend::new(id, Duration::ZERO, Duration::ZERO, Arc::default(), board.place(seat))
    };
    let all: Vec<_> = (0..50).map(|n| backend(&format!("i{n}"), n)).collect();
    for times in 1..10 {
        let whole = (rules.min_wait * (1 << (times - 1))).min(rules.max_wait);
        let mut waits: Vec<_> =
            all.iter().map(|one| wait(&rules, times, one, Duration::from_secs(7))).collect();
        waits.sort_unstable();
        let [first, last] = [waits[0], waits[49]].map(|wait| wait.as_secs_f64() / whole.as_secs_f64());
        assert!((0.8..0.84).contains(&first) && (0.96..=1.0).contains(&last), "{times}: {first} to {last}");
        waits.dedup();
        assert!(waits.len() > 45, "{times}: they come back one by one");
    }
}

fn three() -> impl Iterator<Item = formic_core::Instance> {
    ["a", "b", "c"].iter().enumerate().map(|(n, name)| formic_core::Instance {
        id: formic_core::InstanceId::new(*name),
        service: formic_core::ServiceName::new("echo").expect("a name"),
        version: String::new(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1 + n as u16)).into(),
        metadata: std::collections::BTreeMap::new(),
        rpc: Vec::new(),
    })
}

#[test]
fn what_calls_take_is_asked_for_now_and_then() {
    let (mut roster, ms) = (crate::Roster::new(), Duration::from_millis(1));
    let set =
        roster.arrange(&three().collect(), &Traffic::default(), &crate::Seat::default(), Duration::ZERO);
    let backends: Vec<_> = set.indices().map(|index| Arc::clone(set.backend(index))).collect();
    let long = 2 * FAILURE;
    assert!(!backends[0].is_overdue(ms, long - ms) && backends[0].is_overdue(ms, long), "nothing is known");
    for (backend, took) in backends.iter().zip([10 * ms, 30 * ms, 900 * ms]) {
        for _ in 0..12 {
            backend.learn(ms, Some(took), Outcome::Success, false);
        }
    }
    let now = Duration::from_micros(FRESH) + ms;
    let overdue = [50 * ms, 59 * ms, 61 * ms, 200 * ms].map(|took| backends[2].is_overdue(now, took));
    assert_eq!(overdue, [false, false, true, true], "the one in the middle takes 30 ms");
    // Half a minute later nothing is faster for it, and who fails is no measure.
    for backend in &backends[..2] {
        for _ in 0..3 {
            backend.learn(now, Some(ms), Outcome::Failure, false);
        }
    }
    let later = now + Duration::from_secs(30);
    assert!(!backends[0].is_overdue(later, Duration::from_secs(1)), "the one that is well takes 900 ms");
}

#[test]
fn the_first_answers_hold_nobody_to_haste() {
    let (mut roster, ms) = (crate::Roster::new(), Duration::from_millis(1));
    let set = roster.arrange(&three().collect(), &Traffic::default(), &crate::Seat::default(), ms);
    let backends: Vec<_> = set.indices().map(|index| Arc::clone(set.backend(index))).collect();
    let fresh = Duration::from_micros(FRESH);
    // A service that takes 200 ms, from its first answer on; who gives it 100 ms is in a hurry all along.
    let mut now = ms;
    for answer in 0..20 {
        backends[answer % 2].learn(now, Some(200 * ms), Outcome::Success, false);
        now += fresh;
        let too_short = backends[0].is_overdue(now, 100 * ms);
        assert!(!too_short, "after {answer} answers it is taken for faster than it is");
        assert!(backends[2].is_overdue(now, 2 * FAILURE), "and who never answers is found: {answer}");
        assert!(
            answer > 5 || backends[2].is_due(now, ms),
            "whoever hangs is found as long as nothing is known"
        );
    }
    assert!(backends[2].is_overdue(now, 401 * ms), "that is known by now");
    assert!(backends[2].is_due(now, 201 * ms) && !backends[2].is_due(now, 190 * ms));
    // After a pause that leaves nothing of it, one that was for something easy does not say what calls take.
    now += Duration::from_secs(61);
    backends[0].learn(now, Some(ms), Outcome::Success, false);
    assert!(!backends[1].is_overdue(now + fresh, 100 * ms));
    (0..12).for_each(|_| _ = backends[0].learn(now, Some(ms), Outcome::Success, false));
    now += 2 * fresh;
    assert!(backends[1].is_overdue(now, 100 * ms), "and many do");
    // That all of whom it is known fail is no reason to forget it.
    backends[0].learn(now, Some(ms), Outcome::Failure, false);
    now += Duration::from_secs(1);
    assert!(backends[0].is_overdue(now, 100 * ms));
    now += Duration::from_secs(60);
    assert!(!backends[0].is_overdue(now, 100 * ms), "but for a while");
}
