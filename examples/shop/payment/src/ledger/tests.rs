//! The rules of the ledger, each on a database in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn database() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    for script in MIGRATIONS {
        connection.execute_batch(script).unwrap();
    }
    connection
}

fn terms() -> Terms {
    Terms {
        payment_id: "p1".into(),
        order_id: "o1".into(),
        user_id: "u1".into(),
        minor_units: 1999,
        currency: "EUR".into(),
        card_last_four: "4242".into(),
    }
}

/// What was refused, or where the payment stands.
fn outcome(result: Result<Payment, Fault>) -> Result<State, Refusal> {
    match result {
        Ok(payment) => Ok(payment.state),
        Err(Fault::Refused(refusal)) => Err(refusal),
        Err(Fault::Database(error)) => panic!("{error:?}"),
    }
}

/// Brings a fresh payment into this state.
fn in_state(state: Option<State>) -> Connection {
    let db = database();
    match state {
        None => {}
        Some(State::Declined) => {
            authorize(&db, &terms(), Verdict::Declined("card_declined")).unwrap();
        }
        Some(State::Voided) => {
            void(&db, "p1").unwrap();
        }
        Some(state) => {
            authorize(&db, &terms(), Verdict::Approved).unwrap();
            if state != State::Authorized {
                capture(&db, "p1").unwrap();
            }
            if state == State::Refunded {
                refund(&db, "p1").unwrap();
            }
        }
    }
    db
}

#[test]
fn every_method_in_every_state() {
    use Refusal::{Captured as IsCaptured, NotCaptured, Refunded as IsRefunded, Unknown, Voided as IsVoided};
    use State::{Authorized, Captured, Declined, Refunded, Voided};
    let declined = || Refusal::Declined("card_declined".into());
    // State before; then what authorize, capture, void and refund say.
    let table = [
        (None, Ok(Authorized), Err(Unknown), Ok(Voided), Err(Unknown)),
        (Some(Authorized), Ok(Authorized), Ok(Captured), Ok(Voided), Err(NotCaptured)),
        (Some(Captured), Ok(Captured), Ok(Captured), Err(IsCaptured), Ok(Refunded)),
        (Some(Voided), Err(IsVoided), Err(IsVoided), Ok(Voided), Err(NotCaptured)),
        (Some(Refunded), Err(IsRefunded), Err(IsRefunded), Err(IsRefunded), Ok(Refunded)),
        (Some(Declined), Ok(Declined), Err(declined()), Ok(Declined), Err(NotCaptured)),
    ];
    for (before, authorized, captured, voided, refunded) in table {
        // Twice each: the repetition is answered alike.
        let db = in_state(before);
        for _ in 0..2 {
            assert_eq!(
                outcome(authorize(&db, &terms(), Verdict::Approved)),
                authorized,
                "authorize in {before:?}"
            );
        }
        let db = in_state(before);
        for _ in 0..2 {
            assert_eq!(outcome(capture(&db, "p1")), captured, "capture in {before:?}");
        }
        let db = in_state(before);
        for _ in 0..2 {
            assert_eq!(outcome(void(&db, "p1")), voided, "void in {before:?}");
        }
        let db = in_state(before);
        for _ in 0..2 {
            assert_eq!(outcome(refund(&db, "p1")), refunded, "refund in {before:?}");
        }
    }
}

#[test]
fn a_verdict_is_final() {
    let db = in_state(Some(State::Declined));
    let payment = authorize(&db, &terms(), Verdict::Approved).unwrap();
    assert_eq!((payment.state, payment.decline_code.as_str()), (State::Declined, "card_declined"));

    let db = in_state(Some(State::Authorized));
    let again = authorize(&db, &terms(), Verdict::Declined("card_declined"));
    assert_eq!(outcome(again), Ok(State::Authorized));
}

#[test]
fn an_id_means_one_payment() {
    let others: [fn(&mut Terms); 5] = [
        |terms| terms.order_id.push('x'),
        |terms| terms.user_id.push('x'),
        |terms| terms.minor_units += 1,
        |terms| terms.currency = "USD".into(),
        |terms| terms.card_last_four = "0002".into(),
    ];
    for change in others {
        for state in [State::Authorized, State::Captured, State::Declined] {
            let db = in_state(Some(state));
            let mut other = terms();
            change(&mut other);
            assert_eq!(outcome(authorize(&db, &other, Verdict::Approved)), Err(Refusal::Mismatch));
            assert_eq!(find(&db, "p1").unwrap().unwrap().terms, terms());
        }
    }
}

#[test]
fn a_tombstone_says_nothing_but_that_it_is_one() {
    let db = in_state(Some(State::Voided));
    let tombstone = find(&db, "p1").unwrap().unwrap();
    assert_eq!(tombstone.state, State::Voided);
    assert_eq!(tombstone.terms, Terms { payment_id: "p1".into(), ..Terms::default() });
}
