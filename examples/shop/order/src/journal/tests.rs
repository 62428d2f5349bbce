//! The journal on a file: what it keeps over a restart, and what it refuses to write.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use super::*;
use crate::model::{Address, Money};
use crate::saga::{Refusal, Stage, Step, Undo};
use crate::testing::TempDir;

fn draft(order_id: &str, user_id: &str, key: &str) -> Draft {
    let order = Order {
        order_id: order_id.into(),
        user_id: user_id.into(),
        lines: Vec::new(),
        total: Money { minor_units: 1999, currency: "EUR".into() },
        address: Address::default(),
        card_last_four: "4242".into(),
        cart_version: 7,
    };
    Draft { order, idempotency_key: key.into(), fingerprint: "f".into() }
}

async fn fresh() -> (TempDir, Journal) {
    let dir = TempDir::new();
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.place(draft("o1", "u1", "k1"), 100).await.unwrap(), Placed::New);
    (dir, journal)
}

/// Drives the order up to and including this step.
async fn until(journal: &Journal, last: Step) {
    journal.advance("o1", None, 101).await.unwrap();
    for step in Step::ALL {
        journal.advance("o1", Some(Entry::Done { step }), 102).await.unwrap();
        if step == last {
            break;
        }
    }
}

#[tokio::test]
async fn a_key_stands_for_one_order_of_one_user() {
    let (_dir, journal) = fresh().await;
    let known = Known { order_id: "o1".into(), fingerprint: "f".into() };
    assert_eq!(journal.place(draft("o2", "u1", "k1"), 101).await.unwrap(), Placed::Known(known.clone()));
    assert_eq!(journal.known("u1", "k1").await.unwrap(), Some(known));
    assert_eq!(journal.known("u2", "k1").await.unwrap(), None);
    assert_eq!(journal.place(draft("o2", "u2", "k1"), 101).await.unwrap(), Placed::New);
    assert!(matches!(journal.load("nobody's").await, Err(Fault::NotFound)));
}

#[tokio::test]
async fn two_at_once_with_one_key_place_one_order() {
    let (_dir, journal) = fresh().await;
    let placed =
        futures::future::join_all((0..20).map(|n| journal.place(draft(&format!("n{n}"), "u1", "k2"), 100)))
            .await;
    let new = placed.into_iter().filter(|placed| matches!(placed, Ok(Placed::New))).count();
    assert_eq!(new, 1);
}

#[tokio::test]
async fn the_intent_is_on_disk_before_the_act() {
    let (dir, journal) = fresh().await;
    let (next, _) = journal.advance("o1", None, 101).await.unwrap();
    assert_eq!(next, Next::Perform(Step::Reserve));

    // Another process looks at the file at this very moment.
    let other = rusqlite::Connection::open(dir.path().join("orders.sqlite")).unwrap();
    let last: String = other
        .query_row(
            "SELECT entry FROM entries WHERE order_id = 'o1' ORDER BY sequence DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(last, r#"{"entry":"intend","step":"reserve"}"#);
}

#[tokio::test]
async fn a_restarted_journal_knows_where_it_was() {
    let (dir, journal) = fresh().await;
    until(&journal, Step::Capture).await;
    let before = journal.load("o1").await.unwrap();
    drop(journal);

    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.load("o1").await.unwrap().saga, before.saga);
    assert_eq!(journal.resume(200).await.unwrap(), ["o1"]);
    let (next, saga) = journal.advance("o1", None, 201).await.unwrap();
    assert_eq!((next, saga.stage()), (Next::Perform(Step::Book), Stage::Paid));

    until_confirmed(&journal).await;
    assert_eq!(journal.resume(300).await.unwrap(), [""; 0], "nothing is left to resume");
}

