//! The rules of the table, on a database in memory and with a clock of the test's own.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn database() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    for script in MIGRATIONS {
        connection.execute_batch(script).unwrap();
    }
    connection
}

fn config() -> Config {
    Config { picked_after_ms: 10, in_transit_after_ms: 20, delivered_after_ms: 30, ..Config::default() }
}

fn terms() -> Terms {
    let address = Address {
        name: "Ann".into(),
        street: "Weg 1".into(),
        city: "Berlin".into(),
        postal_code: "10115".into(),
        country: "DE".into(),
    };
    Terms {
        shipment_id: "s1".into(),
        order_id: "o1".into(),
        address,
        items: vec![("p1".into(), 2), ("p2".into(), 1)],
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Fault>) -> Refusal {
    match result.unwrap_err() {
        Fault::Refused(refusal) => refusal,
        Fault::Database(error) => panic!("{error:?}"),
    }
}

#[test]
fn booking_twice_books_once() {
    let db = database();
    let first = book(&db, &terms(), &config(), 100).unwrap();
    // Later, and with other speeds: the parcel that is booked keeps its timetable.
    let again = book(&db, &terms(), &Config::default(), 115).unwrap();
    assert_eq!(first, again);
    assert_eq!(find(&db, "s1").unwrap().unwrap(), first);
    assert_eq!(first.times.delivered, 130);
}

#[test]
fn an_id_means_one_shipment() {
    let db = database();
    book(&db, &terms(), &config(), 100).unwrap();
    let changes: [fn(&mut Terms); 3] = [
        |terms| terms.order_id.push('x'),
        |terms| terms.address.street.push('x'),
        |terms| terms.items[0].1 += 1,
    ];
    for change in changes {
        let mut other = terms();
        change(&mut other);
        assert_eq!(refusal(book(&db, &other, &config(), 100)), Refusal::Mismatch);
    }
}

#[test]
fn an_unserved_address_books_nothing() {
    let db = database();
    let mut far = terms();
    far.address.country = "XX".into();
    let refused = Refusal::NotServed { country: "XX".into(), postal_code: "10115".into() };
    assert_eq!(refusal(book(&db, &far, &config(), 100)), refused);
    assert_eq!(find(&db, "s1").unwrap(), None);
    // What is booked stays booked although the address is served no more.
    book(&db, &terms(), &config(), 100).unwrap();
    let shrunk = Config { countries: Vec::new(), ..config() };
    assert!(book(&db, &terms(), &shrunk, 101).is_ok());
}

#[test]
fn cancelling_works_until_the_parcel_leaves() {
    for (now, ok) in [(100, true), (119, true), (120, false), (500, false)] {
        let db = database();
        book(&db, &terms(), &config(), 100).unwrap();
        match cancel(&db, "s1", now) {
            Ok(shipment) => assert!(ok && shipment.cancelled == Some(now), "{now}"),
            result => assert!(!ok && refusal(result) == Refusal::UnderWay, "{now}"),
        }
    }
}

#[test]
fn cancelling_twice_is_cancelling_once() {
    let db = database();
    book(&db, &terms(), &config(), 100).unwrap();
    let first = cancel(&db, "s1", 105).unwrap();
    // At a moment when it could be cancelled no more, had it not been.
    assert_eq!(cancel(&db, "s1", 500).unwrap(), first);
    assert_eq!(refusal(book(&db, &terms(), &config(), 106)), Refusal::Cancelled);
}

#[test]
fn a_booking_that_arrives_after_its_cancellation_is_refused() {
    let db = database();
    let tombstone = cancel(&db, "s1", 100).unwrap();
    assert_eq!(tombstone.terms.order_id, "");
    assert_eq!(cancel(&db, "s1", 200).unwrap(), tombstone);
    assert_eq!(refusal(book(&db, &terms(), &config(), 101)), Refusal::Cancelled);
}
