//! A scene is a function of its seed: played twice, the same calls reach the same instances at the same moments, and who is
//! ejected is so at the same one. Else a seed that fails could not be played again.

use std::time::Duration;

use formic_balance::Algorithm;
use formic_client::Happening;

use crate::journal::{Event, Journal};
use crate::overload::overloaded;
use crate::storm::storm;
use crate::town::*;
use crate::unwell::{flaky, killed, slow};

/// What happened in a scene on a clock and a runtime of its own.
fn played(seed: u64, scene: impl AsyncFnOnce(&mut Town)) -> Vec<(Duration, Event)> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (mut town, journal) = (Town::new(seed), Journal::new());
        town.keep(&journal);
        scene(&mut town).await;
        journal.events()
    })
}

/// Plays it twice with one seed; gives back what happened.
fn assert_same(what: &str, scene: impl AsyncFn(&mut Town)) -> Vec<(Duration, Event)> {
    let (first, second) = (played(11, &scene), played(11, &scene));
    let differ = first.iter().zip(&second).position(|(one, other)| one != other);
    let about = |events: &[(Duration, Event)], at: usize| {
        let some = &events[at.saturating_sub(2)..events.len().min(at + 3)];
        some.iter().map(|event| format!("{event:?}\n")).collect::<String>()
    };
    if let Some(at) = differ {
        panic!("{what} differs from event {at}:\n{}\n{}", about(&first, at), about(&second, at));
    }
    assert_eq!(first.len(), second.len(), "{what}");
    assert!(first.len() > 1_000, "{what}: {} events", first.len());
    first
}

/// Whom calls went to, in their order.
fn attempts(events: &[(Duration, Event)]) -> Vec<&Event> {
    let all = events.iter().map(|(_, event)| event);
    all.filter(|event| matches!(event, Event::Attempt { .. })).collect()
}

#[test]
fn who_is_slow_is_found_at_the_same_moments() {
    let scene = async |town: &mut Town| _ = slow(town, Algorithm::P2c).await;
    let events = assert_same("slow", scene);
    let other = played(12, scene);
    assert_ne!(attempts(&events), attempts(&other), "another seed is another scene");
}

#[test]
fn ejections_and_returns_come_at_the_same_moments_with_every_policy() {
    for policy in Algorithm::ALL {
        let what = format!("flaky, {policy:?}");
        let events = assert_same(&what, async |town: &mut Town| _ = flaky(town, self::policy(policy)).await);
        let happened = |which: Happening| {
            let is_it = |(_, event): &&(Duration, Event)| matches!(event, Event::Happened { what, .. } if *what == which);
            events.iter().filter(is_it).count()
        };
        let judged = |(_, event): &(Duration, Event)| matches!(event, Event::Judged { reason: Some(_), .. });
        assert!(events.iter().any(judged), "{what}: nobody is seen to be ejected");
        let (ejections, returns) = (happened(Happening::Ejection), happened(Happening::Return));
        assert!(ejections > 0 && returns > 0, "{what}: {ejections} ejections, {returns} returns");
    }
}

#[test]
fn a_kill_costs_the_same_calls() {
    for policy in [Algorithm::P2c, Algorithm::Hash] {
        let what = format!("killed, {policy:?}");
        assert_same(&what, async |town: &mut Town| _ = killed(town, self::policy(policy)).await);
    }
}

#[test]
fn an_overload_turns_the_same_calls_away() {
    let traffic = || self::policy(Algorithm::P2c);
    assert_same("overload", async |town: &mut Town| drop(overloaded(town, traffic(), true).await));
}

#[test]
fn a_storm_makes_the_same_calls_again() {
    let traffic = self::policy(Algorithm::P2c);
    assert_same("storm", async |town: &mut Town| drop(storm(town, &traffic, 150.0).await));
}