async fn until_confirmed(journal: &Journal) {
    for step in [Step::Book, Step::Commit] {
        journal.advance("o1", Some(Entry::Done { step }), 202).await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_fit_is_not_written() {
    let (_dir, journal) = fresh().await;
    journal.record("o1", Entry::Cancelled, 101).await.unwrap();
    let intent = Entry::Intend { step: Step::Reserve };
    assert!(matches!(journal.record("o1", intent, 102).await, Err(Fault::Misfit(_))));
    let (next, saga) = journal.advance("o1", Some(Entry::Done { step: Step::Book }), 103).await.unwrap();
    assert_eq!((next, saga.stage()), (Next::Rest, Stage::Undone));
    assert_eq!(journal.changes("o1", 0).await.unwrap().0.len(), 2, "placed and called off");
}

#[tokio::test]
async fn a_confirmation_is_remembered_after_a_cancellation() {
    let (_dir, journal) = fresh().await;
    until(&journal, Step::Commit).await;
    assert_eq!(journal.load("o1").await.unwrap().confirmed_at, Some(102));
    assert_eq!(journal.carts_to_clear("u1").await.unwrap(), [("o1".to_owned(), 7)]);

    journal.record("o1", Entry::Cancelled, 103).await.unwrap();
    assert_eq!(journal.carts_to_clear("u1").await.unwrap(), [], "what was called off leaves the cart alone");
    for undo in Undo::ALL {
        journal.advance("o1", None, 104).await.unwrap();
        journal.advance("o1", Some(Entry::Undone { undo }), 105).await.unwrap();
    }
    let record = journal.load("o1").await.unwrap();
    assert_eq!(
        (record.saga.stage(), record.confirmed_at, record.updated_at),
        (Stage::Undone, Some(102), 105)
    );
}

#[tokio::test]
async fn a_cart_is_cleared_once() {
    let (_dir, journal) = fresh().await;
    until(&journal, Step::Commit).await;
    journal.cart_cleared("o1").await.unwrap();
    assert_eq!(journal.carts_to_clear("u1").await.unwrap(), []);
    assert!(journal.load("o1").await.unwrap().cart_cleared);
}

#[tokio::test]
async fn the_story_is_told_from_any_point() {
    let (_dir, journal) = fresh().await;
    journal.advance("o1", None, 101).await.unwrap();
    journal.advance("o1", Some(Entry::Done { step: Step::Reserve }), 102).await.unwrap();
    let refusal = Refusal {
        reason: "CARD_DECLINED".into(),
        message: "declined".into(),
        metadata: Vec::new(),
        certain: true,
    };
    let refused = Entry::Refused { step: Step::Authorize, refusal };
    journal.advance("o1", Some(refused), 103).await.unwrap();
    let (changes, at_rest) = journal.changes("o1", 0).await.unwrap();
    let stages: Vec<_> = changes.iter().map(|change| change.stage).collect();
    assert_eq!(stages, [Stage::Placed, Stage::StockReserved, Stage::Undoing]);
    assert!(!at_rest);

    let seen = changes.last().unwrap().sequence;
    journal.advance("o1", Some(Entry::Undone { undo: Undo::ReleaseStock }), 104).await.unwrap();
    let (rest, at_rest) = journal.changes("o1", seen).await.unwrap();
    assert_eq!((rest.len(), rest[0].stage, at_rest), (1, Stage::Undone, true));
    assert!(rest[0].sequence > seen);
}

#[tokio::test]
async fn pages_cover_a_list_once() {
    let (_dir, journal) = fresh().await;
    for n in 2..=5 {
        journal.place(draft(&format!("o{n}"), "u1", &format!("k{n}")), 100).await.unwrap();
    }
    journal.place(draft("other", "u2", "k"), 100).await.unwrap();
    let (mut seen, mut before) = (Vec::new(), None);
    for _ in 0..3 {
        let (records, next) = journal.list("u1", Page { limit: 2, before }).await.unwrap();
        seen.extend(records.into_iter().map(|record| record.order.order_id));
        before = next;
    }
    assert_eq!(seen, ["o5", "o4", "o3", "o2", "o1"]);
    assert_eq!(before, None);
}

#[tokio::test]
async fn no_card_is_in_the_file() {
    let dir = TempDir::new();
    let journal = Journal::open(dir.path()).unwrap();
    let card = crate::model::Card {
        number: "4000 0566 5566 5556".into(),
        expiry: "12/34".into(),
        cvc: "987".into(),
    };
    let mut draft = draft("o1", "u1", "k1");
    draft.order.card_last_four = card.last_four();
    journal.place(draft, 100).await.unwrap();
    until(&journal, Step::Commit).await;
    drop(journal);
    let files: Vec<PathBuf> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        for secret in ["40000566", "4000 0566", "12/34"] {
            assert!(
                !bytes.windows(secret.len()).any(|part| part == secret.as_bytes()),
                "{secret} in {file:?}"
            );
        }
    }
}
