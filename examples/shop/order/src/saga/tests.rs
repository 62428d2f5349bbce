//! The machine against a world that loses, delays, repeats and refuses, and a process that is killed between any two acts.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stock {
    #[default]
    None,
    Held,
    Committed,
    Released,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Money {
    #[default]
    None,
    Authorized,
    Captured,
    Voided,
    Refunded,
    Declined,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Parcel {
    #[default]
    None,
    Booked,
    UnderWay,
    Cancelled,
}

/// The other services, by the rules of their protos.
#[derive(Clone, Debug, Default)]
struct World {
    stock: Stock,
    money: Money,
    parcel: Parcel,
    declines: bool,
    sold_out: bool,
    far_away: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Do(Step),
    Undo(Undo),
}

impl World {
    /// What a service does with a request; `false` is its refusal.
    fn deliver(&mut self, request: Request) -> bool {
        match request {
            Request::Do(Step::Reserve) => {
                if self.stock == Stock::None && !self.sold_out {
                    self.stock = Stock::Held;
                }
                matches!(self.stock, Stock::Held | Stock::Committed)
            }
            Request::Do(Step::Authorize) => {
                if self.money == Money::None {
                    self.money = if self.declines { Money::Declined } else { Money::Authorized };
                }
                matches!(self.money, Money::Authorized | Money::Captured)
            }
            Request::Do(Step::Capture) => {
                if self.money == Money::Authorized {
                    self.money = Money::Captured;
                }
                self.money == Money::Captured
            }
            Request::Do(Step::Book) => {
                if self.parcel == Parcel::None && !self.far_away {
                    self.parcel = Parcel::Booked;
                }
                matches!(self.parcel, Parcel::Booked | Parcel::UnderWay)
            }
            Request::Do(Step::Commit) => {
                if self.stock == Stock::Held {
                    self.stock = Stock::Committed;
                }
                self.stock == Stock::Committed
            }
            Request::Undo(Undo::ReleaseStock) => {
                self.stock = Stock::Released;
                true
            }
            Request::Undo(Undo::ReturnPayment) => {
                self.money = match self.money {
                    Money::None | Money::Authorized | Money::Voided => Money::Voided,
                    Money::Captured | Money::Refunded => Money::Refunded,
                    Money::Declined => Money::Declined,
                };
                true
            }
            Request::Undo(Undo::CancelShipment) => {
                if self.parcel != Parcel::UnderWay {
                    self.parcel = Parcel::Cancelled;
                }
                self.parcel == Parcel::Cancelled
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.stock == Stock::Committed
            && self.money == Money::Captured
            && matches!(self.parcel, Parcel::Booked | Parcel::UnderWay)
    }

    fn is_nothing(&self) -> bool {
        matches!(self.stock, Stock::None | Stock::Released)
            && matches!(self.money, Money::None | Money::Voided | Money::Refunded | Money::Declined)
            && matches!(self.parcel, Parcel::None | Parcel::Cancelled)
    }
}

/// What befalls one act of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Does not arrive.
    Lost,
    /// Arrives; the answer does not.
    AnswerLost,
    /// Arrives later, perhaps much later.
    Late,
    /// The process is killed before the request leaves it.
    KilledBefore,
    /// The process is killed when the request has taken effect.
    KilledAfter,
    /// The service fails with an error that is not of its own rules, and does nothing.
    Error,
    /// The same, but it had done it.
    ErrorAfter,
    /// While the request is under way, the customer calls the order off.
    CancelMeanwhile,
    /// The process has waited long enough.
    GiveUp,
    /// The carrier is quick.
    ParcelLeaves,
    /// A late request arrives just now, before this one.
    LateArrives,
}

const FATES: [Fate; 12] = [
    Fate::Fine,
    Fate::Lost,
    Fate::AnswerLost,
    Fate::Late,
    Fate::KilledBefore,
    Fate::KilledAfter,
    Fate::Error,
    Fate::ErrorAfter,
    Fate::CancelMeanwhile,
    Fate::GiveUp,
    Fate::ParcelLeaves,
    Fate::LateArrives,
];

#[derive(Debug)]
struct Run {
    world: World,
    journal: Vec<Entry>,
    late: Vec<Request>,
}

impl Run {
    fn new(world: World) -> Self {
        Self { world, journal: vec![Entry::Placed], late: Vec::new() }
    }

    /// Only the journal is remembered: the saga is folded anew each time, as after a restart.
    fn saga(&self) -> Saga {
        let mut saga = Saga::default();
        for entry in &self.journal {
            saga.apply(entry).unwrap();
        }
        saga
    }

    /// Writes what fits and drops what does not, as the journal does.
    fn write(&mut self, entry: Entry) {
        if self.saga().apply(&entry).is_ok() {
            self.journal.push(entry);
        }
    }

    /// One turn of the driver; `false` once there is nothing left to do.
    fn turn(&mut self, fate: Fate) -> bool {
        match fate {
            Fate::ParcelLeaves if self.world.parcel == Parcel::Booked => self.world.parcel = Parcel::UnderWay,
            Fate::LateArrives if !self.late.is_empty() => {
                let request = self.late.remove(0);
                self.world.deliver(request);
            }
            Fate::GiveUp => self.write(Entry::GaveUp),
            _ => {}
        }
        if let Some(intent) = self.saga().intent() {
            self.journal.push(intent);
        }
        let request = match self.saga().next() {
            Next::Perform(step) => Request::Do(step),
            Next::Compensate(undo) => Request::Undo(undo),
            Next::Rest => return false,
        };
        let arrives = !matches!(fate, Fate::Lost | Fate::Late | Fate::KilledBefore | Fate::Error);
        let taken = arrives.then(|| self.world.deliver(request));
        if fate == Fate::Late {
            self.late.push(request);
        }
        if fate == Fate::CancelMeanwhile {
            self.write(Entry::Cancelled);
        }
        match (fate, request, taken) {
            (Fate::KilledBefore | Fate::KilledAfter, ..) => self.write(Entry::Resumed),
            (Fate::Error | Fate::ErrorAfter, Request::Do(step), _) => {
                self.write(Entry::Refused { step, refusal: refusal(false) });
            }
            (Fate::Lost | Fate::AnswerLost | Fate::Late, Request::Do(step), _) => {
                self.write(Entry::Unclear { step });
            }
            // An undo that is not known to be done is just tried again.
            (
                Fate::Lost | Fate::AnswerLost | Fate::Late | Fate::Error | Fate::ErrorAfter,
                Request::Undo(_),
                _,
            ) => {}
            (_, Request::Do(step), Some(true)) => self.write(Entry::Done { step }),
            (_, Request::Do(step), _) => self.write(Entry::Refused { step, refusal: refusal(true) }),
            (_, Request::Undo(undo), Some(true)) => self.write(Entry::Undone { undo }),
            (_, Request::Undo(undo), _) => self.write(Entry::TooLate { undo }),
        }
        true
    }

    /// Follows the fates and then, undisturbed, comes to an end, which is checked.
    fn finish(&mut self, fates: &[Fate]) -> Stage {
        for fate in fates {
            self.turn(*fate);
        }
        let mut turns = 0;
        while self.turn(Fate::Fine) {
            turns += 1;
            assert!(turns < 50, "no end: {self:?}");
        }
        self.check();
        // Whatever was late arrives now and finds that it comes too late.
        for request in std::mem::take(&mut self.late) {
            self.world.deliver(request);
        }
        self.check()
    }

    fn check(&self) -> Stage {
        let stage = self.saga().stage();
        match stage {
            Stage::Confirmed => assert!(self.world.is_whole(), "half confirmed: {self:?}"),
            Stage::Undone => assert!(self.world.is_nothing(), "half undone: {self:?}"),
            stage => panic!("at rest in {stage:?}: {self:?}"),
        }
        stage
    }
}

fn refusal(certain: bool) -> Refusal {
    Refusal { reason: "NO".into(), message: "no".into(), metadata: Vec::new(), certain }
}

fn worlds() -> impl Iterator<Item = World> {
    (0..8).map(|bits| World {
        declines: bits & 1 != 0,
        sold_out: bits & 2 != 0,
        far_away: bits & 4 != 0,
        ..World::default()
    })
}

#[test]
fn undisturbed_it_confirms_or_undoes_what_was_done() {
    for world in worlds() {
        let refused = world.declines || world.sold_out || world.far_away;
        let mut run = Run::new(world);
        let expected = if refused { Stage::Undone } else { Stage::Confirmed };
        assert_eq!(run.finish(&[]), expected, "{run:?}");
    }
}

/// Two fates in a row at every point of every order there is.
#[test]
fn every_fate_at_every_point() {
    let mut runs = 0;
    for world in worlds() {
        for at in 0..12 {
            for first in FATES {
                for second in FATES {
                    let mut fates = vec![Fate::Fine; at];
                    fates.extend([first, second]);
                    Run::new(world.clone()).finish(&fates);
                    runs += 1;
                }
            }
        }
    }
    assert_eq!(runs, 8 * 12 * 144);
}

#[test]
fn a_kill_before_the_payment_undoes_and_a_kill_after_it_goes_on() {
    let outcome = |at: usize, fate| {
        let mut fates = vec![Fate::Fine; at];
        fates.push(fate);
        Run::new(World::default()).finish(&fates)
    };
    for fate in [Fate::KilledBefore, Fate::KilledAfter] {
        assert_eq!(outcome(0, fate), Stage::Undone, "while reserving");
        assert_eq!(outcome(1, fate), Stage::Undone, "while authorizing: the card is gone");
        for at in 2..5 {
            assert_eq!(outcome(at, fate), Stage::Confirmed, "at step {at}");
        }
    }
}

#[test]
fn a_confirmed_order_can_be_cancelled_until_the_parcel_leaves() {
    let mut run = Run::new(World::default());
    assert_eq!(run.finish(&[]), Stage::Confirmed);
    run.write(Entry::Cancelled);
    assert_eq!(run.finish(&[Fate::AnswerLost, Fate::KilledAfter, Fate::Lost]), Stage::Undone);
    assert_eq!((run.world.stock, run.world.money), (Stock::Released, Money::Refunded));

    let mut run = Run::new(World::default());
    run.finish(&[]);
    run.world.parcel = Parcel::UnderWay;
    run.write(Entry::Cancelled);
    assert_eq!(run.finish(&[]), Stage::Confirmed);
    assert!(run.saga().is_shipped());
    assert_eq!(run.saga().apply(&Entry::Cancelled), Err(Misfit), "there is no second try");
}

#[test]
fn only_what_may_have_happened_is_undone() {
    let mut run = Run::new(World { declines: true, ..World::default() });
    run.finish(&[]);
    let undone: Vec<_> = run.journal.iter().filter(|entry| matches!(entry, Entry::Undone { .. })).collect();
    assert_eq!(undone, [&Entry::Undone { undo: Undo::ReleaseStock }], "the card was surely declined");

    let mut run = Run::new(World { declines: true, ..World::default() });
    run.finish(&[Fate::Fine, Fate::AnswerLost]);
    assert!(run.journal.contains(&Entry::Undone { undo: Undo::ReturnPayment }), "{:?}", run.journal);
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let step = Step::Reserve;
    let mut saga = Saga::default();
    for entry in [
        Entry::Done { step },
        Entry::Unclear { step },
        Entry::Intend { step: Step::Authorize },
        Entry::Undone { undo: Undo::ReleaseStock },
        Entry::TooLate { undo: Undo::CancelShipment },
    ] {
        assert_eq!(saga.apply(&entry), Err(Misfit), "{entry:?}");
    }
    assert_eq!(saga, Saga::default());
    saga.apply(&Entry::Cancelled).unwrap();
    assert_eq!(saga.apply(&Entry::Intend { step }), Err(Misfit), "a step after the order was called off");
    assert_eq!(saga.stage(), Stage::Undone);
}

#[test]
fn the_journal_reads_back() {
    for entry in [
        Entry::Placed,
        Entry::Intend { step: Step::Authorize },
        Entry::Refused { step: Step::Book, refusal: refusal(true) },
        Entry::TooLate { undo: Undo::CancelShipment },
    ] {
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry, "{text}");
    }
    let text = serde_json::to_string(&Entry::IntendUndo { undo: Undo::ReturnPayment }).unwrap();
    assert_eq!(text, r#"{"entry":"intend_undo","undo":"return_payment"}"#);
}

fn any_world() -> impl Strategy<Value = World> {
    // Mostly willing, lest most runs end early.
    let rarely = || prop::bool::weighted(0.15);
    (rarely(), rarely(), rarely()).prop_map(|(declines, sold_out, far_away)| World {
        declines,
        sold_out,
        far_away,
        ..World::default()
    })
}

fn any_fates() -> impl Strategy<Value = Vec<Fate>> {
    prop::collection::vec(
        prop_oneof![2 => Just(Fate::Fine), 3 => prop::sample::select(FATES.to_vec())],
        0..40,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_never_ends_half_done(world in any_world(), fates in any_fates()) {
        Run::new(world).finish(&fates);
    }
}

/// The property above would hold of a world in which nothing ever happened.
#[test]
fn the_worst_worlds_reach_every_end() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..4000 {
        let world = any_world().new_tree(&mut runner).unwrap().current();
        let fates = any_fates().new_tree(&mut runner).unwrap().current();
        let mut run = Run::new(world);
        run.finish(&fates);
        let saga = run.saga();
        seen.insert(match saga.cause() {
            None if saga.is_shipped() => "confirmed, turned forward by the parcel",
            None => "confirmed",
            Some(Cause::Refused(refusal)) if refusal.certain => "refused",
            Some(Cause::Refused(_)) => "failed",
            Some(Cause::Interrupted) => "interrupted",
            Some(Cause::Cancelled) => "cancelled",
            Some(Cause::GaveUp) => "gave up",
        });
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
}
