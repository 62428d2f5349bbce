//! A pick waits for nobody.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::mpsc;

use formic_core::{InstanceId, ServiceName};

use super::*;
use crate::Outcome;
use crate::traffic::{Algorithm, Filter, Rule, Zone};

const MS: Duration = Duration::from_millis(1);

fn instance(id: usize) -> Instance {
    Instance {
        id: InstanceId::new(format!("i{id}")),
        service: ServiceName::new("echo").unwrap(),
        version: (id % 3).to_string(),
        endpoint: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        metadata: [("zone".to_owned(), (id % 2).to_string())].into(),
        rpc: Vec::new(),
    }
}

#[test]
fn picks_and_answers_go_on_while_every_lock_is_held() {
    let to = Filter { version: Some("2".into()), ..Filter::default() };
    let rules = vec![Rule { name: "r".into(), to, ..Rule::default() }];
    for policy in Algorithm::ALL {
        let hash =
            (policy == Algorithm::Hash).then(|| crate::traffic::Hash { key: "x-user".into(), bound: 1.25 });
        let traffic =
            Traffic { policy, hash, rules: rules.clone(), zone: Some(Zone::default()), ..Traffic::default() };
        let mut roster = Roster::new();
        let seat = Seat { zone: Some("1".into()), seed: 7 };
        let set = roster.arrange(&(0..9).map(instance).collect(), &traffic, &seat, Duration::ZERO);
        let failing = set.backend(2);
        assert!((0..9).any(|_| failing.learn(MS, Some(MS), Outcome::Failure, false).is_some()));
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let court = set.shared.hold();
            let cases: Vec<_> = set.indices().map(|index| set.backend(index).case()).collect();
            let set = &set;
            scope.spawn(move || {
                for random in 0..500 {
                    let metadata = |_: &str| Some("ada");
                    let (now, usable) = (2 * MS, |_| true);
                    let choice =
                        Choice { now, random, metadata: &metadata, usable: &usable, expendable: true };
                    let pick = set.pick(&choice).unwrap();
                    set.backend(pick.index).learn(now, Some(MS), Outcome::Success, pick.probe);
                    // Down, so that everybody looks anew who is in.
                    set.backend(0).set_down(random % 2 == 0);
                }
                tell.send(()).unwrap();
            });
            let outcome = told.recv_timeout(Duration::from_secs(60));
            drop((court, cases));
            outcome.expect("a pick waited for a lock");
        });
    }
}
